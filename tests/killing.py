"""Killing a process of ours with -9 at a random one of its openings, renames and removals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipelines.settings import PROJECT_ROOT

KILLED: Final = """
import importlib, json, os, random, signal, sys, traceback
from pathlib import Path
sys.path.insert(0, "tests")
sys.path.insert(0, "tests/integration")

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "sqlite3.connect")
module, name = sys.argv[1].split(":")
act = getattr(importlib.import_module(module), name)

def run(folder, at):
    seen = 0
    def count(event, arguments):
        nonlocal seen
        if event in EVENTS and str(folder) in str(arguments[0]):
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    act(folder)
    (folder / "events").write_text(str(seen))

def in_a_child(folder, at):
    child = os.fork()
    if not child:
        status = 1
        try:
            run(folder, at)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]

whole, *folders = map(Path, sys.argv[2:])
assert in_a_child(whole, 0) == 0
events = int((whole / "events").read_text())
(whole / "events").unlink()
for seed, folder in enumerate(folders):
    at = random.Random(seed).randint(1, events)
    assert in_a_child(folder, at) == signal.SIGKILL, at
    print(json.dumps(at))
"""


def kill_at_random(act: str, whole: Path, folders: Sequence[Path]) -> list[int]:
    """Let a function act on directories: on one to its end, on each of the others until it is
    killed, each in a process of its own.

    Args:
        act: "module:function" of the tests; it takes the directory.

    Returns:
        At which of its events each was killed.
    """
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, act, *map(str, (whole, *folders))],
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def files_on_disk(folder: Path) -> set[Path]:
    """The files that a data directory's state should know of."""
    return {
        path
        for name in ("processed", "feature_store/offline", "quarantine")
        for path in (folder / name).rglob("*")
        if path.is_file()
    }
