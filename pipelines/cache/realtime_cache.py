"""`RealtimeCache`: Redis, with a fallback to memory while Redis is unavailable."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Self

import pyarrow as pa

from pipelines.cache.entries import (
    Batch,
    FeatureEntry,
    Item,
    decode_batch,
    decode_features,
    encode_batch,
    encode_features,
)
from pipelines.cache.keys import TimesToLive, feature_key, latest_key, stream_key
from pipelines.cache.memory_backend import MAX_BYTES, MAX_ITEMS, MemoryBackend
from pipelines.cache.redis_backend import RedisBackend
from pipelines.cache.statistics import CacheStatistics
from pipelines.errors import RedisRefusedError, RedisUnavailableError, StorageFullError
from pipelines.lake.clock import utc_now
from pipelines.printable import counted
from pipelines.redis_server import RedisEndpoint, ensure_server, find_server
from pipelines.settings import DataConfig

logger = logging.getLogger(__name__)

LONGEST_WAIT: Final = 0.8  # seconds; an outage is noticed within one second, whatever is configured
PROBE_WAIT: Final = 0.1  # seconds; a frozen server costs its callers this much at each probe

AWAY: Final = (RedisUnavailableError, RedisRefusedError, StorageFullError)


class RealtimeCache:
    """The newest batches and features of the stream, for as long as they are fresh.

    Values are in Redis, shared by all processes; this process keeps a bounded copy of what it wrote
    and read. When a call finds Redis dead, frozen or refusing, the cache warns once and answers
    from that copy, that call included. Then Redis is only probed, by the first call after each
    `probe_interval`. Once it answers, values written meanwhile that have not expired are written
    back (only newer ones), and Redis is used again. So an outage never raises; `statistics()`
    shows it.

    A value that was only read gets its whole time to live in the copy, so during an outage it may
    be up to twice as old; its timestamps show its age.

    Calls block, for well under a millisecond as a rule, 0.8 s when a server freezes under one and
    0.1 s at a probe of a frozen one: `asyncio.to_thread` where that is too long. Threads may share
    a cache.

    Args:
        config: which Redis, and `cache_ttl`.
        ttl: seconds to live by name, overriding the defaults: see `TimesToLive`.
        connect: finds or starts the server at construction; blocking.
        find: finds it again after an outage, without starting it.
        clock: monotonic, in seconds.
        now: returns the current time, UTC and naive.
        probe_interval: seconds between probes of an unavailable Redis.
        max_items: the most values in memory.
        max_bytes: the most bytes of values in memory.

    Raises:
        ConfigurationError: `ttl` has an unknown name or a time that is not positive.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        ttl: Mapping[str, int] | None = None,
        connect: Callable[[DataConfig], RedisEndpoint] = ensure_server,
        find: Callable[[DataConfig], RedisEndpoint | None] = find_server,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
        probe_interval: float = 1.0,
        max_items: int = MAX_ITEMS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._ttl = TimesToLive(config.cache_ttl, ttl)
        self._timeout = min(config.redis_timeout, LONGEST_WAIT)
        self._config = config
        self._find = find
        self._clock = clock
        self._now = now
        self._probe_interval = probe_interval
        self._memory = MemoryBackend(clock, max_items=max_items, max_bytes=max_bytes)
        # Pending writes: to be written back to Redis.
        self._backlog = MemoryBackend(clock, max_items=max_items, max_bytes=max_bytes)
        self._lock = threading.Lock()
        self._redis: RedisBackend | None = None
        self._since = now()
        self._hits = self._misses = self._outages = 0
        self._left_at = self._next_probe = clock()
        self._seconds_away = 0.0
        self._last_error: str | None = None
        try:
            self._redis = RedisBackend(connect(config), timeout=self._timeout)
        except AWAY as error:
            self._leave(error)

    def put_batch(
        self, data_type: str, timestamp: datetime, rows: pa.Table | Sequence[Mapping[str, Any]]
    ) -> None:
        """Store the rows as the batch of that time, and as the latest unless there is a newer one.

        Args:
            data_type: one of `DATA_TYPES`.
            timestamp: UTC where naive; replaces a batch of the same time.
            rows: a table, or a mapping per row.

        Raises:
            UnknownNameError: there is no such data type.
            UsageError: a value has a type that the cache cannot store.
        """
        value = encode_batch(data_type, timestamp, rows, self._now())
        self._set(dict.fromkeys((stream_key(data_type, timestamp), latest_key(data_type)), value))

    def put_features(self, entries: Mapping[str, FeatureEntry]) -> int:
        """Store features by id, for example `user_intent:42`, in one round trip up to 1,000.

        An entry is skipped where a newer one is stored, by (event time, created timestamp).
        Returns how many were stored.

        Raises:
            UsageError: an id is empty, or a value has a type that the cache cannot store.
        """
        return self._set({feature_key(id_): encode_features(e) for id_, e in entries.items()})

    def get_features(self, feature_ids: Sequence[str]) -> dict[str, FeatureEntry | None]:
        """The entry of each id, None where there is none, in one round trip.

        Raises:
            UsageError: an id is empty.
        """
        values = self._get([feature_key(id_) for id_ in feature_ids])
        found = [decode_features(value) if value else None for value in values]
        self._count(found)
        return dict(zip(feature_ids, found, strict=True))

    def latest(self, data_type: str) -> Batch | None:
        """The newest batch of the data type, None where there is none.

        Raises:
            UnknownNameError: there is no such data type.
        """
        return self._batch(latest_key(data_type))

    def stream(self, data_type: str, timestamp: datetime) -> Batch | None:
        """The batch of exactly that time, None where there is none.

        Raises:
            UnknownNameError: there is no such data type.
        """
        return self._batch(stream_key(data_type, timestamp))

    def statistics(self) -> CacheStatistics:
        """Statistics of the cache; probes an unavailable Redis when that is due."""
        with self._lock:
            redis = self._reach()
            try:
                size = redis.size() if redis else self._memory.size()
            except AWAY as error:
                self._leave(error)
                size = self._memory.size()
            away = self._clock() - self._left_at if self._redis is None else 0.0
            looks = self._hits + self._misses
            return CacheStatistics(
                mode="memory" if self._redis is None else "redis",
                since=self._since,
                hits=self._hits,
                misses=self._misses,
                hit_rate=self._hits / looks if looks else None,
                size=size,
                waiting=self._backlog.size(),
                outages=self._outages,
                seconds_away=self._seconds_away + away,
                last_error=self._last_error,
            )

    def close(self) -> None:
        """Close the connections and drop the copy; pending writes are lost."""
        with self._lock:
            if self._redis is not None:
                self._redis.close()
            self._memory.close()
            self._backlog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batch(self, key: str) -> Batch | None:
        (value,) = self._get([key])
        batch = decode_batch(value) if value else None
        self._count([batch])
        return batch

    def _set(self, values: Mapping[str, bytes]) -> int:
        items = [Item(key, value, self._ttl.of(key)) for key, value in values.items()]
        with self._lock:
            redis = self._reach()
            if redis is not None:
                try:
                    kept = redis.set_many(items)
                except AWAY as error:
                    self._leave(error)
                else:
                    self._memory.set_many(items)
                    return kept
            self._backlog.set_many(items)
            return self._memory.set_many(items)

    def _get(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._lock:
            redis = self._reach()
            if redis is not None:
                try:
                    values = redis.get_many(keys)
                except AWAY as error:
                    self._leave(error)
                else:
                    pairs = zip(keys, values, strict=True)
                    found = [Item(key, value, self._ttl.of(key)) for key, value in pairs if value]
                    self._memory.copy_many(found)
                    return values
            return self._memory.get_many(keys)

    def _count(self, found: Sequence[object | None]) -> None:
        misses = sum(entry is None for entry in found)
        with self._lock:
            self._hits += len(found) - misses
            self._misses += misses

    def _reach(self) -> RedisBackend | None:
        """The Redis backend; None while it is unavailable. Probes it when that is due."""
        if self._redis is None and self._clock() >= self._next_probe:
            try:
                self._return()
            except AWAY as error:
                self._last_error = str(error)
                # From the end of the probe, lest callers of a frozen server do nothing but wait.
                self._next_probe = self._clock() + self._probe_interval
        return self._redis

    def _leave(self, error: Exception) -> None:
        if self._redis is not None:
            self._redis.close()
        self._redis = None
        self._last_error = str(error)
        self._outages += 1
        self._since = self._now()
        self._left_at = self._clock()
        self._next_probe = self._left_at + self._probe_interval
        logger.warning("the cache goes on in this process's memory, for Redis is away: %s", error)

    def _return(self) -> None:
        # Find and check it again: a restarted server may have another port.
        endpoint = self._find(self._config.model_copy(update={"redis_timeout": PROBE_WAIT}))
        if endpoint is None:
            raise RedisUnavailableError(
                f"no Redis runs in {self._config.redis_dir}: `synchrochain batch` starts it"
            )
        redis = RedisBackend(endpoint, timeout=self._timeout)
        try:
            written = redis.set_many(list(self._backlog.items()))
        except AWAY:
            redis.close()
            raise
        self._backlog.clear()
        self._redis = redis
        self._since = self._now()
        away = self._clock() - self._left_at
        self._seconds_away += away
        logger.info(
            "the cache is back on Redis after %.1f s: %s written back",
            away,
            counted(written, "value"),
        )
