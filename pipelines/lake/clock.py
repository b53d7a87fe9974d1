"""The present moment. Whoever asks for it asks here, so that there is one clock to set."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

Source = Callable[[], datetime]

source: Source = partial(datetime.now, UTC)
"""Tells the present moment, aware; read at each call. The test suite sets another one."""


def utc_now() -> datetime:
    """The present moment, UTC and naive, as every time stamp of ours."""
    return source().replace(tzinfo=None)


def aware_now() -> datetime:
    """The present moment, UTC and aware, as Feast's time stamps."""
    return source()


def unix_now() -> float:
    """The present moment in seconds since 1970."""
    return source().timestamp()
