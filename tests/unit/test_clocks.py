"""No test depends on when or where it runs: who reads which clock, read from the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import pinned_clock
import pytest

from pipelines.lake.clock import aware_now, unix_now, utc_now
from pipelines.settings import PROJECT_ROOT

THE_PRESENT: Final = frozenset(
    {
        "datetime.date.today",
        "datetime.datetime.now",
        "datetime.datetime.today",
        "datetime.datetime.utcnow",
        "feast.utils._utc_now",
        "gzip.GzipFile",
        "gzip.compress",
        "gzip.open",
        "pandas.Timestamp.now",
        "pandas.Timestamp.today",
        "pandas.Timestamp.utcnow",
        "time.ctime",
        "time.gmtime",
        "time.localtime",
        "time.time",
        "time.time_ns",
        "uuid.uuid1",
    }
)
"""They say what time it is, or write it into what they make. `pipelines.lake.clock` says it too,
and stands still where it must."""

THE_PLACE: Final = frozenset({"time.mktime", "time.tzset"})
"""They go by the time zone of the machine; so does `fromtimestamp` with one argument."""

PACE: Final = frozenset(
    {"asyncio.sleep", "time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.sleep"}
)
"""They make a test depend on how fast the machine is."""

IN_TEXT: Final = re.compile(
    r"datetime\.(now|utcnow|today)\(|date\.today\(|Timestamp\.(now|utcnow|today)|time\.time\("
    r"|sleep\(|\bCURRENT_TIMESTAMP\b|\(\s*'now'"
)
"""The same in a program or a statement that a test hands to somebody else."""

BENCHMARKS: Final = "pipelines/benchmarks/"
"""Their work is to take the time, so only the present is forbidden there."""

ALLOWED: Final[Mapping[tuple[str, str], str]] = {
    ("tests/pinned_clock.py", "datetime.datetime.now"): "the pinned clock goes at its pace",
    ("tests/pinned_clock.py", "time.sleep"): "mended where libfaketime breaks it",
    ("tests/integration/test_cache_outages.py", "time.monotonic"): "what is promised is a time",
    ("tests/integration/test_data_layer.py", "time.monotonic"): "a limit while a child works",
    ("tests/integration/test_data_layer.py", "time.sleep"): "looks again at what a child does",
    ("tests/integration/test_data_layer.py", "sleep("): "a child that never ends by itself",
    ("tests/integration/test_http_api.py", "time.sleep"): "looks again at what a server does",
    ("tests/integration/test_processes.py", "time.monotonic"): "a limit while a child works",
    ("tests/integration/test_redis_server.py", "time.monotonic"): "a limit while a server works",
    ("tests/integration/test_redis_server.py", "time.sleep"): "looks again at what a server does",
    ("tests/integration/test_stream_asyncio.py", "asyncio.sleep"): "lets other tasks run, for 0 s",
    ("tests/unit/test_encoding.py", "time.tzset"): "a test in another time zone, put back",
}
"""By file and what it uses: why it may."""

ALLOWED_IN_PRODUCT: Final[Mapping[tuple[str, str], str]] = {
    ("pipelines/lake/clock.py", "datetime.datetime.now"): "it is the clock",
    (
        "pipelines/lake/verification.py",
        "time.time_ns",
    ): "the age of a file, which the system dates",
    (
        "pipelines/redis_server/process.py",
        "time.time",
    ): "the age of a process, which the system dates",
    ("pipelines/feast_plugins/reading/plan.py", "time.time"): "the registry's, which Feast dates",
}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (PROJECT_ROOT / folder).rglob("*.py"))


def short(path: Path) -> str:
    return path.relative_to(PROJECT_ROOT).as_posix()


def names_of(tree: ast.AST) -> dict[str, str]:
    """What the names that a module imports stand for, in full."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def dotted(node: ast.expr, names: Mapping[str, str]) -> str | None:
    """The full name of what an expression refers to, if it is a name that was imported."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return None
    return ".".join([names[node.id], *reversed(parts)])


def docstrings_of(tree: ast.AST) -> set[ast.Constant]:
    """Text that stands alone: it is read by people only."""
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def uses(text: str) -> Iterator[tuple[int, str]]:
    """Every use of a clock or a time zone in a module, by line; called or handed on."""
    tree = ast.parse(text)
    names, prose = names_of(tree), docstrings_of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            name = dotted(node, names)
            if name in THE_PRESENT | THE_PLACE | PACE:
                yield node.lineno, str(name)
        elif isinstance(node, ast.Call):
            name = dotted(node.func, names)
            if (
                name == "datetime.datetime.fromtimestamp"
                and len(node.args) + len(node.keywords) < 2
            ):
                yield node.lineno, f"{name} without a time zone"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            yield from ((node.lineno, found[0]) for found in IN_TEXT.finditer(node.value))


def forbidden(path: Path) -> list[str]:
    """What a test or a benchmark must not use, and does."""
    where = short(path)
    free = PACE if where.startswith(BENCHMARKS) else frozenset()
    return [
        f"{where}:{line}: {name}"
        for line, name in uses(path.read_text("utf-8"))
        if name not in free and (where, name) not in ALLOWED
    ]


@pytest.mark.parametrize(
    "path",
    [p for p in sources("tests", BENCHMARKS) if p.name != Path(__file__).name],
    ids=short,
)
def test_no_test_reads_a_clock_of_its_own(path: Path) -> None:
    """`utc_now()` of `pipelines.lake.clock` begins at the same time in every run; a wait for
    somebody else's work is allowed by name, above."""
    found = forbidden(path)
    assert not found, (
        "pin the time (pipelines.lake.clock.utc_now, or a clock that is handed over), and wait for "
        "an event instead of a while: " + "; ".join(found)
    )


