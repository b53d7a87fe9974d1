"""Trimming: removing from the change logs what every reader is done with.

What lasts can always be made anew from what is left. Of a table to whose rows others refer, or
that features look back to without a limit, a trimmed log keeps all insertions, deletions and
changes of key, and of the updates those that a rebuild needs: per life of a key the newest that was
accepted, which says how the row stands, and the one that began it, as when it mended a rejected
insertion. The processed logs say which these are.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import duckdb
import pyarrow as pa
import sqlalchemy as sa

from pipelines.change_log.reader import decoded
from pipelines.change_log.time_stamps import own_form_sql, parse_time_stamp
from pipelines.lake.state import PipelineState
from pipelines.lake.state_values import as_text
from pipelines.lake.verification import check_contents
from pipelines.lake.workspace import quoted, read_files
from pipelines.live_databases import open_existing, transaction
from pipelines.settings import DATABASE_NAMES, BatchConfig, DataConfig
from pipelines.tables.declare import Log
from pipelines.tables.known import logs_of

ROWS_PER_DELETE: Final = 2_000
ROWS_PER_LOOK: Final = 200_000
"""Changes for which the processed logs are asked at once."""
FIRST_LOOK: Final = 1_000
"""Changes that mostly suffice to see that nothing has expired."""
_SORTABLE: Final = (
    f"CASE WHEN {own_form_sql('committed_at')} THEN committed_at "
    "ELSE utc(CAST(committed_at AS BLOB)) END"
)


def trim_change_logs(
    connection: duckdb.DuckDBPyConnection,
    data: DataConfig,
    config: BatchConfig,
    state: PipelineState,
    now: datetime,
) -> int:
    """Remove what is older than the retention, from the beginning to the first that is not.

    The last change stays, which says how far the log goes, and those at which readers stand, which
    say that it is this log.

    Args:
        connection: a workspace.
        data: the live databases.
        config: how long changes are kept.
        state: the pipeline's state: how far each reader is.
        now: UTC, naive.

    Returns:
        The number of changes removed. Small portions, so that a writer never waits for long.

    Raises:
        LiveDatabaseError: a change log cannot be read or written.
        CorruptFileError: a processed log is not what was published.
    """
    expiry = now - timedelta(days=config.retention_days)
    removed = 0
    for name in DATABASE_NAMES:
        engine = open_existing(name, data.database_url(name), data.busy_timeout)
        try:
            removed += _trim(connection, engine, name, state, expiry, now)
        finally:
            engine.dispose()
    return removed


def _trim(
    connection: duckdb.DuckDBPyConnection,
    engine: sa.Engine,
    database: str,
    state: PipelineState,
    expiry: datetime,
    now: datetime,
) -> int:
    key = f"trimmed {database}"  # what was passed once is not looked at again
    after = int(state.metadata(key) or 0)
    done = state.slowest_offset(database)
    logs = {log.table: log for log in logs_of(database) if log.lasts}
    lasting = ", ".join(f"'{table}'" for table in logs)
    known = ", ".join(f"'{log.table}'" for log in logs_of(database))
    removed = 0
    while True:
        with transaction(engine) as live:
            after = max(after, _first(live) - 1)
            upto = _expired(live, after, done, expiry, now)
            updates = _updates(live, after, upto, lasting)
        if upto <= after:
            return removed
        kept = set(state.kept_offsets(database))
        for table, seqs in updates.items():
            kept |= _needed(connection, state, logs[table], seqs)
        removed += _remove(engine, after, upto, (known, lasting), sorted(kept))
        after = upto
        state.set_metadata(key, str(upto))


def _first(live: sqlite3.Connection) -> int:
    (first,) = live.execute("SELECT min(seq) FROM change_log").fetchone()
    return int(first or 1)


def _expired(
    live: sqlite3.Connection, after: int, done: int, expiry: datetime, now: datetime
) -> int:
    """The last expired change that no recent one comes before; `after` if there is none.

    A time in the future, or what is no time, says nothing: such a change goes with those around it.
    """
    live.create_function("utc", 1, _utc, deterministic=True)
    portion = (
        f"SELECT seq, {_SORTABLE} AS at FROM change_log WHERE seq > :after AND seq <= :done "
        "AND seq < (SELECT max(seq) FROM change_log) ORDER BY seq LIMIT :most"
    )
    limits = {"done": done, "expiry": as_text(expiry), "now": as_text(now)}
    query = (
        "SELECT max(seq) FILTER (WHERE at < :expiry AND seq < coalesce(recent, seq + 1)), "
        "recent, max(seq) FROM (SELECT *, min(seq) FILTER (WHERE at BETWEEN :expiry AND :now) "
        f"OVER () AS recent FROM ({portion}))"
    )
    last, recent, _ = live.execute(query, limits | {"after": after, "most": FIRST_LOOK}).fetchone()
    if recent is not None:
        return int(last or after)
    end: int | None = after
    while end is not None:  # until a portion has a change that says something
        looked = limits | {"after": end, "most": ROWS_PER_LOOK}
        last, recent, end = live.execute(query, looked).fetchone()
        if last is not None or recent is not None:
            return int(last or after)
    return after


def _utc(stored: bytes | None) -> str | None:
    """A time stamp in the form whose texts compare as the times do."""
    try:
        return None if stored is None else as_text(parse_time_stamp(decoded(stored)))
    except ValueError:
        return None


def _updates(
    live: sqlite3.Connection, after: int, upto: int, lasting: str
) -> Mapping[str, Sequence[int]]:
    """By lasting table, the updates that might be removed."""
    found: dict[str, list[int]] = {}
    for table, seq in live.execute(
        "SELECT table_name, seq FROM change_log WHERE seq > ? AND seq <= ? AND op = 'U' "
        f"AND old_key IS NULL AND table_name IN ({lasting})",
        (after, upto),
    ):
        found.setdefault(table, []).append(seq)
    return found


def _needed(
    connection: duckdb.DuckDBPyConnection, state: PipelineState, log: Log, seqs: Iterable[int]
) -> set[int]:
    """Those of the updates without which a rebuild would lack a row, or have an older one."""
    files = state.files("log", log.name)
    if not files:
        return set()
    check_contents(state, files)
    key = quoted(log.key)
    accepted = read_files(files)
    connection.register("updates", pa.table({"seq": pa.array(seqs, pa.int64())}))
    try:
        rows = connection.execute(
            f"""
            WITH expiring AS (SELECT {key}, seq, op FROM {accepted} SEMI JOIN updates USING (seq)),
            lives AS (
                SELECT {key}, seq, op, count(*) FILTER (op = 'D') OVER
                (PARTITION BY {key} ORDER BY seq) AS life
                FROM {accepted} SEMI JOIN expiring USING ({key})
            ), needed AS (
                SELECT max(seq) AS seq FROM lives WHERE op <> 'D' GROUP BY {key}, life
                UNION SELECT seq FROM expiring WHERE op = 'I'
            )
            SELECT seq FROM needed SEMI JOIN updates USING (seq)
            """
        ).fetchall()
    finally:
        connection.unregister("updates")
    return {seq for (seq,) in rows}


def _remove(
    engine: sa.Engine, after: int, upto: int, tables: tuple[str, str], kept: Sequence[int]
) -> int:
    known, lasting = tables  # of what is not declared, nobody has read anything
    removed = 0
    for first in range(after, upto, ROWS_PER_DELETE):
        last = min(first + ROWS_PER_DELETE, upto)
        here = kept[bisect_right(kept, first) : bisect_left(kept, last + 1)]
        with transaction(engine, writes=True) as live:
            removed += live.execute(
                "DELETE FROM change_log WHERE seq > ? AND seq <= ? "
                f"AND table_name IN ({known}) AND NOT (table_name IN ({lasting}) "
                "AND (op IN ('I', 'D') OR old_key IS NOT NULL)) "
                f"AND seq NOT IN ({', '.join(map(str, here))})",
                (first, last),
            ).rowcount
    return removed
