"""Gaps: periods in which not every change was recorded, and the rows that the log does not know
since.

First a short transaction creates the triggers and records the gap as not compared. Then one
snapshot of the table is compared with the log, which may take long but holds no lock; the triggers
record changes meanwhile. The result replaces the mark: until then the log counts as incomplete.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from pipelines.live_databases.contract import last_recorded
from pipelines.live_databases.engines import begun, connected
from pipelines.live_databases.schema import CHANGED_AT
from pipelines.live_databases.triggers import (
    KEYS_NOT_COMPARED,
    NOT_COMPARED,
    NOW,
    key_of,
    row_of,
)

ROWS_PER_WRITE: Final = 20_000


@dataclass(frozen=True)
class Gap:
    """A period in which a table lacked triggers.

    `since` is the time of the last change recorded before, None if there never was one.
    `unknown_rows` counts rows whose current state is not in the log, `not_comparable` those whose
    changes retention may have removed from the log.
    """

    table: str
    since: str | None
    until: str
    unknown_rows: int
    not_comparable: int


@dataclass(frozen=True)
class LastRecorded:
    """When each table's last change was recorded, in the log up to `upto`."""

    upto: int = 0
    at: Mapping[str, str | None] | None = None


def look_back(connection: sqlite3.Connection, tables: Iterable[sa.Table]) -> LastRecorded:
    """When the last change of each table was recorded; slow in a long log."""
    there = connection.execute(
        "SELECT 1 FROM sqlite_master WHERE lower(name) = 'change_log'"
    ).fetchone()
    if not there:
        return LastRecorded()
    (upto,) = connection.execute("SELECT max(seq) FROM change_log").fetchone()
    return LastRecorded(upto or 0, {t.name: last_recorded(connection, t.name) for t in tables})


def begin_gaps(
    connection: sqlite3.Connection, tables: Iterable[sa.Table], last: LastRecorded
) -> None:
    """Record that tables are to be compared, except empty ones without changes.

    Args:
        connection: in the transaction that creates the triggers.
        tables: the tables that get triggers.
        last: the result of `look_back` shortly before.
    """
    for table in tables:
        since = last_recorded(connection, table.name, last.upto) or (last.at or {}).get(table.name)
        filled = connection.execute(f'SELECT 1 FROM "{table.name}" LIMIT 1').fetchone()
        if since or filled:
            connection.execute(
                "INSERT INTO change_log_gaps (table_name, since, until, unknown_rows, "
                f"not_comparable) VALUES (?, ?, {NOW}, {NOT_COMPARED}, 0)",
                (table.name, since),
            )


def begin_upgraded(connection: sqlite3.Connection, tables: Iterable[sa.Table]) -> None:
    """After an upgrade from format 1, record which tables must have their keys compared.

    Args:
        connection: in the transaction that creates the triggers.
        tables: the upgraded tables.
    """
    for table in tables:
        connection.execute(
            "INSERT INTO change_log_gaps (table_name, since, until, unknown_rows, not_comparable) "
            f"VALUES (?, NULL, {NOW}, {KEYS_NOT_COMPARED}, 0)",
            (table.name,),
        )


def finish_gaps(engine: sa.Engine, metadata: sa.MetaData) -> list[Gap]:
    """Compare all tables recorded for it, also by a process that was killed.

    Returns:
        One gap per table; for upgraded tables only if a row is not known.

    Raises:
        LiveDatabaseError: the database cannot be read or written.
    """
    with connected(engine) as connection:
        found = connection.execute(
            "SELECT id, table_name, since, until, unknown_rows FROM change_log_gaps "
            "WHERE unknown_rows < 0 ORDER BY id"
        ).fetchall()
        finished = (
            _finish(connection, gap, metadata.tables[table], since, until, kind)
            for gap, table, since, until, kind in found
            if table in metadata.tables
        )
        return [gap for gap in finished if gap]


