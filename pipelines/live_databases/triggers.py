"""The change log and its triggers: their SQL, and which of them a database has.

Format 2. Each change of a row appends `(seq, table_name, op, key, row, committed_at, nonce,
old_key)` to `change_log`, inside the transaction of the change. Beside it in each database:
`change_log_info`, one row, identifies the log; `change_log_unknown` lists the rows whose current
state is not in the log; `change_log_gaps` the periods in which triggers were missing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

FORMAT: Final = 2
EVENTS: Final = ("INSERT", "UPDATE", "DELETE")
CHANGE_LOG_COLUMNS: Final = (
    "seq",
    "table_name",
    "op",
    "key",
    "row",
    "committed_at",
    "nonce",
    "old_key",
)
BLOBS: Final = "$blob"
"""The field of a recorded row that names its columns with a BLOB, separated by spaces. JSON cannot
hold bytes: such a column's value is a SQL literal of the first ones."""
LONG: Final = "$long"
"""The same for columns with a text of more than `LONGEST` bytes: a longer row could exceed SQLite's
limit, which would fail the writer, and the memory of readers."""
LONGEST: Final = 1_000_000
BYTES_SHOWN: Final = 32
NOT_COMPARED: Final = -1
"""The number of unknown rows in a gap that is not compared yet."""
KEYS_NOT_COMPARED: Final = -2
"""Likewise after an upgrade from format 1, which did not record the old key of an UPDATE: only the
keys are compared."""
NONCE: Final = "lower(hex(randomblob(8)))"
NOW: Final = "strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'"

# One change log in each database; seq never repeats, not even after rows were deleted.
_CHANGE_LOG: Final = f"""CREATE TABLE change_log (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    table_name TEXT NOT NULL,
    op TEXT NOT NULL CHECK (op IN ('I', 'U', 'D')),
    key TEXT NOT NULL,
    row TEXT NOT NULL,
    committed_at TEXT NOT NULL DEFAULT ({NOW}),
    nonce TEXT,
    old_key TEXT
)"""
TABLES: Final[Mapping[str, str]] = {
    "change_log": _CHANGE_LOG,
    "change_log_info": f"""CREATE TABLE change_log_info (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    format INTEGER NOT NULL,
    identity TEXT NOT NULL,
    made_at TEXT NOT NULL DEFAULT ({NOW}),
    removed_seq INTEGER NOT NULL DEFAULT 0,
    removed_nonce TEXT
)""",
    "change_log_unknown": """CREATE TABLE change_log_unknown (
    table_name TEXT NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (table_name, key)
) WITHOUT ROWID""",
    "change_log_gaps": """CREATE TABLE change_log_gaps (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    table_name TEXT NOT NULL,
    since TEXT,
    until TEXT NOT NULL,
    unknown_rows INTEGER NOT NULL,
    not_comparable INTEGER NOT NULL
)""",
}
NEW_COLUMNS: Final = ("nonce", "old_key")
"""Columns of the change log that format 1 lacks."""
NEW_INFO: Final = (
    f"INSERT INTO change_log_info (one, format, identity) "
    f"VALUES (1, {FORMAT}, lower(hex(randomblob(16))))"
)
# Appending: a row added by hand gets its nonce, and its key is no longer unknown. If the log was
# emptied and SQLite's sequence reset, numbers go on from the last removed row, so that none is
# used twice; rows that are restored keep theirs. Removing: the last removed row is recorded, so
# that a reader whose offset it was can still verify the log.
LOG_TRIGGERS: Final[Mapping[str, str]] = {
    "change_log_appended": (
        'CREATE TRIGGER change_log_appended AFTER INSERT ON "change_log" BEGIN '
        'DELETE FROM "change_log_unknown" WHERE table_name = NEW.table_name AND key = NEW.key; '
        f'UPDATE "change_log" SET nonce = {NONCE} WHERE seq = NEW.seq AND nonce IS NULL; '
        'UPDATE "change_log" SET seq = 1 + (SELECT removed_seq FROM "change_log_info") '
        'WHERE seq = NEW.seq AND NEW.seq <= (SELECT removed_seq FROM "change_log_info") '
        "AND coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'change_log'), 0) "
        '< (SELECT removed_seq FROM "change_log_info"); END'
    ),
    "change_log_removed": (
        'CREATE TRIGGER change_log_removed AFTER DELETE ON "change_log" BEGIN '
        'UPDATE "change_log_info" SET removed_seq = OLD.seq, removed_nonce = OLD.nonce '
        "WHERE OLD.seq > removed_seq; END"
    ),
}


