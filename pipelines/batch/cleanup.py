"""Cleanup: merge small files, and drop what has expired.

Merging keeps the number of files, and so the cost of reading them, from growing with the number of
cycles. Merged files replace their sources in the state at once; the sources stay on disk for a
while, for a reader who has just listed them. Meanwhile such a reader may see a row twice, which a
point-in-time join does not mind: both copies are equal.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from pipelines.batch.processor import log_schema
from pipelines.batch.transform import ROWS_PER_BATCH
from pipelines.change_log.logs import LOGS, Log
from pipelines.features.views import EVENT_TIMESTAMP, LONGEST_WINDOW, VIEWS, VIEWS_BY_NAME
from pipelines.lake.files import StagedFile, compacted, write_parquet
from pipelines.lake.publish import publish
from pipelines.lake.set_aside import removed
from pipelines.lake.state import PipelineState, PublishedFile
from pipelines.lake.verification import check_contents
from pipelines.lake.workspace import read_files
from pipelines.settings import BatchConfig

logger = logging.getLogger(__name__)

SIZE_CLASSES: Final = (2**19, 2**22, 2**25)
"""Bytes. Files of one class are merged with each other, so that a byte is rewritten once a class
and not once a merge; beyond the last a file is full."""
GRACE: Final = timedelta(minutes=15)


class Cleanup:
    """The cleaning of one cycle.

    Raises:
        CorruptFileError: a file to be merged is not what was published.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        state: PipelineState,
        config: BatchConfig,
        cycle: int,
        now: datetime,
    ) -> None:
        self._connection = connection
        self._state = state
        self._config = config
        self._cycle = cycle
        self._now = now
        self._expiry = now - timedelta(days=config.retention_days)

    def run(self) -> None:
        """Merge, expire, and remove what nobody can be reading any more."""
        for log in LOGS:
            folder = self._config.processed_data_path
            self._merge("log", log.name, log_schema(log), "committed_at", folder)
            self._expire(log)
        for view in VIEWS:
            folder = self._config.offline_path / view.name
            self._merge("view", view.name, view.schema, EVENT_TIMESTAMP, folder)
        gone = self._state.superseded_before(self._now - GRACE)
        for path in gone:
            removed(path, self._config)
        self._state.forget_files(gone)
        self._state.forget_cycles(self._expiry)

    def _merge(
        self, kind: str, name: str, schema: pa.Schema, time: str | None, folder: Path
    ) -> None:
        classes: dict[int, list[PublishedFile]] = {}
        for file in self._state.files(kind, name):
            if file.bytes < SIZE_CLASSES[-1] and not file.compacted:
                classes.setdefault(bisect(SIZE_CLASSES, file.bytes), []).append(file)
        for size, files in classes.items():
            if len(files) >= self._config.merge_files:
                mark = f"m{self._cycle:08d}{size}"  # no other merge makes the same name
                self._merge_files(files, mark, kind, name, schema, time, folder)

    def _merge_files(
        self,
        files: Sequence[PublishedFile],
        mark: str,
        kind: str,
        name: str,
        schema: pa.Schema,
        time: str | None,
        folder: Path,
    ) -> None:
        # Rows of one key side by side compress best, and a log is read in its order.
        order = "seq" if kind == "log" else ", ".join(VIEWS_BY_NAME[name].keys) + f", {time}"
        target = folder / f"{name}_{mark}.parquet"
        if kind == "log":  # named by the changes it holds, like every processed log
            spans = [re.search(r"_(\d+)-(\d+)", file.path.stem) for file in files]
            seqs = sorted(number for span in spans if span for number in span.groups())
            target = folder / f"{name}_{seqs[0]}-{seqs[-1]}_{mark}.parquet"
        query = f"SELECT * FROM {read_files(files)} ORDER BY {order}"
        self._replace(files, query, target, kind, name, schema, time)
        logger.info("merged %d files of %s", len(files), name)

    def _expire(self, log: Log) -> None:
        """Keep, of changes too old for any window to be recomputed, the newest of each key."""
        if not log.expires:
            return
        horizon = self._expiry - LONGEST_WINDOW
        old = [
            file
            for file in self._state.files("log", log.name)
            if file.max_time is not None and file.max_time < horizon
        ]
        if all(file.compacted for file in old):
            return
        keep = ", ".join(log.keep_newest_by)
        newest = f"row_number() OVER (PARTITION BY {keep} ORDER BY seq DESC) = 1"
        query = f"SELECT * FROM {read_files(old)} " + (
            f"QUALIFY {newest}" if keep else "WHERE FALSE"
        )
        target = self._config.processed_data_path / f"{log.name}_kept_{self._cycle:08d}.parquet"
        self._replace(
            old, query, target, "log", log.name, log_schema(log), "committed_at", kept=True
        )
        logger.info("expired %d files of %s", len(old), log.name)

    def _replace(
        self,
        files: Sequence[PublishedFile],
        query: str,
        target: Path,
        kind: str,
        name: str,
        schema: pa.Schema,
        time: str | None,
        kept: bool = False,
    ) -> None:
        check_contents(self._state, files, afresh=True)
        rows = self._connection.execute(query).to_arrow_reader(ROWS_PER_BATCH)
        staged = write_parquet(target, kind, name, schema, rows, time)
        staged_files: list[StagedFile] = []
        if staged:
            staged_files.append(compacted(staged) if kept else staged)
        publish(
            self._state,
            self._cycle,
            staged_files,
            self._now,
            superseded=[file.path for file in files],
        )
