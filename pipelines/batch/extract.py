"""Extract: what the live databases have appended to their change logs since the last cycle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import duckdb

from pipelines.change_log.logs import LOGS, READING_ORDER
from pipelines.change_log.reader import ChangeLogReader

_CHANGES: Final = "seq BIGINT, table_name VARCHAR, op VARCHAR, row VARCHAR, committed_at VARCHAR"


@dataclass(frozen=True)
class Span:
    """The changes of one database that a cycle deals with: `after < seq <= upto`."""

    after: int
    upto: int


def plan(readers: Mapping[str, ChangeLogReader], positions: Mapping[str, int]) -> dict[str, Span]:
    """How far this cycle reads each database.

    Databases whose rows refer to others are bounded first, so that what they refer to lies within
    the others' bounds.
    """
    spans = {}
    for name in READING_ORDER:
        readers[name].check()
        after = positions.get(name, 0)
        spans[name] = Span(after, readers[name].bounds(after).last)
    return spans


def extract(
    connection: duckdb.DuckDBPyConnection,
    readers: Mapping[str, ChangeLogReader],
    spans: Mapping[str, Span],
    batch_size: int,
    progress: Callable[[int], None],
) -> int:
    """Copy the changes of all databases into one table per log: `raw_<log>`.

    Args:
        batch_size: rows per Arrow record batch; it bounds the memory in flight.
        progress: told how many changes were read, batch by batch.

    Returns:
        The number of changes read. Changes of tables that no log stands for are passed over.
    """
    for log in LOGS:
        connection.execute(f"CREATE OR REPLACE TABLE raw_{log.name} ({_CHANGES})")
    by_table = {(log.database, log.table): log.name for log in LOGS}
    total = 0
    for name, span in spans.items():
        tables = {table: log for (database, table), log in by_table.items() if database == name}
        for batch in readers[name].batches(span.after, span.upto, batch_size):
            connection.register("batch", batch)
            for table, log_name in tables.items():
                connection.execute(
                    f"INSERT INTO raw_{log_name} SELECT * FROM batch WHERE table_name = ?", [table]
                )
            connection.unregister("batch")
            total += batch.num_rows
            progress(batch.num_rows)
    return total