def _finish(
    connection: sqlite3.Connection,
    gap: int,
    table: sa.Table,
    since: str | None,
    until: str,
    kind: int,
) -> Gap | None:
    upgraded = kind == KEYS_NOT_COMPARED
    with begun(connection):  # one snapshot
        (end,) = connection.execute("SELECT coalesce(max(seq), 0) FROM change_log").fetchone()
        _find_logged(connection, table)
        if upgraded:
            _find_differing_keys(connection, table)
        else:
            _find_differing(connection, table, since)
    sure, unsure, last = connection.execute(
        "SELECT count(*) FILTER (WHERE sure AND row IS NULL), count(*) FILTER (WHERE NOT sure), "
        "coalesce(max(rowid), 0) FROM temp.differing"
    ).fetchone()
    for first in range(0, last, ROWS_PER_WRITE):
        of_part = (
            "FROM temp.differing WHERE sure AND rowid > :first AND rowid <= :last AND key NOT IN "
            "(SELECT key FROM change_log WHERE seq > :end AND table_name = :table)"
        )
        part = {"table": table.name, "first": first, "last": first + ROWS_PER_WRITE, "end": end}
        with begun(connection, writes=True):
            connection.execute(
                "INSERT OR IGNORE INTO change_log_unknown "
                f"SELECT :table, key {of_part} AND row IS NULL",
                part,
            )
            connection.execute(
                "INSERT INTO change_log (table_name, op, key, row) "
                f"SELECT :table, 'D', key, row {of_part} AND row IS NOT NULL",
                part,
            )
    with begun(connection, writes=True):
        if upgraded and not sure and not unsure:
            connection.execute("DELETE FROM change_log_gaps WHERE id = ?", (gap,))
        else:
            connection.execute(
                "UPDATE change_log_gaps SET unknown_rows = ?, not_comparable = ? WHERE id = ?",
                (sure, unsure, gap),
            )
    with begun(connection):
        connection.execute("DROP TABLE temp.differing")
    return Gap(table.name, since, until, sure, unsure) if sure or unsure or not upgraded else None


def _find_logged(connection: sqlite3.Connection, table: sa.Table) -> None:
    """Create `logged`: the newest change of each key."""
    connection.execute("DROP TABLE IF EXISTS temp.logged")
    connection.execute(
        "CREATE TEMP TABLE logged (key TEXT PRIMARY KEY, seq INTEGER, op TEXT, row TEXT)"
    )
    connection.execute(
        "INSERT INTO temp.logged SELECT key, max(seq), op, row FROM change_log "
        "WHERE table_name = ? GROUP BY key",
        (table.name,),
    )
    connection.execute("DROP TABLE IF EXISTS temp.differing")
    connection.execute("CREATE TEMP TABLE differing (key TEXT, sure INTEGER, row TEXT)")


def _find_differing_keys(connection: sqlite3.Connection, table: sa.Table) -> None:
    """Add to `differing` the keys that are only in the table, or only in the log (with its row).

    Retention may have removed the former from the log.
    """
    whole, oldest = connection.execute(
        "SELECT (SELECT count(*) FROM change_log) >= coalesce((SELECT seq FROM sqlite_sequence "
        "WHERE name = 'change_log' COLLATE NOCASE), 0), "
        "(SELECT min(committed_at) FROM change_log WHERE table_name = ?)",
        (table.name,),
    ).fetchone()
    at = CHANGED_AT.get(table.name)
    # The shop's clock and the triggers' may differ a little.
    recent = f'coalesce(julianday("{at}") >= julianday(:oldest) + 1, FALSE)' if at else "FALSE"
    key = key_of(table, table.name)
    connection.execute(
        "INSERT INTO temp.differing SELECT live.key, logged.key IS NOT NULL OR :whole OR recent, "
        f'NULL FROM (SELECT {key} AS key, {recent} AS recent FROM "{table.name}") AS live '
        "LEFT JOIN temp.logged AS logged ON logged.key = live.key "
        "WHERE logged.key IS NULL OR logged.op = 'D'",
        {"whole": whole, "oldest": oldest},
    )
    connection.execute(
        "INSERT INTO temp.differing SELECT key, TRUE, row FROM temp.logged WHERE op <> 'D' "
        f'AND key NOT IN (SELECT {key} FROM "{table.name}")'
    )
    connection.execute("DROP TABLE temp.logged")


def _find_differing(connection: sqlite3.Connection, table: sa.Table, since: str | None) -> None:
    """Add to `differing` the keys whose newest change in the log differs from the table's row."""
    (removed,) = connection.execute("SELECT removed_seq FROM change_log_info").fetchone()
    at = CHANGED_AT.get(table.name)
    # Compared as times: the formats differ, as the shop writes one and triggers the other.
    recent = f'coalesce(julianday("{at}") >= julianday(:since), FALSE)' if at else "FALSE"
    connection.execute(
        "INSERT INTO temp.differing "
        "SELECT live.key, coalesce(logged.seq, 0) > :removed OR live.recent, NULL FROM ("
        f"SELECT {key_of(table, table.name)} AS key, {row_of(table, table.name)} AS row, "
        f'{recent if since else "TRUE"} AS recent FROM "{table.name}") AS live '
        "LEFT JOIN temp.logged AS logged ON logged.key = live.key "
        "WHERE logged.key IS NULL OR logged.op = 'D' OR logged.row IS NOT live.row",
        {"since": since, "removed": removed if removed else -1},
    )
    connection.execute(
        "INSERT INTO temp.differing SELECT key, TRUE, NULL FROM temp.logged WHERE op <> 'D' "
        f'AND key NOT IN (SELECT {key_of(table, table.name)} FROM "{table.name}")'
    )
    connection.execute("DROP TABLE temp.logged")
