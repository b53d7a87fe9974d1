"""How a view's part of the hot window is laid out: tables, columns and the relations over them.

Per view a schema. For each log that feeds it a table `hot_<log>` with the columns that the view's
function reads and `h`, the hash of the view's key, by which rows are found quickly. Over it a
relation `<log>` with the rows of just the keys in `doing`, which the view's SQL reads.

Lists are kept as JSON text: fetching a few lists out of many rows costs ten times as much.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from typing import Final

import duckdb
import ibis.expr.operations as ops
import pyarrow as pa

from pipelines.change_log.types import DUCKDB_TYPES
from pipelines.features.views import VIEWS, Source, View
from pipelines.lake.workspace import quoted
from pipelines.tables.declare import TEXT, TEXTS
from pipelines.tables.known import BY_NAME, LOGS

BEGINNING: Final = datetime(1970, 1, 1)
HASH: Final = "h"
NO_HASH: Final = "h_none"
KEY_HASH: Final = "h_key"
"""The column of a checked change that holds the hash of its own key."""
FEW: Final = 400
"""Up to so many rows, lists as parameters are inserted faster than an Arrow table."""

_LISTS: Final = "'[\"VARCHAR\"]'"


def _times() -> dict[str, str]:
    found = {log.name: log.event_time if log.append_only else log.changed_at for log in LOGS}
    found |= {source.log: source.time for view in VIEWS for source in view.sources}
    return {name: time for name, time in found.items() if time}


TIMES: Final = _times()
"""The column that holds a log's event time, for logs whose rows are about a point in time."""


def logs_of_view(view: View) -> list[str]:
    """The logs that a view reads."""
    return [source.log for source in view.sources] + list(view.tables)


def source_of(view: View, log: str) -> Source | None:
    """How a log feeds a view; None for a table that is read whole."""
    return next((source for source in view.sources if source.log == log), None)


def hash_of(columns: tuple[str, ...]) -> str:
    """SQL that hashes key columns to one number."""
    return f"hash({quoted(columns)})"


def back(time: datetime, microseconds: int) -> datetime:
    """That much earlier, but not before time stamps begin."""
    return max(BEGINNING, time - timedelta(microseconds=microseconds))


@cache
def hot_columns(view: View, log: str) -> dict[str, str]:
    """DuckDB type by column, of what is kept of a log for a view, without the hash."""
    fields = view.expression.op().find(ops.Field)
    read = {field.name for field in fields if _log_of(field.rel) == log} | {"seq", "op"}
    source = source_of(view, log)
    if source:
        read |= {*source.keys, source.time, source.identity or "seq"}
    return {
        name: TEXT if kind == TEXTS else kind
        for name, kind in BY_NAME[log].types.items()
        if name in read
    }


def _log_of(relation: ops.Relation) -> str | None:
    """The log whose rows an Ibis relation holds as they are."""
    while isinstance(relation, ops.Filter | ops.JoinReference):
        relation = relation.parent
    return relation.name if isinstance(relation, ops.UnboundTable) else None


def hashed(view: View) -> str:
    """The column of a checked change that holds the hash of the view's key."""
    return f"h_{view.name}"


def feeds(view: View) -> str:
    """The column of a checked change that says whether it matters to the view."""
    return f"for_{view.name}"


def feeding(view: View, log: str) -> str:
    """SQL for whether a change of a log matters to a view that reads it."""
    source = source_of(view, log)
    return f"coalesce({source.only}, FALSE)" if source else "TRUE"


def hot_values(view: View, log: str) -> str:
    """SQL for the hash and the kept columns, from a relation with the log's columns."""
    source = source_of(view, log)
    h = hash_of(source.keys) if source else "CAST(0 AS UBIGINT)"
    return f"{h} AS {HASH}, " + ", ".join(as_kept(log, name) for name in hot_columns(view, log))


def as_kept(log: str, column: str) -> str:
    """SQL for a log's column as it is kept."""
    if BY_NAME[log].types[column] == TEXTS:
        return f'CAST(to_json("{column}") AS VARCHAR) AS "{column}"'
    return f'"{column}"'


