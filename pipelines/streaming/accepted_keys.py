"""Which keys of a log to whose rows nothing refers have been accepted."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

import duckdb
import pyarrow as pa

from pipelines.streaming.hot_tables import HASH, insert
from pipelines.streaming.known_keys import keeps_keys
from pipelines.tables.declare import Log

ROWS_BUFFERED: Final = 20_000


def keeps_accepted(log: Log) -> bool:
    """Whether a deletion has to be looked up, and the keys are not remembered for references."""
    return log.changed_at is not None and not keeps_keys(log)


class AcceptedKeys:
    """The hashes of the keys that were inserted into one log; all streams may ask.

    They are many and asked for at deletions alone, so they lie in a table, 8 bytes each.

    Args:
        cursor: for the table `accepted_<log>`, under a lock of ours.
        log: the log.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection, log: Log) -> None:
        self._cursor = cursor
        self._lock = threading.Lock()
        self._buffered: list[int] = []
        self._table = f"accepted_{log.name}"
        cursor.execute(f"CREATE TABLE {self._table} ({HASH} UBIGINT)")

    def unknown(self, hashes: Iterable[int]) -> set[int]:
        """Those of the hashes under which nothing was inserted."""
        asked = set(hashes)
        with self._lock:
            self._flush()
            rows = self._cursor.execute(
                f"SELECT DISTINCT {HASH} FROM {self._table} WHERE {HASH} IN (SELECT unnest(?))",
                [list(asked)],
            ).fetchall()
        return asked - {row[0] for row in rows}

    def add(self, hashes: Iterable[int]) -> None:
        """Add keys."""
        with self._lock:
            self._buffered += hashes
            if len(self._buffered) > ROWS_BUFFERED:
                self._flush()

    def _flush(self) -> None:
        rows = pa.table({HASH: pa.array(self._buffered, pa.uint64())})
        insert(self._cursor, self._table, rows)
        self._buffered.clear()
