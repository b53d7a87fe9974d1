"""Entities as they are at hand: data frames, Arrow tables, columns, rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from pipelines.errors import UsageError, first_line
from pipelines.feast_plugins.entity_times import event_times
from pipelines.features.columns import EVENT_TIMESTAMP

KINDS: Final = "a pandas DataFrame, an Arrow table, a dict of columns, a list of dicts"


def entity_dataframe(given: Any) -> pd.DataFrame:
    """An entity dataframe from whatever holds one.

    Args:
        given: see `KINDS`; anything else that hands over Arrow data (polars, DuckDB) too. In a dict
            or a list of dicts, `event_timestamp` may be ISO 8601 texts, in UTC if they do not say.

    Raises:
        UsageError: it is none of these, its columns are not equally long, or a text is no time.
    """
    if isinstance(given, pd.DataFrame):
        return given
    table = _table(given)
    if table is not None:
        # Whole numbers with nulls would become floats, which match no key.
        return pd.DataFrame(
            {
                name: column.to_pandas(types_mapper=_NULLABLE.get if column.null_count else None)
                for name, column in zip(table.column_names, table.columns, strict=True)
            }
        )
    if not isinstance(given, Mapping | list | tuple):
        raise UsageError(
            f"the entity dataframe is a {type(given).__name__}; it can be {KINDS}, or a SQL query"
        )
    if not isinstance(given, Mapping) and not all(isinstance(row, Mapping) for row in given):
        raise UsageError(f"an entity row is a dict such as {{'user_id': 42}}; rows can be {KINDS}")
    try:
        frame = pd.DataFrame(given if isinstance(given, Mapping) else list(given))
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"the entity dataframe cannot be read: {first_line(error)}") from error
    if EVENT_TIMESTAMP in frame:
        frame[EVENT_TIMESTAMP] = event_times(frame[EVENT_TIMESTAMP])
    return frame


def check_columns(names: Sequence[str]) -> None:
    """Whether the columns of an entity dataframe have names of their own.

    Raises:
        UsageError: two have one name, or one has none.
    """
    for name in names:
        if not name:
            raise UsageError(
                "a column of the entity dataframe has an empty name: rename or drop it"
            )
        if names.count(name) > 1:
            raise UsageError(f"the entity dataframe has two columns {name!r}: rename or drop one")


def entity_rows(given: Any) -> list[dict[str, Any]] | Mapping[str, Any]:
    """Entity rows as Feast knows them: a list of dicts, or a dict of columns.

    Raises:
        UsageError: they are none of `KINDS`, or there is nothing in them.
    """
    if isinstance(given, list | tuple | Mapping | pd.DataFrame) and not (
        len(given.columns) if isinstance(given, pd.DataFrame) else given
    ):
        raise UsageError("there are no entity rows: give at least one, such as {'user_id': 42}")
    if isinstance(given, list):
        if {*map(type, given)} <= {dict}:
            return given
        raise UsageError(f"an entity row is a dict such as {{'user_id': 42}}; rows can be {KINDS}")
    if isinstance(given, pd.DataFrame):
        return {str(name): _values(given[name]) for name in given.columns}
    if isinstance(given, Mapping):
        if given and all(isinstance(value, str | int | float) for value in given.values()):
            return [dict(given)]
        return {name: _listed(column) for name, column in given.items()}
    table = _table(given)
    if table is not None:
        return {name: table[name].to_pylist() for name in table.column_names}
    if isinstance(given, tuple) and all(isinstance(row, dict) for row in given):
        return list(given)
    raise UsageError(f"entity rows are a {type(given).__name__}; they can be {KINDS}")


_NULLABLE: Final = {
    pa.int64(): pd.Int64Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int8(): pd.Int8Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def _table(given: Any) -> pa.Table | None:
    if isinstance(given, pa.Table):
        return given
    if isinstance(given, pa.RecordBatch | pa.RecordBatchReader) or hasattr(
        given, "__arrow_c_stream__"
    ):
        try:
            return pa.table(given)
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise UsageError(f"the entities cannot be read: {first_line(error)}") from error
    return None


def _values(column: pd.Series[Any]) -> list[Any]:
    return [None if value is pd.NA else value for value in column.tolist()]


def _listed(column: Any) -> Any:
    """A series or an array of a dict as a list; Feast reads any other value."""
    if isinstance(column, pd.Series):
        return _values(column)
    if isinstance(column, pa.Array | pa.ChunkedArray):
        return column.to_pylist()
    is_array = isinstance(column, np.ndarray) and column.ndim == 1
    if is_array or isinstance(column, pd.api.extensions.ExtensionArray | pd.Index):
        return [None if value is pd.NA else value for value in column.tolist()]
    return column
