"""Small sources made by hand, for one question each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Int64
from parity_kinds import MICROSECONDS
from parity_repositories import NOW

TIMES: Final = (
    "us",
    "us, UTC",
    "us, Europe/Berlin",
    "us, America/St_Johns",
    "ms",
    "ms, UTC",
    "s",
    "ns",
    "ns, UTC",
    "date",
    "text",
)


def named(text: str) -> str:
    """A text as a name of a file and of a project."""
    return re.sub(r"\W+", "_", text)


def rows(values: pa.Array, created: pa.Array | None = None, **columns: pa.Array) -> pa.Table:
    """A value `x` each for keys `k` 0, 1, …, a second before `NOW`."""
    count = len(values)
    arrays = {
        "k": pa.array(range(count), pa.int64()),
        "event_timestamp": pa.array([NOW - timedelta(seconds=1)] * count, MICROSECONDS),
        "x": values,
        **columns,
    }
    if created is not None:
        arrays["created_timestamp"] = created
    return pa.table(arrays)


def view_over(file: Path, table: pa.Table, dtype: Any = Int64, **source: Any) -> list[Any]:
    """What to apply for a view `v` over a table, which is written to `file`."""
    pq.write_table(table, file)
    entity = Entity(name="entity", join_keys=["k"], value_type=ValueType.INT64)
    created = "created_timestamp" if "created_timestamp" in table.column_names else ""
    about = {"path": str(file), "created_timestamp_column": created, **source}
    view = FeatureView(
        name="v",
        entities=[entity],
        schema=[Field(name="k", dtype=Int64), Field(name="x", dtype=dtype)],
        source=FileSource(name="v_source", timestamp_field="event_timestamp", **about),
    )
    return [entity, view]


def times_of(kind: str, instants: Sequence[datetime]) -> pa.Array:
    """Times as a column of one of `TIMES`: a unit, and a zone if it has one; a date; a text."""
    if kind == "date":
        return pa.array([instant.date() for instant in instants])
    if kind == "text":
        return pa.array([instant.strftime("%Y-%m-%d %H:%M:%S.%f") for instant in instants])
    unit, _, zone = kind.partition(", ")
    exact = unit in ("us", "ns")
    plain = [instant if exact else instant.replace(microsecond=0) for instant in instants]
    stored = plain if zone else [instant.replace(tzinfo=None) for instant in plain]
    return pa.array(stored, pa.timestamp(unit, tz=zone or None))
