"""DataProcessor: the data side of one cycle, from change logs to drafts of files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import duckdb
import pyarrow as pa

from pipelines.batch.check import Checked, check, quarantine_lines
from pipelines.batch.extract import Span, extract
from pipelines.batch.files import Draft, write_lines, write_parquet
from pipelines.batch.transform import ROWS_PER_BATCH, transform
from pipelines.batch.workspace import columns
from pipelines.change_log.logs import LOGS, Log
from pipelines.change_log.reader import ChangeLogReader
from pipelines.features.views import EVENT_TIMESTAMP, VIEWS, View
from pipelines.settings import BatchConfig

_ARROW_TYPES: Final = {
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "DECIMAL(10,2)": pa.decimal128(10, 2),
    "VARCHAR": pa.string(),
    "TIMESTAMP": pa.timestamp("us"),
    "VARCHAR[]": pa.list_(pa.string()),
}

Progress = Callable[[str, int], None]
"""Told the name of what is being done and how many more rows of it are done."""


def log_schema(log: Log) -> pa.Schema:
    """The Arrow schema of a processed log's files."""
    return pa.schema([(name, _ARROW_TYPES[kind]) for name, kind in log.types.items()])


@dataclass
class Produced:
    """Drafts of one cycle's files and what they hold."""

    drafts: list[Draft] = field(default_factory=list)
    extracted: int = 0
    checked: dict[str, Checked] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    """Feature rows by view."""
    waiting: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)
    """Oldest and newest event time of the feature rows, by view."""


class DataProcessor:
    """Extracts, checks and transforms inside a DuckDB workspace and writes drafts.

    Nothing it does is visible to a reader: publishing the drafts is the caller's.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, config: BatchConfig, progress: Progress
    ) -> None:
        self._connection = connection
        self._config = config
        self._progress = progress
        self.produced = Produced()

    def extract(self, readers: Mapping[str, ChangeLogReader], spans: Mapping[str, Span]) -> None:
        """Copy the changes within the spans into the workspace."""
        self.produced.extracted = extract(
            self._connection,
            readers,
            spans,
            self._config.batch_size,
            lambda rows: self._progress("extract", rows),
        )

    def check(self, spans: Mapping[str, Span], cycle: int) -> None:
        """Type and check the changes; draft the processed logs and the quarantine."""
        self.produced.checked = check(self._connection)
        for log in LOGS:
            found = self.produced.checked[log.name]
            self._progress("check", found.accepted + found.refused)
            if found.accepted:
                self._draft_log(log, spans[log.database])
            if found.refused:
                self._draft_quarantine(log, cycle)

    def transform(self, created: datetime, cycle: int) -> None:
        """Compute the feature rows that the new changes touch; draft the offline sources."""
        for view in VIEWS:
            reader = transform(self._connection, view, created)
            if reader is not None:
                self._draft_view(view, reader, cycle)

    def _draft_log(self, log: Log, span: Span) -> None:
        name = f"{log.name}_{span.after + 1:012d}-{span.upto:012d}.parquet"
        rows = self._connection.execute(f"SELECT {columns(log)} FROM new_{log.name} ORDER BY seq")
        self._keep(
            write_parquet(
                self._config.processed_data_path / name,
                "log",
                log.name,
                log_schema(log),
                rows.to_arrow_reader(ROWS_PER_BATCH),
                "committed_at",
            )
        )

    def _draft_quarantine(self, log: Log, cycle: int) -> None:
        target = self._config.quarantine_path / log.table / f"{cycle:08d}.jsonl"
        lines = quarantine_lines(self._connection, log, cycle)
        self._keep(write_lines(target, "quarantine", log.table, lines))

    def _draft_view(self, view: View, reader: pa.RecordBatchReader, cycle: int) -> None:
        def counted() -> Iterator[pa.RecordBatch]:
            for batch in reader:
                self._progress("transform", batch.num_rows)
                yield batch

        target = self._config.offline_path / view.name / f"{view.name}_{cycle:08d}.parquet"
        draft = write_parquet(target, "view", view.name, view.schema, counted(), EVENT_TIMESTAMP)
        self._keep(draft)
        if draft and draft.file.min_time and draft.file.max_time:
            self.produced.rows[view.name] = draft.file.rows
            self.produced.waiting[view.name] = (draft.file.min_time, draft.file.max_time)

    def _keep(self, draft: Draft | None) -> None:
        if draft is not None:
            self.produced.drafts.append(draft)
