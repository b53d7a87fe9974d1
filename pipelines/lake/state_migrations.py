"""The format of data/pipeline_state.db, and its migrations from any older one.

`PRAGMA user_version` is the number of steps applied to a file. A new column or table is a new step
at the end; a released step is never changed. All missing steps are applied in one transaction, so a
killed upgrade leaves no trace, and others that open the file meanwhile wait for it.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Final

from pipelines.errors import DamagedStateError, NewerFormatError

_FORMAT_1: Final = (
    "CREATE TABLE positions (reader TEXT NOT NULL, database TEXT NOT NULL, seq INTEGER NOT NULL, "
    "PRIMARY KEY (reader, database)) STRICT",
    "CREATE TABLE cycles (id INTEGER PRIMARY KEY AUTOINCREMENT, "
    "started_at TEXT NOT NULL, finished_at TEXT, pid INTEGER NOT NULL, "
    "status TEXT NOT NULL CHECK (status IN ('running', 'succeeded', 'failed')), "
    "step TEXT, error TEXT, report TEXT) STRICT",
    "CREATE TABLE files (path TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, "
    "cycle INTEGER NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, "
    "min_time TEXT, max_time TEXT, condensed INTEGER NOT NULL DEFAULT 0, "
    "status TEXT NOT NULL CHECK (status IN ('pending', 'live', 'superseded')), "
    "changed_at TEXT NOT NULL) STRICT",
    "CREATE INDEX live_files ON files (status, kind, name)",
    "CREATE TABLE waiting_views (view TEXT PRIMARY KEY, oldest TEXT NOT NULL, "
    "newest TEXT NOT NULL) STRICT",
    "CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
)
"""The tables before files had a format number."""

_FILES_KNOWN: Final = (
    "ALTER TABLE files ADD COLUMN format INTEGER NOT NULL DEFAULT 1",
    "ALTER TABLE files ADD COLUMN identity TEXT",
)
"""A file's format, and its identity when it was last verified."""

_BOUND_POSITIONS: Final = (
    "ALTER TABLE positions ADD COLUMN identity TEXT",
    "ALTER TABLE positions ADD COLUMN nonce TEXT",
)
"""What binds an offset to one change log; null in older rows."""

_LATE_CHANGES: Final = (
    "CREATE TABLE late_changes (cycle INTEGER NOT NULL, log TEXT NOT NULL, seq INTEGER NOT NULL, "
    "PRIMARY KEY (cycle, log, seq)) STRICT",
)
"""Rows that were rejected first and accepted later."""

DELETIONS_UNCHECKED: Final = "deletions are not checked"
_DELETIONS: Final = (
    f"INSERT OR IGNORE INTO notes SELECT DISTINCT '{DELETIONS_UNCHECKED}', '' FROM positions",
)
"""Set until a cycle has found the deletions for which an earlier version wrote no tombstones."""

_FIELD_WORDS: Final = (
    "ALTER TABLE positions RENAME TO offsets",
    "ALTER TABLE notes RENAME TO metadata",
    "ALTER TABLE waiting_views RENAME TO pending_materializations",
    "ALTER TABLE files RENAME COLUMN condensed TO compacted",
)
"""Renames to the field's words."""

_REPORTED: Final = "CASE WHEN json_valid(value) THEN json_type(value, '$.{}') END = 'object'"
_STREAM_WORDS: Final = (
    "UPDATE metadata SET value = json_remove(json_set(value, '$.deferred', "
    "json_extract(value, '$.left')), '$.left') "
    f"WHERE name = 'stream' AND {_REPORTED.format('left')}",
    "UPDATE metadata SET value = json_set(value, '$.streams', json((SELECT json_group_object(key, "
    "json_remove(json_set(s.value, '$.rejected', json_extract(s.value, '$.refused'), '$.deferred', "
    "json_extract(s.value, '$.left_to_batch')), '$.refused', '$.left_to_batch')) "
    "FROM json_each(metadata.value, '$.streams') AS s WHERE s.type = 'object'))) "
    f"WHERE name = 'stream' AND {_REPORTED.format('streams')}",
)
"""Renames in the streamer's last report."""

