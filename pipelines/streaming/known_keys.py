"""Which keys of a log are known: for references to them, and to notice what comes twice."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.streaming.hot_tables import HASH, hash_of, insert
from pipelines.streaming.key_ranges import KeyRanges
from pipelines.tables.declare import Log
from pipelines.tables.known import LOGS

ROWS_BUFFERED: Final = 20_000
PARENTS: Final = frozenset(name for log in LOGS for name in log.references.values())


def keeps_keys(log: Log) -> bool:
    """Whether a log's keys are remembered: for references, or to notice what comes twice."""
    return log.append_only or log.name in PARENTS


class KnownKeys:
    """The keys of one log; all streams may ask.

    Keys of things that others refer to again and again lie in a dictionary: for a few keys that is
    a hundred times quicker than a join. Keys of facts are many and asked for rarely, mostly it is
    enough that they are larger than all before: they lie in the table `keys_<log>`.

    Of what is forgotten the keys of facts that are there stay known, and of other things the
    hashes: what comes again is not new.

    Args:
        cursor: for the table, under a lock of ours.
        log: the log.
    """

    def __init__(self, cursor: duckdb.DuckDBPyConnection, log: Log) -> None:
        self.log = log
        self._cursor = cursor
        self._lock = threading.Lock()
        self._since: dict[Any, datetime | None] = {}
        self._begun: dict[int, datetime] = {}
        self._largest: Any = None
        self._buffered: list[pa.Table] = []
        self._updated: list[pa.Table] = []
        self._rows_buffered = 0
        self._forgotten = KeyRanges(np.int64 if log.append_only else np.uint64)
        self._deleted: dict[Any, int] = {}
        self.rejected: set[Any] = set()
        """Of facts: keys of which rows were rejected for good, since their last deletion."""
        self.deferred: set[Any] = set()
        """Of facts: keys of which a row waits for the batch flow or for its parent."""
        self._table = f"keys_{log.name}"
        if log.append_only:
            key = log.types[log.key[0]]
            cursor.execute(f"CREATE TABLE {self._table} (key {key}, since TIMESTAMP)")

    def unknown(self, values: Iterable[Any]) -> set[Any]:
        """Those of the values, nulls apart, that are not known."""
        asked = {value for value in values if value is not None}
        with self._lock:
            if not self.log.append_only:
                return {value for value in asked if value not in self._since}
            old = {v for v in asked if self._largest is not None and v <= self._largest}
            if not old:
                return asked
            self._flush()
            return asked - self._listed(old) - {v for v in old if v in self._forgotten}

    def alive(self, values: Iterable[Any]) -> set[Any]:
        """Those of the values that are known and were not deleted since."""
        asked = {value for value in values if value is not None}
        known = asked - self.unknown(asked)
        return {value for value in known if value not in self._deleted}

    def note_deletions(self, seqs: Iterable[int], ops: Iterable[str], keys: Iterable[Any]) -> None:
        """Take note of which facts were deleted, and whose key another one has then.

        Args:
            seqs: of changes, in the order of the log.
            ops: their operations.
            keys: their keys.
        """
        for seq, op, key in zip(seqs, ops, keys, strict=True):
            if op == "D":
                self._deleted[key] = max(seq, self._deleted.get(key, seq))
            elif key in self._deleted and self._deleted[key] < seq:
                del self._deleted[key]

    @property
    def has_deletions(self) -> bool:
        """Whether any fact was deleted."""
        return bool(self._deleted)

    def are_new(self, keys: pa.ChunkedArray) -> bool:
        """Whether the keys are surely new and differ: all larger than any that was ever known.

        The fast path for keys that count upwards; of others, and of a highest key that is used
        again after its deletion, the answer is no.
        """
        if len(keys) == 0:
            return True
        if self._largest is not None and pc.min(keys).as_py() <= self._largest:
            return False
        return int(pc.count_distinct(keys).as_py()) == len(keys)

    def began_since(self, key_hash: int, time: datetime) -> bool:
        """Whether the key with this hash was inserted, in event time, at `time` or later."""
        began = self._begun.get(key_hash)
        return began is not None and began >= time

    def not_begun(self, hashes: Iterable[int]) -> None:
        """Not all that was ever reported on the keys with these hashes is at hand."""
        with self._lock:
            for h in hashes:
                self._begun.pop(h, None)

    def begun(self, time: datetime) -> list[int]:
        """The hashes of the keys of which `began_since` is true."""
        return [h for h, began in self._begun.items() if began >= time]

    def add(self, rows: pa.Table) -> None:
        """Add keys; those that are known stay as they are.

        Args:
            rows: hash, key, op and event time (null where the log has none), earliest first.
        """
        with self._lock:
            if self.log.append_only:
                self._add_facts(rows)
                return
            for h, key, op, since in zip(*(c.to_pylist() for c in rows.columns), strict=True):
                if key not in self._since:
                    self._since[key] = since
                    if op == "I" and since is not None and h not in self._forgotten:
                        self._begun[h] = since

    def add_forgotten(self, values: Any) -> None:
        """Add what was forgotten long ago: keys of facts, of other things the hashes."""
        with self._lock:
            self._forgotten.add(values)
            if self.log.append_only:
                known = [v for v in (self._largest, self._forgotten.largest) if v is not None]
                self._largest = max(known, default=None)

    def forget(self, before: datetime) -> None:
        """Drop keys that came before an event time."""
        with self._lock:
            if self.log.append_only:
                self._flush()
                gone = self._cursor.execute(
                    f"DELETE FROM {self._table} WHERE since < ? RETURNING key", [before]
                ).fetchnumpy()
                self._forgotten.add(gone["key"])
                if self._deleted:
                    kept = self._listed(self._deleted)
                    self._forgotten.remove([key for key in self._deleted if key not in kept])
                    self._deleted = {k: seq for k, seq in self._deleted.items() if k in kept}
                return
            old = [key for key, since in self._since.items() if since and since < before]
            if old:
                key = self.log.key[0]
                hashes = self._cursor.execute(
                    f"SELECT {hash_of(self.log.key)} AS {HASH} FROM "
                    f'(SELECT unnest(CAST(? AS {self.log.types[key]}[])) AS "{key}")',
                    [old],
                ).fetchnumpy()
                self._forgotten.add(hashes[HASH])
            for key in old:
                del self._since[key]
            for h in [h for h, began in self._begun.items() if began < before]:
                del self._begun[h]

    def _add_facts(self, rows: pa.Table) -> None:
        if rows.num_rows == 0:
            return
        largest = pc.max(rows["key"]).as_py()
        if self._largest is None or largest > self._largest:
            self._largest = largest
        updated = pc.equal(rows["op"], "U")
        for buffer, mask in ((self._buffered, pc.invert(updated)), (self._updated, updated)):
            if pc.any(mask).as_py():
                buffer.append(rows.filter(mask).select(["key", "since"]))
        self._rows_buffered += rows.num_rows
        if self._rows_buffered > ROWS_BUFFERED:
            self._flush()

    def _flush(self) -> None:
        self._rows_buffered = 0
        if self._buffered:
            insert(self._cursor, self._table, pa.concat_tables(self._buffered).combine_chunks())
            self._buffered.clear()
        if self._updated:
            rows = pa.concat_tables(self._updated).group_by("key").aggregate([("since", "min")])
            self._updated.clear()
            # Mostly all of them are there; the others were before they were ever reported.
            keys = rows["key"].to_pylist()
            there = self._listed(keys) | {k for k in keys if k in self._forgotten}
            if len(there) < len(keys):
                known = pa.array(list(there), rows["key"].type)
                rows = rows.filter(pc.invert(pc.is_in(rows["key"], known)))
                insert(self._cursor, self._table, rows.select(["key", "since_min"]))

    def _listed(self, keys: Iterable[Any]) -> set[Any]:
        """Those of the keys that are in the table."""
        query = f"SELECT DISTINCT key FROM {self._table} WHERE key IN (SELECT unnest(?))"
        return {row[0] for row in self._cursor.execute(query, [list(keys)]).fetchall()}