def trigger_name(table: str, event: str) -> str:
    """The name of the trigger that records one kind of change of a table."""
    return f"{table}_{event.lower()}_to_change_log"


def trigger_statements(table: sa.Table) -> dict[str, str]:
    """By event, the trigger that appends each such change of `table` to `change_log`.

    `key` is a JSON array of the primary key's values; `row` the new row as a JSON object (the old
    one for a deletion), its JSON columns as strings, so that malformed JSON in one of them
    never fails the writer's transaction; the reader rejects it. The same holds for a BLOB.
    An update that changes the key appends a deletion of the old row and an update of the new one,
    which carries the old key.
    """
    name = table.name
    moved = " OR ".join(
        f'OLD."{key.name}" COLLATE BINARY IS NOT NEW."{key.name}"' for key in table.primary_key
    )
    old, new = key_of(table, "OLD"), key_of(table, "NEW")
    into = 'INSERT INTO "change_log" (table_name, op, key, row, nonce'
    bodies = {
        "INSERT": f"{into}) VALUES ('{name}', 'I', {new}, {row_of(table, 'NEW')}, {NONCE})",
        "UPDATE": f"{into}) SELECT '{name}', 'D', {old}, {row_of(table, 'OLD')}, {NONCE} "
        f"WHERE {moved}; {into}, old_key) VALUES ('{name}', 'U', {new}, {row_of(table, 'NEW')}, "
        f"{NONCE}, CASE WHEN {moved} THEN {old} END)",
        "DELETE": f"{into}) VALUES ('{name}', 'D', {old}, {row_of(table, 'OLD')}, {NONCE})",
    }
    return {
        event: f'CREATE TRIGGER "{trigger_name(name, event)}" AFTER {event} ON "{name}" '
        f"BEGIN {body}; END"
        for event, body in bodies.items()
    }


def key_of(table: sa.Table, image: str) -> str:
    """SQL for a row's key as the change log holds it; `image` is NEW, OLD or a table's name."""
    values = (_json_safe(f'{image}."{column.name}"') for column in table.primary_key)
    return f"json_array({', '.join(values)})"


def row_of(table: sa.Table, image: str) -> str:
    """SQL for a row as the change log holds it; `image` is NEW, OLD or a table's name."""
    values = {column.name: f'{image}."{column.name}"' for column in table.columns}
    plain = ", ".join(f"'{name}', {value}" for name, value in values.items())
    any_odd = " OR ".join(f"{_is_blob(value)} OR {_is_long(value)}" for value in values.values())
    safe = ", ".join(f"'{name}', {_json_safe(value)}" for name, value in values.items())
    blobs, long = (
        " || ".join(f"CASE WHEN {odd(v)} THEN '{name} ' ELSE '' END" for name, v in values.items())
        for odd in (_is_blob, lambda value: f"NOT {_is_blob(value)} AND {_is_long(value)}")
    )
    return (
        f"CASE WHEN {any_odd} THEN json_object({safe}, '{BLOBS}', nullif({blobs}, ''), "
        f"'{LONG}', nullif({long}, '')) ELSE json_object({plain}) END"
    )


def _json_safe(value: str) -> str:
    shown = f"quote(substr({value}, 1, {BYTES_SHOWN}))"
    return f"CASE WHEN {_is_blob(value)} OR {_is_long(value)} THEN {shown} ELSE {value} END"


def _is_blob(value: str) -> str:
    return f"typeof({value}) = 'blob'"


def _is_long(value: str) -> str:
    # Of a text, length() counts characters, and only up to the first zero byte.
    return f"length(CAST({value} AS BLOB)) > {LONGEST}"


def format_1_statements(table: sa.Table) -> dict[str, str]:
    """By event, the trigger that format 1 had."""
    statements = {}
    for op, event, image in (
        ("I", "INSERT", "NEW"),
        ("U", "UPDATE", "NEW"),
        ("D", "DELETE", "OLD"),
    ):
        key = ", ".join(f'{image}."{column.name}"' for column in table.primary_key)
        row = ", ".join(f"'{column.name}', {image}.\"{column.name}\"" for column in table.columns)
        statements[event] = (
            f"CREATE TRIGGER {trigger_name(table.name, event)} "
            f"AFTER {event} ON {table.name} BEGIN "
            f"INSERT INTO change_log (table_name, op, key, row) "
            f"VALUES ('{table.name}', '{op}', json_array({key}), json_object({row})); END"
        )
    return statements


