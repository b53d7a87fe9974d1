"""A plug-in of pytest for runs under mutmut, which asks for a mutant's tests in no order.

They run file by file, else what a file shares (a Redis server, an applied repository) is made anew
at each step; and as soon as one fails that is all, so a failing example is not made smaller.
"""

from __future__ import annotations

import json
import os
from typing import Final

import pytest
from hypothesis import Phase, settings

FILES: Final = "MUTANTS_TEST_FILES"
"""The variable with a JSON array of the group's files, in the order in which they run."""


def pytest_configure() -> None:
    """Before a test file is imported, and with it the settings that it declares."""
    settings.register_profile(
        "mutants", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate]
    )
    settings.load_profile("mutants")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By file as listed, within a file as written."""
    files: list[str] = json.loads(os.environ[FILES])
    items.sort(key=lambda item: (files.index(item.nodeid.partition("::")[0]), item.location[1]))
