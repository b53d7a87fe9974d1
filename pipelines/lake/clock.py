"""The current time. All code takes it from here, so that there is one clock to set."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
Source = Callable[[], datetime]

source: Source = partial(datetime.now, UTC)
"""Returns the current time, timezone-aware; looked up at each call. Tests replace it."""


def utc_now() -> datetime:
    """The current time, UTC and naive, as all our timestamps."""
    return source().replace(tzinfo=None)


def aware_now() -> datetime:
    """The current time, UTC and timezone-aware, as Feast's timestamps."""
    return source()


def unix_now() -> float:
    """The current time in seconds since 1970."""
    return source().timestamp()
