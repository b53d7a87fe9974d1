"""The table of files in data/pipeline_state.db: what is published, pending or superseded."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from pipelines.lake.state_file import StateFile
from pipelines.lake.state_values import as_text, as_time

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


class PublishedFiles(StateFile):
    """Reads and writes the records of files."""

    def files(
        self, kind: str, name: str | None = None, status: str = "live"
    ) -> list[PublishedFile]:
        """Files, oldest event time first.

        Args:
            kind: one of `KINDS`.
            name: the log or view; None for all.
            status: one of `STATUSES`.
        """
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
        """Record a cycle's files before they are renamed into place.

        Args:
            cycle: the number of the cycle.
            files: the files.
            now: UTC, naive.
        """
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO files (path, kind, name, cycle, rows, bytes, sha256, min_time, "
                "max_time, compacted, format, status, changed_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?)",
                [
                    (
                        self._stored(file.path),
                        *(file.kind, file.name, cycle, file.rows, file.bytes, file.sha256),
                        *(time and as_text(time) for time in (file.min_time, file.max_time)),
                        int(file.compacted),
                        file.format,
                        as_text(now),
                    )
                    for file in files
                ],
            )

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

    def _stored(self, path: Path) -> str:
        # Relative to the data directory, so that the directory can be moved as a whole.
        home = self._path.parent
        return str(path.relative_to(home) if path.is_relative_to(home) else path)

    def _file(self, row: sqlite3.Row) -> PublishedFile:
        names = ("kind", "name", "rows", "bytes", "sha256", "format", "identity")
        return PublishedFile(
            self._path.parent / row["path"],
            **{name: row[name] for name in names},
            min_time=as_time(row["min_time"]) if row["min_time"] else None,
            max_time=as_time(row["max_time"]) if row["max_time"] else None,
            compacted=bool(row["compacted"]),
        )
