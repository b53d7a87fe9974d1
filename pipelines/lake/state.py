"""data/pipeline_state.db: offsets, cycles and published files, in one small SQLite file.

A file is *pending* from before its rename until the transaction that also moves the offsets;
then it is *live*, until a merged file *supersedes* it. What is pending when a cycle begins was
left by a crash and is removed, so nothing is half published and nothing is published twice.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pipelines.change_log.offsets import Offset
from pipelines.errors import DamagedStateError, PipelineStateError
from pipelines.lake.state_migrations import DELETIONS_UNCHECKED, is_current, upgrade
from pipelines.lake.state_rescue import ANEW, state_error
from pipelines.lake.state_values import Cycle, as_document, as_text, as_time
from pipelines.places import check_folder, check_sqlite_file

BATCH_READER: Final = "batch"
STREAM_READER: Final = "stream"
SEEN_READER: Final = "stream seen"
"""The streamer's read offsets, ahead of its written ones."""
GENERATION: Final = "generation"
STALE_ONLINE: Final = "stale online store"
"""Set until the rows of an earlier generation are removed from the online store."""
KINDS: Final = ("log", "view", "quarantine", "rejected")
"""Processed logs, offline sources, rejected rows for operators, and those that may be accepted."""
STATUSES: Final = ("pending", "live", "superseded")


@dataclass(frozen=True)
class PublishedFile:
    """A file and its content when it was published.

    Times are UTC and naive: commit times for a log, event times for a view.
    """

    path: Path
    kind: str
    """One of `KINDS`."""
    name: str
    rows: int
    bytes: int
    sha256: str
    min_time: datetime | None = None
    max_time: datetime | None = None
    compacted: bool = False
    """Holds only the newest row per key of an expired range of time."""
    format: int = 1
    identity: str | None = field(default=None, compare=False)
    """Its identity when it was last verified; see `verification`."""


