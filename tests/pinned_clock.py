"""The clock of the test suite: every run begins at the same time, its child processes too.

It goes on from there at the pace of the machine's clock, so what waits for time to pass still can.
A child process finds the same clock by `child_clock/sitecustomize.py`.
"""

from __future__ import annotations

import os
import select
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from pipelines.lake import clock

START: Final = datetime(2026, 6, 17, 12)
"""UTC and naive: a Wednesday noon, later than what other tests hold fixed."""
CHILDREN: Final = Path(__file__).parent / "child_clock"
SHIFT: Final = "TEST_CLOCK_SHIFT"
"""Seconds between the machine's clock and this one, for child processes."""
REAL_PATH: Final = "TEST_REAL_PATH"
"""Where programs are that cannot run under libfaketime."""
FAKED: Final = "faketime" in os.environ.get("LD_PRELOAD", "")
"""Whether libfaketime sets the machine's clock, as in `make test-clocks`."""


def pin() -> None:
    """Start the clock of this process and its children to come, unless a parent has done so."""
    if SHIFT not in os.environ:
        shift = START.replace(tzinfo=UTC) - datetime.now(UTC)
        os.environ[SHIFT] = str(shift.total_seconds())
        paths = (str(CHILDREN), os.environ.get("PYTHONPATH", ""))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        if FAKED and shutil.which("redis-server"):
            os.environ[REAL_PATH] = os.environ["PATH"]
            os.environ["PATH"] = os.pathsep.join([str(CHILDREN / "bin"), os.environ["PATH"]])
    clock.source = shifted(float(os.environ[SHIFT]))
    if FAKED:
        time.sleep = _sleep  # the real one fails: libfaketime takes its absolute time for another


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


def shifted(seconds: float) -> clock.Source:
    """The machine's clock, so many seconds later."""
    shift = timedelta(seconds=seconds)
    return lambda: datetime.now(UTC) + shift


@contextmanager
def stopped_clock(at: datetime = START) -> Iterator[datetime]:
    """The clock of this process stands still inside: a world simulated up to now is always the
    same one."""
    before, clock.source = clock.source, lambda: at.replace(tzinfo=UTC)
    try:
        yield at
    finally:
        clock.source = before