@pytest.mark.parametrize("path", sources("pipelines", "simulators", "feature_repo"), ids=short)
def test_the_present_is_asked_of_one_clock(path: Path) -> None:
    """Otherwise no test could set it."""
    where = short(path)
    found = [
        f"{where}:{line}: {name}"
        for line, name in uses(path.read_text("utf-8"))
        if (name in THE_PRESENT | THE_PLACE or name.endswith("time zone"))
        and (where, name) not in ALLOWED_IN_PRODUCT
    ]
    assert not found, "ask pipelines.lake.clock instead: " + "; ".join(found)


@pytest.mark.parametrize("allowed", [ALLOWED, ALLOWED_IN_PRODUCT])
def test_nothing_is_allowed_that_is_not_used(allowed: Mapping[tuple[str, str], str]) -> None:
    """The list of exceptions is as short as it can be."""
    unused = [
        (where, name)
        for where, name in allowed
        if name not in {used for _, used in uses((PROJECT_ROOT / where).read_text("utf-8"))}
    ]
    assert unused == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import datetime\ndatetime.datetime.now()", "datetime.datetime.now"),
        ("from datetime import datetime as d\nd.utcnow()", "datetime.datetime.utcnow"),
        ("from datetime import date\ndate.today()", "datetime.date.today"),
        ("from time import time\ntime()", "time.time"),
        ("import time\nx = dict(clock=time.time)", "time.time"),
        ("import pandas as pd\npd.Timestamp.now('UTC')", "pandas.Timestamp.now"),
        ("import time as t\nt.sleep(1)", "time.sleep"),
        (
            "from datetime import datetime\ndatetime.fromtimestamp(0)",
            "datetime.datetime.fromtimestamp without a time zone",
        ),
        ("run('import time; time.sleep(600)')", "sleep("),
        ("execute('SELECT datetime( \\'now\\')')", "( 'now'"),
    ],
)
def test_every_way_to_read_a_clock_is_seen(text: str, name: str) -> None:
    """Under another name, handed on, or in a program for a child process."""
    assert [found for _, found in uses(text)] == [name]


@pytest.mark.parametrize(
    "text",
    [
        "from pipelines.lake.clock import utc_now\nutc_now()",
        "from datetime import UTC, datetime\ndatetime.fromtimestamp(0, UTC)",
        "def f():\n    'It calls time.sleep(1) and datetime.now().'",
        "class Clock:\n    now = 1\nClock().now",
    ],
)
def test_what_reads_no_clock_is_left_alone(text: str) -> None:
    """The clock of the suite, given times, prose, and whatever else is called `now`."""
    assert list(uses(text)) == []


def test_every_run_begins_at_the_same_time() -> None:
    """In the three forms that the clock has."""
    passed = utc_now() - pinned_clock.START
    assert timedelta(0) <= passed < timedelta(days=1)
    assert timedelta(0) <= aware_now().replace(tzinfo=None) - pinned_clock.START
    assert unix_now() >= aware_now().timestamp() - 60


def test_a_child_process_goes_by_the_same_clock() -> None:
    """What it writes is as old as what the test writes."""
    before = utc_now()
    program = "from pipelines.lake.clock import utc_now; print(utc_now())"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert before <= datetime.fromisoformat(found.stdout.strip()) <= utc_now()


def test_the_clock_can_stand_still() -> None:
    """So that a world simulated up to now is the same in every run; afterwards it goes on."""
    with pinned_clock.stopped_clock() as at:
        assert utc_now() == utc_now() == at
    assert utc_now() > at