@dataclass(frozen=True)
class TableTriggers:
    """The triggers of one table: events whose trigger is missing, altered, or of format 1."""

    table: str
    missing: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    older: tuple[str, ...] = ()

    def sound(self, log_format: int | None) -> bool:
        """Whether the triggers are those of a log of this format."""
        return not (self.missing or self.altered or (self.older and log_format != 1))

    def __str__(self) -> str:
        faults = {"missing": self.missing, "altered": self.altered, "of format 1": self.older}
        return (
            f"{self.table} ("
            + "; ".join(
                f"{fault}: {', '.join(events)}" for fault, events in faults.items() if events
            )
            + ")"
        )


@dataclass(frozen=True)
class ChangeLogState:
    """The change log of a live database, as found.

    `format` is None without a log; `broken` names missing or altered parts of the log itself,
    `foreign` triggers on it that are not ours and may swallow changes, `not_compared` tables with
    a gap that is not compared yet.
    """

    format: int | None
    identity: str | None = None
    broken: tuple[str, ...] = ()
    triggers: Mapping[str, TableTriggers] = field(default_factory=dict)
    """By table, for those of the contract that are there."""
    not_compared: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    @property
    def unsound(self) -> list[TableTriggers]:
        """Tables whose changes are not all recorded as they should be."""
        return [found for found in self.triggers.values() if not found.sound(self.format)]

    @property
    def never_made(self) -> bool:
        """Whether there never was a change log."""
        return (
            self.format is None
            and not self.broken
            and all(found.missing == EVENTS for found in self.triggers.values())
        )


def change_log_state(connection: sqlite3.Connection, metadata: sa.MetaData) -> ChangeLogState:
    """Compare the log and its triggers with what they should be; takes a few milliseconds.

    Names are case-insensitive, as in SQLite.
    """
    found = connection.execute(
        "SELECT type, lower(name), lower(tbl_name), sql, name FROM sqlite_master"
    ).fetchall()
    tables = {name for kind, name, *_ in found if kind == "table"}
    there = {name: (on, _normal(sql)) for kind, name, on, sql, _ in found if kind == "trigger"}
    foreign = tuple(
        sorted(
            shown
            for kind, name, on, _, shown in found
            if kind == "trigger" and on in TABLES and name not in LOG_TRIGGERS
        )
    )
    triggers = {
        table.name: _table_triggers(table, there)
        for table in metadata.sorted_tables
        if table.name in tables
    }
    if "change_log" not in tables:
        left = ("change_log",) if tables.intersection(TABLES) else ()
        return ChangeLogState(None, broken=left, triggers=triggers, foreign=foreign)
    columns = {row[1].lower() for row in connection.execute("PRAGMA table_info(change_log)")}
    if not tables.intersection(TABLES.keys() - {"change_log"}) and not columns & set(NEW_COLUMNS):
        return ChangeLogState(1, triggers=triggers, foreign=foreign)
    info = None
    if "change_log_info" in tables:
        info = connection.execute("SELECT format, identity FROM change_log_info").fetchone()
    newer = info is not None and info[0] > FORMAT
    broken = [
        *(name for name in TABLES if name not in tables),
        *(f"change_log.{name}" for name in CHANGE_LOG_COLUMNS if name not in columns),
        *(
            name
            for name, sql in LOG_TRIGGERS.items()
            if there.get(name) != ("change_log", _normal(sql))
        ),
        *(() if info else ("change_log_info",)),
    ]
    not_compared: list[tuple[str]] = []
    if "change_log_gaps" in tables and not newer:
        not_compared = connection.execute(
            "SELECT DISTINCT table_name FROM change_log_gaps "
            "WHERE unknown_rows < 0 ORDER BY table_name"
        ).fetchall()
    return ChangeLogState(
        info[0] if info else FORMAT,
        info[1] if info else None,
        () if newer else tuple(dict.fromkeys(broken)),
        triggers,
        tuple(name for (name,) in not_compared),
        () if newer else foreign,
    )


def _table_triggers(table: sa.Table, there: Mapping[str, tuple[str, str]]) -> TableTriggers:
    missing, altered, older = [], [], []
    format_1 = format_1_statements(table)
    for event, sql in trigger_statements(table).items():
        on, text = there.get(trigger_name(table.name, event), (None, ""))
        if on != table.name:  # a trigger of that name on another table was renamed with it
            missing.append(event)
        elif text == _normal(format_1[event]):
            older.append(event)
        elif text != _normal(sql):
            altered.append(event)
    return TableTriggers(table.name, tuple(missing), tuple(altered), tuple(older))


def _normal(sql: str) -> str:
    """Normalise SQL for comparison: SQLite requotes the names in a trigger when a table is
    renamed, and may change their case; string literals stay as they are."""
    parts = " ".join(sql.replace('"', "").split()).split("'")
    parts[::2] = [part.lower() for part in parts[::2]]
    return "'".join(parts)
