"""Refreshing a view: the newest rows of the affected keys, to the cache and the online store."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice
from typing import Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import RedisRefusedError, RedisUnavailableError, said
from pipelines.features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from pipelines.features.views import View
from pipelines.lake.hybrid_clock import HybridClock
from pipelines.lake.workspace import quoted
from pipelines.printable import counted
from pipelines.streaming.hot_tables import HASH, hash_of, insert
from pipelines.streaming.hot_window import HotWindow

logger = logging.getLogger(__name__)

KEYS_AT_ONCE: Final = 2_000
MOST_FAILED_WRITES: Final = 7
"""So many in a row, each of fewer keys, and all keys stay pending."""
AWAY: Final = (RedisUnavailableError, RedisRefusedError)


class Sink(Protocol):
    """Where feature rows go."""

    def ready(self) -> bool:
        """Whether a write is worth trying."""

    def write(self, view: View, rows: pa.Table) -> None:
        """Write rows of the view's schema.

        Raises:
            RedisUnavailableError, RedisRefusedError: no row can be written just now.
            Exception: these rows cannot be written; perhaps fewer of them can.
        """


class ViewRefresh:
    """Computes and writes one view; several streams may ask for it, one after another.

    What could not be written to the online store, whatever the reason, is pending: the keys are
    remembered, and their rows computed anew as soon as that is worth trying. Keys that fail where
    others succeed are set apart, so that they hold nobody up; they are tried again now and then,
    and count as pending until the batch flow has put their rows online. A row's created timestamp
    is taken when the window is looked at, so that of two rows the one with the later created
    timestamp knows everything that the other knew. While a stream lags, its rows count as created
    where it stands, for the batch flow may know more by now; they are computed once more when it
    has caught up.

    Args:
        window: shared by all streams.
        view: the view.
        created: the clock of created timestamps.
        known_until: until when the window knows all that was committed; None: until now.
        absorbed: up to which `seq` the window holds the view's changes, by database.
    """

    def __init__(
        self,
        window: HotWindow,
        view: View,
        created: HybridClock,
        known_until: Callable[[], datetime | None] = lambda: None,
        absorbed: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self.view = view
        self.rows_written = 0
        self.last_error: str | None = None
        self._window = window
        self._created = created
        self._known_until = known_until
        self._absorbed = absorbed
        self._latest: datetime | None = None
        self._lock = threading.Lock()
        self._marking = threading.Lock()
        self._affected: set[int] = set()
        self._pending_keys: set[int] = set()
        self._apart: dict[int, Mapping[str, int]] = {}
        self._try_apart = False
        self._of_the_past: set[int] = set()
        self._cursor = window.cursor()
        self._cursor.execute(f"SET schema = '{view.name}'")
        keys = hash_of(view.keys)
        names = quoted(name for name in view.schema.names if name != CREATED_TIMESTAMP)
        query = view.query(newest=True)
        # Without a parameter, which would have it planned anew each time.
        self._cursor.execute(
            f"PREPARE newest AS SELECT {names} FROM ({query}) "
            f"WHERE {keys} IN (SELECT {HASH} FROM doing)"
        )

    @property
    def pending(self) -> bool:
        """Whether rows wait to be written to the online store."""
        return bool(self._pending_keys or self._affected)

    @property
    def set_apart(self) -> int:
        """How many keys' rows could not be written where others' could."""
        return len(self._apart)

    @property
    def unwritten(self) -> bool:
        """Whether the online store lacks rows that only this view remembers."""
        return self.pending or bool(self._apart)

    @property
    def behind(self) -> bool:
        """Whether rows written while a stream lagged can be computed once more now."""
        return bool(self._of_the_past) and self._known_until() is None

    def mark_affected(self, hashes: set[int]) -> None:
        """The keys with these hashes have to be computed anew."""
        with self._marking:
            self._affected |= hashes

    def confirm(self, online: Mapping[str, int]) -> None:
        """Forget keys set apart whose rows the batch flow has put online; the rest is tried again.

        Args:
            online: up to which `seq` its rows are online, by database.
        """
        with self._lock:
            self._apart = {
                key: upto
                for key, upto in self._apart.items()
                if any(online.get(name, 0) < seq for name, seq in upto.items())
            }
            self._try_apart = bool(self._apart)

    def refresh(self, cache: Callable[[View, pa.Table], None], online: Sink) -> None:
        """Compute and write what was affected, and what is pending if the online store is ready.

        Raises:
            RedisUnavailableError, RedisRefusedError: what was affected is pending. No other error
                is raised: it is said, and the keys that it concerns are pending.
        """
        with self._lock:
            ready = online.ready()
            with self._marking:
                doing, self._affected = self._affected, set()
            if ready:
                doing |= self._pending_keys
                if self.behind:
                    doing.update(islice(self._of_the_past, KEYS_AT_ONCE))
            again = self._apart.keys() - doing if ready and self._try_apart else set()
            self._pending_keys |= doing
            doing |= again
            if not doing:
                return
            parts, alone, failed, written = deque([doing]), set[int](), 0, False
            while parts:
                part = parts.popleft()
                try:
                    self._write(part, cache, online, ready)
                except AWAY:
                    raise
                except Exception as error:  # whatever it is, other keys and views go on
                    self._failed(part, error)
                    failed += 1
                    if len(part) == 1:
                        alone |= part
                    elif written or failed < MOST_FAILED_WRITES:
                        keys = list(part)
                        parts += [set(keys[: len(keys) // 2]), set(keys[len(keys) // 2 :])]
                else:
                    written = written or ready
            if written and alone - again:
                self._set_apart(alone - again)
            if not failed and self.last_error is not None:
                logger.warning("the rows of %s are written again", self.view.name)
                self.last_error = None
            self._try_apart = False

    def _write(
        self,
        doing: set[int],
        cache: Callable[[View, pa.Table], None],
        online: Sink,
        ready: bool,
    ) -> None:
        until = self._known_until()
        rows = self._compute(doing, until)
        if rows.num_rows:
            cache(self.view, rows)
            if ready:
                online.write(self.view, rows)
        if not ready:
            return
        if until is None:
            self._of_the_past -= doing
        else:
            self._of_the_past |= doing
        self._pending_keys -= doing
        for key in doing & self._apart.keys():
            del self._apart[key]
        self.rows_written += rows.num_rows

    def _failed(self, keys: set[int], error: Exception) -> None:
        text = said(error)
        if self.last_error != text:
            logger.error(
                "rows of %s of %s are not written and stay pending: %s",
                counted(len(keys), "key"),
                self.view.name,
                text,
            )
        self.last_error = text

    def _set_apart(self, keys: set[int]) -> None:
        new = len(keys - self._apart.keys())
        absorbed = self._absorbed()
        self._apart |= dict.fromkeys(keys, absorbed)
        self._pending_keys -= keys
        if new:
            logger.error(
                "%s of %s cannot be written, deferred to the batch flow: %s",
                counted(new, "key"),
                self.view.name,
                self.last_error,
            )

    def _compute(self, hashes: set[int], until: datetime | None) -> pa.Table:
        self._cursor.begin()
        self._cursor.execute("DELETE FROM doing")
        insert(self._cursor, "doing", pa.table({HASH: pa.array(list(hashes), pa.uint64())}))
        self._cursor.commit()
        # Both looked at before the window is: what comes between belongs to the next time.
        watermark = pa.scalar(self._window.watermarks.of(self.view), pa.timestamp("us"))
        created = (
            self._created.next()
            if until is None
            else self._created.of_the_past(until, self._latest)
        )
        self._latest = created
        rows = self._cursor.execute("EXECUTE newest").to_arrow_table()
        rows = rows.filter(pc.greater_equal(rows[EVENT_TIMESTAMP], watermark))
        column = pa.repeat(pa.scalar(created, pa.timestamp("us")), rows.num_rows)
        return rows.append_column(CREATED_TIMESTAMP, column).cast(self.view.schema)
