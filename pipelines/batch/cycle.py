"""The data of one cycle, stage by stage: read, validate, transform, stage, publish.

Each stage is a function that returns a value for the next one. They stand in `change_log.reading`,
`validation.check`, `batch.transform` and `lake.publishing` (stage, publish); here is their order.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import stamina

from pipelines.batch.older_deletions import log_older_deletions_again
from pipelines.batch.quarantine import KIND as QUARANTINE
from pipelines.batch.report import CycleReport
from pipelines.batch.transform import Validated, transform
from pipelines.change_log.reader import ChangeLogReader
from pipelines.change_log.reading import Span, plan, read, readers_of
from pipelines.errors import LiveDatabaseBusyError
from pipelines.features.views import VIEWS_BY_NAME, compile_all
from pipelines.lake import declared_logs
from pipelines.lake.declarations import (
    CHANGED,
    REMOVED,
    UNCHANGED,
    DeclarationWatch,
    ViewChange,
    as_recorded,
    check_setting,
    compare,
)
from pipelines.lake.hybrid_clock import CLOCK_KEY, HybridClock
from pipelines.lake.publishing import Staged, publish, stage
from pipelines.lake.rejected import KEPT_KEY, Rejected
from pipelines.lake.rejected import KIND as REJECTED
from pipelines.lake.set_aside import remove_file
from pipelines.lake.state import BATCH_READER, Declared, PipelineState, PublishedFile
from pipelines.lake.state_migrations import DELETIONS_UNCHECKED
from pipelines.lake.summary import check_published
from pipelines.lake.verification import check_contents
from pipelines.lake.workspace import STAGING, Progress, attach_history, workspace
from pipelines.printable import counted, was
from pipelines.settings import BatchConfig, DataConfig
from pipelines.tables.known import LOGS, READING_ORDER
from pipelines.validation.check import Checked, check

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Changes:
    """What a cycle has read: the spans by database, and how many changes lie in them."""

    spans: Mapping[str, Span]
    count: int
    created: datetime
    """The `created_timestamp` of what is computed from them; earlier than the reading."""
    unread: Mapping[str, int]
    """By log that no cycle has read so far, up to which change it was read; see `declared_logs`."""


class DataProcessor:
    """Brings the changes since the last cycle into published Parquet files.

    Args:
        data: the live databases.
        config: where files are published.
        state: the pipeline's state.
        clock: returns the current time, UTC and naive.
        progress: callback with the step and how many more rows it has processed.
    """

    def __init__(
        self,
        data: DataConfig,
        config: BatchConfig,
        state: PipelineState,
        clock: Callable[[], datetime],
        progress: Progress,
    ) -> None:
        self._data = data
        self._config = config
        self._state = state
        self._clock = clock
        self._created = HybridClock(clock)
        self._progress = progress
        self._declarations = DeclarationWatch(state)

    def process(self, report: CycleReport) -> None:
        """Read, validate, transform, stage and publish what is new: all of it, or nothing.

        Args:
            report: of this cycle; what was done is entered.

        Raises:
            DeclaredAnewError: another process has declared features anew since this one started.
            SynchroChainError: a stage failed; nothing was published.
        """
        self._declarations.look()
        changes_declared = compare(self._state)
        check_setting(changes_declared)
        readers = readers_of(self._data)
        check_published(self._state, self._config)
        history = {log.name: self._state.files("log", log.name) for log in LOGS}
        folder = self._config.data_dir / STAGING / f"cycle-{report.cycle}"
        with workspace(folder, self._config.memory) as connection:
            for attempt in retrying(self._config, LiveDatabaseBusyError):
                with attempt, report.timed("read"):
                    changes = self._read(connection, readers, report)
            rejected = self._rejected()
            checked: Mapping[str, Checked] = {}
            staged = Staged()
            kept = [file for files in rejected.files.values() for file in files]
            redeclared = self._redeclared(changes_declared, history)
            if changes.count or kept or redeclared:
                published = [file for files in history.values() for file in files]
                check_contents(self._state, [*published, *kept], afresh=True)
                attach_history(connection, history)
                with report.timed("validate"):
                    checked = check(connection, rejected)
                    for found in checked.values():
                        self._progress("validate", found.accepted + found.rejected)
                with report.timed("transform"):
                    valid = Validated(
                        report.cycle,
                        changes.created,
                        changes.spans,
                        checked,
                        rejected,
                        redeclared,
                        changes.unread,
                    )
                    staged = stage(
                        transform(
                            connection, self._config, valid, self._progress, report.feature_seconds
                        )
                    )
            with report.timed("publish"):
                self._commit(report, changes, checked, staged, changes_declared)

    def _redeclared(
        self, changes: Sequence[ViewChange], history: Mapping[str, Sequence[PublishedFile]]
    ) -> dict[str, list[Path]]:
        """The views that are computed for all of history, with the published files of each."""
        found = {}
        for change in changes:
            if change.kind in (UNCHANGED, REMOVED):
                continue
            files = [file.path for file in self._state.files("view", change.view)]
            # Where there is no history every row is a new one.
            if files or any(history[log] for log in VIEWS_BY_NAME[change.view].group.logs):
                logger.warning("%s is computed for all of history: %s", change.view, change.why)
                found[change.view] = files
        return found

    def _files_of_removed(self, changes: Sequence[ViewChange]) -> list[Path]:
        """The published files of views that nobody declares."""
        found = []
        for change in changes:
            if change.kind == REMOVED:
                files = self._state.files("view", change.view)
                found += [file.path for file in files]
                logger.warning(
                    "%s is %s: %s removed, offline and online",
                    change.view,
                    change.why,
                    counted(sum(file.rows for file in files), "row"),
                )
        return found

    def _read(
        self,
        connection: duckdb.DuckDBPyConnection,
        readers: Mapping[str, ChangeLogReader],
        report: CycleReport,
    ) -> Changes:
        unread = declared_logs.unread(self._state)
        # Before the logs are looked at: the streamer writes the same rows, and one that it creates
        # later has to know all that these know, or to be written again.
        created = self._next_created()
        for name in READING_ORDER:
            if readers[name].upgrade():
                logger.info("the change log of %s was brought up to date", name)
            for unknown in readers[name].unknown_rows():
                report.unknown_rows[unknown.table] = unknown.rows
                logger.warning("%s: %s", name, unknown)
        log_older_deletions_again(
            connection, self._data, self._state, self._state.offsets(BATCH_READER)
        )
        spans = plan(
            readers, self._state.bound_offsets(BATCH_READER), self._state.streamed_offsets()
        )
        if any(span.upto > span.after for span in spans.values()):
            # Reading SQLite leaves a core idle.
            threading.Thread(target=compile_all, daemon=True).start()
        count = read(
            connection,
            readers,
            spans,
            self._config.batch_size,
            lambda rows: self._progress("read", rows),
            unread,
        )
        return Changes(spans, count, created, unread)

    def _next_created(self) -> datetime:
        """Later than every created timestamp before it, in whichever flow and however the clock
        goes."""
        self._created.go_on_from(self._state.metadata(CLOCK_KEY))
        created = self._created.next()
        self._state.raise_metadata(CLOCK_KEY, created.isoformat(timespec="microseconds"))
        return created

    def _notes(self, offsets: Mapping[str, int]) -> dict[str, str]:
        """Which logs were read, where that is to be noted anew."""
        text = declared_logs.entry_of(self._state, offsets)
        known = self._state.metadata(declared_logs.LOGS_KEY)
        return {} if text == known else {declared_logs.LOGS_KEY: text}

    def _rejected(self) -> Rejected:
        return Rejected(
            self._clock(),
            timedelta(days=self._config.retention_days),
            {log.name: self._state.files(REJECTED, log.name) for log in LOGS},
            {log.table: self._state.files(QUARANTINE, log.table) for log in LOGS},
            self._state.metadata(KEPT_KEY) is not None,
        )

    def _declared(self, changes: Sequence[ViewChange]) -> Declared | None:
        """What is to be recorded of the declarations; None if that is recorded already."""
        text, known = as_recorded(), self._declarations.recorded
        if text == known:
            return None
        stale = {
            change.view: [*change.known, *_features_of(change.view)]
            for change in changes
            if change.kind in (CHANGED, REMOVED)
        }
        differs = bool(stale) or known is not None
        return Declared(text, differs and any(c.kind != UNCHANGED for c in changes), stale)

    def _commit(
        self,
        report: CycleReport,
        changes: Changes,
        checked: Mapping[str, Checked],
        staged: Staged,
        declared: Sequence[ViewChange],
    ) -> None:
        staged = replace(staged, superseded=[*staged.superseded, *self._files_of_removed(declared)])
        before = self._state.bound_offsets(BATCH_READER)
        moved = {
            name: span.end
            for name, span in changes.spans.items()
            # Also where only what binds it to its log is new, as after an upgrade.
            if span.upto and span.end != before.get(name)
        }
        anew = self._declared(declared)
        notes = self._notes({name: at.seq for name, at in before.items()})
        if moved or staged.files or staged.superseded or notes or anew is not None:
            publish(
                self._state,
                report.cycle,
                staged,
                self._clock(),
                reader=BATCH_READER,
                offsets=moved,
                to_materialize={
                    view.name: (view.min_time, view.max_time)
                    for view in staged.views
                    if view.min_time and view.max_time
                },
                resolved={log: [seq for _, seq in c.resolved] for log, c in checked.items()},
                declared=anew,
                notes=notes,
            )
            self._declarations.recorded = anew.text if anew else self._declarations.recorded
            for path in staged.superseded:
                if path.is_relative_to(self._config.quarantine_path):
                    remove_file(path, self._config)  # so that people see each row once
        self._state.forget_metadata(DELETIONS_UNCHECKED)
        if checked and self._state.metadata(KEPT_KEY) is None:
            self._state.set_metadata(KEPT_KEY, str(report.cycle))
        report.changes = changes.count
        report.accepted = {n: c.accepted for n, c in checked.items() if c.accepted}
        report.quarantined = {n: c.rejected for n, c in checked.items() if c.rejected}
        report.resolved = {n: len(c.resolved) for n, c in checked.items() if c.resolved}
        report.feature_rows = {view.name: view.rows for view in staged.views}
        report.files = len(staged.files)
        report.offsets = self._state.offsets(BATCH_READER)
        for log, count in report.resolved.items():
            logger.info("%s of %s left the quarantine", counted(count, "row"), log)
        for log, count in report.quarantined.items():
            where = self._config.quarantine_path
            found = counted(count, "row")
            logger.warning("%s of %s %s rejected: see %s", found, log, was(count), where)


def _features_of(view: str) -> tuple[str, ...]:
    return VIEWS_BY_NAME[view].features if view in VIEWS_BY_NAME else ()


def retrying(config: BatchConfig, error: type[Exception]) -> Iterable[Any]:
    """Attempts at something that may fail with `error` for a while, as the settings say."""
    return stamina.retry_context(
        on=error,
        attempts=config.retry_attempts,
        timeout=None,
        wait_initial=0.1,
        wait_max=config.retry_max_wait,
    )
