"""Creates, repairs and upgrades the tables, the change log and its triggers.

Each is one short transaction per database: killed at any point, nothing of it is done. The
transaction also records which tables to compare with the log afterwards; see `gaps`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from pipelines.live_databases.contract import check_tables, newer_format
from pipelines.live_databases.engines import transaction
from pipelines.live_databases.gaps import (
    Gap,
    LastRecorded,
    begin_gaps,
    begin_upgraded,
    finish_gaps,
    look_back,
)
from pipelines.live_databases.triggers import (
    FORMAT,
    LOG_TRIGGERS,
    NEW_COLUMNS,
    NEW_INFO,
    TABLES,
    ChangeLogState,
    change_log_state,
    trigger_name,
    trigger_statements,
)


def create_schema(engine: sa.Engine, metadata: sa.MetaData) -> None:
    """Create missing tables, with their triggers, and the change log if there never was one;
    upgrade a log of format 1.

    Triggers that a table has lost are not restored here: changes were missed meanwhile, which
    `install_triggers` deals with.

    Raises:
        ContractError: a table lacks a column, or the log was made by a newer version.
        LiveDatabaseError: the database cannot be written.
    """
    with transaction(engine) as connection:
        state = change_log_state(connection, metadata)
    if not state.never_made and state.format != 1 and len(state.triggers) == len(metadata.tables):
        _refuse_newer(engine, state)
        return
    with transaction(engine, writes=True) as connection:
        state = change_log_state(connection, metadata)
        _refuse_newer(engine, state)
        absent = [table for table in metadata.sorted_tables if table.name not in state.triggers]
        for table in absent:
            connection.execute(str(CreateTable(table).compile(engine)))
        # A trigger that names a missing column would fail the writers.
        check_tables(connection, str(engine.url.database), metadata)
        if state.never_made:
            _make_log(connection)
            begin_gaps(connection, metadata.sorted_tables, LastRecorded())
            _make_triggers(connection, metadata.sorted_tables)
        else:
            if state.format == 1:
                _upgrade(connection, metadata, state)
            _make_triggers(connection, absent)
    finish_gaps(engine, metadata)


def upgrade_change_log(engine: sa.Engine, metadata: sa.MetaData) -> bool:
    """Upgrade a log of format 1, with those of its triggers that are there.

    Format 1 recorded only the new key of an UPDATE that changed a key. So rows that are in the log
    but not in the table are logged as deleted, and those in the table but not in the log recorded
    as unknown, without blocking writers. An upgrade that was killed is finished, too.

    Returns:
        Whether there was anything to do.

    Raises:
        LiveDatabaseError: the database cannot be read or written.
    """
    with transaction(engine) as connection:
        state = change_log_state(connection, metadata)
    if state.format == 1:
        with transaction(engine, writes=True) as connection:
            state = change_log_state(connection, metadata)
            if state.format == 1:  # else another process was faster
                _upgrade(connection, metadata, state)
    elif state.broken or not state.not_compared:
        return False
    finish_gaps(engine, metadata)
    return True


def install_triggers(engine: sa.Engine, metadata: sa.MetaData) -> list[Gap]:
    """Create missing and repair altered parts of the log and its triggers, remove foreign
    triggers on the log, and record which rows it does not know.

    Returns:
        One gap per table that lacked triggers or recorded changes.

    Raises:
        ContractError: a table or column is missing, or the log was made by a newer version.
        LiveDatabaseError: the database cannot be read or written.
    """
    with transaction(engine) as connection:
        last = look_back(connection, metadata.sorted_tables)
    with transaction(engine, writes=True) as connection:
        state = change_log_state(connection, metadata)
        _refuse_newer(engine, state)
        check_tables(connection, str(engine.url.database), metadata)
        if state.format == 1:
            _upgrade(connection, metadata, state)
            state = change_log_state(connection, metadata)
        whole = state.format is None or bool(state.broken)
        if whole:
            _make_log(connection)
        for name in state.foreign:
            quoted = name.replace('"', '""')
            connection.execute(f'DROP TRIGGER "{quoted}"')
        unsound = {found.table for found in state.unsound}
        doubtful = state.format is None or bool(state.foreign)
        mended = [t for t in metadata.sorted_tables if t.name in unsound or doubtful]
        begin_gaps(connection, mended, last)
        _make_triggers(connection, mended)
    return finish_gaps(engine, metadata)


def _refuse_newer(engine: sa.Engine, state: ChangeLogState) -> None:
    if state.format is not None and state.format > FORMAT:
        raise newer_format(str(engine.url.database), state.format)


def _make_log(connection: sqlite3.Connection) -> None:
    """Create missing parts of the log itself; a recreated log gets a new identity."""
    there = {name for (name,) in connection.execute("SELECT lower(name) FROM sqlite_master")}
    if "change_log" not in there and "change_log_info" in there:
        connection.execute("DROP TABLE change_log_info")
        there.discard("change_log_info")
    for name, sql in TABLES.items():
        if name not in there:
            connection.execute(sql)
    columns = {row[1].lower() for row in connection.execute("PRAGMA table_info(change_log)")}
    for name in NEW_COLUMNS:
        if name not in columns:
            connection.execute(f"ALTER TABLE change_log ADD COLUMN {name} TEXT")
    if connection.execute("SELECT count(*) FROM change_log_info").fetchone() == (0,):
        connection.execute(NEW_INFO)
    for name, sql in LOG_TRIGGERS.items():
        connection.execute(f"DROP TRIGGER IF EXISTS {name}")
        connection.execute(sql)


def _make_triggers(connection: sqlite3.Connection, tables: Iterable[sa.Table]) -> None:
    for table in tables:
        for event, sql in trigger_statements(table).items():
            # Also a trigger of that name on another table, which is this one renamed.
            connection.execute(f'DROP TRIGGER IF EXISTS "{trigger_name(table.name, event)}"')
            connection.execute(sql)


def _upgrade(connection: sqlite3.Connection, metadata: sa.MetaData, state: ChangeLogState) -> None:
    """Upgrade sound tables only; one that lacks triggers is left alone, so that checks report
    it."""
    _make_log(connection)
    triggers = ((table, state.triggers.get(table.name)) for table in metadata.sorted_tables)
    sound = [table for table, found in triggers if found is not None and found.sound(1)]
    _make_triggers(connection, sound)
    begin_upgraded(connection, sound)
