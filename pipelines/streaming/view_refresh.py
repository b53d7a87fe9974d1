"""Refreshing a view: the newest rows of the touched keys, to the cache and the online store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from itertools import islice
from typing import Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.created_clock import CreatedClock
from pipelines.errors import RedisRefusedError, RedisUnavailableError
from pipelines.features import FeatureEngineer
from pipelines.features.views import CREATED_TIMESTAMP, EVENT_TIMESTAMP, View
from pipelines.streaming.hot_tables import HASH, hash_of, insert
from pipelines.streaming.hot_window import HotWindow

KEYS_AT_ONCE: Final = 2_000
AWAY: Final = (RedisUnavailableError, RedisRefusedError)


class Sink(Protocol):
    """Where feature rows go."""

    def ready(self) -> bool:
        """Whether a write is worth trying."""

    def write(self, view: View, rows: pa.Table) -> None:
        """Write rows of the view's schema.

        Raises:
            RedisUnavailableError, RedisRefusedError: they are not written; trying again may help.
        """


class ViewRefresh:
    """Computes and writes one view; several streams may ask for it, one after another.

    What could not be written to the online store is owed: the keys are remembered, and their rows
    computed anew when it is back. A row's created time is taken when the window is looked at, so
    that of two rows the one with the later created time knows everything that the other knew.
    While a stream lags, its rows count as created where it stands, for the batch flow may know more
    by now; they are computed once more when it has caught up.

    Args:
        known_until: until when the window knows all that was committed; None: until now.
    """

    def __init__(
        self,
        window: HotWindow,
        view: View,
        created: CreatedClock,
        known_until: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        self.view = view
        self.rows_written = 0
        self._window = window
        self._created = created
        self._known_until = known_until
        self._latest: datetime | None = None
        self._lock = threading.Lock()
        self._touching = threading.Lock()
        self._touched: set[int] = set()
        self._owed: set[int] = set()
        self._of_the_past: set[int] = set()
        self._cursor = window.cursor()
        self._cursor.execute(f"SET schema = '{view.name}'")
        keys = hash_of(view.keys)
        names = ", ".join(f'"{n}"' for n in view.schema.names if n != CREATED_TIMESTAMP)
        query = FeatureEngineer(self._cursor).query(view.name, newest=True)
        # Without a parameter, which would have it planned anew each time.
        self._cursor.execute(
            f"PREPARE newest AS SELECT {names} FROM ({query}) "
            f"WHERE {keys} IN (SELECT {HASH} FROM doing)"
        )

    @property
    def owes(self) -> bool:
        """Whether the online store is owed rows."""
        return bool(self._owed)

    @property
    def behind(self) -> bool:
        """Whether rows written while a stream lagged can be computed once more now."""
        return bool(self._of_the_past) and self._known_until() is None

    def touch(self, hashes: set[int]) -> None:
        """The keys with these hashes have to be computed anew."""
        with self._touching:
            self._touched |= hashes

    def refresh(self, cache: Callable[[View, pa.Table], None], online: Sink) -> None:
        """Compute and write what was touched, and what is owed if the online store is ready.

        Raises:
            RedisUnavailableError, RedisRefusedError: the online store is owed what was touched.
        """
        with self._lock:
            ready = online.ready()
            with self._touching:
                doing, self._touched = self._touched, set()
            if ready:
                doing |= self._owed
                if self.behind:
                    doing.update(islice(self._of_the_past, KEYS_AT_ONCE))
            if not doing:
                return
            until = self._known_until()
            try:
                rows = self._compute(doing, until)
                if rows.num_rows:
                    cache(self.view, rows)
                    if ready:
                        online.write(self.view, rows)
            except BaseException:
                self._owed |= doing
                raise
            if ready and until is None:
                self._of_the_past -= doing
            elif ready:
                self._of_the_past |= doing
            if ready:
                self._owed.clear()
                self.rows_written += rows.num_rows
            else:
                self._owed |= doing

    def _compute(self, hashes: set[int], until: datetime | None) -> pa.Table:
        self._cursor.begin()
        self._cursor.execute("DELETE FROM doing")
        insert(self._cursor, "doing", pa.table({HASH: pa.array(list(hashes), pa.uint64())}))
        self._cursor.commit()
        # Both looked at before the window is: what comes between belongs to the next time.
        edge = pa.scalar(self._window.edge(self.view), pa.timestamp("us"))
        created = (
            self._created.next()
            if until is None
            else self._created.of_the_past(until, self._latest)
        )
        self._latest = created
        rows = self._cursor.execute("EXECUTE newest").to_arrow_table()
        rows = rows.filter(pc.greater_equal(rows[EVENT_TIMESTAMP], edge))
        column = pa.repeat(pa.scalar(created, pa.timestamp("us")), rows.num_rows)
        return rows.append_column(CREATED_TIMESTAMP, column).cast(self.view.schema)
