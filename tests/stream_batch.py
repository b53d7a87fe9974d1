"""Batch cycles in a process of their own, beside a stream in the test's process.

ADBC brings its own SQLite. Two of them in one process must not have the same database open: when
one closes it, the locks of the other are gone, and with them what is committed afterwards.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[1]


class BatchProcess:
    """Runs cycles when it is asked to, one after another; the arguments are `batch_process`'s."""

    def __init__(self, features: str = "", path: str = "") -> None:
        paths = (str(HOME), path, os.environ.get("PYTHONPATH", ""))
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HOME,
            env={
                **os.environ,
                "SYNCHROCHAIN_FEATURES": features or os.environ.get("SYNCHROCHAIN_FEATURES", ""),
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            },
        )

    def cycle(self, data_dir: Path, now: datetime, *, update: bool = False) -> dict[str, Any]:
        """Run one cycle; its report, or under `error` what went wrong.

        Args:
            now: where its clock starts, which moves a second at each look.
        """
        asked = {"data_dir": str(data_dir), "now": now.isoformat(), "update": update}
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def end(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout
        self._process.stdout.close()


@contextmanager
def batch_process(features: str = "", path: str = "") -> Iterator[BatchProcess]:
    """A process for batch cycles, which ends with the block.

    Args:
        features: the modules that it knows beside the package.
        path: where they are.
    """
    process = BatchProcess(features, path)
    try:
        yield process
    finally:
        process.end()


def _cycle(asked: dict[str, Any]) -> dict[str, Any]:
    from pipelines.batch import BatchConfig, BatchProcessor
    from pipelines.errors import SynchroChainError
    from pipelines.settings import DataConfig

    folder = Path(asked["data_dir"])
    instant = datetime.fromisoformat(asked["now"])

    def clock() -> datetime:
        nonlocal instant
        instant += timedelta(seconds=1)
        return instant

    os.environ["SYNCHROCHAIN_DATA_DIR"] = str(folder)  # which Feast's stores go by
    config = BatchConfig(data_dir=folder, retention_days=100 * 365)
    processor = BatchProcessor(config, DataConfig(data_dir=folder), clock=clock)
    try:
        report = processor.run_cycle(update=asked["update"])
    except SynchroChainError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"changes": report.changes, "quarantined": report.quarantined, "end": str(instant)}


def _serve() -> None:
    for line in sys.stdin:
        print(json.dumps(_cycle(json.loads(line))), flush=True)


if __name__ == "__main__":
    for name in [name for name in os.environ if name.startswith(("SYNCHROCHAIN_", "MLFLOW_"))]:
        if name != "SYNCHROCHAIN_FEATURES":
            del os.environ[name]
    _serve()
