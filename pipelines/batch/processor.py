"""BatchProcessor: one cycle after another, each whole or not at all."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any

import schedule

from pipelines.batch.cleanup import Cleanup
from pipelines.batch.cycle import DataProcessor, retrying
from pipelines.batch.online_removal import forget_stale_rows, forget_stale_views
from pipelines.batch.rebuild import check_rebuilding, only_cycle
from pipelines.batch.report import CycleReport
from pipelines.batch.trimming import trim_change_logs
from pipelines.batch.update import (
    apply,
    check_online,
    fill_if_emptied,
    materialize,
    open_bounded,
    remember_registry,
)
from pipelines.errors import (
    DeclaredAnewError,
    LiveDatabaseBusyError,
    RedisRefusedError,
    RedisUnavailableError,
    SynchroChainError,
    said,
)
from pipelines.lake.clock import utc_now
from pipelines.lake.process_lock import STREAM_LOCK, held_by
from pipelines.lake.publishing import full_disk_reported
from pipelines.lake.removal import remove_everything, remove_leftovers
from pipelines.lake.set_aside import check_places
from pipelines.lake.state import PipelineState
from pipelines.lake.summary import ViewSummary, summarize
from pipelines.lake.workspace import STAGING, Progress, remove_dead_workspaces, workspace
from pipelines.printable import counted
from pipelines.settings import BatchConfig, DataConfig
from pipelines.stopping import interruptible

logger = logging.getLogger(__name__)


class BatchProcessor:
    """Runs the batch flow: read, validate, transform, publish, update, cleanup.

    Args:
        config: how often, how much, where to.
        data: where the live databases are.
        clock: gives the present time, UTC and naive.
        progress: called with the step and how many more rows are done; by several threads, one
            at a time.
        after_update: called when the update step has done its own work; what it returns, plain
            values, goes into the cycle's report. The cycle does not fail with it.
    """

    def __init__(
        self,
        config: BatchConfig | None = None,
        data: DataConfig | None = None,
        *,
        clock: Callable[[], datetime] = utc_now,
        progress: Progress | None = None,
        after_update: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self.config = config or BatchConfig()
        self.data = data or DataConfig(data_dir=self.config.data_dir)
        self._clock = clock
        self._progress = _one_at_a_time(progress or _unwatched)
        self._after_update = after_update
        self.state = PipelineState(self.config.state_path)
        self._data_processor = DataProcessor(
            self.data, self.config, self.state, clock, self._progress
        )
        self._store: Any = None  # Feast's, opened at the first update and kept

    def run_cycle(self, *, update: bool = True) -> CycleReport:
        """Process what is new, once.

        Args:
            update: whether to bring Feast and Redis up to date too; what is left undone waits for
                the next cycle that does.

        Raises:
            CycleInProgressError: another cycle runs on this data directory, here or elsewhere.
            SynchroChainError: a step failed. What was not published is repeated by the next cycle.
        """
        with only_cycle(self.config):
            started = self._clock()
            cycle = self.state.begin_cycle(started)
            report = CycleReport(cycle, started.isoformat(sep=" "))
            try:
                with full_disk_reported(self.config.data_dir):
                    self._run(report, update)
            except BaseException as error:
                reason = str(error) or type(error).__name__
                self.state.end_cycle(
                    cycle, self._clock(), asdict(report), step=report.step, error=reason
                )
                raise
            self.state.end_cycle(cycle, self._clock(), asdict(report))
            return report

    def start_scheduled_processing(
        self,
        stop: threading.Event | None = None,
        *,
        scheduler: schedule.Scheduler | None = None,
        sleep: Callable[[float], Any] = time.sleep,
        on_cycle: Callable[[CycleReport | SynchroChainError], None] | None = None,
    ) -> None:
        """Run a cycle now and then every `processing_interval` seconds, until `stop` is set.

        A cycle that fails is logged and the next one is due as ever.

        Args:
            stop: ends the schedule after the cycle at hand; by default it never ends.
            scheduler: keeps the schedule.
            sleep: waits for so many seconds, at most one.
            on_cycle: callback with each cycle's report, or the error it failed with.

        Raises:
            DeclaredAnewError: another process has declared features anew since this one started.
        """
        stop = stop or threading.Event()

        def cycle() -> None:
            outcome: CycleReport | SynchroChainError
            try:
                outcome = self.run_cycle()
                logger.info("cycle %d: %d changes", outcome.cycle, outcome.changes)
            except DeclaredAnewError:
                raise  # the next cycle would fail too
            except SynchroChainError as error:
                outcome = error
                logger.error("batch cycle failed, the next one repeats it: %s", error)
            if on_cycle:
                on_cycle(outcome)

        scheduler = scheduler or schedule.Scheduler()
        scheduler.every(self.config.processing_interval).seconds.do(cycle)
        scheduler.run_all()
        while not stop.is_set():
            sleep(max(0.0, min(1.0, scheduler.idle_seconds or 0.0)))
            scheduler.run_pending()

    def get_feature_summary(self) -> dict[str, ViewSummary]:
        """Per view: rows, keys, newest event, its age in seconds, and the share of nulls."""
        return summarize(self.state, self.config.offline_path, self._clock())

    def rebuild(self) -> None:
        """Forget every offset and published file, so that the next cycle starts from the
        beginning of the change logs. Offline sources, processed logs and online rows are removed;
        a streamer that runs begins anew too. What is not ours and in the way is set aside.

        Raises:
            SynchroChainError: what is published could not be made anew now; it is still there.
        """
        with only_cycle(self.config):
            check_rebuilding(self.config, self.data)
            remove_everything(self.state, self.config)
            try:
                forget_stale_rows(self.config, self.data, self.state)
            except (RedisUnavailableError, RedisRefusedError) as error:
                logger.warning("the online store is emptied by the next cycle: %s", error)

    def _run(self, report: CycleReport, update: bool) -> None:
        check_places(self.config)
        left = remove_leftovers(self.state, self.config)
        if left:
            logger.warning("removed %s that an interrupted cycle had left", counted(left, "file"))
        remove_dead_workspaces(self.config.data_dir / STAGING)
        streaming = held_by(self.config.data_dir / STREAM_LOCK)
        try:
            self._data_processor.process(report)
        except BaseException:
            remove_leftovers(self.state, self.config)
            raise
        if update:
            with report.timed("update"):
                self._update(report, streaming)
                report.after_update = self._add_on()
        folder = self.config.data_dir / STAGING / "cleanup"
        with report.timed("cleanup"), workspace(folder, self.config.memory) as connection:
            Cleanup(connection, self.state, self.config, report.cycle, self._clock()).run()
            for attempt in retrying(self.config, LiveDatabaseBusyError):
                with attempt:
                    report.trimmed = trim_change_logs(
                        connection, self.data, self.config, self.state, self._clock()
                    )

    def _update(self, report: CycleReport, streaming: int | None) -> None:
        self._progress("update", 0)  # importing Feast alone takes seconds
        try:
            report.applied = apply(self.config, self.state)
        finally:  # also where the repository still names what is not declared any more
            for attempt in retrying(self.config, RedisUnavailableError):
                with attempt:
                    forget_stale_views(self.config, self.data, self.state, streaming)
        if report.applied:
            self._store = None
        for attempt in retrying(self.config, RedisUnavailableError):
            with attempt:
                forget_stale_rows(self.config, self.data, self.state)
                if fill_if_emptied(self.config, self.data, self.state):
                    logger.info("the online store is empty or another one: filling it")
                now = self._clock()
                if self.state.pending_materializations():
                    store = self._store = self._store or open_bounded(self.config)
                    done = materialize(
                        store, self.state, now, lambda views: self._progress("update", views)
                    )
                    for view, span in done.items():
                        report.materialized[view] = [str(end) for end in span]
                    remember_registry(self.config, self.state)
                report.online_check = check_online(self.config, self.data, self.state, now)

    def _add_on(self) -> dict[str, Any]:
        if self._after_update is None:
            return {}
        try:
            with interruptible():
                return self._after_update()
        except Exception as error:  # whatever it is, the features are up to date
            logger.error("after the update: %s", said(error))
            return {"error": said(error)}


def _one_at_a_time(progress: Progress) -> Progress:
    """The same, called by one thread at a time: steps read and write with several."""
    lock = threading.Lock()

    def called(step: str, rows: int) -> None:
        with lock:
            progress(step, rows)

    return called


def _unwatched(_step: str, _rows: int) -> None:
    """Nobody asked for progress."""
