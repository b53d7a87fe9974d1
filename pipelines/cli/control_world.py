"""A world without signal, trained in processes of its own: every model must score chance there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import SynchroChainError
from pipelines.settings import foreign_environment


def train_control(
    names: Sequence[str], progress: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Simulate a world without signal, process it, train quickly, and say how it went.

    Everything happens in a temporary data directory, which is removed.

    Args:
        names: the tasks to train.
        progress: called with the name of each step as it begins.

    Returns:
        The claims about chance, as `train --json` gives them.

    Raises:
        SynchroChainError: a step failed; its last line says why.
    """
    folder = Path(tempfile.mkdtemp(prefix="synchrochain-control-"))
    try:
        progress("simulating")
        _run(folder, "simulate", "--no-signal")
        progress("processing")
        _run(folder, "batch", "--once")
        progress("training")
        found = json.loads(_run(folder, "train", *names, "--quick", "--json"))
        claims: list[dict[str, Any]] = found["chance"]
        return claims
    finally:
        _run(folder, "down")
        shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path, *words: str) -> str:
    # A Redis server that was configured for the real world must not get the control's features.
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *words, "--data-dir", str(folder)],
        env=foreign_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise SynchroChainError(f"in the control world, `{' '.join(words)}` failed: {last}")
    return done.stdout
