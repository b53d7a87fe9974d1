"""Extract: the changes appended to the live databases' change logs since the last cycle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import duckdb
import pyarrow as pa

from pipelines.change_log.offsets import Offset
from pipelines.change_log.reader import RAW_COLUMNS, SCHEMA, ChangeLogReader
from pipelines.settings import DATABASE_NAMES, DataConfig
from pipelines.tables.known import READING_ORDER, logs_of

READ_AT_ONCE: Final = 2
"""Reading SQLite takes one core."""
LONG_SPAN: Final = 100_000
"""Changes; so many are read in two halves at once."""


@dataclass(frozen=True)
class Span:
    """The changes of one database that a cycle reads: `after < seq <= end.seq`."""

    after: int
    end: Offset

    @property
    def upto(self) -> int:
        """The last change."""
        return self.end.seq


def readers_of(data: DataConfig) -> dict[str, ChangeLogReader]:
    """A reader of each live database's change log."""
    return {
        name: ChangeLogReader(name, data.database_url(name), data.busy_timeout)
        for name in DATABASE_NAMES
    }


def plan(
    readers: Mapping[str, ChangeLogReader],
    offsets: Mapping[str, Offset],
    streamed: Mapping[str, Offset] | None = None,
) -> dict[str, Span]:
    """How far this cycle reads each database.

    Databases whose rows refer to others are bounded first, so that the rows they refer to lie
    within the others' bounds.

    Args:
        readers: a reader per database.
        offsets: the batch flow's offset in each change log.
        streamed: the streamer's, which may be ahead; used to detect that a log was replaced.

    Raises:
        LiveDatabaseError: a database breaks the contract, or its log is not the one read before.
    """
    spans = {}
    for name in READING_ORDER:
        readers[name].check()
        after = offsets.get(name, Offset(0))
        ahead = (streamed or {}).get(name, Offset(0))
        known = [after, ahead] if ahead.seq > after.seq else [after]
        spans[name] = Span(after.seq, readers[name].end(*known))
    return spans


def read(
    connection: duckdb.DuckDBPyConnection,
    readers: Mapping[str, ChangeLogReader],
    spans: Mapping[str, Span],
    batch_size: int,
    progress: Callable[[int], None],
    unread: Mapping[str, int] | None = None,
) -> int:
    """Copy the changes of all databases into the workspace: one relation per log, `raw_<log>`.

    Args:
        connection: the workspace.
        readers: a reader per database.
        spans: the changes to read, by database.
        batch_size: rows per Arrow record batch; it bounds the memory in flight.
        progress: callback with the number of changes in each batch.
        unread: logs whose changes the spans pass over, with the last one that was read: those up to
            the spans' beginnings are read as well.

    Returns:
        The number of changes read. Changes of tables without a log are skipped.
    """
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        found = []
        for name, span in spans.items():
            _make_empty(connection, name)
            found += [
                pool.submit(_copy, connection.cursor(), name, batches, progress)
                for batches in _parts(readers[name], span, batch_size, unread or {})
            ]
        return sum(copied.result() for copied in found)


def _make_empty(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    connection.execute(f"CREATE OR REPLACE TABLE changes_{name} ({RAW_COLUMNS})")
    for log in logs_of(name):
        connection.execute(
            f"CREATE OR REPLACE VIEW raw_{log.name} AS "
            f"SELECT * FROM changes_{name} WHERE table_name = '{log.table}'"
        )


def _parts(
    reader: ChangeLogReader, span: Span, size: int, unread: Mapping[str, int]
) -> Iterator[Iterator[pa.RecordBatch]]:
    """What is read of one database, in parts that may be read at once."""
    for log in logs_of(reader.name):
        if log.name in unread:
            yield reader.batches(unread[log.name], span.after, size, log.table)
    middle = span.after
    if span.upto - span.after >= LONG_SPAN:
        middle += (span.upto - span.after) // 2
        yield reader.batches(span.after, middle, size)
    yield reader.batches(middle, span.upto, size)


def _copy(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    batches: Iterator[pa.RecordBatch],
    progress: Callable[[int], None],
) -> int:
    with connection:
        changes = _Changes(batches, progress)
        # One statement per database: committing one per batch costs more than reading.
        connection.register("changes", pa.RecordBatchReader.from_batches(SCHEMA, changes))
        try:
            connection.execute(f"INSERT INTO changes_{name} SELECT * FROM changes")
        except duckdb.Error:
            if changes.failure is not None:
                raise changes.failure from None
            raise
        return changes.rows


class _Changes:
    """Record batches for DuckDB; keeps a failure, which DuckDB would wrap in its own error."""

    def __init__(self, batches: Iterator[pa.RecordBatch], progress: Callable[[int], None]) -> None:
        self._batches = batches
        self._progress = progress
        self.rows = 0
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches:
                self.rows += batch.num_rows
                self._progress(batch.num_rows)
                yield batch
        except BaseException as error:
            self.failure = error
            raise
