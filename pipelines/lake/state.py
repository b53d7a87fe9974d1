"""data/pipeline_state.db: offsets, cycles and published files, in one small SQLite file.

A file is *pending* from before its rename until the transaction that also moves the offsets;
then it is *live*, until a merged file *supersedes* it. What is pending when a cycle begins was
left by a crash and is removed, so nothing is half published and nothing is published twice.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pipelines.change_log.offsets import Offset
from pipelines.lake.state_file import read_metadata
from pipelines.lake.state_files import KINDS, STATUSES, PublishedFile, PublishedFiles
from pipelines.lake.state_migrations import DECLARED, DELETIONS_UNCHECKED
from pipelines.lake.state_offsets import (
    BATCH_READER,
    GENERATION,
    SEEN_READER,
    STREAM_READER,
    ReaderOffsets,
    move_offsets,
)
from pipelines.lake.state_values import Cycle, as_document, as_text, as_time

__all__ = [
    "BATCH_READER",
    "DECLARED",
    "KINDS",
    "SEEN_READER",
    "STALE_ONLINE",
    "STALE_VIEWS",
    "STATUSES",
    "STREAM_READER",
    "STREAM_STATUS",
    "Declared",
    "PipelineState",
    "PublishedFile",
]

STREAM_STATUS: Final = "stream"
"""Key in the metadata: the streamer's last report, with the changes that it has deferred."""
STALE_ONLINE: Final = "stale online store"
"""Set until the rows of an earlier generation are removed from the online store."""
STALE_VIEWS: Final = "stale online views"
"""Views whose rows in the online store come from an earlier declaration, with the features that
these were stored with: set until they are removed."""


@dataclass(frozen=True)
class Declared:
    """What a cycle's feature rows are declared from, and what that makes of earlier rows.

    Attributes:
        text: the declarations, as they are recorded.
        differs: whether others were recorded before, so that a streamer has to begin anew.
        stale: by view whose earlier rows count no more, the features that they may have online.
    """

    text: str
    differs: bool = False
    stale: Mapping[str, Sequence[str]] = field(default_factory=dict)


class PipelineState(ReaderOffsets, PublishedFiles):
    """Reads and writes the state file; every method is one transaction."""

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
            cycle: its number.
            now: when it ended (UTC, naive).
            report: what it did.
            step: the step that failed; None if it succeeded.
            error: why it failed; None if it succeeded.
        """
        status = "failed" if error else "succeeded"
        with self._transaction() as connection:
            connection.execute(
                "UPDATE cycles SET status = ?, finished_at = ?, step = ?, error = ?, report = ? "
                "WHERE id = ?",
                (status, as_text(now), step, error, json.dumps(report), cycle),
            )

    def last_cycles(self, count: int = 10) -> list[Cycle]:
        """The newest cycles, newest first."""
        rows = self._query("SELECT * FROM cycles ORDER BY id DESC LIMIT ?", count)
        with self._understood():
            return [
                Cycle(
                    **{name: row[name] for name in ("id", "pid", "status", "step", "error")},
                    started_at=as_time(row["started_at"]),
                    finished_at=as_time(row["finished_at"]) if row["finished_at"] else None,
                    report=as_document(row["report"]) or {},
                )
                for row in rows
            ]

    def forget_cycles(self, before: datetime) -> None:
        """Drop the records of cycles that started before a time."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM cycles WHERE started_at < ?", (as_text(before),))
            connection.execute(
                "DELETE FROM resolved_changes WHERE cycle < (SELECT min(id) FROM cycles)"
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
        resolved: Mapping[str, Sequence[int]] | None = None,
        declared: Declared | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """Make a cycle's files live, move the offsets and supersede old files: all or nothing.

        Args:
            cycle: its number.
            now: the time (UTC, naive).
            reader: whose offsets move; None if none do.
            offsets: to where, by database.
            superseded: the files that are replaced.
            identities: of files that were verified.
            to_materialize: per view, the oldest and newest event time of new rows; merged with
                what is already pending.
            resolved: per log, the `seq` of rows that an earlier cycle rejected and this one
                accepts.
            declared: what its feature rows are declared from; None to leave that as it is.
            notes: entries of the metadata.
        """
        with self._transaction() as connection:
            if declared is not None:
                _declare(connection, declared)
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
                move_offsets(connection, reader, offsets or {})
            connection.executemany(
                "INSERT INTO pending_materializations VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
                "oldest = min(oldest, excluded.oldest), newest = max(newest, excluded.newest)",
                [(view, as_text(a), as_text(b)) for view, (a, b) in (to_materialize or {}).items()],
            )
            connection.executemany(
                "INSERT INTO resolved_changes VALUES (?, ?, ?)",
                [(cycle, log, seq) for log, seqs in (resolved or {}).items() for seq in seqs],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO metadata VALUES (?, ?)", list((notes or {}).items())
            )

    def last_resolved_cycle(self) -> int:
        """The last cycle that accepted rows which were rejected before; 0 if there is none."""
        rows = self._query("SELECT coalesce(max(cycle), 0) AS cycle FROM resolved_changes")
        return int(rows[0]["cycle"])

    def resolved_changes(self, after: int) -> tuple[int, dict[str, list[int]]]:
        """Rows accepted later than their offset was passed, by the cycles after one.

        Returns:
            The last cycle with such rows (`after` if there is none), and their `seq` by log.
        """
        found: dict[str, list[int]] = {}
        last = after
        for row in self._query(
            "SELECT * FROM resolved_changes WHERE cycle > ? ORDER BY seq", after
        ):
            found.setdefault(row["log"], []).append(row["seq"])
            last = max(last, row["cycle"])
        return last, found

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
            connection.execute("DELETE FROM resolved_changes")
            connection.execute(
                "DELETE FROM metadata WHERE name IN (?, ?) OR name LIKE 'trimmed %'",
                (STREAM_STATUS, DELETIONS_UNCHECKED),
            )
            connection.executemany(
                "INSERT OR REPLACE INTO metadata VALUES (?, ?)",
                [(GENERATION, generation), (STALE_ONLINE, generation)],
            )
            rows = connection.execute("SELECT path FROM files").fetchall()
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


def _declare(connection: sqlite3.Connection, declared: Declared) -> None:
    found = as_document(read_metadata(connection, STALE_VIEWS)) or {}
    for view, features in declared.stale.items():
        found[view] = sorted({*found.get(view, ()), *features})
        connection.execute("DELETE FROM pending_materializations WHERE view = ?", (view,))
    if declared.differs:  # what a streamer wrote since the last cycle has to be written anew
        connection.execute("DELETE FROM offsets WHERE reader = ?", (STREAM_READER,))
    entries = {DECLARED: declared.text} | ({STALE_VIEWS: json.dumps(found)} if found else {})
    connection.executemany("INSERT OR REPLACE INTO metadata VALUES (?, ?)", [*entries.items()])
