"""Statistics of the cache."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Mode = Literal["redis", "memory"]


@dataclass(frozen=True)
class CacheStatistics:
    """Statistics of a `RealtimeCache`; counts are this process's own, since construction.

    `since` is when `mode` began, UTC and naive. `hit_rate` is None before the first read. `size`
    counts values: of all processes in Redis, of this one in memory. `waiting` counts the
    pending writes to Redis. `seconds_away` is the
    time spent in memory, the current outage included. `last_error` is the reason of the latest
    outage, kept when it is over.
    """

    mode: Mode
    since: datetime
    hits: int
    misses: int
    hit_rate: float | None
    size: int
    waiting: int
    outages: int
    seconds_away: float
    last_error: str | None
