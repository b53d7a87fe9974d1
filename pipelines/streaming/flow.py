"""The real-time flow without its clockwork: what one step of each stream does, and its state."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import psutil
import pyarrow as pa

from pipelines.cache import DATA_TYPE_OF, RealtimeCache
from pipelines.change_log.offsets import Offset
from pipelines.change_log.reader import ChangeLogReader
from pipelines.errors import (
    DeclaredAnewError,
    LiveDatabaseError,
    OtherHistoryError,
    TriggersError,
)
from pipelines.features.views import VIEWS, View
from pipelines.lake.declarations import DeclarationWatch
from pipelines.lake.declared_logs import check_read
from pipelines.lake.hybrid_clock import CLOCK_KEY, HybridClock
from pipelines.lake.published_snapshot import Published, published
from pipelines.lake.state import (
    BATCH_READER,
    DECLARED,
    SEEN_READER,
    STREAM_READER,
    STREAM_STATUS,
    PipelineState,
)
from pipelines.lake.state_offsets import GENERATION
from pipelines.lake.verification import check_contents, check_strangers
from pipelines.settings import DATABASE_NAMES, BatchConfig, DataConfig
from pipelines.streaming.cache_sink import CacheSink
from pipelines.streaming.hot_tables import HASH
from pipelines.streaming.hot_window import HotWindow
from pipelines.streaming.online_repair import OnlineWatch
from pipelines.streaming.online_sink import OnlineSink, project_of
from pipelines.streaming.stream import MicroBatch, Stream
from pipelines.streaming.view_refresh import AWAY, ViewRefresh
from pipelines.streaming.warming import warm
from pipelines.tables.known import BY_NAME

logger = logging.getLogger(__name__)

REPORT_EVERY: Final = timedelta(seconds=2)


class StreamingFlow:
    """Streams, hot window, views and sinks, wired; a step of each stream is one call.

    Args:
        config: live databases, Redis, micro-batch size.
        batch: where the batch flow publishes, and the feature repository.
        cache: gets the computed features too.
        clock: gives the present time, UTC and naive.

    Raises:
        OtherHistoryError: a live database is not the one that was read before.
        TriggersError: one has lost triggers, so changes may be missing.
        DeclaredAnewError: what is published was declared otherwise.
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
        self._generation = self._state.generation
        self.outdated = False
        """Whether everything was started over since: this flow knows another history."""
        self.declared_anew: DeclaredAnewError | None = None
        """Set once another process has declared features anew: this flow must write no more."""
        self._declarations = DeclarationWatch(self._state)
        self._declarations.check()
        check_read(self._state)
        _check_logs(config, self._state)
        self._clock = clock
        self._started = clock()
        self._created = HybridClock(clock)
        self._created.go_on_from(self._state.metadata(CLOCK_KEY))
        self._saved: dict[str, Offset] = {}
        self._seen: dict[str, Offset] = {}
        self._deferred: dict[str, list[list[int]]] = {}
        self._reported = self._started - REPORT_EVERY
        self._saving = threading.Lock()
        self.online = OnlineSink(config, project_of(batch.feature_repo_path))
        self.watch = OnlineWatch(
            config,
            project_of(batch.feature_repo_path),
            self._state,
            self._rewrite,
            now=clock,
            clock=time.monotonic,
        )
        self.cache = CacheSink(cache)
        self.window = HotWindow(timedelta(seconds=config.allowed_lateness))
        check_strangers(self._state, batch.processed_data_path)
        known = self._published()
        done = self._state.offsets(STREAM_READER)
        self._begun = bool(done)
        with self.window.cursor() as cursor:
            self._missed = warm(self.window, cursor, known, done)
        self._resolved = known.resolved_cycle
        self.views = {
            view.name: ViewRefresh(
                self.window,
                view,
                self._created,
                partial(self._known_until, view),
                partial(self._absorbed, view),
            )
            for view in VIEWS
        }
        self.streams = {
            name: self._opened(name, config, known.offsets.get(name, 0), done)
            for name in DATABASE_NAMES
        }

    def catch_up(self) -> None:
        """Write what the batch flow has taken in while no stream ran."""
        self._mark_affected(self._missed)
        self._refresh(set(self._missed))
        self._missed = {}

    def step(self, name: str, *, final: bool = False) -> MicroBatch:
        """Take in a stream's next micro-batch, write what it affected, then move the offset.

        Args:
            name: the live database.
            final: see `Stream.next_batch`.

        Raises:
            LiveDatabaseError, ChangeLogGapError: nothing was taken in; trying again may help.
        """
        stream = self.streams[name]
        taken = stream.next_batch(final=final)
        if taken.waits_for:
            return taken
        self._mark_affected(taken.affected)
        pending = {view for view in _views_of(name) if self.views[view].pending}
        if self.online.ready():
            pending |= {view for view in _views_of(name) if self.views[view].behind}
        rows = self._refresh(set(taken.affected) | (pending if self.online.ready() else set()))
        if rows:
            self.cache.put_latest(DATA_TYPE_OF[name], rows)
        if not any(self.views[view].unwritten for view in _views_of(name)):
            stream.counters.offset = max(stream.counters.offset, stream.counters.absorbed)
        return taken

    def apply_batch(self, name: str) -> int:
        """Take in those changes deferred to the batch flow that it has accepted since."""
        stream = self.streams[name]
        if not stream.deferred and not stream.resolved:
            return 0
        taken = stream.apply_batch(self._published())
        self._mark_affected(taken.affected)
        self._refresh(set(taken.affected))
        return taken.changes

    def _published(self) -> Published:
        known = published(self._state)
        check_contents(self._state, [f for files in known.files.values() for f in files])
        return known

    def evict(self) -> None:
        """Forget what no window needs; nothing while rows are pending that may need it."""
        if any(view.pending for view in self.views.values()):
            return
        with ExitStack() as held, self.window.cursor() as cursor:
            for stream in self.streams.values():
                held.enter_context(stream.lock)
            self.window.evict(cursor)

    @property
    def is_behind(self) -> bool:
        """Whether a step would do something though nothing was committed."""
        return self.online.ready() and any(v.pending or v.behind for v in self.views.values())

    def sync_with_batch(self) -> None:
        """Take in what the batch flow has decided since, and what it has brought about."""
        if self._state.generation != self._generation:
            self.outdated = True
        if self.outdated or not self._may_write():
            return
        self._resolved, resolved = self._state.resolved_changes(self._resolved)
        for log, seqs in resolved.items():
            self.streams[BY_NAME[log].database].resolved.setdefault(log, []).extend(seqs)
        for name in self.streams:
            self.apply_batch(name)
        online = self._online_offsets()
        for name, upto in online.items():
            self.streams[name].confirm(upto)
        for view in self.views.values():
            view.confirm(online)
        self._refresh({name for name, view in self.views.items() if view.set_apart})

    def save(self, *, final: bool = False) -> None:
        """Make the offsets durable, and every two seconds or at the end what the status shows;
        nothing after everything was started over, or features were declared anew.

        Raises:
            PipelineStateError: the state cannot be written.
        """
        if self.outdated or not self._may_write():
            return
        with self._saving:
            written = {name: stream.written for name, stream in self.streams.items()}
            deferred = {name: stream.undecided.as_json() for name, stream in self.streams.items()}
            # What is deferred to the batch flow is written down before the offset passes it.
            now = self._clock()
            if deferred != self._deferred or final or abs(now - self._reported) >= REPORT_EVERY:
                self._reported = now
                self._deferred = deferred
                self._state.set_metadata(
                    STREAM_STATUS, json.dumps(self.report() | {"deferred": deferred})
                )
            # Also where only what binds it to its log is new, as after an upgrade.
            moved = {n: at for n, at in written.items() if at != self._saved.get(n)}
            if not self._begun and self._state.pending_materializations():
                moved = {}  # where a first start begins is not online before the batch flow says so
            self._save_seen({n: at for n, at in written.items() if n in moved or self._begun})
            if moved:
                if not self._state.set_offsets(STREAM_READER, moved, self._known):
                    self.outdated = self._state.generation != self._generation
                    return  # where others were declared meanwhile, the next save says so
                self._saved.update(moved)
                self._begun = True
            if self._created.latest:
                latest = self._created.latest.isoformat(timespec="microseconds")
                self._created.go_on_from(self._state.raise_metadata(CLOCK_KEY, latest))

    def _may_write(self) -> bool:
        """Whether what is published is still declared as in this process."""
        try:
            self._declarations.look()
        except DeclaredAnewError as error:
            self.declared_anew = error
        return self.declared_anew is None

    @property
    def _known(self) -> dict[str, str | None]:
        return {GENERATION: self._generation or None, DECLARED: self._declarations.recorded}

    def _save_seen(self, written: Mapping[str, Offset]) -> None:
        """Bind what lies beyond the offsets that are written to its change log: some of it may be
        online already, so that another history in its place has to be noticed."""
        seen = {n: s.seen for n, s in self.streams.items() if s.seen != written.get(n)}
        seen = {n: at for n, at in seen.items() if at != self._seen.get(n)}
        if seen and self._state.set_offsets(SEEN_READER, seen, self._known):
            self._seen |= seen

    def cycle_runs(self) -> bool:
        """Whether a cycle of the batch flow is under way."""
        return any(
            cycle.status == "running" and psutil.pid_exists(cycle.pid)
            for cycle in self._state.last_cycles(1)
        )

    def report(self) -> dict[str, Any]:
        """How everything stands, as JSON allows it."""
        cache = self.cache.cache.statistics()
        return {
            "pid": os.getpid(),
            "started_at": self._started.isoformat(sep=" "),
            "saved_at": self._clock().isoformat(sep=" "),
            "streams": {name: stream.report() for name, stream in self.streams.items()},
            "rows_written": {name: view.rows_written for name, view in self.views.items()},
            "pending_writes": sorted(name for name, view in self.views.items() if view.pending),
            "set_apart": {n: v.set_apart for n, v in self.views.items() if v.set_apart},
            "view_errors": {n: v.last_error for n, v in self.views.items() if v.last_error},
            "online_store": {
                "mode": self.online.mode,
                "outages": self.online.outages,
                "last_error": self.online.last_error,
            },
            "online_check": self.watch.report(),
            "cache": {
                "mode": cache.mode,
                "size": cache.size,
                "hit_rate": cache.hit_rate,
                "outages": cache.outages,
                "last_error": self.cache.last_error,
            },
            "hot_rows": self.window.rows(),
            "clock_steps_back": self._created.steps_back,
        }

    def close(self) -> None:
        """Let go of everything; what was written stays."""
        self.watch.close()
        for stream in self.streams.values():
            stream.close()
        self.online.close()
        self.window.close()

    def _known_until(self, view: View) -> datetime | None:
        lagging = [self.streams[name].lags_at for name in view.databases]
        return min((at for at in lagging if at is not None), default=None)

    def _opened(
        self, name: str, config: DataConfig, offset: int, done: Mapping[str, int]
    ) -> Stream:
        trimmed = int(self._state.metadata(f"trimmed {name}") or 0)
        written = done.get(name, offset)
        bound = [
            self._state.bound_offsets(reader).get(name) for reader in (STREAM_READER, BATCH_READER)
        ]
        read = [at for at in bound if at is not None and at.seq in (offset, written)]
        return Stream(name, config, self.window, offset, written, trimmed, read)

    def _online_offsets(self) -> dict[str, int]:
        """Up to which `seq` the batch flow's rows are online, by database; empty if not known."""
        offsets = self._state.offsets(BATCH_READER)
        return {} if self._state.pending_materializations() else offsets

    def _mark_affected(self, affected: Mapping[str, set[int]]) -> None:
        for view, hashes in affected.items():
            self.views[view].mark_affected(hashes)

    def _rewrite(self) -> None:
        """Mark the keys with changes that the batch flow has not put online yet."""
        online = self._online_offsets()
        with self.window.cursor() as cursor:
            for view in VIEWS:
                hashes: set[int] = set()
                for source in view.sources:
                    seq = online.get(BY_NAME[source.log].database, 0)
                    table = f"{view.name}.hot_{source.log}"
                    rows = cursor.execute(
                        f"SELECT DISTINCT {HASH} FROM {table} WHERE seq > {seq}"
                    ).fetchall()
                    hashes.update(row[0] for row in rows)
                self.views[view.name].mark_affected(hashes)

    def _absorbed(self, view: View) -> dict[str, int]:
        return {name: self.streams[name].counters.absorbed for name in view.databases}

    def _refresh(self, names: set[str]) -> dict[str, pa.Table]:
        """Refresh the views, one after another; their rows that changed, by view.

        Nothing is raised: what is not written is pending, in this view as in the others.
        """
        found: dict[str, list[pa.Table]] = {}

        def keep(view: View, rows: pa.Table) -> None:
            found.setdefault(view.name, []).append(rows)
            self.cache.put(view, rows)

        for name in sorted(names):
            # When Redis is away, the sink has said so, and the view remembers what is pending.
            with suppress(*AWAY):
                self.views[name].refresh(keep, self.online)
        return {name: pa.concat_tables(parts) for name, parts in found.items()}


def _check_logs(config: DataConfig, state: PipelineState) -> None:
    """Do not start on another history, nor where changes may be missing without a word; what else
    is wrong each stream says itself, and goes on trying."""
    readers = [state.bound_offsets(reader) for reader in (BATCH_READER, STREAM_READER, SEEN_READER)]
    for name in DATABASE_NAMES:
        log = ChangeLogReader(name, config.database_url(name), config.busy_timeout)
        known = [offsets[name] for offsets in readers if name in offsets]
        furthest = max(known, key=lambda at: at.seq, default=Offset(0))
        try:
            log.upgrade()
            log.check()
            log.end(*{*known[:1], furthest})
        except (OtherHistoryError, TriggersError):
            raise
        except LiveDatabaseError:
            continue


def _views_of(database: str) -> list[str]:
    return [view.name for view in VIEWS if database in view.databases]
