"""DataStreamer: four streams at once, from a commit in a live database to a served feature."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from pipelines.cache import RealtimeCache
from pipelines.errors import ConfigurationError, StreamerRunningError, SynchroChainError
from pipelines.lake.clock import utc_now
from pipelines.lake.process_lock import STREAM_LOCK, only_one
from pipelines.settings import DATABASE_NAMES, BatchConfig, DataConfig
from pipelines.streaming.change_capture import CommitWatch
from pipelines.streaming.flow import StreamingFlow

logger = logging.getLogger(__name__)

WATCH_SECONDS: Final = 0.002
SAVE_SECONDS: Final = 0.25
LOOK_SECONDS: Final = 1.0
SHORTEST_RETRY: Final = 0.1
EVICT_SECONDS: Final = 60.0
FEW_CHANGES: Final = 8
RESTS: Final = 3.0
LONGEST_REST: Final = 0.06


class DataStreamer:
    """Follows the four live databases and keeps the cache and the online store up to date.

    A commit is noticed within milliseconds; the interval is only the longest wait. Streams run
    side by side: one that fails says so, tries again, and does not stop the others. An offset is
    moved after what it stands for was written, so a crash repeats a little and loses nothing.

    Args:
        db_path: the folder of the live databases; the data directory is the folder around it.
        config: live databases, Redis, micro-batch size, interval; instead of `db_path`.
        batch: where the batch flow publishes; by default that of the same data directory.
        intervals: seconds by live database, where they differ from `processing_interval`.
        clock: gives the present time, UTC and naive.

    Raises:
        ConfigurationError: an unknown database or an interval that is not positive.
    """

    def __init__(
        self,
        db_path: str | Path | None = None,
        *,
        config: DataConfig | None = None,
        batch: BatchConfig | None = None,
        intervals: Mapping[str, float] | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        if db_path is not None and config is not None:
            raise ConfigurationError("give DataStreamer a db_path or a config, not both")
        if db_path is not None:
            folder = Path(db_path).absolute()
            config = DataConfig(data_dir=folder.parent, db_path=folder)
        self.config = config or DataConfig()
        self.batch_config = batch or BatchConfig(data_dir=self.config.data_dir)
        self._intervals = self._checked(intervals or {})
        self._clock = clock
        self._flow: StreamingFlow | None = None
        self._reporting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._stop_asked = False
        self._wake: dict[str, asyncio.Event] = {}
        self._worker: ThreadPoolExecutor | None = None

    async def start_streaming(
        self, cache_client: RealtimeCache | None = None, *, ready: Callable[[], Any] | None = None
    ) -> None:
        """Stream until `stop` is called or the task is cancelled.

        Args:
            cache_client: gets the features too; one of its own by default.
            ready: called once everything is warm and what was missed is written.

        Raises:
            StreamerRunningError: another streamer runs on this data directory.
            DeclaredAnewError: what is published was declared otherwise, at the start or since.
            SynchroChainError: it cannot start: the state or the feature repository is unreadable.
        """
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if self._stop_asked:
            self._stop.set()
        self._wake = {name: asyncio.Event() for name in DATABASE_NAMES}
        with ExitStack() as stack:
            lock = self.config.data_dir / STREAM_LOCK
            stack.enter_context(only_one(lock, StreamerRunningError))
            # One thread for all streams: side by side they would spend more time waiting for the
            # interpreter's lock than they gain from a second core.
            self._worker = stack.enter_context(ThreadPoolExecutor(1))
            cache = cache_client
            if cache is None:
                cache = await self._call(RealtimeCache, self.config)
                stack.callback(cache.close)
            try:
                while await self._stream_once(cache, ready):
                    ready = None
            finally:
                self._stop_asked = False

    async def _stream_once(self, cache: RealtimeCache, ready: Callable[[], Any] | None) -> bool:
        """Stream until the end; whether to begin anew, for everything was started over."""
        assert self._stop is not None
        flow = await self._call(StreamingFlow, self.config, self.batch_config, cache, self._clock)
        self._flow = flow
        try:
            await self._call(flow.catch_up)
            await self._call(flow.save)
            if ready:
                ready()
            await self._run(flow)
        finally:
            with self._reporting:  # who asks from another thread gets a whole report, or none
                self._flow = None
            await self._call(_finish, flow)
        if flow.declared_anew is not None:
            raise flow.declared_anew
        if self._stop_asked or not flow.outdated:
            return False
        logger.warning("everything was started over: the stream warms up anew")
        self._stop.clear()
        # A cycle, which is to begin now, takes in a history faster than a stream does.
        await self._pause(self.config.processing_interval)
        while not self._stop.is_set() and await self._call(flow.cycle_runs):
            await self._pause(SAVE_SECONDS)
        return not self._stop_asked

    def stop(self) -> None:
        """End `start_streaming` after the micro-batches at hand; from any thread."""
        self._stop_asked = True
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)

    def statistics(self) -> dict[str, Any] | None:
        """Counters, modes and sizes while it streams; None otherwise."""
        with self._reporting:
            return self._flow.report() if self._flow else None

    @property
    def done(self) -> tuple[int, int, bool]:
        """Changes taken in, feature rows written, and whether Redis is away; costs nothing."""
        flow = self._flow
        if flow is None:
            return 0, 0, False
        changes = sum(stream.counters.changes for stream in flow.streams.values())
        rows = sum(view.rows_written for view in flow.views.values())
        return changes, rows, flow.online.mode != "redis"

    async def _call(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call on the streams' thread."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, call, *args)

    async def _run(self, flow: StreamingFlow) -> None:
        assert self._stop is not None
        stopped = asyncio.create_task(self._stop.wait())
        tasks: list[asyncio.Task[Any]] = [stopped]
        tasks += [
            asyncio.create_task(c) for c in (self._watch(), self._keep(flow), self._look(flow))
        ]
        endless = len(tasks)
        tasks += [asyncio.create_task(self._stream(flow, name)) for name in DATABASE_NAMES]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # only a defect of ours ends one of them
        finally:
            self._stop.set()
            for task in tasks[:endless]:
                task.cancel()
            for event in self._wake.values():
                event.set()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stream(self, flow: StreamingFlow, name: str) -> None:
        assert self._stop is not None
        loop = asyncio.get_running_loop()
        stream = flow.streams[name]
        waiting = SHORTEST_RETRY
        checked = False
        while not self._stop.is_set():
            self._wake[name].clear()
            began = loop.time()
            try:
                if not checked:
                    await self._call(stream.check)
                    checked = True
                step = await self._call(flow.step, name)
                if step.waits_for:
                    await self._caught_up(flow, step.waits_for)
                    step = await self._call(partial(flow.step, name, final=True))
                stream.recovered()
                waiting = SHORTEST_RETRY
            except Exception as error:  # whatever it is, the other streams go on
                stream.failed(error)
                checked = False
                await self._pause(SHORTEST_RETRY)
                await self._woken(name, waiting - SHORTEST_RETRY)
                waiting = min(2 * waiting, self._intervals[name])
                continue
            if not step.changes:
                await self._woken(name, self._intervals[name])
            elif step.changes < FEW_CHANGES:
                # A step costs about as much for one change as for ten: a stream with few leaves
                # the cores to those with many.
                rest = 1 - step.changes / FEW_CHANGES
                await self._pause(min(LONGEST_REST, rest * RESTS * (loop.time() - began)))

    async def _caught_up(self, flow: StreamingFlow, names: frozenset[str]) -> None:
        """Let streams that a change refers to take in what they have, for an interval at most."""
        targets = {}
        for name in names:
            with suppress(
                SynchroChainError
            ):  # what cannot be looked up is deferred to the batch flow
                targets[name] = await self._call(flow.streams[name].last)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.config.processing_interval
        while any(flow.streams[n].counters.absorbed < seq for n, seq in targets.items()):
            if self._stop is None or self._stop.is_set() or loop.time() > deadline:
                return
            await self._pause(WATCH_SECONDS)

    async def _watch(self) -> None:
        """Wake each stream as soon as somebody commits to its database."""
        watches = {name: CommitWatch(self.config.database_url(name)) for name in DATABASE_NAMES}
        try:
            while True:
                for name, watch in watches.items():
                    if watch.committed():
                        self._wake[name].set()
                await asyncio.sleep(WATCH_SECONDS)
        finally:
            for watch in watches.values():
                watch.close()

    async def _keep(self, flow: StreamingFlow) -> None:
        """Make offsets durable, forget what is old, look at what the batch flow decided."""
        loop = asyncio.get_running_loop()
        next_eviction = loop.time() + EVICT_SECONDS
        next_sync = loop.time() + self.config.processing_interval
        said = None
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            try:
                await self._call(flow.save)
                if flow.declared_anew is not None:
                    return
                if flow.is_behind:
                    for event in self._wake.values():
                        event.set()
                if loop.time() >= next_sync:
                    next_sync = loop.time() + self.config.processing_interval
                    await self._call(flow.sync_with_batch)
                if flow.outdated or flow.declared_anew is not None:
                    return
                if loop.time() >= next_eviction:
                    next_eviction = loop.time() + EVICT_SECONDS
                    await self._call(flow.evict)
                if said is not None:
                    logger.warning("the stream's state is kept again")
                    said = None
            except Exception as error:  # whatever it is, the streams go on
                if str(error) != said:  # four times a second would fill a disk, too
                    said = str(error)
                    logger.error("the stream's state is not kept, it goes on trying: %s", said)

    async def _look(self, flow: StreamingFlow) -> None:
        """See that the online store has lost nothing, on a thread beside that of the streams."""
        while True:
            try:
                await asyncio.to_thread(flow.watch.look)
            except Exception as error:  # whatever it is, the streams go on
                logger.error("the online store is not looked after, it is tried again: %r", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def _woken(self, name: str, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake[name].wait()
        except TimeoutError:
            return

    async def _pause(self, seconds: float) -> None:
        assert self._stop is not None
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    def _checked(self, intervals: Mapping[str, float]) -> dict[str, float]:
        found = dict.fromkeys(DATABASE_NAMES, float(self.config.processing_interval))
        for name, seconds in intervals.items():
            if name not in found:
                known = ", ".join(DATABASE_NAMES)
                raise ConfigurationError(f"there is no live database {name!r}; there are: {known}")
            if not seconds > 0:
                raise ConfigurationError(f"the interval of {name} must be above 0: {seconds!r}")
            found[name] = float(seconds)
        return found


def _finish(flow: StreamingFlow) -> None:
    try:
        flow.save(final=True)
    finally:
        flow.close()
