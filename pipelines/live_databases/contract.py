"""Checks a live database against the contract, and lists rows its change log does not know."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from pipelines.errors import ContractError, OlderLogError, TriggersError
from pipelines.live_databases.engines import transaction
from pipelines.live_databases.triggers import FORMAT, change_log_state
from pipelines.printable import counted

MEND: Final = "`synchrochain triggers --install`"


@dataclass(frozen=True)
class UnknownRows:
    """Rows of a table whose current state is not in the change log.

    The triggers were missing from `since` to `until`; `since` is None if there were none before.
    """

    table: str
    rows: int
    since: str | None
    until: str | None

    def __str__(self) -> str:
        """One line: what it means, and what to do."""
        when = f"between {self.since} and {self.until}" if self.since else f"before {self.until}"
        return (
            f"{counted(self.rows, 'row')} of {self.table} changed without triggers ({when}): "
            "features lack what the change log does not know; insert it again through change_log, "
            "see docs/own-database.md"
        )


def check_contract(engine: sa.Engine, metadata: sa.MetaData) -> None:
    """Check that every table, column and trigger that the pipelines need is there.

    Raises:
        ContractError: a table or column is missing, or the log is of another format.
        TriggersError: a trigger or part of the log is missing or altered.
        LiveDatabaseError: the database cannot be read.
    """
    with transaction(engine) as connection:
        check_connection(connection, str(engine.url.database), metadata)


def check_connection(connection: sqlite3.Connection, where: str, metadata: sa.MetaData) -> None:
    """As `check_contract`, on an open connection.

    Args:
        connection: in a transaction.
        where: the database, for messages.
        metadata: the tables of the contract.

    Raises:
        ContractError, TriggersError: see `check_contract`.
    """
    state = change_log_state(connection, metadata)
    if state.format is not None and state.format > FORMAT:
        raise newer_format(where, state.format)
    check_tables(connection, where, metadata)
    if state.never_made:
        raise ContractError(f"{where} has no table 'change_log': make it with {MEND}")
    if state.format == 1 and not state.unsound:
        raise OlderLogError(
            f"{where}: its change log is of format 1: `synchrochain batch --once` brings it up "
            "to date"
        )
    if state.format is None:
        raise TriggersError(
            f"{where} has no table 'change_log', though it had one, so changes are missing: "
            f"make it with {MEND}"
        )
    if state.broken:
        parts = ", ".join(state.broken)
        raise TriggersError(
            f"{where}: its change log is not whole, so changes may be missing ({parts} missing or "
            f"altered): mend it with {MEND}"
        )
    if state.foreign:
        raise TriggersError(
            f"{where}: triggers on its change log that are not SynchroChain's may swallow or alter "
            f"changes: {', '.join(state.foreign)}; remove them, and note what was missed, with "
            f"{MEND}"
        )
    if state.not_compared:
        raise TriggersError(
            f"{where}: what changed in {', '.join(state.not_compared)} while there were no "
            f"triggers was not compared to the end: run {MEND} again"
        )
    if state.unsound:
        since = [last_recorded(connection, found.table) or "ever" for found in state.unsound]
        tables = ", ".join(map(str, state.unsound))
        raise TriggersError(
            f"{where}: triggers are not what they should be: {tables}; changes may be missing "
            f"since {', '.join(dict.fromkeys(since))}: mend them with {MEND}"
        )


def unknown_rows(engine: sa.Engine) -> list[UnknownRows]:
    """Rows that the change log does not know, by table; empty also if there is no log.

    Raises:
        LiveDatabaseError: the database cannot be read.
    """
    with transaction(engine) as connection:
        there = connection.execute(
            "SELECT count(*) FROM sqlite_master "
            "WHERE lower(name) IN ('change_log_unknown', 'change_log_gaps')"
        ).fetchone()
        if there != (2,):
            return []
        counted = connection.execute(
            "SELECT table_name, count(*) FROM change_log_unknown GROUP BY table_name"
        ).fetchall()
        if not counted:
            return []
        gaps = {
            table: (since, until)
            for table, since, until in connection.execute(
                "SELECT table_name, CASE WHEN count(since) = count(*) THEN (SELECT since FROM "
                "change_log_gaps AS each WHERE each.table_name = gaps.table_name "
                "ORDER BY julianday(since) LIMIT 1) END, max(until) FROM change_log_gaps AS gaps "
                "GROUP BY table_name"
            )
        }
    return [UnknownRows(table, rows, *gaps.get(table, (None, None))) for table, rows in counted]


def other_unique_columns(connection: sqlite3.Connection, table: sa.Table) -> list[str]:
    """The unique columns of a table beside its key: "email", or "tenant, number".

    A row that `INSERT OR REPLACE` removes for such columns fires no trigger, unless the writer sets
    `PRAGMA recursive_triggers`.
    """
    found = connection.execute(
        "SELECT (SELECT group_concat(coalesce(name, 'an expression'), ', ') "
        "FROM pragma_index_info(list.name)) FROM pragma_index_list(?) AS list "
        "WHERE list.\"unique\" AND list.origin <> 'pk' ORDER BY list.name",
        (table.name,),
    )
    return [columns for (columns,) in found]


def check_tables(connection: sqlite3.Connection, where: str, metadata: sa.MetaData) -> None:
    """Check that the tables of the contract exist, with its columns.

    Args:
        connection: the live database.
        where: the database, for messages.
        metadata: the tables of the contract.

    Raises:
        ContractError: a table or column is missing.
    """
    kinds = dict(connection.execute("SELECT lower(name), type FROM sqlite_master").fetchall())
    for table in metadata.sorted_tables:
        kind = kinds.get(table.name)
        if kind != "table":
            reason = "only a view of that name, which triggers cannot follow" if kind else "no"
            raise ContractError(
                f"{where} has {reason}"
                + (f": {table.name!r}" if kind else f" table {table.name!r}")
                + ": create it with `synchrochain simulate`, or see docs/own-database.md"
            )
        # table_xinfo, unlike table_info, lists generated columns too.
        found = connection.execute(f'PRAGMA table_xinfo("{table.name}")').fetchall()
        present = {row[1] for row in found}
        known = {name.lower() for name in present}
        for column in table.columns:
            if column.name not in known:
                raise ContractError(
                    f"{where}: table {table.name!r} has no column {column.name!r}; it has: "
                    + ", ".join(sorted(present))
                )


def newer_format(where: str, found: int) -> ContractError:
    """The error for a change log of a newer version."""
    return ContractError(
        f"{where}: its change log is of format {found}, made by a newer version; this one knows "
        f"format {FORMAT}: install the newer version of SynchroChain"
    )


def last_recorded(connection: sqlite3.Connection, table: str, after: int = 0) -> str | None:
    """When the last change of a table was recorded; None if there is none.

    Args:
        connection: the live database.
        table: the table's name.
        after: only changes with a greater `seq`.
    """
    found = connection.execute(
        "SELECT committed_at FROM change_log WHERE table_name = ? AND seq > ? "
        "ORDER BY seq DESC LIMIT 1",
        (table, after),
    ).fetchone()
    return str(found[0]) if found else None
