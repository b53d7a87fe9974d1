"""Cache values in this process's memory: expiring, and bounded in number and bytes."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from pipelines.cache.entries import VERSION_BYTES, Item

MAX_ITEMS: Final = 20_000
MAX_BYTES: Final = 64 * 2**20


class _Kept(NamedTuple):
    value: bytes
    expires: float


class MemoryBackend:
    """A bounded store of values; when it is full, it evicts what expires soonest.

    So the five-minute history is evicted first, then the features and newest batches that were
    written longest ago. Every operation is O(log n) per item, amortised.

    Args:
        clock: monotonic, in seconds.
        max_items: the most values.
        max_bytes: the most bytes of values; a single larger value is not stored.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_items: int = MAX_ITEMS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._clock = clock
        self._max_items = max_items
        self._max_bytes = max_bytes
        self.clear()

    def set_many(self, items: Sequence[Item]) -> int:
        """Store each item unless a newer one is stored; returns how many were stored."""
        now = self._forget_expired()
        kept = 0
        for item in items:
            version, stored = item.value[:VERSION_BYTES], self._kept.get(item.key)
            if stored is None or stored.value[:VERSION_BYTES] <= version:
                kept += self._keep(item, now)
        return kept

    def copy_many(self, items: Sequence[Item]) -> None:
        """Store each item that is missing or older here; never prolongs a time to live."""
        now = self._forget_expired()
        for item in items:
            stored = self._kept.get(item.key)
            if stored is None or stored.value[:VERSION_BYTES] < item.value[:VERSION_BYTES]:
                self._keep(item, now)

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The value of each key, in order; None where there is none."""
        self._forget_expired()
        found = (self._kept.get(key) for key in keys)
        return [kept.value if kept else None for kept in found]

    def size(self) -> int:
        """How many values are stored, without expired ones."""
        self._forget_expired()
        return len(self._kept)

    def items(self) -> Iterator[Item]:
        """All values with their remaining seconds to live."""
        now = self._forget_expired()
        for key, kept in self._kept.items():
            yield Item(key, kept.value, kept.expires - now)

    def clear(self) -> None:
        """Forget everything."""
        self._kept: dict[str, _Kept] = {}
        # A heap of every key's expiry, with stale entries of values replaced since.
        self._expiries: list[tuple[float, str]] = []
        self._bytes = 0

    def close(self) -> None:
        """Forget everything."""
        self.clear()

    def _keep(self, item: Item, now: float) -> bool:
        self._drop(item.key)
        if len(item.value) > self._max_bytes:
            return False
        expires = now + item.seconds
        self._kept[item.key] = _Kept(item.value, expires)
        self._bytes += len(item.value)
        heapq.heappush(self._expiries, (expires, item.key))
        while len(self._kept) > self._max_items or self._bytes > self._max_bytes:
            self._drop_first()
        if len(self._expiries) > 2 * len(self._kept) + 64:
            self._expiries = [(kept.expires, key) for key, kept in self._kept.items()]
            heapq.heapify(self._expiries)
        return item.key in self._kept

    def _forget_expired(self) -> float:
        now = self._clock()
        while self._expiries and self._expiries[0][0] <= now:
            self._drop_first()
        return now

    def _drop_first(self) -> None:
        expires, key = heapq.heappop(self._expiries)
        kept = self._kept.get(key)
        if kept is not None and kept.expires == expires:
            self._drop(key)

    def _drop(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= len(kept.value)
