"""The event times of entities: only timestamps are valid, whatever else pandas accepts."""

from __future__ import annotations

from typing import Any, Final

import duckdb
import pandas as pd
import pyarrow as pa

from pipelines.change_log.time_stamps import time_stamp_sql
from pipelines.errors import UsageError, first_line

EXAMPLE: Final = "a time stamp such as 2026-01-31T12:00:00Z"
_PARSED: Final = f"SELECT {time_stamp_sql('text')} AS at FROM texts"


def event_times(column: pd.Series[Any]) -> pd.Series[Any]:
    """Event times in UTC: of texts, which are UTC if they do not say, and of Python's own times.

    Columns of pandas' times stay as they are. To pandas `now` and `today` are the present, an empty
    text is null, and a number counts nanoseconds.

    Raises:
        UsageError: a value is no time.
    """
    if pd.api.types.is_datetime64_any_dtype(column):
        return column
    values = column.astype(object)
    is_text = values.map(lambda value: isinstance(value, str)).astype(bool)
    times = pd.Series(pd.NaT, index=range(len(values)), dtype="datetime64[us, UTC]")
    others = values[~is_text.to_numpy()].dropna()
    numbers = [v for v in others if not hasattr(v, "year")]
    if numbers:
        raise UsageError(
            f"the entity dataframe's {column.name} is {numbers[0]!r} in a row: it has to be "
            f"{EXAMPLE}; "
            "seconds since 1970 become one by pd.to_datetime(…, unit='s', utc=True)"
        )
    at = (~is_text.to_numpy() & values.notna().to_numpy()).nonzero()[0]
    try:
        times.iloc[at] = pd.to_datetime(others, utc=True).to_numpy()
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(
            f"the entity dataframe's {column.name} cannot be read: {first_line(error)}"
        ) from error
    places = is_text.to_numpy().nonzero()[0]
    if len(places):
        # What UTF-8 cannot hold is no time stamp either.
        encoded = [text.encode(errors="replace") for text in values.iloc[places]]
        texts = pa.table({"text": pa.array(encoded).cast(pa.string())})
        with duckdb.connect() as connection:
            connection.register("texts", texts)
            found = connection.execute(_PARSED).to_arrow_table()["at"]
        if found.null_count:
            wrong = found.is_null().to_numpy().nonzero()[0][0]
            raise UsageError(
                f"the entity dataframe's {column.name} is {texts['text'][wrong].as_py()!r} in row "
                f"{places[wrong] + 1}: it has to be {EXAMPLE}"
            )
        times.iloc[places] = pd.to_datetime(found.to_pandas(), utc=True).to_numpy()
    times.index, times.name = column.index, column.name
    return times
