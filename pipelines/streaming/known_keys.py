"""Which keys of a log are known: for references to them, and to notice what comes twice."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.change_log.logs import LOGS, Log
from pipelines.streaming.hot_tables import insert

CONFIRMED_KEPT: Final = 100_000
PARENTS: Final = frozenset(name for log in LOGS for name in log.references.values())


def keeps_keys(log: Log) -> bool:
    """Whether a log's keys are remembered: for references, or to refuse repetitions."""
    return log.append_only or log.name in PARENTS


class KnownKeys:
    """The keys of one log, in the hot window's table `keys_<log>`; all streams may ask.

    Keys that were asked for are remembered apart, up to a bound, as most are asked for again soon.
    Asking sees what was committed; what the asking stream has added since is its own to know.

    Args:
        cursor: for asking, under a lock of ours.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection, log: Log) -> None:
        self.log = log
        self.table = f"keys_{log.name}"
        self._cursor = cursor
        self._lock = threading.Lock()
        self._confirmed: set[Any] = set()
        self._largest: Any = None
        key = log.types[log.key[0]]
        cursor.execute(
            f"CREATE TABLE {self.table} (h UBIGINT, key {key}, op VARCHAR, since TIMESTAMP)"
        )

    def unknown(self, values: Iterable[Any]) -> set[Any]:
        """Those of the values, nulls apart, that are not known."""
        with self._lock:
            rest = {value for value in values if value is not None} - self._confirmed
            if not rest:
                return rest
            rows = self._cursor.execute(
                f"SELECT key FROM {self.table} WHERE key IN (SELECT unnest(?))", [list(rest)]
            ).fetchall()
            found = {row[0] for row in rows}
            self._confirm(found)
            return rest - found

    def are_new(self, keys: pa.ChunkedArray) -> bool:
        """Whether the keys are surely new and differ: all larger than any that was ever known.

        Keys that count upwards are told to be new at once; of others the answer is no.
        """
        if len(keys) == 0:
            return True
        with self._lock:
            largest = self._largest
        if largest is not None and pc.min(keys).as_py() <= largest:
            return False
        return int(pc.count_distinct(keys).as_py()) == len(keys)

    def add(self, cursor: duckdb.DuckDBPyConnection, rows: pa.Table) -> None:
        """Add keys in a transaction of the caller's; `committed` ends it.

        Args:
            rows: hash, key, op and event time, a row per key that is not known.
        """
        insert(cursor, self.table, rows)

    def committed(self, keys: Sequence[Any]) -> None:
        """Take note that keys were added to the table."""
        with self._lock:
            self._confirm(keys)
            if self.log.append_only and keys:
                largest = max(keys)
                if self._largest is None or largest > self._largest:
                    self._largest = largest

    def learn_largest(self) -> None:
        """Look up the largest key, after the table was filled."""
        with self._lock:
            found = self._cursor.execute(f"SELECT max(key) FROM {self.table}").fetchone()
            self._largest = found[0] if found else None

    def forget(self, before: datetime) -> None:
        """Drop keys that came before an event time."""
        with self._lock:
            gone = self._cursor.execute(
                f"DELETE FROM {self.table} WHERE since < ? RETURNING key", [before]
            ).fetchall()
            self._confirmed.difference_update(row[0] for row in gone)

    def _confirm(self, keys: Iterable[Any]) -> None:
        if len(self._confirmed) > CONFIRMED_KEPT:
            self._confirmed.clear()
        self._confirmed.update(keys)
