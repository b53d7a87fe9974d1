"""Background tasks of serving go on after a failure, and end together."""

from __future__ import annotations

import threading

import pytest

from pipelines.errors import SynchroChainError
from pipelines.serving.background import BackgroundTasks

GUARD_SECONDS = 60


@pytest.mark.parametrize(
    ("error", "logged"), [(SynchroChainError("not yet"), 1), (KeyError("a defect"), 2)]
)
def test_what_must_succeed_is_tried_until_it_does(
    error: Exception, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    """And then not again; a defect is logged each time, one reason of ours once."""
    tasks, tries, done = BackgroundTasks(), [0], threading.Event()

    def work() -> None:
        tries[0] += 1
        if tries[0] < 3:
            raise error
        done.set()

    tasks.until_done("start", work, 0.0)
    assert done.wait(GUARD_SECONDS)
    tasks.stop()
    assert (tries, tasks.have_ended) == ([3], True)
    assert caplog.text.count("not ready") == logged


def test_what_is_repeated_survives_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    """The next time may do better."""
    tasks, rounds, twice = BackgroundTasks(), [0], threading.Event()

    def work() -> None:
        rounds[0] += 1
        if rounds[0] == 1:
            raise KeyError("network")
        twice.set()

    tasks.repeat("network", work, 0.0)
    assert twice.wait(GUARD_SECONDS)
    tasks.stop()
    assert tasks.have_ended
    assert caplog.text.count("keeping the network up to date failed") == 1


def test_tasks_end_while_they_wait() -> None:
    """Also those that have long to wait; stopping twice is no error."""
    tasks = BackgroundTasks()
    tasks.repeat("reference", lambda: None, 3600.0)
    tasks.stop()
    tasks.stop()
    assert tasks.have_ended
