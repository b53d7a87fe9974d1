"""How the cache stands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Mode = Literal["redis", "memory"]


@dataclass(frozen=True)
class CacheStatistics:
    """How a `RealtimeCache` stands; counts are this process's own, since it was made.

    `since` is when `mode` began, UTC and naive. `hit_rate` is None before the first look. `size`
    counts values: of all processes in Redis, of this one in memory. `waiting` counts the values
    that were written to memory meanwhile and go to Redis when it is back. `seconds_away` is the
    time spent in memory, the present outage included. `last_error` is the reason of the latest
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