class PipelineState:
    """Reads and writes the state file; every method is one transaction.

    A file of an older format is upgraded when it is opened.

    Raises:
        PipelineStateError: the file cannot be read or written.
        DamagedStateError: its content is invalid.
        NewerFormatError: it was written by a newer version.
        UnusablePathError: it is not a file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._uri = path.absolute().as_uri()
        check_folder(path.parent)
        check_sqlite_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._connected("rwc") as connection:
            upgrade(connection, path)

    @property
    def path(self) -> Path:
        """The state file."""
        return self._path

    def offsets(self, reader: str) -> dict[str, int]:
        """The last `seq` that `reader` has processed, by database; absent means none."""
        rows = self._query("SELECT database, seq FROM offsets WHERE reader = ?", reader)
        return {row["database"]: row["seq"] for row in rows}

    def bound_offsets(self, reader: str) -> dict[str, Offset]:
        """As `offsets`, each with the identity of its change log and row."""
        rows = self._query("SELECT * FROM offsets WHERE reader = ?", reader)
        return {r["database"]: Offset(r["seq"], r["identity"], r["nonce"]) for r in rows}

    def streamed_offsets(self) -> dict[str, Offset]:
        """The last change of each log that the streamer has read, as far as is known."""
        written, seen = self.bound_offsets(STREAM_READER), self.bound_offsets(SEEN_READER)
        beyond = {n: at for n, at in seen.items() if n not in written or at.seq > written[n].seq}
        return written | beyond

    def set_offsets(
        self, reader: str, offsets: Mapping[str, Offset], generation: str | None = None
    ) -> bool:
        """Move the offsets (by database) of a reader that publishes no files.

        Args:
            generation: the `generation` when the reader began. After a rebuild since, its offsets
                are outdated and are not stored.

        Returns:
            Whether they were stored.
        """
        with self._transaction() as connection:
            if generation is not None and (_metadata(connection, GENERATION) or "") != generation:
                return False
            _move(connection, reader, offsets)
            return True

    @property
    def generation(self) -> str:
        """An id that changes with every rebuild."""
        return self.metadata(GENERATION) or ""

    def kept_offsets(self, database: str) -> list[int]:
        """Every reader's offset in a database: those changes identify its log."""
        rows = self._query("SELECT seq FROM offsets WHERE database = ?", database)
        return [row["seq"] for row in rows]

    def forget_metadata(self, name: str) -> None:
        """Drop an entry of the metadata."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM metadata WHERE name = ?", (name,))

    def slowest_offset(self, database: str) -> int:
        """The `seq` up to which all readers are done; retention may remove changes up to it.

        The streamer does not count: it warms from the processed logs, where the batch flow keeps
        what it has read. So a streamer that was stopped for good holds nothing up.
        """
        rows = self._query(
            "SELECT min(seq) AS seq FROM offsets WHERE database = ? AND reader NOT IN (?, ?)",
            database,
            STREAM_READER,
            SEEN_READER,
        )
        return int(rows[0]["seq"] or 0)

    def begin_cycle(self, now: datetime) -> int:
        """Record the start of a cycle; one that never ended is marked as failed."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE cycles SET status = 'failed', error = 'interrupted', finished_at = ? "
                "WHERE status = 'running'",
                (as_text(now),),
            )
            cursor = connection.execute(
                "INSERT INTO cycles (started_at, pid, status) VALUES (?, ?, 'running')",
                (as_text(now), os.getpid()),
            )
            return int(cursor.lastrowid or 0)

    def end_cycle(
        self,
        cycle: int,
        now: datetime,
        report: Mapping[str, Any],
        *,
        step: str | None = None,
        error: str | None = None,
    ) -> None:
        """Record how a cycle ended.

        Args:
            cycle, now, report: its number, its end (UTC, naive), what it did.
            step, error: what failed, and why; None if it succeeded.
        """
        with self._transaction() as connection:
            connection.execute(
                "UPDATE cycles SET status = ?, finished_at = ?, step = ?, error = ?, report = ? "
                "WHERE id = ?",
                (
                    "failed" if error else "succeeded",
                    as_text(now),
                    step,
                    error,
                    json.dumps(report),
                    cycle,
                ),
            )

    def last_cycles(self, count: int = 10) -> list[Cycle]:
        """The newest cycles, newest first."""
        rows = self._query("SELECT * FROM cycles ORDER BY id DESC LIMIT ?", count)
        with self._understood():
            return [
                Cycle(
                    row["id"],
                    as_time(row["started_at"]),
                    as_time(row["finished_at"]) if row["finished_at"] else None,
                    row["pid"],
                    row["status"],
                    row["step"],
                    row["error"],
                    as_document(row["report"]) or {},
                )
                for row in rows
            ]

    def forget_cycles(self, before: datetime) -> None:
        """Drop the records of cycles that started before a time."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM cycles WHERE started_at < ?", (as_text(before),))
            connection.execute(
                "DELETE FROM late_changes WHERE cycle < (SELECT min(id) FROM cycles)"
            )

    def files(
        self, kind: str, name: str | None = None, status: str = "live"
    ) -> list[PublishedFile]:
        """Files of one of `KINDS` (and a log or view), oldest event time first."""
        rows = self._query(
            "SELECT * FROM files WHERE status = ? AND kind = ? AND (? IS NULL OR name = ?) "
            "ORDER BY coalesce(min_time, ''), path",
            status,
            kind,
            name,
            name,
        )
        with self._understood():
            return [self._file(row) for row in rows]

    def add_pending(self, cycle: int, files: Sequence[PublishedFile], now: datetime) -> None:
        """Record a cycle's files before they are renamed into place, at `now` (UTC, naive)."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO files (path, kind, name, cycle, rows, bytes, sha256, min_time, "
                "max_time, compacted, format, status, changed_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?)",
                [
                    (
                        self._stored(file.path),
                        file.kind,
                        file.name,
                        cycle,
                        file.rows,
                        file.bytes,
                        file.sha256,
                        as_text(file.min_time) if file.min_time else None,
                        as_text(file.max_time) if file.max_time else None,
                        int(file.compacted),
                        file.format,
                        as_text(now),
                    )
                    for file in files
                ],
            )

    def commit_pending(
        self,
        cycle: int,
        now: datetime,
        *,
        reader: str | None = None,
        offsets: Mapping[str, Offset] | None = None,
        to_materialize: Mapping[str, tuple[datetime, datetime]] | None = None,
        superseded: Sequence[Path] = (),
        identities: Mapping[Path, str] | None = None,
        late: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Make a cycle's files live, move the offsets and supersede old files: all or nothing.

        Args:
            cycle, now: its number, the time (UTC, naive).
            reader, offsets: whose offsets move (None if none do), and to where, by database.
            superseded, identities: replaced files; identities of the verified ones.
            to_materialize: per view, the oldest and newest event time of new rows; merged with
                what is already pending.
            late: per log, the `seq` of rows that an earlier cycle rejected and this one accepts.
        """
        with self._transaction() as connection:
            connection.execute(
                "UPDATE files SET status = 'live', changed_at = ? "
                "WHERE cycle = ? AND status = 'pending'",
                (as_text(now), cycle),
            )
            connection.executemany(
                "UPDATE files SET identity = ? WHERE path = ?",
                [(identity, self._stored(path)) for path, identity in (identities or {}).items()],
            )
            connection.executemany(
                "UPDATE files SET status = 'superseded', changed_at = ? WHERE path = ?",
                [(as_text(now), self._stored(path)) for path in superseded],
            )
            if reader is not None:
                _move(connection, reader, offsets or {})
            connection.executemany(
                "INSERT INTO pending_materializations VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
                "oldest = min(oldest, excluded.oldest), newest = max(newest, excluded.newest)",
                [(view, as_text(a), as_text(b)) for view, (a, b) in (to_materialize or {}).items()],
            )
            connection.executemany(
                "INSERT INTO late_changes VALUES (?, ?, ?)",
                [(cycle, log, seq) for log, seqs in (late or {}).items() for seq in seqs],
            )

    def last_late_cycle(self) -> int:
        """The last cycle that accepted rows which were rejected before; 0 if there is none."""
        rows = self._query("SELECT coalesce(max(cycle), 0) AS cycle FROM late_changes")
        return int(rows[0]["cycle"])

    def late_changes(self, after: int) -> tuple[int, dict[str, list[int]]]:
        """Rows accepted later than their offset was passed, by the cycles after one.

        Returns:
            The last cycle with such rows (`after` if there is none), and their `seq` by log.
        """
        found: dict[str, list[int]] = {}
        last = after
        for row in self._query("SELECT * FROM late_changes WHERE cycle > ? ORDER BY seq", after):
            found.setdefault(row["log"], []).append(row["seq"])
            last = max(last, row["cycle"])
        return last, found

    def known_paths(self) -> set[Path]:
        """Every file that is live, pending or superseded."""
        return {self._path.parent / row["path"] for row in self._query("SELECT path FROM files")}

    def remember_identities(self, identities: Mapping[Path, str]) -> None:
        """Store the identities of verified files."""
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE files SET identity = ? WHERE path = ?",
                [(identity, self._stored(path)) for path, identity in identities.items()],
            )

    def forget_everything(self, generation: str) -> list[Path]:
        """Unpublish all files, drop pending materializations, reset all readers to the beginning
        of every log, and mark the online store's rows as stale.

        Args:
            generation: the new `generation`.

        Returns:
            The files, now pending: the caller removes and then forgets them.
        """
        with self._transaction() as connection:
            connection.execute("UPDATE files SET status = 'pending'")
            connection.execute("DELETE FROM offsets")
            connection.execute("DELETE FROM pending_materializations")
            connection.execute("DELETE FROM late_changes")
            connection.execute(
                "DELETE FROM metadata WHERE name IN (?, ?) OR name LIKE 'trimmed %'",
                (STREAM_READER, DELETIONS_UNCHECKED),
            )
            connection.executemany(
                "INSERT OR REPLACE INTO metadata VALUES (?, ?)",
                [(GENERATION, generation), (STALE_ONLINE, generation)],
            )
            rows = connection.execute("SELECT path FROM files").fetchall()
        return [self._path.parent / row["path"] for row in rows]

    def forget_files(self, paths: Sequence[Path]) -> None:
        """Drop the records of files that are gone."""
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM files WHERE path = ?", [(self._stored(path),) for path in paths]
            )

    def superseded_before(self, time: datetime) -> list[Path]:
        """Files that were superseded before a time (UTC, naive)."""
        rows = self._query(
            "SELECT path FROM files WHERE status = 'superseded' AND changed_at < ?", as_text(time)
        )
        return [self._path.parent / row["path"] for row in rows]

    def pending_materializations(self) -> dict[str, tuple[datetime, datetime]]:
        """Per view with rows not yet materialized, their oldest and newest event time."""
        rows = self._query("SELECT * FROM pending_materializations")
        with self._understood():
            return {row["view"]: (as_time(row["oldest"]), as_time(row["newest"])) for row in rows}

    def rematerialize_all(self) -> None:
        """Mark all published rows of each view as pending materialization."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO pending_materializations "
                "SELECT name, min(min_time), max(max_time) FROM files "
                "WHERE kind = 'view' AND status = 'live' GROUP BY name"
            )

    def view_is_materialized(self, view: str) -> None:
        """Record that nothing of the view is pending any more."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM pending_materializations WHERE view = ?", (view,))

    def metadata(self, name: str) -> str | None:
        """An entry of the metadata; None if there is none."""
        with self._transaction() as connection:
            return _metadata(connection, name)

    def document(self, name: str) -> dict[str, Any] | None:
        """A JSON object from the metadata; None if there is none or it cannot be read."""
        return as_document(self.metadata(name))

    def set_metadata(self, name: str, value: str) -> None:
        """Set an entry of the metadata."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO metadata VALUES (?, ?) "
                "ON CONFLICT DO UPDATE SET value = excluded.value",
                (name, value),
            )

    def raise_metadata(self, name: str, value: str) -> str:
        """Raise an entry of the metadata to the greater value, as text; returns that."""
        with self._transaction() as connection:
            (kept,) = connection.execute(
                "INSERT INTO metadata VALUES (?, ?) "
                "ON CONFLICT DO UPDATE SET value = max(value, excluded.value) RETURNING value",
                (name, value),
            ).fetchone()
            return str(kept)

    def _stored(self, path: Path) -> str:
        # Relative to the data directory, so that the directory can be moved as a whole.
        home = self._path.parent
        return str(path.relative_to(home) if path.is_relative_to(home) else path)

    def _file(self, row: sqlite3.Row) -> PublishedFile:
        return PublishedFile(
            self._path.parent / row["path"],
            row["kind"],
            row["name"],
            row["rows"],
            row["bytes"],
            row["sha256"],
            as_time(row["min_time"]) if row["min_time"] else None,
            as_time(row["max_time"]) if row["max_time"] else None,
            bool(row["compacted"]),
            row["format"],
            row["identity"],
        )

    def _query(self, statement: str, *values: object) -> list[sqlite3.Row]:
        with self._transaction() as connection:
            return connection.execute(statement, values).fetchall()

    @contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise DamagedStateError(
                f"{self._path} is damaged ({error}): restore it from a backup, or {ANEW}"
            ) from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connected("rw") as connection:  # do not create an empty one if it was removed
            if not is_current(connection, self._path):
                raise PipelineStateError(
                    f"{self._path} was replaced or removed while this process used it: start the "
                    "process again"
                )
            with connection:
                yield connection

    @contextmanager
    def _connected(self, mode: str) -> Iterator[sqlite3.Connection]:
        connection = None
        try:
            connection = sqlite3.connect(f"{self._uri}?mode={mode}", timeout=5.0, uri=True)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            yield connection
        except sqlite3.Error as error:
            raise state_error(self._path, error) from None
        finally:
            if connection is not None:
                connection.close()


def _move(connection: sqlite3.Connection, reader: str, offsets: Mapping[str, Offset]) -> None:
    connection.executemany(
        "INSERT INTO offsets (reader, database, seq, identity, nonce) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET seq = excluded.seq, identity = excluded.identity, "
        "nonce = excluded.nonce",
        [(reader, name, at.seq, at.identity, at.nonce) for name, at in offsets.items()],
    )


def _metadata(connection: sqlite3.Connection, name: str) -> str | None:
    found = connection.execute("SELECT value FROM metadata WHERE name = ?", (name,)).fetchone()
    return str(found[0]) if found else None
