"""mutmut, with what makes a run shorter: its command line, and a plug-in for pytest under it.

It asks for a mutant's tests in no order. Here they run file by file, else what a file shares (a
Redis server, an applied repository) is made anew at each step; and a failing example is not made
smaller, for one failure is all it takes.
"""

from __future__ import annotations

import importlib
import json
import os
from typing import Final
from unittest.mock import patch

import pytest
from hypothesis import Phase, settings

FILES: Final = "MUTANTS_TEST_FILES"
"""The variable with a JSON array of the group's files, in the order in which they run."""
FAILURES: Final = "MUTANTS_FAILURES"
"""The variable with the file that gets a line per failure: the mutant, the test, what it said."""
PRELOADED: Final = (
    "feast.infra.compute_engines.local.compute",
    "feast.infra.offline_stores.duckdb",
    "feast.infra.online_stores.redis",
)
"""What takes longest to import, once for all processes that mutmut forks."""


def pytest_configure() -> None:
    """Before a test file is imported, and with it the settings that it declares."""
    settings.register_profile(
        "mutants", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate]
    )
    settings.load_profile("mutants")
    if os.environ.get("MUTANT_UNDER_TEST") == "stats":  # child processes fail by it
        del os.environ["MUTANT_UNDER_TEST"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By file as listed, within a file as written."""
    files: list[str] = json.loads(os.environ[FILES])
    items.sort(key=lambda item: (files.index(item.nodeid.partition("::")[0]), item.location[1]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say which test has noticed the mutant."""
    if report.failed:
        line = [os.environ.get("MUTANT_UNDER_TEST", ""), report.nodeid, report.longreprtext[-1000:]]
        with open(os.environ[FAILURES], "a", encoding="utf-8") as failures:
            failures.write(json.dumps(line) + "\n")


def main() -> None:
    """The command line of mutmut, without its second run of all tests: see `doubted`."""
    from mutmut.__main__ import cli
    from mutmut.workers.isolation import ForkServerRunner

    for name in PRELOADED:
        importlib.import_module(name)
    with patch.object(ForkServerRunner, "run_clean_tests", lambda *_, **__: 0):
        cli()


if __name__ == "__main__":
    main()
