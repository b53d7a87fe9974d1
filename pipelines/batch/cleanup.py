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
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import duckdb

from pipelines.batch.transform import table_of
from pipelines.features.columns import EVENT_TIMESTAMP
from pipelines.features.views import LONGEST_WINDOW, VIEWS, VIEWS_BY_NAME
from pipelines.lake.publishing import compacted, publish, stage
from pipelines.lake.set_aside import remove_file
from pipelines.lake.state import PipelineState, PublishedFile
from pipelines.lake.verification import check_contents
from pipelines.lake.workspace import ROWS_PER_BATCH, quoted, read_files
from pipelines.settings import BatchConfig
from pipelines.tables.declare import Log
from pipelines.tables.known import LOGS

logger = logging.getLogger(__name__)

SIZE_CLASSES: Final = (2**19, 2**22, 2**25)
"""Bytes. Files of one class are merged with each other, so that a byte is rewritten once a class
and not once a merge; beyond the last a file is full."""
GRACE: Final = timedelta(minutes=15)


class Cleanup:
    """The cleaning of one cycle.

    Args:
        connection: a workspace.
        state: the pipeline's state.
        config: where files lie, and how long they are kept.
        cycle: the number of the cycle.
        now: UTC, naive.

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
            self._merge("log", log.name)
            self._expire(log)
        for view in VIEWS:
            self._merge("view", view.name)
        gone = self._state.superseded_before(self._now - GRACE)
        for path in gone:
            remove_file(path, self._config)
        self._state.forget_files(gone)
        self._state.forget_cycles(self._expiry)

    def _merge(self, kind: str, name: str) -> None:
        classes: dict[int, list[PublishedFile]] = {}
        for file in self._state.files(kind, name):
            if file.bytes < SIZE_CLASSES[-1] and not file.compacted:
                classes.setdefault(bisect(SIZE_CLASSES, file.bytes), []).append(file)
        for size, files in classes.items():
            if len(files) < self._config.merge_files:
                continue
            mark = f"m{self._cycle:08d}{size}"  # no other merge makes the same name
            # Rows of one key side by side compress best, and a log is read in its order.
            order = "seq"
            if kind == "view":
                order = ", ".join((*VIEWS_BY_NAME[name].keys, EVENT_TIMESTAMP))
            else:  # named by the changes it holds, like every processed log
                spans = [re.search(r"_(\d+)-(\d+)", file.path.stem) for file in files]
                seqs = sorted(number for span in spans if span for number in span.groups())
                mark = f"{seqs[0]}-{seqs[-1]}_{mark}"
            query = f"SELECT * FROM {read_files(files)} ORDER BY {order}"
            self._replace(files, query, mark)
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
        newest = f"row_number() OVER (PARTITION BY {quoted(log.key)} ORDER BY seq DESC) = 1"
        query = f"SELECT * FROM {read_files(old)} " + (
            f"QUALIFY {newest}" if log.keeps_newest else "WHERE FALSE"
        )
        self._replace(old, query, f"kept_{self._cycle:08d}", kept=True)
        logger.info("expired %d files of %s", len(old), log.name)

    def _replace(
        self, files: Sequence[PublishedFile], query: str, mark: str, *, kept: bool = False
    ) -> None:
        """Publish a query's rows in place of some files of one log or view."""
        check_contents(self._state, files, afresh=True)
        kind, name = files[0].kind, files[0].name
        file_name = f"{name}_{mark}.parquet"
        rows = self._connection.execute(query).to_arrow_reader(ROWS_PER_BATCH)
        replaced = [file.path for file in files]
        staged = stage([table_of(self._config, kind, name, file_name, rows, replaced)])
        if kept:
            staged = replace(staged, files=[compacted(file) for file in staged.files])
        publish(self._state, self._cycle, staged, self._now)