DECLARED: Final = "declarations"
_DECLARED_BY_FEATURE: Final = (
    "UPDATE metadata SET value = (SELECT json_group_object(key, CASE d.type WHEN 'text' "
    "THEN json_object('whole', d.value) ELSE json(d.value) END) "
    "FROM json_each(metadata.value) AS d WHERE d.type IN ('text', 'object')) "
    f"WHERE name = '{DECLARED}' "
    "AND CASE WHEN json_valid(value) THEN json_type(value) END = 'object'",
)
"""What the published rows were declared from: one hash by view, before there was one by feature."""

_RESOLVED: Final = ("ALTER TABLE late_changes RENAME TO resolved_changes",)
"""Late is what is older than a watermark."""

_STAGES: Final = (
    "UPDATE cycles SET step = CASE step WHEN 'extract' THEN 'read' WHEN 'check' THEN 'validate' "
    "WHEN 'load' THEN 'publish' ELSE step END",
    *(
        f"UPDATE cycles SET report = json_remove(json_set(report, '$.{new}', "
        f"json_extract(report, '$.{old}')), '$.{old}') "
        f"WHERE CASE WHEN json_valid(report) THEN json_type(report, '$.{old}') END IS NOT NULL"
        for old, new in {
            "extracted": "changes",
            "seconds.extract": "seconds.read",
            "seconds.check": "seconds.validate",
            "seconds.load": "seconds.publish",
        }.items()
    ),
)
"""Renames in the records of cycles."""

STEPS: Final[tuple[tuple[str, ...], ...]] = (
    _FORMAT_1,
    _FILES_KNOWN,
    _BOUND_POSITIONS,
    _LATE_CHANGES,
    _DELETIONS,
    _FIELD_WORDS,
    _STREAM_WORDS,
    _DECLARED_BY_FEATURE,
    _RESOLVED,
    _STAGES,
)
"""Statements by step; the first creates a new file, each later one leads to the next format."""

FORMAT: Final = len(STEPS)
_UNNUMBERED: Final = frozenset(re.findall(r"CREATE TABLE (\w+)", " ".join(_FORMAT_1)))
_ALL: Final = " ".join(statement for step in STEPS for statement in step)
_RENAMED: Final = dict(re.findall(r"ALTER TABLE (\w+) RENAME TO (\w+)", _ALL))
_TABLES: Final = frozenset(
    _RENAMED.get(name, name) for name in re.findall(r"CREATE TABLE (\w+)", _ALL)
)


def is_current(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file has the format of this version; costs no more than reading its header.

    Raises:
        NewerFormatError: it has a later one.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > FORMAT:
        raise NewerFormatError(path, found, FORMAT)
    return bool(found == FORMAT)


def upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """Apply the steps that the file lacks: all of them or none.

    Raises:
        NewerFormatError: the file has a later format.
        DamagedStateError: it is a database without the tables of a state.
    """
    if not is_current(connection, path):
        _take_steps(connection, path)
    _check_tables(connection, path, _TABLES)


def _take_steps(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")  # a second process waits, and finds it done
    with connection:
        (done,) = connection.execute("PRAGMA user_version").fetchone()
        if not done and _tables(connection):
            _check_tables(connection, path, _UNNUMBERED)
            done = 1
        for statement in (statement for step in STEPS[done:] for statement in step):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {max(done, FORMAT)}")


def _check_tables(connection: sqlite3.Connection, path: Path, wanted: frozenset[str]) -> None:
    if missing := sorted(wanted - _tables(connection)):
        raise DamagedStateError(
            f"{path} has no table {missing[0]!r}: restore it from a backup, or make all of it anew "
            "from the change logs with `synchrochain batch --rebuild --once`"
        )


def _tables(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite@_%' "
        "ESCAPE '@'"
    )
    return {str(name) for (name,) in rows}
