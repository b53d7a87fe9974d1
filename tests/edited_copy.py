"""A copy of the package whose declarations are edited as a user edits them, and processes of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pipelines.settings import PROJECT_ROOT

Popen = subprocess.Popen[str]
COPIED: Final = ("pipelines", "feature_repo", "simulators")


class EditedCopy:
    """The package's source in a folder of its own.

    Args:
        folder: where it lies.
        data_dir: of its processes.
    """

    def __init__(self, folder: Path, data_dir: Path) -> None:
        self._folder = folder
        self._data_dir = data_dir
        for name in COPIED:
            shutil.copytree(
                PROJECT_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )

    def edit(self, name: str, old: str, new: str) -> None:
        """Put a text in place of one that is there once."""
        path = self._folder / name
        text = path.read_text("utf-8")
        assert text.count(old) == 1, f"{old!r} in {name}"
        path.write_text(text.replace(old, new), "utf-8")

    def write(self, name: str, text: str) -> None:
        """Write a file anew."""
        (self._folder / name).write_text(text, "utf-8")

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self._folder / name).unlink()

    def restore(self, name: str) -> None:
        """Put a file back as it is in the package."""
        shutil.copy(PROJECT_ROOT / name, self._folder / name)

    @contextmanager
    def process(self) -> Iterator[EditedProcess]:
        """A process with the declarations as they are now; it ends with the block."""
        process = EditedProcess(self.start(__file__, stdin=subprocess.PIPE))
        try:
            yield process
        finally:
            process.end()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        started = self.start("-m", "pipelines.cli", *words, stderr=subprocess.PIPE)
        out, err = started.communicate(timeout=120)
        return subprocess.CompletedProcess(words, started.returncode, out, err)

    def start(self, *words: str, paths: Sequence[Path] = (), **options: Any) -> Popen:
        """Start Python on the copy.

        Args:
            words: its arguments.
            paths: further folders of modules.
            options: of the process.
        """
        ours = {
            n: v for n, v in os.environ.items() if not n.startswith(("SYNCHROCHAIN_", "MLFLOW_"))
        }
        return subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE,
            text=True,
            cwd=self._folder,
            env=ours
            | {
                "PYTHONPATH": os.pathsep.join(map(str, (self._folder, *paths))),
                "PYTHONDONTWRITEBYTECODE": "1",  # two edits in one second look alike
                "SYNCHROCHAIN_DATA_DIR": str(self._data_dir),
            },
            **options,
        )


class EditedProcess:
    """Answers one question after another."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def cycle(self, now: datetime) -> dict[str, Any]:
        """Run a batch cycle, the update included; its report, or under `error` what went wrong."""
        return self.asked({"cycle": now.isoformat()})

    def views(self) -> dict[str, list[str]]:
        """The views of Feast's registry with their features."""
        return self.asked({"views": True})

    def online(self, view: str, now: datetime, **keys: Any) -> dict[str, Any]:
        """What Feast serves of one key of a view."""
        return self.asked({"online": view, "now": now.isoformat(), "keys": keys})

    def history(self, view: str, at: datetime, **keys: Any) -> dict[str, Any]:
        """What Feast says of one key as of a time."""
        return self.asked({"history": view, "at": at.isoformat(), "keys": keys})

    def latest(self) -> dict[str, Any]:
        """What the data layer's cache says, or what went wrong."""
        return self.asked({"latest": True})

    def asked(self, question: dict[str, Any]) -> dict[str, Any]:
        """Its answer to a question."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(question), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def end(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout
        self._process.stdout.close()


class _Answers:
    """In the process: one batch processor, and one store of Feast's."""

    def __init__(self) -> None:
        from pipelines.batch import BatchConfig, BatchProcessor

        self._now = datetime(2024, 4, 1)
        config = BatchConfig(retention_days=100 * 365)
        self._processor = BatchProcessor(config, clock=self._clock)

    def _clock(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now

    def answer(self, question: dict[str, Any]) -> Any:
        from pipelines.errors import SynchroChainError

        try:
            return self._answer(question)
        except SynchroChainError as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _answer(self, question: dict[str, Any]) -> Any:
        from dataclasses import asdict

        from pipelines.data_layer import DataLayerOrchestrator
        from pipelines.features.views import VIEWS_BY_NAME

        if "cycle" in question:
            self._now = datetime.fromisoformat(question["cycle"])
            return asdict(self._processor.run_cycle())
        layer = DataLayerOrchestrator(batch=self._processor.config)
        if "latest" in question:
            found = layer.get_latest_features()
            return {n: None if of is None else of.views for n, of in found.items()}
        if "views" in question:
            views = layer.store.list_feature_views()
            return {view.name: [field.name for field in view.features] for view in views}
        if "history" in question:
            view, at = question["history"], datetime.fromisoformat(question["at"])
            row = layer.features(view, question["keys"], at)
            return row.features
        from datetime import UTC

        from pipelines.feast_plugins.online_store import SharedRedisOnlineStore

        now = datetime.fromisoformat(question["now"]).replace(tzinfo=UTC)
        SharedRedisOnlineStore.now = staticmethod(lambda: now)
        view = question["online"]
        names = [f"{view}:{name}" for name in VIEWS_BY_NAME[view].features]
        found = layer.store.get_online_features(features=names, entity_rows=[question["keys"]])
        return {name: value for name, (value,) in found.to_dict().items()}


def _serve() -> None:
    answers = _Answers()
    for line in sys.stdin:
        print(json.dumps(answers.answer(json.loads(line)), default=str), flush=True)


if __name__ == "__main__":
    _serve()
