"""The cache's values as bytes: a batch of rows, or the features of one entity.

Every value is a line of JSON that begins with two UTC timestamps of fixed length, event time and
created timestamp. So values sort by their first `VERSION_BYTES` bytes, and a backend decides which
of two is newer without parsing them, in Redis too.

A batch of more than `JSON_ROWS` rows that comes as an Arrow table has a second part after the
line break: an Arrow IPC stream. Writing 1,000 rows took 17 µs this way and 5,000 µs as JSON, 10
rows 10 µs and 70 µs (2 cores, pyarrow 25); small batches stay readable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import pyarrow as pa

from pipelines.cache.keys import stamp
from pipelines.cache.values import from_json, to_json

JSON_ROWS: Final = 100

MARK: Final = b'{"event_timestamp":"'
VERSION_BYTES: Final = len(MARK) + 26 + len('","created_timestamp":"') + 26


class Item(NamedTuple):
    """A value to keep, and how many seconds it lives."""

    key: str
    value: bytes
    seconds: float


@dataclass(frozen=True)
class FeatureEntry:
    """The features of one entity as of `event_timestamp`.

    `created_timestamp` is when they were computed: a correction has the same event time and a
    later one. Both are UTC; naive means UTC, and they are returned naive.
    """

    values: Mapping[str, Any]
    event_timestamp: datetime
    created_timestamp: datetime


@dataclass(frozen=True)
class Batch:
    """Rows of one data type that were streamed together; `timestamp` is UTC and naive."""

    data_type: str
    timestamp: datetime
    rows: list[dict[str, Any]]


def encode_features(entry: FeatureEntry) -> bytes:
    """The entry as bytes.

    Raises:
        UsageError: a value has a type that the cache cannot store.
    """
    head = _head(entry.event_timestamp, entry.created_timestamp)
    return f'{head},"values":{to_json(dict(entry.values))}}}'.encode()


def decode_features(value: bytes) -> FeatureEntry | None:
    """The entry that was encoded; None when these bytes are something else."""
    found = _read(value)
    try:
        return FeatureEntry(
            values=found["values"],
            event_timestamp=datetime.fromisoformat(found["event_timestamp"]),
            created_timestamp=datetime.fromisoformat(found["created_timestamp"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def encode_batch(
    data_type: str,
    timestamp: datetime,
    rows: pa.Table | Sequence[Mapping[str, Any]],
    created: datetime,
) -> bytes:
    """The batch as bytes.

    Args:
        data_type: one of `DATA_TYPES`.
        timestamp: the batch's time, UTC where naive.
        rows: a table, or a mapping per row.
        created: the current time, UTC where naive.

    Raises:
        UsageError: a value has a type that the cache cannot store.
    """
    head = f'{_head(timestamp, created)},"data_type":{to_json(data_type)}'
    if not isinstance(rows, pa.Table):
        rows = [dict(row) for row in rows]
    elif rows.num_rows <= JSON_ROWS:
        rows = rows.to_pylist()
    else:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        line = f'{head},"row_count":{rows.num_rows},"format":"arrow"}}\n'
        return line.encode() + bytes(sink.getvalue().to_pybytes())
    return f'{head},"rows":{to_json(rows)}}}'.encode()


def decode_batch(value: bytes) -> Batch | None:
    """The batch that was encoded; None when these bytes are something else."""
    found = _read(value)
    try:
        return Batch(
            data_type=found["data_type"],
            timestamp=datetime.fromisoformat(found["event_timestamp"]),
            rows=found["rows"],
        )
    except (KeyError, TypeError, ValueError):
        return None


def _head(event: datetime, created: datetime) -> str:
    return f'{{"event_timestamp":"{stamp(event)}","created_timestamp":"{stamp(created)}"'


def _read(value: bytes) -> dict[str, Any]:
    """Everything in the value, by name; empty when it cannot be read."""
    line, _, stream = value.partition(b"\n")
    try:
        found = from_json(line)
        if stream:
            found["rows"] = pa.ipc.open_stream(stream).read_all().to_pylist()
    except (ValueError, TypeError, OSError, ArithmeticError):
        return {}
    return found if isinstance(found, dict) else {}
