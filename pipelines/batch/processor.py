"""DataProcessor: the data side of one cycle, from change logs to staged files."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from pipelines.batch.quarantine import KIND as QUARANTINE
from pipelines.batch.quarantine import brought_up_to_date, quarantine_lines
from pipelines.batch.transform import ROWS_PER_BATCH, transform
from pipelines.change_log.extract import Span, extract
from pipelines.change_log.logs import LOGS, Log
from pipelines.change_log.reader import ChangeLogReader
from pipelines.change_log.types import ARROW_TYPES
from pipelines.features.views import EVENT_TIMESTAMP, VIEWS, View, feature_sql
from pipelines.lake.files import StagedFile, write_lines, write_parquet
from pipelines.lake.rejected import FOLDER, KEPT_COLUMNS, KIND, Rejected, rest
from pipelines.lake.workspace import Progress, columns
from pipelines.settings import BatchConfig
from pipelines.validation.check import Checked, check

WORKERS: Final = 2
"""Files made at the same time; DuckDB computes each with all cores."""


def log_schema(log: Log) -> pa.Schema:
    """The Arrow schema of a processed log's files."""
    return pa.schema([(name, ARROW_TYPES[kind]) for name, kind in log.types.items()])


@dataclass
class Produced:
    """Staged files of one cycle's files and what they hold."""

    staged_files: list[StagedFile] = field(default_factory=list)
    extracted: int = 0
    checked: dict[str, Checked] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    """Feature rows by view."""
    waiting: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)
    """Oldest and newest event time of the feature rows, by view."""
    superseded: list[Path] = field(default_factory=list)
    """Published files that some of the staged ones replace."""

    @property
    def late(self) -> dict[str, list[int]]:
        """By log, the `seq` of rows that were rejected before and are accepted now."""
        return {n: [s for _, s in c.resolved] for n, c in self.checked.items() if c.resolved}


class DataProcessor:
    """Extracts, checks and transforms inside a DuckDB workspace and stages files.

    Nothing it does is visible to a reader: publishing what is staged is the caller's.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, config: BatchConfig, progress: Progress
    ) -> None:
        self._connection = connection
        self._config = config
        self._progress = progress
        self._spans: Mapping[str, Span] = {}
        self._compiling: threading.Thread | None = None
        self.produced = Produced()

    def extract(self, readers: Mapping[str, ChangeLogReader], spans: Mapping[str, Span]) -> None:
        """Copy the changes within the spans into the workspace."""
        if any(span.upto > span.after for span in spans.values()):
            # Reading SQLite leaves a core idle; compiling takes a second, once per process.
            self._compiling = threading.Thread(target=_compile, daemon=True)
            self._compiling.start()
        self.produced.extracted = extract(
            self._connection,
            readers,
            spans,
            self._config.batch_size,
            lambda rows: self._progress("extract", rows),
        )

    def check(
        self, spans: Mapping[str, Span], cycle: int, rejected: Rejected | None = None
    ) -> None:
        """Type and check the changes; stage the quarantine, and what is kept of rejected rows."""
        self._spans = spans
        rejected = rejected or Rejected()
        self.produced.checked = check(self._connection, rejected)
        for log in LOGS:
            found = self.produced.checked[log.name]
            self._progress("check", found.accepted + found.rejected)
            if found.rejected:
                self._keep(self._quarantine(log, cycle))
            if found.resolved or found.given_up:
                lines = rejected.quarantine.get(log.table, ())
                for file, staged in brought_up_to_date(lines, found, cycle):
                    self.produced.superseded.append(file.path)
                    self._keep(staged)
            self._keep_rejected(log, cycle, rejected)

    def transform(self, created: datetime, cycle: int) -> None:
        """Stage the processed logs, compute the feature rows that the new changes affect, and stage
        the offline sources.

        They do not depend on each other, so two at a time are made: while one is written, which
        takes one core, another one is computed.
        """
        if self._compiling:
            self._compiling.join()
        with ThreadPoolExecutor(WORKERS) as pool:
            views = [pool.submit(self._view, view, created, cycle) for view in VIEWS]
            logs = [
                pool.submit(self._log, log, self._spans[log.database], cycle)
                for log in LOGS
                if self.produced.checked[log.name].accepted
                or self.produced.checked[log.name].resolved
            ]
            for staged in (*logs, *views):
                self._keep(staged.result())

    def _log(self, log: Log, span: Span, cycle: int) -> StagedFile | None:
        name = f"{log.name}_{span.after + 1:012d}-{span.upto:012d}.parquet"
        late = [seq for _, seq in self.produced.checked[log.name].resolved]
        if late:  # they lie before the span, which may be empty and come again
            name = f"{log.name}_{min(late):012d}-{span.upto:012d}_{cycle:08d}.parquet"
        with self._connection.cursor() as cursor:
            rows = cursor.execute(f"SELECT {columns(log)} FROM new_{log.name}")
            return write_parquet(
                self._config.processed_data_path / name,
                "log",
                log.name,
                log_schema(log),
                rows.to_arrow_reader(ROWS_PER_BATCH),
                "committed_at",
            )

    def _quarantine(self, log: Log, cycle: int) -> StagedFile:
        target = self._config.quarantine_path / log.table / f"{cycle:08d}.jsonl"
        lines = quarantine_lines(self._connection, log, cycle)
        return write_lines(target, QUARANTINE, log.table, lines)

    def _keep_rejected(self, log: Log, cycle: int, rejected: Rejected) -> None:
        found, files = self.produced.checked[log.name], rejected.files.get(log.name, ())
        whole = bool(found.resolved or found.given_up) or rejected.is_new_to(log)
        whole = whole or len(files) >= self._config.merge_files
        query = rest(self._connection, log, cycle, rejected, whole)
        if query:
            target = self._config.processed_data_path / FOLDER / f"{log.name}_{cycle:08d}.parquet"
            schema = pa.schema(
                [(n, ARROW_TYPES[kind]) for n, kind in (log.types | dict(KEPT_COLUMNS)).items()]
            )
            rows = self._connection.execute(query).to_arrow_reader(ROWS_PER_BATCH)
            self._keep(write_parquet(target, KIND, log.name, schema, rows, "committed_at"))
        if whole:
            self.produced.superseded += [file.path for file in files]

    def _view(self, view: View, created: datetime, cycle: int) -> StagedFile | None:
        target = self._config.offline_path / view.name / f"{view.name}_{cycle:08d}.parquet"
        with self._connection.cursor() as cursor:  # has temporary tables of its own
            reader = transform(cursor, view, created)
            if reader is None:
                return None

            def counted() -> Iterator[pa.RecordBatch]:
                for batch in reader:
                    self._progress("transform", batch.num_rows)
                    yield batch

            return write_parquet(target, "view", view.name, view.schema, counted(), EVENT_TIMESTAMP)

    def _keep(self, staged: StagedFile | None) -> None:
        if staged is None:
            return
        file = staged.file
        self.produced.staged_files.append(staged)
        if file.kind == "view" and file.min_time and file.max_time:
            self.produced.rows[file.name] = file.rows
            self.produced.waiting[file.name] = (file.min_time, file.max_time)


def _compile() -> None:
    for view in VIEWS:
        feature_sql(view.name)
