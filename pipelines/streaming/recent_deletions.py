"""The recent deletions of a log's rows: what comes after them did not happen before them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.features.columns import COMMITTED_AT
from pipelines.streaming.hot_tables import KEY_HASH
from pipelines.tables.declare import Log


def keeps_deletions(log: Log) -> bool:
    """Whether a log's changes have times of their own, which may lie before a deletion's."""
    return log.changed_at not in (None, COMMITTED_AT)


class RecentDeletions:
    """When rows of one log were deleted, by the hash of their key; all streams may ask.

    The same as `validation.deletions` does with all of history. Of deletions older than the hot
    window nothing need be known: a change that they put off is the batch flow's anyway.
    """

    def __init__(self, log: Log) -> None:
        self._at = str(log.changed_at)
        self._lock = threading.Lock()
        self._gone: dict[int, tuple[int, datetime]] = {}

    def date(self, rows: pa.Table) -> pa.Table:
        """Changes, each at the time of the deletion of its key that it follows, if that is later
        than its own."""
        hashes = rows[KEY_HASH].to_pylist()
        deletes = "D" in rows["op"].to_pylist()
        with self._lock:
            if not deletes and self._gone.keys().isdisjoint(hashes):
                return rows
            last, later = dict(self._gone), dict[int, datetime]()
        for h, seq, op, at in self._listed(rows.sort_by("seq")):
            before, gone_at = last.get(h, (seq, at))
            if before < seq and gone_at > at:
                later[seq] = at = gone_at
            if op == "D":
                last[h] = (seq, at)
        if not later:
            return rows
        pairs = zip(rows["seq"].to_pylist(), rows[self._at].to_pylist(), strict=True)
        times = pa.array([later.get(seq, at) for seq, at in pairs], pa.timestamp("us"))
        return rows.set_column(rows.column_names.index(self._at), self._at, times)

    def add(self, rows: pa.Table) -> None:
        """Keep the deletions among changes that have their right times."""
        gone = rows.filter(pc.equal(rows["op"], "D"))
        if gone.num_rows:
            with self._lock:
                self._gone.update({h: (seq, at) for h, seq, _, at in self._listed(gone)})

    def forget(self, before: datetime) -> None:
        """Drop the deletions before an event time."""
        with self._lock:
            self._gone = {h: known for h, known in self._gone.items() if known[1] >= before}

    def _listed(self, rows: pa.Table) -> Iterator[tuple[Any, ...]]:
        names = (KEY_HASH, "seq", "op", self._at)
        return zip(*(rows[name].to_pylist() for name in names), strict=True)
