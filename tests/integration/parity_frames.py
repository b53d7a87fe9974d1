"""Entity frames for historical features: every way of writing the same question."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from parity_repositories import MISSING, NOW, TTL, Repository
from parity_requests import with_aliases, with_order

ROW: Final = "row"
_MICROSECOND: Final = timedelta(microseconds=1)


def entity_dataframe(repository: Repository, count: int = 60) -> pd.DataFrame:
    """Known, unknown and repeated keys at times near those of the sources.

    Has the join keys, the aliases of service aliased, the request data of the on-demand views and
    `ROW`, which says where a row stands: stock Feast returns rows in any order.
    """
    random = Random(f"{repository.seed} frame")
    instants = sorted({*source_instants(repository, "wide"), *source_instants(repository, "pair")})
    keys = repository.request_keys(count)
    keys += [random.choice(keys) for _ in range(count // 4)]
    frame = pd.DataFrame(with_aliases(with_order(keys)))
    times = [random.choice(instants) + random.choice(_NEAR) for _ in keys]
    frame["event_timestamp"] = pd.to_datetime(pd.Series(times), utc=True)
    frame = pd.concat([frame, frame.iloc[:7], frame.iloc[3:5]], ignore_index=True)
    frame[ROW] = range(len(frame))
    return frame


def source_instants(repository: Repository, view: str) -> list[datetime]:
    """The event times of a view's source (not of triple, whose columns have other names)."""
    source: Any = repository.views[view].batch_source
    found: list[datetime] = pq.read_table(source.path, columns=["event_timestamp"])[0].to_pylist()
    return found


# From the time of a source's row: exactly then, just before and after, when the time to live of
# view wide ends, and just after; long before and long after everything.
_NEAR: Final = [
    timedelta(0),
    timedelta(0),
    _MICROSECOND,
    -_MICROSECOND,
    timedelta(hours=1),
    TTL,
    TTL + _MICROSECOND,
    -timedelta(days=400),
    timedelta(days=20),
]

Change = Callable[[Any], Any]


def _times(change: Callable[[Any], Any]) -> Change:
    return lambda frame: frame.assign(event_timestamp=change(frame["event_timestamp"]))


def _whole_seconds(times: Any) -> Any:
    return times.dt.floor("s")


def _some_null(column: str, dtype: Any) -> Change:
    def change(frame: Any) -> Any:
        values = frame[column].astype(dtype)
        return frame.assign(**{column: values.where(frame[ROW] % 4 > 0)})

    return change


FRAMES: Final[dict[str, Change]] = {
    "as it is": lambda frame: frame,
    "one row": lambda frame: frame.iloc[:1],
    "rows of one time": _times(lambda times: times.max()),
    "unknown keys only": lambda frame: frame.assign(**MISSING),
    "labels out of order": lambda frame: frame.sample(frac=1, random_state=1),
    "labels repeated": lambda frame: frame.set_index(pd.Index([0] * len(frame))),
    "labels that are text": lambda frame: frame.set_index(frame["text_id"].rename("label")),
    "columns out of order": lambda frame: frame[sorted(frame.columns, reverse=True)],
    "naive times": _times(lambda times: times.dt.tz_localize(None)),
    "times of another zone": _times(lambda times: times.dt.tz_convert("America/St_Johns")),
    "times in microseconds": _times(lambda times: times.dt.as_unit("us")),
    "times in seconds": _times(lambda times: _whole_seconds(times).dt.as_unit("s")),
    "times as objects": _times(lambda times: times.astype(object)),
    "times as text": _times(lambda times: _whole_seconds(times).astype(str)),
    "times by another name": lambda frame: frame.rename(columns={"event_timestamp": "at"}),
    "keys as objects": lambda frame: frame.astype({"whole_id": object, "text_id": object}),
    "keys as categories": lambda frame: frame.astype({"text_id": "category"}),
    "keys in pandas' own types": lambda frame: frame.astype(
        {"whole_id": "Int64", "text_id": "string", "small_id": "Int32"}
    ),
    "keys of another width": lambda frame: frame.astype({"small_id": "int64"}),
    "keys without a sign": lambda frame: frame.assign(whole_id=np.uint64(7)),
    "keys as doubles": lambda frame: frame.assign(whole_id=7.0),
    "null keys only": lambda frame: frame.assign(text_id=None),
    "null times": _times(lambda times: times.where(times.index % 3 > 0)),
    "null times only": lambda frame: frame.assign(event_timestamp=pd.NaT),
    "times as dates": _times(lambda times: times.dt.date),
    "columns named as in a source": lambda frame: frame.assign(
        created_timestamp=frame["event_timestamp"], at=1, raw_number=2, label_y=3
    ),
    "null text keys": _some_null("text_id", object),
    "null number keys": _some_null("small_id", "Int64"),
    "null number keys as doubles": _some_null("small_id", "float64"),
    "more columns": lambda frame: frame.assign(
        number=range(len(frame)),
        half=0.5,
        nothing=None,
        day=NOW.date(),
        kind=pd.Categorical(["a", "b", None] * (len(frame) // 3) + ["a"] * (len(frame) % 3)),
        other_time=pd.Timestamp("2020-01-01"),
        listed=[[1, 2]] * len(frame),
    ).rename(columns={"number": "a number", "half": 'ha"lf'}),
}

# Refused by Feast before its offline store is asked: with the same exception.
REFUSED: Final[dict[str, Change]] = {
    "no times": lambda frame: frame.drop(columns=["event_timestamp"]),
    "two times by other names": lambda frame: frame.rename(
        columns={"event_timestamp": "at"}
    ).assign(then=NOW),
    "no request data": lambda frame: frame.drop(columns=["amount"]),
}

# Refused by stock in Ibis' words, and by ours in its own.
REFUSED_IN_OTHER_WORDS: Final[dict[str, Change]] = {
    "no key": lambda frame: frame.drop(columns=["text_id"]),
    "a key in capitals": lambda frame: frame.rename(columns={"text_id": "TEXT_ID"}),
    "a column named as a feature": lambda frame: frame.assign(label="mine"),
    "a column twice": lambda frame: pd.concat([frame, frame[["note"]]], axis=1),
    "text as a number key": lambda frame: frame.astype({"whole_id": str}),
    "numbers as a text key": lambda frame: frame.assign(text_id=5),
    "lists as a key": lambda frame: frame.assign(text_id=[["a"]] * len(frame)),
    "bytes as a text key": lambda frame: frame.assign(text_id=b"a"),
    "times that are numbers": lambda frame: frame.assign(event_timestamp=5),
    "times that are no times": lambda frame: frame.assign(event_timestamp="soon"),
}
