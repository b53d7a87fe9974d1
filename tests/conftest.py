"""What holds for every test: one clock, and nothing is skipped on the machine that decides."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Generator
from contextlib import suppress
from typing import Final

import pinned_clock
import psutil
import pytest

Report = pytest.TestReport | pytest.CollectReport

OF_THE_SYSTEM = ("only on Unix: ", "only on Linux: ")
"""How the reason of a skip begins that no package could have prevented."""
RUN: Final = "TEST_RUN"
"""Which run of the tests a process belongs to, in its environment."""
ELSEWHERE = ("SYNCHROCHAIN_", "MLFLOW_")
APPEARANCE = ("FORCE_COLOR", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE")


def pytest_configure(config: pytest.Config) -> None:
    """Before any module is imported, for some make their world at once."""
    pinned_clock.pin()
    for name in list(os.environ):
        if name.startswith(ELSEWHERE) or name in APPEARANCE:
            del os.environ[name]
    os.environ["COLUMNS"] = "100"  # answers are as wide wherever the tests run
    if is_first(config):
        os.environ[RUN] = uuid.uuid4().hex
    heed_signals()


def pytest_unconfigure(config: pytest.Config) -> None:
    """At the very end, no server is left that a test's data directory had for its own."""
    if is_first(config):
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if "redis" in process.name() and process.environ().get(RUN) == os.environ[RUN]:
                    process.kill()


def is_first(config: pytest.Config) -> bool:
    """Whether this is the process that was asked for tests, and not one that runs some of them."""
    return not hasattr(config, "workerinput")


def heed_signals() -> None:
    """What a background job or `nohup` hands down as ignored: tests send it to children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGHUP", "SIGQUIT", "SIGTERM"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Report, Report]:
    """Where CI is set, a test that is skipped fails, unless the system cannot run it."""
    return judged((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Report, Report]:
    """A module that is skipped as a whole too."""
    return judged((yield))


def judged(report: Report) -> Report:
    """The report, failed where it was skipped for want of something that can be installed."""
    strict = os.environ.get("CI", "false").lower() not in ("", "0", "false")
    if strict and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(OF_THE_SYSTEM):
            report.outcome = "failed"
            report.longrepr = f"skipped, but nothing may be skipped where CI is set: {reason}"
    return report
