"""An upgrade that is killed anywhere: nothing is lost, nothing doubled.

The child is killed with -9 at a random one of its openings, renames, removals and statements, by
an audit hook; what it leaves is then upgraded as ever.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from live_logs import offline_rows
from old_directory import unpack
from test_upgrade import POSITIONS, STREAMED, processor_of

from pipelines.features.views import VIEWS_BY_NAME
from pipelines.settings import PROJECT_ROOT

SEEDS: Final = 8
KILLED: Final = """
import json, os, random, signal, sys
from pathlib import Path
sys.path.insert(0, "tests")
sys.path.insert(0, "tests/integration")
from test_upgrade import processor_of

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "sqlite3.connect")

def run(folder, at):
    seen = 0
    def count(event, arguments):
        nonlocal seen
        if event in EVENTS and str(folder) in str(arguments[0]):
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    processor_of(folder).run_cycle(update=False)
    (folder / "events").write_text(str(seen))

def in_a_child(folder, at):
    child = os.fork()
    if not child:
        try:
            run(folder, at)
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]

whole, *folders = map(Path, sys.argv[1:])
in_a_child(whole, 0)
events = int((whole / "events").read_text())
for seed, folder in enumerate(folders):
    at = random.Random(seed).randint(1, events)
    print(json.dumps([at, in_a_child(folder, at)]))
"""


def state_of(path: Path) -> dict[str, Any]:
    processor = processor_of(path)
    return {
        "rows": {view: offline_rows(processor, view) for view in VIEWS_BY_NAME},
        "logs": sorted(
            (log, sum(f.rows for f in processor.state.files("log", log)))
            for log in {file.name for file in processor.state.files("log")}
        ),
        "quarantined": sum(file.rows for file in processor.state.files("quarantine")),
        "positions": dict(processor.state.positions("batch")),
        "streamed": processor.state.positions("stream"),
    }


def test_an_upgrade_killed_anywhere_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """The next cycle ends where one that nobody killed does."""
    folders = [tmp_path / f"{number}" for number in range(SEEDS + 1)]
    unpack(folders[0])
    for folder in folders[1:]:
        shutil.copytree(folders[0], folder)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, folders)],
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    killed = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {status for _, status in killed} == {9}
    expected = state_of(folders[0])
    assert expected["streamed"] == STREAMED or expected["streamed"].keys() == STREAMED.keys()
    assert expected["positions"].keys() == POSITIONS.keys()
    for (at, _), folder in zip(killed, folders[1:], strict=True):
        processor_of(folder).run_cycle(update=False)
        assert state_of(folder) == expected, at
        on_disk = {
            path
            for name in ("processed", "feature_store/offline", "quarantine")
            for path in (folder / name).rglob("*")
            if path.is_file()
        }
        assert on_disk == processor_of(folder).state.known_paths(), at
