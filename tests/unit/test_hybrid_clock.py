"""Created timestamps only grow."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import pytest

from pipelines.lake.hybrid_clock import HybridClock

NOON = datetime(2024, 4, 1, 12)
TICK = timedelta(microseconds=1)


def test_a_created_time_is_the_present_time() -> None:
    """As long as the clock goes on."""
    times = iter([NOON, NOON + TICK])
    clock = HybridClock(lambda: next(times))
    assert [clock.next(), clock.next()] == [NOON, NOON + TICK]
    assert clock.steps_back == 0


def test_no_two_created_times_are_the_same() -> None:
    """A clock that stands still is nothing to speak of."""
    clock = HybridClock(lambda: NOON)
    assert [clock.next(), clock.next()] == [NOON, NOON + TICK]
    assert clock.steps_back == 0


def test_a_step_back_is_counted_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """However many times are taken until the clock has come back."""
    hour = timedelta(hours=1)
    times = iter([NOON, NOON - hour, NOON - hour, NOON + hour, NOON])
    clock = HybridClock(lambda: next(times))
    with caplog.at_level(logging.WARNING):
        found = [clock.next() for _ in range(4)]
    assert found == [NOON, NOON + TICK, NOON + 2 * TICK, NOON + hour]
    assert clock.steps_back == len(caplog.records) == 1
    clock.next()
    assert clock.steps_back == 2


def test_it_goes_on_from_what_another_process_has_handed_out() -> None:
    """Unless that lies in the past."""
    clock = HybridClock(lambda: NOON)
    clock.go_on_from(None)
    clock.go_on_from("2024-04-01T11:00:00")
    assert clock.next() == NOON
    clock.go_on_from("2024-04-01T13:00:00.000001")
    assert clock.next() == NOON + timedelta(hours=1) + 2 * TICK
