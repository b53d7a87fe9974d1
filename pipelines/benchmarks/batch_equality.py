"""Whether two folders of Parquet files hold the same feature views."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from pipelines.features.views import VIEWS, View
from pipelines.paths import read_parquet

TOLERANCE: Final = 1e-9


def differing_rows(ours: Path, theirs: Path) -> dict[str, int]:
    """Per view, in how many rows a batch flow's offline source differs from a file of pandas'.

    Keys and event times must be the same, once each; floats equal up to `TOLERANCE`, relative to
    the larger one above 1, and the rest exactly.
    """
    with duckdb.connect() as connection:
        connection.execute("SET preserve_insertion_order = false")
        return {view.name: _differing(connection, view, ours, theirs) for view in VIEWS}


def fingerprints(output: Path) -> dict[str, tuple[int, int]]:
    """Per view, how many rows its offline source has, and a sum of their hashes.

    The order of rows does not matter, nor when they were computed.
    """
    found = {}
    with duckdb.connect() as connection:
        for view in VIEWS:
            files = (output / "feature_store" / "offline" / view.name).glob("*.parquet")
            rows = _rows(connection, view, sorted(files))
            columns = ", ".join(name for name in view.schema.names if name != CREATED_TIMESTAMP)
            row = connection.execute(
                f"SELECT count(*), coalesce(sum(hash({columns})), 0) FROM {rows}"
            ).fetchone()
            found[view.name] = row or (0, 0)
    return found


def _differing(connection: duckdb.DuckDBPyConnection, view: View, ours: Path, theirs: Path) -> int:
    offline = (ours / "feature_store" / "offline" / view.name).glob("*.parquet")
    sides = {
        "o": _rows(connection, view, sorted(offline)),
        "t": _rows(connection, view, [theirs / f"{view.name}.parquet"]),
    }
    key = [*view.keys, EVENT_TIMESTAMP]
    on = " AND ".join(f"o.{name} = t.{name}" for name in key)
    equal = " AND ".join(
        _equal(field) for field in view.schema if field.name not in (*key, CREATED_TIMESTAMP)
    )
    repeated = [
        f"(SELECT count(*) - count(DISTINCT ({', '.join(key)})) FROM {source})"
        for source in sides.values()
    ]
    found = connection.execute(
        f"SELECT count(*) + {' + '.join(repeated)} FROM {sides['o']} AS o FULL JOIN {sides['t']} "
        f"AS t ON {on} WHERE o.{key[0]} IS NULL OR t.{key[0]} IS NULL OR NOT ({equal})"
    ).fetchone()
    return int(found[0]) if found else 0


def _rows(connection: duckdb.DuckDBPyConnection, view: View, files: Sequence[Path]) -> str:
    """SQL for the rows in a view's files, with the view's own types where there are none: no file
    is written for them, or one whose columns have whatever type nothing has."""
    if sum(pq.read_metadata(path).num_rows for path in files):
        return read_parquet(files)
    name = f"no_{view.name}"
    connection.register(name, view.schema.empty_table())
    return name


def _equal(field: pa.Field) -> str:
    a, b = f'o."{field.name}"', f't."{field.name}"'
    same = f"{a} IS NOT DISTINCT FROM {b}"
    if field.type == pa.float64():
        return f"({same} OR coalesce({_close(a, b)}, FALSE))"
    if field.type == pa.list_(pa.float64()):
        pairs = f"list_transform(list_zip({a}, {b}), pair -> {_close('pair[1]', 'pair[2]')})"
        return f"({same} OR (len({a}) = len({b}) AND coalesce(list_bool_and({pairs}), FALSE)))"
    return f"({same})"


def _close(a: str, b: str) -> str:
    return f"abs({a} - {b}) <= {TOLERANCE} * greatest(1, abs({a}), abs({b}))"
