"""Created timestamps that only grow, even where the machine's clock steps back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

logger = logging.getLogger(__name__)

CLOCK_KEY: Final = "created"
"""Key in the state's metadata: the latest created timestamp of either flow, ISO 8601."""

_TICK: Final = timedelta(microseconds=1)
_JITTER: Final = timedelta(seconds=1)


class HybridClock:
    """A hybrid clock: created timestamps are the current time, but always later than the previous.

    A correction has the event time of the row that it corrects and wins by its created timestamp,
    so that must keep growing when the machine's clock is set back.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._stepped_back = False
        self.latest: datetime | None = None
        self.steps_back = 0

    def next(self) -> datetime:
        """The next created timestamp, UTC and naive."""
        with self._lock:
            now = self._now()
            latest = self.latest
            if latest is None or now > latest:
                self._stepped_back = False
                self.latest = now
                return now
            if not self._stepped_back and latest - now > _JITTER:
                self._stepped_back = True
                self.steps_back += 1
                logger.warning(
                    "the clock stepped back to %s: created timestamps go on from %s", now, latest
                )
            self.latest = latest + _TICK
            return self.latest

    def of_the_past(self, time: datetime, after: datetime | None) -> datetime:
        """A created timestamp for rows computed from commits up to `time` only; later than `after`.

        It does not advance the clock: rows computed from more commits must win.
        """
        return time if after is None or time > after else after + _TICK

    def go_on_from(self, text: str | None) -> None:
        """Advance past a created timestamp of another process, as the state's metadata has it."""
        if text is None:
            return
        given = datetime.fromisoformat(text)
        with self._lock:
            self.latest = given if self.latest is None else max(self.latest, given)
