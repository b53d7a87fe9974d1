"""Errors and recovery when data/pipeline_state.db cannot be used."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Final

from pipelines.errors import (
    DamagedStateError,
    PipelineStateError,
    StorageFullError,
    SynchroChainError,
)
from pipelines.file_kinds import check_sqlite_file
from pipelines.lake.state_migrations import upgrade
from pipelines.paths import disk_is_full

ANEW: Final = "make all of it anew from the change logs with `synchrochain batch --rebuild --once`"
_DAMAGE: Final = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR)
_RIGHTS: Final = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
_LOCKS: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def state_error(path: Path, error: sqlite3.Error) -> SynchroChainError:
    """Our error for one of SQLite's about the state file."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and disk_is_full(path.parent)):
        return StorageFullError(
            f"no room left on the disk of {path}: free some and run the command again; "
            "nothing is lost"
        )
    if code in _LOCKS:
        return PipelineStateError(f"{path} is locked by another process for too long: try again")
    if code in _DAMAGE:
        return DamagedStateError(
            f"{path} is damaged ({error}): restore it from a backup, or {ANEW}"
        )
    advice = (
        "let this user read and write it"
        if code in _RIGHTS
        else ("look at the disk and at what this process may use of it, and run the command again")
    )
    return PipelineStateError(f"{path} cannot be used ({error}): {advice}")


def set_damaged_aside(path: Path, read: Callable[[], object]) -> Path | None:
    """Move a damaged state out of the way, so that a new one can be created.

    Args:
        path: the state.
        read: reads all of it, and raises DamagedStateError if the content is invalid.

    Returns:
        Its new path; None if it is whole, or does not exist.

    Raises:
        NewerFormatError: it was written by a newer version.
        SynchroChainError: it cannot be read now.
    """
    check_sqlite_file(path)
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path, timeout=5.0)) as connection:
            upgrade(connection, path)
            said = connection.execute("PRAGMA quick_check(1)").fetchone()
        if said == ("ok",):
            read()
    except sqlite3.Error as error:
        reason = state_error(path, error)
        if not isinstance(reason, DamagedStateError):
            raise reason from None
    except DamagedStateError:
        pass
    else:
        if said == ("ok",):
            return None
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in count(1))
    aside = next(name for name in names if not name.exists())
    for suffix in ("-wal", "-shm", ""):  # the database last: a crash in between leaves it to move
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(f"{aside}{suffix}")
    return aside
