"""The contract of a place that keeps cache values: `MemoryBackend` and `RedisBackend`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Item(NamedTuple):
    """A value to keep: bytes of `pipelines.cache.entries`, and how many seconds it lives."""

    key: str
    value: bytes
    seconds: float


class CacheBackend(Protocol):
    """Keeps values until they expire; a newer one is never replaced by an older one.

    Newer is the greater of the values' first `VERSION_BYTES` bytes; of equal ones, the one that
    comes last. Safe for several processes where the place is shared, for one thread at a time.
    """

    def set_many(self, items: Sequence[Item]) -> int:
        """Keep each item unless a newer one is there; how many were kept."""
        ...

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The value of each key, in order; None where there is none."""
        ...

    def size(self) -> int:
        """How many values are kept, the expired left out."""
        ...

    def close(self) -> None:
        """Let go of what is held open."""
        ...
