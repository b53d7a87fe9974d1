"""data/decisions.db: every decision with all its inputs, so that it can be replayed.

SQLite in WAL mode with `synchronous=NORMAL`: what was logged survives the end of the process; a
power cut may lose the last decisions, which is the price of not waiting for the disk. The oldest
decisions are removed, so the file stays below `keep` decisions.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic_core import to_json

from pipelines.errors import (
    NewerFormatError,
    SynchroChainError,
    UnknownNameError,
    UnusablePathError,
)
from pipelines.file_kinds import check_sqlite_file

FILE: Final = "decisions.db"
FORMAT: Final = 1
"""`PRAGMA user_version`; older files have none, and the same tables."""
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS networks (number INTEGER PRIMARY KEY AUTOINCREMENT, "
    "columns BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS decisions (number INTEGER PRIMARY KEY AUTOINCREMENT, "
    "id TEXT NOT NULL UNIQUE, network INTEGER, record BLOB NOT NULL) STRICT",
)
_LEVEL: Final = 1  # zlib's fastest: three times smaller in a tenth of a millisecond
_UNCHECKED_PAGES: Final = 4000
"""Pages that the write-ahead log holds before they move into the file, 16 MB; that takes a while
and happens within some decision."""


class DecisionLogError(SynchroChainError):
    """The decision log cannot be read or written."""


class UnknownDecisionError(UnknownNameError):
    """No decision of that id is in the log."""


@dataclass(frozen=True)
class Record:
    """One decision as it is logged.

    `content` is written as JSON. `network` is the number of the network's columns, as `add_network`
    returned it; None if they played no part.
    """

    id: str
    network: int | None
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Logged:
    """One decision as it was logged; `network` are the network's columns, as lists."""

    id: str
    content: dict[str, Any]
    network: dict[str, list[Any]] | None


class DecisionLog:
    """Appends decisions to a SQLite file and reads them; safe to share between threads.

    Args:
        path: the file, made (owner-only) at the first use.
        keep: how many decisions it holds.
        busy: seconds to wait for another writer.

    Raises:
        DecisionLogError: the file cannot be used; nothing of the call was written.
    """

    def __init__(self, path: Path, keep: int, busy: float) -> None:
        self.path = path
        self._keep = keep
        self._busy = busy
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def add_network(self, columns: Mapping[str, Any]) -> int:
        """Log the columns of a network, to which several decisions may refer."""
        packed = _packed({name: _listed(values) for name, values in columns.items()})
        with self._lock, _Reported(self):
            connection = self._opened()
            with connection:
                cursor = connection.execute("INSERT INTO networks (columns) VALUES (?)", (packed,))
                connection.execute(
                    "DELETE FROM networks WHERE number < (SELECT network FROM decisions "
                    "WHERE network IS NOT NULL ORDER BY number LIMIT 1)"
                )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def add(self, records: Sequence[Record]) -> None:
        """Log decisions, all or none of them, and drop as many of the oldest."""
        rows = [(record.id, record.network, _packed(record.content)) for record in records]
        with self._lock, _Reported(self):
            connection = self._opened()
            with connection:
                connection.executemany(
                    "INSERT INTO decisions (id, network, record) VALUES (?, ?, ?)", rows
                )
                connection.execute(
                    "DELETE FROM decisions WHERE number <= (SELECT max(number) FROM decisions) - ?",
                    (self._keep,),
                )

    def get(self, decision_id: str) -> Logged:
        """A decision by its id.

        Raises:
            UnknownDecisionError: there is none.
        """
        with self._lock, _Reported(self):
            row = self._reading(
                "SELECT id, record, columns FROM decisions LEFT JOIN networks "
                "ON networks.number = network WHERE id = ?",
                (decision_id,),
            )
            if row:
                return _logged(*row[0])
        raise UnknownDecisionError(
            f"the log has no decision {decision_id!r}; see `synchrochain decisions`"
        )

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """What was logged of the newest decisions, newest first."""
        with self._lock, _Reported(self):
            rows = self._reading(
                "SELECT id, record, NULL FROM decisions ORDER BY number DESC LIMIT ?", (limit,)
            )
            return [_logged(*row).content for row in rows]

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        with self._lock:
            self._drop()

    def _reading(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        check_sqlite_file(self.path)
        if not self.path.exists():  # asking makes no file
            return []
        return self._opened().execute(query, values).fetchall()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            check_sqlite_file(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # SQLite gives -wal and -shm the mode of the file
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            made = sqlite3.connect(self.path, timeout=self._busy, check_same_thread=False)
            try:
                (found,) = made.execute("PRAGMA user_version").fetchone()
                if found > FORMAT:
                    newer = NewerFormatError(self.path, found, FORMAT)
                    raise DecisionLogError(str(newer))  # a decision is made all the same
                made.execute("PRAGMA journal_mode=WAL")
                made.execute("PRAGMA synchronous=NORMAL")
                made.execute(f"PRAGMA wal_autocheckpoint={_UNCHECKED_PAGES}")
                for statement in _SCHEMA:
                    made.execute(statement)
                if found < FORMAT:
                    made.execute(f"PRAGMA user_version = {FORMAT}")
            except BaseException:
                made.close()
                raise
            self._connection = made
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error), closing(connection):
                pass


class _Reported:
    """Turns what SQLite and the file system raise into one line; the next call opens anew."""

    def __init__(self, log: DecisionLog) -> None:
        self._log = log

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, UnusablePathError):
            raise DecisionLogError(str(error)) from None
        if not isinstance(error, sqlite3.Error | OSError | zlib.error | ValueError):
            return
        if "locked" not in str(error):
            self._log._drop()
        raise DecisionLogError(f"{self._log.path}: {error}{_advice(error)}") from None


def _advice(error: BaseException) -> str:
    """What to do, where that is not to wait."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT) or isinstance(error, zlib.error):
        return ": it is damaged; restore it from a backup, or move it away, and a new one begins"
    if code == sqlite3.SQLITE_FULL or getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT):
        return ": free some room on the disk; what is logged is kept"
    return ""


def _packed(content: Any) -> bytes:
    return zlib.compress(to_json(content, inf_nan_mode="constants"), _LEVEL)


def _unpacked(blob: bytes) -> Any:
    return json.loads(zlib.decompress(blob))


def _logged(decision_id: str, record: bytes, columns: bytes | None) -> Logged:
    return Logged(decision_id, _unpacked(record), _unpacked(columns) if columns else None)


def _listed(values: Any) -> Any:
    return values.tolist() if hasattr(values, "tolist") else list(values)
