"""What is late: watermarks follow the newest event times, and tell late changes from others.

A view's rows are exact here from its watermark on: `allowed_lateness` before the newest event time
of its logs. A change before it is late: its rows are deferred to the batch flow, which sees
all of history.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.features.views import VIEWS, View
from pipelines.streaming.hot_tables import BEGINNING, TIMES, back, feeds, source_of
from pipelines.tables.declare import Log


class Watermarks:
    """The watermark of each view; streams share them.

    Args:
        allowed_lateness: how far behind the newest event time a watermark is.
    """

    def __init__(self, allowed_lateness: timedelta) -> None:
        self._lateness = allowed_lateness
        self._newest: dict[str, datetime] = {}
        self._watermarks = dict.fromkeys((view.name for view in VIEWS), BEGINNING)
        self._lock = threading.Lock()

    def see(self, log: str, newest: datetime | None) -> None:
        """Take note of an event time of a log."""
        if newest is None:
            return
        with self._lock:
            self._newest[log] = max(newest, self._newest.get(log, BEGINNING))

    def advance(self) -> None:
        """Follow the newest event times; what lies before a watermark may be evicted then."""
        for view in VIEWS:
            with self._lock:
                newest = [self._newest.get(source.log, BEGINNING) for source in view.sources]
            watermark = self._of_newest(max(newest))
            self._watermarks[view.name] = max(watermark, self._watermarks[view.name])

    def of(self, view: View) -> datetime:
        """The event time from which on the view's newest rows are exact."""
        return self._watermarks[view.name]

    def of_log(self, log: str) -> datetime:
        """The event time before which a log's changes make no exact row of any view; of a log that
        no group reads, before which its changes are late."""
        found = [self.of(view) for view in VIEWS if source_of(view, log)]
        return min(found) if found else self._of_newest(self._newest.get(log, BEGINNING))

    def horizons(self) -> dict[str, datetime]:
        """By log, the event time before which no window needs its changes."""
        found: dict[str, datetime] = {}
        for view in VIEWS:
            for source in view.sources:
                horizon = back(self.of(view), source.lookback or 0)
                found[source.log] = min(horizon, found.get(source.log, horizon))
        return {name: self.of_log(name) for name in TIMES} | found

    def _of_newest(self, newest: datetime) -> datetime:
        return max(BEGINNING, newest - self._lateness)


def late_changes(log: Log, rows: pa.Table, watermarks: Mapping[str, datetime]) -> list[int]:
    """`seq` of the changes that are older than what is exact in a view that they matter to.

    Args:
        log: the log.
        rows: its good changes, with a flag `feeds(view)` for each of its views.
        watermarks: by view.
    """
    late = [
        pc.and_(rows[feeds(view)], before(log, rows, watermarks[view.name]))
        for view in VIEWS
        if source_of(view, log.name)
    ]
    if not late or not rows.num_rows:
        return []
    found: list[int] = rows.filter(reduce(pc.or_, late))["seq"].to_pylist()
    return found


def before(log: Log, rows: pa.Table, time: datetime) -> pa.ChunkedArray:
    """(N,) flags: whether a change's event time lies before a time.

    Args:
        log: the log.
        rows: (N,) its changes.
        time: UTC, naive.
    """
    early = pc.less(rows[TIMES[log.name]], pa.scalar(time, pa.timestamp("us")))
    return pc.fill_null(early, False)
