"""BatchProcessor: one cycle after another, each whole or not at all."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import schedule
import stamina

from pipelines.batch.cleanup import Cleanup
from pipelines.batch.older_deletions import log_older_deletions_again
from pipelines.batch.processor import DataProcessor, Produced
from pipelines.batch.quarantine import KIND as QUARANTINE
from pipelines.batch.trimming import trim_change_logs
from pipelines.batch.update import (
    apply,
    check_online,
    fill_if_emptied,
    forget_stale_rows,
    materialize,
    remember_registry,
)
from pipelines.change_log.extract import Span, plan
from pipelines.change_log.logs import LOGS, READING_ORDER
from pipelines.change_log.reader import ChangeLogReader
from pipelines.errors import (
    CycleInProgressError,
    LiveDatabaseBusyError,
    RedisRefusedError,
    RedisUnavailableError,
    SynchroChainError,
    said,
)
from pipelines.feast_plugins.repository import open_store
from pipelines.lake.clock import utc_now
from pipelines.lake.files import full_disk_reported
from pipelines.lake.hybrid_clock import CLOCK_KEY, HybridClock
from pipelines.lake.process_lock import only_one
from pipelines.lake.publish import publish, remove_everything, remove_leftovers
from pipelines.lake.rejected import KEPT_NOTE, Rejected
from pipelines.lake.rejected import KIND as REJECTED
from pipelines.lake.set_aside import check_places, removed
from pipelines.lake.state import BATCH_READER, KINDS, STATUSES, PipelineState
from pipelines.lake.state_migrations import DELETIONS_UNCHECKED
from pipelines.lake.state_rescue import set_damaged_aside
from pipelines.lake.summary import ViewSummary, check_published, summarize
from pipelines.lake.verification import check_contents
from pipelines.lake.workspace import (
    STAGING,
    Progress,
    attach_history,
    remove_dead_workspaces,
    workspace,
)
from pipelines.settings import DATABASE_NAMES, BatchConfig, DataConfig
from pipelines.stopping import interruptible

logger = logging.getLogger(__name__)

STEPS: Final = ("extract", "check", "transform", "load", "update", "cleanup")


@dataclass
class CycleReport:
    """What one cycle did. Rows by log, table or view; seconds by step."""

    cycle: int
    started_at: str
    extracted: int = 0
    accepted: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    resolved: dict[str, int] = field(default_factory=dict)
    """Rows that were quarantined before and are accepted now."""
    unknown_rows: dict[str, int] = field(default_factory=dict)
    """Rows that the change log does not know, for they changed without triggers."""
    feature_rows: dict[str, int] = field(default_factory=dict)
    files: int = 0
    applied: bool = False
    materialized: dict[str, list[str]] = field(default_factory=dict)
    """By view, from when to when in event time."""
    online_check: dict[str, Any] = field(default_factory=dict)
    """What was compared online with what is published, and what was mended."""
    after_update: dict[str, Any] = field(default_factory=dict)
    """Result of the `after_update` callback; `error`, one line, if it failed."""
    trimmed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)


class BatchProcessor:
    """Runs the batch flow: extract, check, transform, load, update, cleanup.

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
        self._created = HybridClock(clock)
        self._progress = _one_at_a_time(progress or _unwatched)
        self._after_update = after_update
        self.state = PipelineState(self.config.state_path)
        self._store: Any = None  # Feast's, opened at the first update and kept
        self._step = STEPS[0]

    def run_cycle(self, *, update: bool = True) -> CycleReport:
        """Process what is new, once.

        Args:
            update: whether to bring Feast and Redis up to date too; what is left undone waits for
                the next cycle that does.

        Raises:
            CycleInProgressError: another cycle runs on this data directory, here or elsewhere.
            SynchroChainError: a step failed. What was not loaded is repeated by the next cycle.
        """
        with self._only_cycle():
            started = self._clock()
            cycle = self.state.begin_cycle(started)
            report = CycleReport(cycle, started.isoformat(sep=" "))
            self._step = STEPS[0]
            try:
                with full_disk_reported(self.config.data_dir):
                    self._run(report, update)
            except BaseException as error:
                reason = str(error) or type(error).__name__
                self.state.end_cycle(
                    cycle, self._clock(), asdict(report), step=self._step, error=reason
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
        """
        stop = stop or threading.Event()

        def cycle() -> None:
            outcome: CycleReport | SynchroChainError
            try:
                outcome = self.run_cycle()
                logger.info("cycle %d: %d changes", outcome.cycle, outcome.extracted)
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
        with self._only_cycle():
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
            logger.warning("removed %d files that an interrupted cycle had left", left)
        remove_dead_workspaces(self.config.data_dir / STAGING)
        try:
            self._load(report)
        except BaseException:
            remove_leftovers(self.state, self.config)
            raise
        if update:
            with self._timed("update", report):
                self._update(report)
                report.after_update = self._add_on()
        with self._timed("cleanup", report), self._workspace("cleanup") as connection:
            Cleanup(connection, self.state, self.config, report.cycle, self._clock()).run()
            for attempt in self._retrying(LiveDatabaseBusyError):
                with attempt:
                    report.trimmed = trim_change_logs(
                        connection, self.data, self.config, self.state, self._clock()
                    )

    def _load(self, report: CycleReport) -> None:
        readers = _readers(self.data)
        check_published(self.state, self.config)
        history = {log.name: self.state.files("log", log.name) for log in LOGS}
        with self._workspace(f"cycle-{report.cycle}") as connection:
            for attempt in self._retrying(LiveDatabaseBusyError):
                with attempt:
                    processor = DataProcessor(connection, self.config, self._progress)
                    # Before the logs are looked at: the streamer writes the same rows, and one that
                    # it creates later has to know all that these know, or to be written again.
                    created = self._next_created()
                    with self._timed("extract", report):
                        self._look_at_logs(readers, report)
                        log_older_deletions_again(
                            connection, self.data, self.state, self.state.offsets(BATCH_READER)
                        )
                        spans = plan(
                            readers,
                            self.state.bound_offsets(BATCH_READER),
                            self.state.streamed_offsets(),
                        )
                        processor.extract(readers, spans)
            produced = processor.produced
            rejected = self._rejected()
            kept = [file for files in rejected.files.values() for file in files]
            if produced.extracted or kept:
                published = [file for files in history.values() for file in files]
                check_contents(self.state, [*published, *kept], afresh=True)
                attach_history(connection, history)
                with self._timed("check", report):
                    processor.check(spans, report.cycle, rejected)
                with self._timed("transform", report):
                    processor.transform(created, report.cycle)
            with self._timed("load", report):
                self._publish(report, produced, spans)

    def _look_at_logs(self, readers: Mapping[str, ChangeLogReader], report: CycleReport) -> None:
        for name in READING_ORDER:
            if readers[name].upgrade():
                logger.info("the change log of %s was brought up to date", name)
            for unknown in readers[name].unknown_rows():
                report.unknown_rows[unknown.table] = unknown.rows
                logger.warning("%s: %s", name, unknown)

    def _rejected(self) -> Rejected:
        return Rejected(
            self._clock(),
            timedelta(days=self.config.retention_days),
            {log.name: self.state.files(REJECTED, log.name) for log in LOGS},
            {log.table: self.state.files(QUARANTINE, log.table) for log in LOGS},
            self.state.metadata(KEPT_NOTE) is not None,
        )

    def _publish(self, report: CycleReport, produced: Produced, spans: dict[str, Span]) -> None:
        before = self.state.bound_offsets(BATCH_READER)
        moved = {
            name: span.end
            for name, span in spans.items()
            # Also where only what binds it to its log is new, as after an upgrade.
            if span.upto and span.end != before.get(name)
        }
        if moved or produced.staged_files or produced.superseded:
            publish(
                self.state,
                report.cycle,
                produced.staged_files,
                self._clock(),
                reader=BATCH_READER,
                offsets=moved,
                waiting=produced.waiting,
                superseded=produced.superseded,
                late=produced.late,
            )
            for path in produced.superseded:
                if path.is_relative_to(self.config.quarantine_path):
                    removed(path, self.config)  # so that people see each row once
        self.state.forget_metadata(DELETIONS_UNCHECKED)
        if produced.checked and self.state.metadata(KEPT_NOTE) is None:
            self.state.set_metadata(KEPT_NOTE, str(report.cycle))
        report.extracted = produced.extracted
        report.accepted = {n: c.accepted for n, c in produced.checked.items() if c.accepted}
        report.quarantined = {n: c.rejected for n, c in produced.checked.items() if c.rejected}
        report.resolved = {log: len(seqs) for log, seqs in produced.late.items()}
        report.feature_rows = dict(produced.rows)
        report.files = len(produced.staged_files)
        report.offsets = self.state.offsets(BATCH_READER)
        for log, count in report.resolved.items():
            logger.info(
                "%d rows of %s left the quarantine: what they waited for is there", count, log
            )
        for log, count in report.quarantined.items():
            logger.warning("%d rows of %s were rejected: see data/quarantine", count, log)

    def _update(self, report: CycleReport) -> None:
        self._progress("update", 0)  # importing Feast alone takes seconds
        report.applied = apply(self.config, self.state)
        if report.applied:
            self._store = None
        for attempt in self._retrying(RedisUnavailableError):
            with attempt:
                forget_stale_rows(self.config, self.data, self.state)
                if fill_if_emptied(self.config, self.data, self.state):
                    logger.info("the online store is empty or another one: filling it")
                now = self._clock()
                if self.state.pending_materializations():
                    store = self._store = self._store or open_store(self.config)
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

    def _retrying(self, error: type[Exception]) -> Iterable[Any]:
        return stamina.retry_context(
            on=error,
            attempts=self.config.retry_attempts,
            timeout=None,
            wait_initial=0.1,
            wait_max=self.config.retry_max_wait,
        )

    @contextmanager
    def _timed(self, step: str, report: CycleReport) -> Iterator[None]:
        self._step = step
        started = time.perf_counter()
        try:
            yield
        finally:
            report.seconds[step] = round(time.perf_counter() - started, 3)

    def _workspace(self, name: str) -> Any:
        return workspace(self.config.data_dir / STAGING / name)

    def _only_cycle(self) -> AbstractContextManager[None]:
        return only_one(self.config.data_dir / "batch.lock", CycleInProgressError)

    def _next_created(self) -> datetime:
        """Later than every created timestamp before it, in whichever flow and however the clock
        goes."""
        self._created.go_on_from(self.state.metadata(CLOCK_KEY))
        created = self._created.next()
        self.state.raise_metadata(CLOCK_KEY, created.isoformat(timespec="microseconds"))
        return created


def check_rebuilding(config: BatchConfig, data: DataConfig) -> None:
    """Make sure that all can be made anew from the change logs, before anything is dropped.

    Raises:
        LiveDatabaseError: a live database is away, locked or not what the pipelines need.
        UnusablePathError: a folder of ours is none, or cannot be read.
    """
    check_places(config)
    readers = _readers(data)
    for reader in readers.values():
        reader.upgrade()
    plan(readers, {})


def set_damaged_state_aside(config: BatchConfig, data: DataConfig) -> Path | None:
    """Move a damaged pipeline state out of the way, so that a rebuild can begin.

    Returns:
        Where it lies now; None if it is whole, or not there.

    Raises:
        CycleInProgressError: a cycle runs on this data directory.
        SynchroChainError: the rebuild could not be done now.
    """

    def read() -> None:
        state = PipelineState(config.state_path)
        state.last_cycles()
        state.pending_materializations()
        for kind in KINDS:
            for status in STATUSES:
                state.files(kind, status=status)

    with only_one(config.data_dir / "batch.lock", CycleInProgressError):
        check_rebuilding(config, data)
        aside = set_damaged_aside(config.state_path, read)
    if aside is not None:
        logger.warning("%s was damaged, it is %s now", config.state_path, aside.name)
    return aside


def _readers(data: DataConfig) -> dict[str, ChangeLogReader]:
    return {
        name: ChangeLogReader(name, data.database_url(name), data.busy_timeout)
        for name in DATABASE_NAMES
    }


def _one_at_a_time(progress: Progress) -> Progress:
    """The same, called by one thread at a time: steps read and write with several."""
    lock = threading.Lock()

    def called(step: str, rows: int) -> None:
        with lock:
            progress(step, rows)

    return called


def _unwatched(_step: str, _rows: int) -> None:
    """Nobody asked for progress."""
