"""A machine that decides runs every test that its system can run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.settings import PROJECT_ROOT

SUITE = """
import pytest

@pytest.mark.skipif(True, reason="{reason}")
def test_marked(): ...

def test_found_out(): pytest.skip("{reason}")

@pytest.fixture
def thing(): pytest.skip("{reason}")

def test_a_fixture(thing): ...

@pytest.mark.xfail(reason="known", strict=True)
def test_expected(): assert False
"""
MODULE = """
import pytest
pytest.importorskip("no_such_package")
def test_never(): ...
"""


def run(folder: Path, suite: str, ci: str) -> str:
    """The last line of what pytest says of a module under this suite's rules."""
    rules = PROJECT_ROOT / "tests" / "conftest.py"
    (folder / "conftest.py").write_text(rules.read_text("utf-8"), "utf-8")
    (folder / "test_it.py").write_text(suite, "utf-8")
    paths = (PROJECT_ROOT / "tests", PROJECT_ROOT, os.environ.get("PYTHONPATH", ""))
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            folder,
            folder,
        ],
        env={**os.environ, "CI": ci, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return found.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("reason", "ci", "counts"),
    [
        ("no redis on this machine", "true", "1 failed, 1 xfailed, 2 errors"),
        ("no redis on this machine", "1", "1 failed, 1 xfailed, 2 errors"),
        ("no redis on this machine", "false", "3 skipped, 1 xfailed"),
        ("no redis on this machine", "", "3 skipped, 1 xfailed"),
        ("only on Linux: a device of it", "true", "3 skipped, 1 xfailed"),
        ("only on Unix: tzset", "true", "3 skipped, 1 xfailed"),
    ],
)
def test_a_skip_fails_where_ci_is_set(tmp_path: Path, reason: str, ci: str, counts: str) -> None:
    """Unless it is about the operating system, which no package can change."""
    assert run(tmp_path, SUITE.format(reason=reason), ci).startswith(counts)


@pytest.mark.parametrize(("ci", "counts"), [("true", "1 error"), ("false", "1 skipped")])
def test_a_module_that_is_skipped_as_a_whole_fails_too(
    tmp_path: Path, ci: str, counts: str
) -> None:
    """For want of a package, for instance."""
    assert run(tmp_path, MODULE, ci).startswith(counts)
