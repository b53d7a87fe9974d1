"""What this process last read from Redis, for the time in which Redis is away."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Literal

from pipelines.errors import RedisUnavailableError

logger = logging.getLogger(__name__)

Command = tuple[bytes, Sequence[str | bytes]]
Reply = list[bytes | None]
Mode = Literal["redis", "last_seen"]

KEYS_KEPT: Final = 100_000
PROBE_SECONDS: Final = 1.0

_errors_wanted: ContextVar[bool] = ContextVar("errors_wanted", default=False)


@contextmanager
def errors_instead_of_last_seen() -> Iterator[None]:
    """Reads inside raise RedisUnavailableError instead of answering from what was seen last."""
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


class LastSeen:
    """Remembers replies per key and field, and stands in when Redis does not answer.

    Redis is asked again at most every `PROBE_SECONDS`, so that a frozen server costs one time-out
    a second and not one per read. Safe to share between threads.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._values: OrderedDict[bytes, dict[str | bytes, bytes | None]] = OrderedDict()
        self._lock = threading.Lock()
        self._answered = clock()
        self._failed: float | None = None
        self._outages = 0
        self._error: str | None = None

    def read(
        self, commands: Sequence[Command], ask: Callable[[Sequence[Command]], list[Reply]]
    ) -> list[Reply]:
        """The replies of Redis to `commands`, else the last ones; a key never seen is empty.

        Raises:
            RedisUnavailableError: Redis is away, and the caller wants errors or nothing was ever
                read here.
        """
        if self._may_ask():
            try:
                replies = ask(commands)
            except RedisUnavailableError as error:
                if _errors_wanted.get() or not self._values:  # nothing was seen to answer from
                    raise
                self._note_failure(error)
            else:
                self._note_success(commands, replies)
                return replies
        with self._lock:
            return [
                [self._values.get(key, {}).get(field) for field in fields]
                for key, fields in commands
            ]

    @property
    def mode(self) -> ReadMode:
        """Where answers come from just now."""
        away = self._failed is not None
        age = self._clock() - self._answered if away else 0.0
        return ReadMode("last_seen" if away else "redis", age, self._outages, self._error)

    def _may_ask(self) -> bool:
        failed = self._failed
        return failed is None or _errors_wanted.get() or self._clock() - failed >= PROBE_SECONDS

    def _note_failure(self, error: RedisUnavailableError) -> None:
        with self._lock:
            if self._failed is None:
                self._outages += 1
                logger.warning("online reads answer from what was seen last: %s", error)
            self._failed = self._clock()
            self._error = str(error)

    def _note_success(self, commands: Sequence[Command], replies: Sequence[Reply]) -> None:
        with self._lock:
            if self._failed is not None:
                logger.warning("Redis is back: online reads are current again")
            self._failed = None
            self._answered = self._clock()
            for (key, fields), reply in zip(commands, replies, strict=True):
                self._values.setdefault(key, {}).update(zip(fields, reply, strict=True))
                self._values.move_to_end(key)
            while len(self._values) > KEYS_KEPT:
                self._values.popitem(last=False)
