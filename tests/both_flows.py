"""Both flows side by side without Redis and Feast: what each makes of the same change logs.

The batch flow runs whole cycles but for the online store; the streams take in micro-batches and
take in what the batch flow has decided. One process, one thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
from stream_helpers import insert

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.lake.published_snapshot import published
from pipelines.lake.workspace import read_files
from pipelines.live_databases import LiveDatabases
from pipelines.settings import DATABASE_NAMES, DataConfig
from pipelines.streaming.hot_tables import TIMES, back, source_of
from pipelines.streaming.hot_window import HotWindow
from pipelines.streaming.stream import Stream
from pipelines.streaming.warming import warm
from pipelines.tables.known import BY_NAME

Row = dict[str, Any]
HOT = {"orders": "user_orders", "clickstream": "user_intent"}
"""By log of facts, the view for which the hot window keeps them by their age alone."""


class BothFlows:
    """A data directory, a batch processor, and the streams over one hot window.

    Args:
        lateness: how far behind the newest event the window is exact.
        batch_size: changes a micro-batch, and a read of the batch flow.
    """

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], datetime],
        *,
        lateness: timedelta,
        batch_size: int = 1000,
    ) -> None:
        self.data = DataConfig(data_dir=folder, batch_size=batch_size)
        self.lateness = lateness
        config = BatchConfig(data_dir=folder, retention_days=30 * 365, batch_size=batch_size)
        self.processor = BatchProcessor(config, self.data, clock=clock)
        with LiveDatabases.open(self.data) as databases:
            databases.create()
        self.start()

    def start(self) -> None:
        """Begin with an empty window and what is published, as a streamer that starts does."""
        state = self.processor.state
        known = published(state)
        self.window = HotWindow(self.lateness)
        with self.window.cursor() as cursor:
            warm(self.window, cursor, known, {})
        self._resolved = known.resolved_cycle
        self.streams = {
            name: Stream(name, self.data, self.window, at, at)
            for name in DATABASE_NAMES
            for at in [known.offsets.get(name, 0)]
        }

    def close(self) -> None:
        """End the streams; the window is gone."""
        for stream in self.streams.values():
            stream.close()
        self.window.close()

    def restart(self) -> None:
        """A streamer that begins where the batch flow stands."""
        self.close()
        self.start()

    def log(self, entries: Iterable[tuple[str, Row]]) -> list[int]:
        """Append changes, each a table and a row with op, committed_at and perhaps old_key."""
        found = []
        entries = list(entries)
        for database in DATABASE_NAMES:
            path = self.data.db_path / f"{database}.db"
            with closing(sqlite3.connect(path)) as connection, connection:
                found += [
                    insert(connection, table, row)
                    for table, row in entries
                    if BY_NAME[table].database == database
                ]
        return found

    def stream(self) -> None:
        """Take in everything, and what the batch flow has decided of it."""
        self._resolved, resolved = self.processor.state.resolved_changes(self._resolved)
        for log, seqs in resolved.items():
            self.streams[BY_NAME[log].database].resolved.setdefault(log, []).extend(seqs)
        known = published(self.processor.state)
        for name in ("users", "inventory", "orders", "supply_chain"):
            while self.streams[name].next_batch(final=True).changes:
                pass
            self.streams[name].apply_batch(known)

    def cycle(self) -> None:
        """A cycle of the batch flow, without the online store."""
        for stream in self.streams.values():  # two builds of SQLite in one process share no locks
            stream._capture.close()
        self.processor.run_cycle(update=False)

    def evict(self) -> None:
        """Forget what no window needs."""
        with self.window.cursor() as cursor:
            self.window.evict(cursor)

    def published(self, log: str) -> dict[int, Row]:
        """The processed log by `seq`."""
        files = self.processor.state.files("log", log)
        if not files:
            return {}
        with closing(duckdb.connect()) as connection:
            rows = connection.execute(f"SELECT * FROM {read_files(files)}").to_arrow_table()
        found = {row["seq"]: row for row in rows.to_pylist()}
        assert len(found) == rows.num_rows
        return found

    def facts(self, log: str) -> set[int]:
        """`seq` of the rows that count, by the batch flow, as far as the window reaches back."""
        at, horizon = TIMES[log], self.horizon(log)
        rows = self.published(log).values()
        return {row["seq"] for row in rows if row["op"] == "I" and row[at] >= horizon}

    def hot_facts(self, log: str) -> set[int]:
        """The same by the hot window."""
        query = f"SELECT seq FROM {HOT[log]}.hot_{log} WHERE {TIMES[log]} >= ?"
        with self.window.cursor() as cursor:
            seqs = [seq for (seq,) in cursor.execute(query, [self.horizon(log)]).fetchall()]
        assert len(set(seqs)) == len(seqs)
        return set(seqs)

    def horizon(self, log: str) -> datetime:
        """The event time from which on all facts of a log are in the window."""
        view = VIEWS_BY_NAME[HOT[log]]
        source = source_of(view, log)
        assert source is not None
        return back(self.window.watermarks.of(view), source.lookback or 0)
