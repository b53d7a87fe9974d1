"""Opens the live databases and translates their drivers' errors."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from pipelines.errors import (
    ConfigurationError,
    LiveDatabaseBusyError,
    LiveDatabaseError,
    StorageFullError,
    UnusablePathError,
)
from pipelines.file_kinds import check_sqlite_file
from pipelines.paths import disk_is_full, sqlite_file

_PASSWORD: Final = re.compile(r"(://[^/@]*?:)[^/@]*@")
_OPTIONS: Final = re.compile(r"\?\w+=[^/]*$")
_DRIVERS: Final = ("sqlite", "sqlite+pysqlite")
_EXAMPLE: Final = "sqlite:////srv/shop/orders.db"


def open_engine(url: str, busy_timeout: float = 5.0) -> sa.Engine:
    """An engine for one live database; its file is created, owner-only, where missing.

    Args:
        url: an SQLAlchemy URL of a SQLite file.
        busy_timeout: seconds a connection waits for another writer's lock.

    Raises:
        ConfigurationError: the URL is not that of a SQLite file.
        LiveDatabaseError: the path is not a file that this user may read.
    """
    path = sqlite_path(url)
    try:
        check_sqlite_file(path)
    except UnusablePathError as error:
        raise LiveDatabaseError(str(error)) from None
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)), connect_args={"timeout": busy_timeout}
    )
    _create_owner_only(path)
    sa.event.listen(engine, "connect", _set_pragmas)
    return engine


def open_existing(name: str, url: str, busy_timeout: float = 5.0) -> sa.Engine:
    """As `open_engine`, for what only reads: nothing is created.

    Args:
        name: of the database, for messages.
        url: an SQLAlchemy URL of a SQLite file.
        busy_timeout: seconds a connection waits for another writer's lock.

    Raises:
        ConfigurationError: the URL is not that of a SQLite file.
        LiveDatabaseError: there is no such file, or this user may not read it.
    """
    path = sqlite_path(url)
    if not path.exists():
        raise LiveDatabaseError(
            f"{path} does not exist: fill it with `synchrochain simulate`, or set "
            f"SYNCHROCHAIN_{name.upper()}_URL to your own database"
        )
    return open_engine(url, busy_timeout)


def sqlite_path(url: str) -> Path:
    """The file behind a SQLite URL.

    Raises:
        ConfigurationError: the URL names another engine, a database in memory, options, or
            nothing at all.
    """
    dialect, separator, name = url.partition("://")
    if not separator:
        raise _unusable(url, f"it is not of the form {_EXAMPLE}")
    if dialect not in _DRIVERS:
        raise _unusable(
            url, f"only SQLite is supported for now, not {dialect}: name a file, as {_EXAMPLE} does"
        )
    if name and not name.startswith("/"):
        raise _unusable(url, f"a file has no host: {_EXAMPLE} has four slashes")
    # Taken literally: SQLAlchemy would cut a path at its first question mark.
    path, _, options = name[1:].partition("?") if name.startswith("/file:") else (name[1:], "", "")
    if options == "uri=true":  # as `sqlite_url` writes a path that has one
        path = str(sqlite_file(path, uri=True))
    if not path or path.startswith((":memory:", "file:")) or _OPTIONS.search(path):
        raise _unusable(url, f"it must name a file, not memory or options: {_EXAMPLE} does")
    return Path(path)


@contextmanager
def connected(engine: sa.Engine) -> Iterator[sqlite3.Connection]:
    """The driver's connection, for several transactions; its temporary tables stay between them.

    Raises:
        LiveDatabaseError: the database cannot be read or written.
    """
    with translate_errors(str(engine.url.database)), closing(engine.raw_connection()) as pooled:
        connection = pooled.driver_connection
        assert isinstance(connection, sqlite3.Connection)
        yield connection


@contextmanager
def begun(connection: sqlite3.Connection, *, writes: bool = False) -> Iterator[None]:
    """One transaction: reads see one snapshot, writes are all or nothing.

    Args:
        connection: the driver's.
        writes: whether to hold the write lock from the beginning.
    """
    connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


@contextmanager
def transaction(engine: sa.Engine, *, writes: bool = False) -> Iterator[sqlite3.Connection]:
    """The driver's connection in one transaction.

    Args:
        writes: whether to hold the write lock from the beginning.

    Raises:
        LiveDatabaseError: the database cannot be read or written.
    """
    with connected(engine) as connection, begun(connection, writes=writes):
        yield connection


@contextmanager
def translate_errors(where: str) -> Iterator[None]:
    """Turn a driver's exceptions into ours, one line each, naming the database."""
    try:
        yield
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        origin = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        raise live_database_error(where, str(origin)) from None


def live_database_error(where: str, text: str) -> LiveDatabaseError | StorageFullError:
    """Our error for a driver's message about the database `where`."""
    lowered = text.lower()
    if "locked" in lowered or "busy" in lowered:
        return LiveDatabaseBusyError(f"{where} is locked by another writer: {text}")
    full = "disk i/o error" in lowered and disk_is_full(Path(where).parent)
    if full or ("full" in lowered and "disk" in lowered):
        return StorageFullError(f"{where}: the disk is full; free some room and try again")
    if "not a database" in lowered or "malformed" in lowered or "corrupt" in lowered:
        return LiveDatabaseError(
            f"{where} is corrupt or not a database ({text}): restore it from a backup"
        )
    return LiveDatabaseError(f"{where}: {text}")


def _unusable(url: str, reason: str) -> ConfigurationError:
    shown = _PASSWORD.sub(r"\1***@", url)
    return ConfigurationError(f"database URL {shown!r} cannot be used: {reason}")


def _create_owner_only(path: Path) -> None:
    # SQLite gives its -wal and -shm files the mode of the database, so this covers all three.
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Never open an existing one: closing it would drop the POSIX locks that SQLite holds on it in
    # this process, and another process could then delete the WAL in use.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _set_pragmas(connection: Any, _record: object) -> None:
    # A file that is not a database is reported at the first statement.
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
    finally:
        cursor.close()
