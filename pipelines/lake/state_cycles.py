"""The table of cycles in data/pipeline_state.db: when each ran, and what it did."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pipelines.lake.state_file import StateFile
from pipelines.lake.state_values import Cycle, as_document, as_text, as_time


class CycleRecords(StateFile):
    """Reads and writes the records of cycles."""

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