def create_tables(cursor: duckdb.DuckDBPyConnection, view: View) -> None:
    """Make the view's schema with its tables and relations."""
    cursor.execute(f"CREATE SCHEMA {view.name}")
    cursor.execute(f"CREATE TABLE {view.name}.doing ({HASH} UBIGINT)")
    for log in logs_of_view(view):
        columns = hot_columns(view, log)
        typed = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        cursor.execute(f"CREATE TABLE {view.name}.hot_{log} ({HASH} UBIGINT, {typed})")
        read = ", ".join(_as_read(log, name) for name in columns)
        cursor.execute(
            f'CREATE VIEW {view.name}."{log}" AS SELECT {read} FROM {view.name}.hot_{log} '
            f"WHERE {_of_keys_at_hand(view, log)}"
        )


def insert(cursor: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    """Append rows to a table.

    Args:
        cursor: a cursor of the hot window.
        table: the table's name.
        rows: with the table's columns, in their order.
    """
    if rows.num_rows == 0:
        return
    if rows.num_rows > FEW:
        cursor.register("incoming_rows", rows)
        cursor.execute(f"INSERT INTO {table} SELECT * FROM incoming_rows")
        cursor.unregister("incoming_rows")
        return
    kinds = (DUCKDB_TYPES.get(field.type, "VARCHAR") for field in rows.schema)
    values = ", ".join(f"unnest(CAST(${n} AS {kind}[]))" for n, kind in enumerate(kinds, 1))
    cursor.execute(f"INSERT INTO {table} SELECT {values}", [c.to_pylist() for c in rows.columns])


def eviction(view: View, source: Source, watermark: datetime) -> str:
    """SQL that deletes what no window that ends at the watermark or later needs.

    Args:
        view: the view.
        source: the log that feeds it.
        watermark: UTC, naive.
    """
    hot = f"{view.name}.hot_{source.log}"
    horizon = f"TIMESTAMP '{back(watermark, source.lookback or 0)}'"
    old = f"coalesce({source.at} < {horizon}, TRUE)"  # a deletion may be of what had no time yet
    if source.lookback is None:  # whole keys, once nothing of theirs is recent
        recent = f"SELECT {HASH} FROM {hot} WHERE {source.at} >= {horizon}"
        return f"DELETE FROM {hot} WHERE {HASH} NOT IN ({recent})"
    if source.newest_before:
        last = f"SELECT {HASH}, max({source.at}) FROM {hot} WHERE {old} GROUP BY {HASH}"
        return f"DELETE FROM {hot} WHERE {old} AND ({HASH}, {source.at}) NOT IN ({last})"
    if source.identity:
        recent = f"SELECT {source.identity} FROM {hot} WHERE {source.at} >= {horizon}"
        return f"DELETE FROM {hot} WHERE {old} AND {source.identity} NOT IN ({recent})"
    if source.member:
        old += f" OR seq IN ({superseded(source, f'SELECT * FROM {hot}')})"
    return f"DELETE FROM {hot} WHERE {old}"


def superseded(source: Source, rows: str) -> str:
    """SQL for the `seq` of rows that a newer one of the same key and member makes irrelevant."""
    same = ", ".join((*source.keys, str(source.member)))
    return (
        f"SELECT seq FROM ({rows}) QUALIFY "
        f"row_number() OVER (PARTITION BY {same} ORDER BY {source.at} DESC, seq DESC) > 1"
    )


def _as_read(log: str, column: str) -> str:
    if BY_NAME[log].types[column] == TEXTS:
        return f'from_json("{column}", {_LISTS}) AS "{column}"'
    return f'"{column}"'


def _of_keys_at_hand(view: View, log: str) -> str:
    source = source_of(view, log)
    if source is None:
        return "TRUE"
    wanted = f"{HASH} IN (SELECT {HASH} FROM {view.name}.doing)"
    if not source.identity:
        return wanted
    # With every report on the same thing, even one under another key.
    same = f"SELECT {source.identity} FROM {view.name}.hot_{log} WHERE {wanted}"
    return f"{source.identity} IN ({same})"
