"""Last known values: what this process last read from Redis, for while it is unavailable."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Final, Literal, NamedTuple

from pipelines.errors import RedisUnavailableError

logger = logging.getLogger(__name__)

Fields = tuple[bytes, ...]
Reply = list[bytes | None]
_Seen = dict[Fields, dict[bytes, tuple[int, Reply]]]  # a reply with the number of its read
Mode = Literal["redis", "stale_fallback"]

REPLIES_KEPT: Final = 200_000
PROBE_SECONDS: Final = 1.0

_errors_wanted: ContextVar[bool] = ContextVar("errors_wanted", default=False)


class Block(NamedTuple):
    """Keys of which the same fields are read."""

    fields: Fields
    keys: Sequence[bytes]


@contextmanager
def errors_instead_of_stale_values() -> Iterator[None]:
    """Reads inside raise RedisUnavailableError instead of answering with last known values."""
    token = _errors_wanted.set(True)
    try:
        yield
    finally:
        _errors_wanted.reset(token)


@dataclass(frozen=True)
class ReadMode:
    """Where the answers come from, and how old they may be.

    `age_seconds` is the time since Redis last answered; 0 in mode "redis".
    """

    mode: Mode
    age_seconds: float
    outages: int
    last_error: str | None


class StaleFallback:
    """Caches replies, and answers from them when Redis does not.

    An unavailable Redis is probed at most every `PROBE_SECONDS`, so that a frozen server costs one
    time-out a second and not one per read. Safe to share between threads.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replies = _Generations()
        self._lock = threading.Lock()
        self._answered = clock()
        self._failed: float | None = None
        self._outages = 0
        self._error: str | None = None
        self._present = ReadMode("redis", 0.0, 0, None)

    def read(
        self, blocks: Sequence[Block], ask: Callable[[], Sequence[Reply]]
    ) -> Sequence[Sequence[Reply]]:
        """The replies to each block: from Redis, else the last known ones.

        A field that was never read is None.

        Args:
            blocks: keys and fields.
            ask: reads all keys of all blocks from Redis, in their order.

        Raises:
            RedisUnavailableError: Redis is unavailable, and the caller wants errors or nothing was
                read before.
        """
        if self._may_ask():
            try:
                replies = ask()
            except RedisUnavailableError as error:
                if _errors_wanted.get() or not self._replies:  # no last known values
                    raise
                self._note_failure(error)
            else:
                found = _by_block(blocks, replies)
                self._note_success(blocks, found)
                return found
        with self._lock:
            return [
                [self._replies.find(key, block.fields) for key in block.keys] for block in blocks
            ]

    @property
    def mode(self) -> ReadMode:
        """Where answers come from now."""
        if self._failed is None:
            return self._present
        age = self._clock() - self._answered
        return ReadMode("stale_fallback", age, self._outages, self._error)

    def _may_ask(self) -> bool:
        failed = self._failed
        return failed is None or _errors_wanted.get() or self._clock() - failed >= PROBE_SECONDS

    def _note_failure(self, error: RedisUnavailableError) -> None:
        with self._lock:
            if self._failed is None:
                self._outages += 1
                logger.warning("online reads answer with last known values: %s", error)
            self._failed = self._clock()
            self._error = str(error)

    def _note_success(self, blocks: Sequence[Block], replies: Sequence[Sequence[Reply]]) -> None:
        with self._lock:
            if self._failed is not None:
                logger.warning("Redis is back: online reads are current again")
                self._present = ReadMode("redis", 0.0, self._outages, self._error)
            self._failed = None
            self._answered = self._clock()
            for block, found in zip(blocks, replies, strict=True):
                self._replies.put(block, found)


def _by_block(blocks: Sequence[Block], replies: Sequence[Reply]) -> Sequence[Sequence[Reply]]:
    if len(blocks) == 1:
        return [replies]
    rest = iter(replies)
    return [list(islice(rest, len(block.keys))) for block in blocks]


class _Generations:
    """Replies by fields and key. When the younger half is full, the older one is dropped."""

    def __init__(self) -> None:
        self._young: _Seen = {}
        self._old: _Seen = {}
        self._room = REPLIES_KEPT // 2
        self._reads = 0

    def __bool__(self) -> bool:
        return bool(self._young or self._old)

    def put(self, block: Block, replies: Sequence[Reply]) -> None:
        self._reads += 1
        seen = self._young.setdefault(block.fields, {})
        before = len(seen)
        seen.update(zip(block.keys, zip(repeat(self._reads), replies), strict=True))
        self._room -= len(seen) - before
        if self._room <= 0:
            self._old, self._young, self._room = self._young, {}, REPLIES_KEPT // 2

    def find(self, key: bytes, fields: Fields) -> Reply:
        """The last value of each field, whichever request it was read by."""
        seen = [
            (replies[key], others)
            for generation in (self._young, self._old)
            for others, replies in generation.items()
            if key in replies
        ]
        found: dict[bytes, bytes | None] = {}
        for (_, reply), others in sorted(seen, key=lambda read: read[0][0]):
            found.update(zip(others, reply, strict=True))
        return [found.get(field) for field in fields]
