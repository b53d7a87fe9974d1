"""The interface of the cache's backends, `MemoryBackend` and `RedisBackend`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Item(NamedTuple):
    """A value to store: bytes of `pipelines.cache.entries`, and its time to live in seconds."""

    key: str
    value: bytes
    seconds: float


class CacheBackend(Protocol):
    """Stores values until they expire; an older value never replaces a newer one.

    Newer is the greater by the first `VERSION_BYTES` bytes; of equal ones, the one written last.
    Safe for several processes where the storage is shared; for one thread at a time.
    """

    def set_many(self, items: Sequence[Item]) -> int:
        """Store each item unless a newer one is stored; returns how many were stored."""
        ...

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The value of each key, in order; None where there is none."""
        ...

    def size(self) -> int:
        """How many values are stored, without expired ones."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...
