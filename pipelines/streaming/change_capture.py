"""Change data capture: noticing a commit in a live database and reading what it appended."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence, Set
from contextlib import closing
from typing import Any, Final

import pyarrow as pa

from pipelines.change_log.offsets import Offset, end_of_log, verify_row
from pipelines.change_log.reader import SCHEMA, TEXTS, ChangeLogReader, decoded
from pipelines.errors import ChangeLogGapError
from pipelines.live_databases import (
    METADATA,
    UnknownRows,
    check_connection,
    sqlite_path,
    translate_errors,
)
from pipelines.settings import DataConfig

LONGEST_WAIT: Final = 0.1
"""Seconds to wait for a lock; the other streams wait too, and this one tries again anyway."""

_ROWS: Final = f"SELECT {TEXTS}, nonce FROM change_log WHERE seq >= ? ORDER BY seq LIMIT ?"
_OLD_KEY: Final = SCHEMA.get_field_index("old_key")
_ROW: Final = SCHEMA.get_field_index("row")
BYTES_AT_ONCE: Final = 1 << 26
"""Of rows that are read at once, at most: some may be a megabyte long."""


class CommitWatch:
    """Notices whether anybody has committed to a SQLite database since the last look.

    `PRAGMA data_version` compares two numbers in memory that the writers share, which takes
    microseconds. Belongs to the thread that made it.
    """

    def __init__(self, url: str) -> None:
        self._path = sqlite_path(url)
        self._connection: sqlite3.Connection | None = None
        self._version: int | None = None

    def committed(self) -> bool:
        """Whether there was a commit since the last call; at the first one, True."""
        try:
            if self._connection is None:
                if not self._path.exists():  # connecting would make an empty one
                    return False
                self._connection = sqlite3.connect(self._path, timeout=0)
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:  # reading the log will say what is wrong
            self.close()
            return True
        changed: bool = version != self._version
        self._version = version
        return changed

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._version = None


class ChangeCapture:
    """Reads a live database's change log from an offset on, over one kept connection.

    A file that was replaced by another one is opened anew. Each time it is made sure that the log
    is the one that was read before, and after a change of the schema that the triggers are there.
    Belongs to one thread at a time.

    Args:
        name: the live database.
        config: where it is.
        trimmed: up to which `seq` changes may be missing.
        read: where readers stand whose work is known here.
    """

    def __init__(
        self, name: str, config: DataConfig, trimmed: int = 0, read: Sequence[Offset] = ()
    ) -> None:
        url = config.database_url(name)
        self.name = name
        self._busy_timeout = min(config.busy_timeout, LONGEST_WAIT)
        self._reader = ChangeLogReader(name, url, self._busy_timeout)
        self._path = sqlite_path(url)
        self._trimmed = trimmed
        self._identity = next((at.identity for at in read if at.identity), None)
        self._nonces = {at.seq: at.nonce for at in read}
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._schema: int | None = None
        self.more = False
        """Whether there may be more changes than those that were read last."""

    def check(self, after: int) -> int:
        """The log's last `seq`, once the database is known to be what a reader at `after` read.

        Raises:
            LiveDatabaseError: it is missing, corrupt, locked, or lacks a table, column or trigger.
            OtherHistoryError: it is not the one that was read.
            ChangeLogGapError: the change after `after` is gone.
        """
        self._reader.upgrade()
        self._reader.check()
        end = self._reader.end(*self._offsets(after))
        self._identity = self._identity or end.identity
        return end.seq

    def unknown_rows(self) -> list[UnknownRows]:
        """What the change log does not know, a table each."""
        return self._reader.unknown_rows()

    def offset(self, seq: int) -> Offset:
        """An offset that was read up to, bound to this log."""
        return Offset(seq, self._identity, self._nonces.get(seq))

    def forget_but(self, seqs: Set[int]) -> None:
        """Forget what binds offsets, but for these."""
        self._nonces = {seq: nonce for seq, nonce in self._nonces.items() if seq in seqs}

    def read(self, after: int, limit: int) -> pa.Table:
        """The next changes after an offset, in order: a table of `SCHEMA`.

        They are at most `limit`, or one more, which keeps both halves of a changed key together;
        fewer where they are long.

        Raises:
            LiveDatabaseError: the database cannot be read, or has lost a trigger.
            OtherHistoryError: it is not the one that was read.
            ChangeLogGapError: the change after `after` is gone.
        """
        where = str(self._path)
        with translate_errors(where):
            connection = self._sqlite(after)
            (schema,) = connection.execute("PRAGMA schema_version").fetchone()
            if schema != self._schema:
                check_connection(connection, where, METADATA[self.name])
                self._schema = schema
            with closing(connection.execute(_ROWS, (after, limit + 2))) as rows:
                found, limit = _of_bounded_length(rows, limit)
            if found and found[0][0] == after:  # the row that was read last
                verify_row(where, after, self._nonces.get(after), found.pop(0)[-1])
            elif after:
                end_of_log(connection, where, self._offsets(after))
        split = len(found) > limit and found[limit][_OLD_KEY] is not None
        self.more = len(found) > limit
        del found[limit + split :]
        if found:
            seq, nonce = found[-1][0], found[-1][-1]
            verify_row(where, seq, self._nonces.get(seq), nonce)
            self._nonces[seq] = nonce
        self._check_no_holes(after, [row[0] for row in found])
        columns: Any = zip(*found, strict=True) if found else [()] * len(SCHEMA)
        return pa.table(
            [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=False)], schema=SCHEMA
        )

    def last(self) -> int:
        """The log's last `seq`."""
        with translate_errors(str(self._path)):
            found = self._sqlite(0).execute("SELECT max(seq) FROM change_log").fetchone()
        return int(found[0] or 0)

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._schema = None

    def _offsets(self, after: int) -> list[Offset]:
        """Where readers stand, at `after` and beyond."""
        return [self.offset(seq) for seq in sorted({after, *self._nonces}) if seq >= after]

    def _check_no_holes(self, after: int, seqs: list[int]) -> None:
        """Numbers have no holes; but who starts anew takes what retention has left."""
        before = max(after, self._trimmed)
        if seqs and seqs[0] == before + 1 and seqs[-1] - seqs[0] + 1 == len(seqs):
            return
        for seq in (seq for seq in seqs if seq > self._trimmed):
            if before and seq != before + 1:
                raise ChangeLogGapError(
                    f"{self._path}: changes {before + 1} to {seq - 1} are gone from the change log "
                    "before the stream read them: restore them from a backup, or run "
                    "`synchrochain batch --once`, which takes what is left, and start again"
                )
            before = seq

    def _sqlite(self, after: int) -> sqlite3.Connection:
        status = self._path.stat() if self._path.exists() else None
        file = (status.st_dev, status.st_ino) if status else None
        if self._connection is None or file != self._file:
            self.close()
            if file is None:
                self._reader.check()  # says what to do
            connection = sqlite3.connect(
                self._path, timeout=self._busy_timeout, check_same_thread=False
            )
            try:
                with closing(connection.execute("PRAGMA query_only = ON")):
                    pass
                end = end_of_log(connection, str(self._path), self._offsets(after))
            except BaseException:
                connection.close()
                raise
            connection.text_factory = decoded
            self._identity = self._identity or end.identity
            self._connection, self._file = connection, file
        return self._connection


def _of_bounded_length(rows: sqlite3.Cursor, limit: int) -> tuple[list[Any], int]:
    """The first rows, until they are long, and how many of them to take: the one after shows
    whether it belongs to the last."""
    found: list[Any] = []
    length = 0
    for row in rows:
        found.append(row)
        length += len(row[_ROW])
        if length > BYTES_AT_ONCE and len(found) > 2:
            return found, min(limit, len(found) - 2)
    return found, limit
