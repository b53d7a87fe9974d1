"""The real-time flow without its clockwork: what one step of each stream does, and its state."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import pyarrow as pa

from pipelines.batch.state import PipelineState
from pipelines.cache import RealtimeCache
from pipelines.change_log.logs import BY_NAME
from pipelines.features.views import CREATED_TIMESTAMP, VIEWS, View
from pipelines.settings import DATABASE_NAMES, BatchConfig, DataConfig
from pipelines.streaming.created import CreatedClock
from pipelines.streaming.hot_window import HotWindow
from pipelines.streaming.sinks import CacheSink, OnlineSink, project_of
from pipelines.streaming.stream import DATA_TYPES, Stream
from pipelines.streaming.view_refresh import AWAY, ViewRefresh
from pipelines.streaming.warming import published, warm

READER: Final = "stream"
STATUS: Final = "stream"
CREATED: Final = "created"
VIEW_COLUMN: Final = "view"


@dataclass(frozen=True)
class Step:
    """What a step did: whether there may be more to do at once, and for whom it has to wait."""

    more: bool
    waits_for: frozenset[str] = frozenset()


class StreamingFlow:
    """Streams, hot window, views and sinks, wired; a step of each stream is one call.

    Args:
        config: live databases, Redis, micro-batch size.
        batch: where the batch flow publishes, and the feature repository.
        cache: gets the computed features too.
        clock: tells the present moment, UTC and naive.

    Raises:
        SynchroChainError: the state, the published files or the repository cannot be read.
    """

    def __init__(
        self,
        config: DataConfig,
        batch: BatchConfig,
        cache: RealtimeCache,
        clock: Callable[[], datetime],
    ) -> None:
        self._state = PipelineState(batch.state_path)
        self._clock = clock
        self._started = clock()
        latest = self._state.note(CREATED)
        self._created = CreatedClock(clock, datetime.fromisoformat(latest) if latest else None)
        self._pool = ThreadPoolExecutor(len(VIEWS), thread_name_prefix="view")
        self._saved: dict[str, int] = {}
        self._saving = threading.Lock()
        self.online = OnlineSink(config, project_of(batch.feature_repo_path))
        self.cache = CacheSink(cache)
        self.window = HotWindow(timedelta(seconds=config.allowed_lateness))
        known = published(self._state)
        done = self._state.positions(READER)
        with self.window.cursor() as cursor:
            self._missed = warm(self.window, cursor, known, done)
        self.views = {view.name: ViewRefresh(self.window, view, self._created) for view in VIEWS}
        self.streams = {
            name: Stream(name, config, self.window, known.positions.get(name, 0), done.get(name, 0))
            for name in DATABASE_NAMES
        }

    def catch_up(self) -> None:
        """Write what the batch flow has taken in while no stream ran."""
        self._touch(self._missed)
        self._refresh(set(self._missed))
        self._missed = {}

    def step(self, name: str, *, final: bool = False) -> Step:
        """Take in a stream's next micro-batch, write what it touched, then move the position.

        Args:
            final: see `Stream.take`.

        Raises:
            LiveDatabaseError, ChangeLogGapError: nothing was taken in; trying again may help.
        """
        stream = self.streams[name]
        taken = stream.take(final=final)
        if taken.waits_for:
            return Step(more=False, waits_for=taken.waits_for)
        self._touch(taken.touched)
        owing = {view for view in _views_of(name) if self.views[view].owes}
        rows = self._refresh(set(taken.touched) | (owing if self.online.ready() else set()))
        if rows:
            self._keep_latest(name, rows)
        if not any(self.views[view].owes for view in _views_of(name)):
            stream.counters.position = stream.counters.absorbed
        return Step(more=taken.changes > 0)

    def reconsider(self, name: str) -> int:
        """Take in those changes left to the batch flow that it has accepted since."""
        stream = self.streams[name]
        if not stream.left:
            return 0
        taken = stream.reconsider(published(self._state))
        self._touch(taken.touched)
        self._refresh(set(taken.touched))
        return taken.changes

    def tidy(self) -> None:
        """Forget what no window needs, and take in what the batch flow has accepted since."""
        with self.window.cursor() as cursor:
            self.window.evict(cursor)
        for name in self.streams:
            self.reconsider(name)

    def save(self) -> None:
        """Make the positions, and what the status shows, durable.

        Raises:
            PipelineStateError: the state cannot be written.
        """
        with self._saving:
            # What is left to the batch flow is written down before the position passes it.
            self._state.set_note(STATUS, json.dumps(self.report()))
            positions = {name: s.counters.position for name, s in self.streams.items()}
            moved = {n: p for n, p in positions.items() if p != self._saved.get(n)}
            if moved:
                self._state.set_positions(READER, moved)
                self._saved.update(moved)
            if self._created.latest:
                self._state.set_note(CREATED, self._created.latest.isoformat())

    def report(self) -> dict[str, Any]:
        """How everything stands, as JSON allows it."""
        cache = self.cache.cache.statistics()
        return {
            "pid": os.getpid(),
            "started_at": self._started.isoformat(sep=" "),
            "saved_at": self._clock().isoformat(sep=" "),
            "streams": {name: stream.report() for name, stream in self.streams.items()},
            "rows_written": {name: view.rows_written for name, view in self.views.items()},
            "owed": sorted(name for name, view in self.views.items() if view.owes),
            "online_store": {
                "mode": self.online.mode,
                "outages": self.online.outages,
                "last_error": self.online.last_error,
            },
            "cache": {
                "mode": cache.mode,
                "size": cache.size,
                "hit_rate": cache.hit_rate,
                "outages": cache.outages,
            },
            "hot_rows": self.window.rows(),
            "clock_steps_back": self._created.steps_back,
            "left": {name: stream.undecided for name, stream in self.streams.items()},
        }

    def close(self) -> None:
        """Let go of everything; what was written stays."""
        self._pool.shutdown()
        for stream in self.streams.values():
            stream.close()
        self.online.close()
        self.window.close()

    def _touch(self, touched: Mapping[str, set[int]]) -> None:
        for view, hashes in touched.items():
            self.views[view].touch(hashes)

    def _refresh(self, names: set[str]) -> dict[str, pa.Table]:
        """Refresh the views side by side; their rows that changed, by view."""
        found: dict[str, pa.Table] = {}

        def keep(view: View, rows: pa.Table) -> None:
            found[view.name] = rows
            self.cache(view, rows)

        def refresh(name: str) -> None:
            try:
                self.views[name].refresh(keep, self.online)
            except AWAY:  # the sink has said so, the view remembers what it owes
                return

        last, others = sorted(names)[-1:], sorted(names)[:-1]
        pending = [self._pool.submit(refresh, name) for name in others]
        for name in last:
            refresh(name)
        for done in pending:
            done.result()
        return found

    def _keep_latest(self, name: str, rows: Mapping[str, pa.Table]) -> None:
        tables = [
            table.append_column(VIEW_COLUMN, pa.repeat(view, table.num_rows))
            for view, table in rows.items()
            if table.num_rows
        ]
        if tables:
            whole = pa.concat_tables(tables, promote_options="default")
            moment = tables[0][CREATED_TIMESTAMP][0].as_py()
            self.cache.cache.put_batch(DATA_TYPES[name], moment, whole)


def _views_of(database: str) -> list[str]:
    return [
        view.name
        for view in VIEWS
        if any(BY_NAME[source.log].database == database for source in view.sources)
    ]
