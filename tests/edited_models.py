"""A process of an edited copy of the package that trains models, and decides by them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edited_copy import EditedCopy, EditedProcess


class ModelProcess(EditedProcess):
    """Answers one question after another; the clock is that of the tests."""

    def cycle_now(self) -> dict[str, Any]:
        """Run a batch cycle; its report, or under `error` what went wrong."""
        return self.asked({"do": "cycle"})

    def train(self, *names: str) -> dict[str, Any]:
        """Train tiny models of some tasks, one after another; by task its report."""
        return self.asked({"do": "train", "names": names})

    def decide(self) -> dict[str, Any]:
        """A decision on the newest order."""
        return self.asked({"do": "decide"})

    def replay(self, decision: str) -> dict[str, Any]:
        """What came of replaying a decision."""
        return self.asked({"do": "replay", "decision": decision})

    def promote(self, model: str, version: int) -> dict[str, Any]:
        """Make a version champion, whatever the gate says."""
        return self.asked({"do": "promote", "model": model, "version": version})

    def rollback(self, model: str) -> dict[str, Any]:
        """Take the last promotion back."""
        return self.asked({"do": "rollback", "model": model})

    def inputs(self, model: str, version: int) -> set[str]:
        """The inputs that a version's signature names."""
        return set(self.asked({"do": "inputs", "model": model, "version": version})["names"])

    def rebuild(self, run_id: str) -> dict[str, Any]:
        """Whether the data set of a run is still the same."""
        return self.asked({"do": "rebuild", "run_id": run_id})


@contextmanager
def model_process(copy: EditedCopy) -> Iterator[ModelProcess]:
    """A process with the declarations as they are now; it ends with the block."""
    tests = Path(__file__).parent
    paths = (tests / "child_clock", tests)
    process = ModelProcess(copy.start(__file__, paths=paths, stdin=subprocess.PIPE))
    try:
        yield process
    finally:
        process.end()


def _tasks() -> Any:
    """The package's tasks, made small."""
    from dataclasses import replace

    from pipelines.models.delay.task import GnnTask
    from pipelines.models.delay.training import FitConfig
    from pipelines.models.fulfilment.training import PpoConfig
    from pipelines.models.fulfilment.world import FulfilmentConfig
    from pipelines.models.intent.transformer import IntentConfig
    from pipelines.models.tasks import TASKS

    class TinyGnnTask(GnnTask):
        def train(self, data: Any, **options: Any) -> Any:
            return super().train(data, **options, config=FitConfig(epochs=1))

    def ppo(registry: Any) -> Any:
        return replace(
            TASKS["ppo"](registry),
            config=FulfilmentConfig(orders=60, days=2),
            quick_settings=PpoConfig(priced=4, desks=2, steps=120, rollout=60, batch=60),
            quick_episodes=2,
        )

    def intent(registry: Any) -> Any:
        tiny = IntentConfig(width=8, heads=2, members=1, epochs=1)
        return replace(TASKS["intent"](registry), config=tiny)

    return {"intent": intent, "gnn": lambda _registry: TinyGnnTask(), "ppo": ppo}


def _answer(question: dict[str, Any]) -> Any:
    from dataclasses import asdict

    from pipelines.registry.store import ModelRegistry
    from pipelines.settings import BatchConfig, DataConfig

    data, batch = DataConfig(), BatchConfig()
    match question["do"]:
        case "cycle":
            from pipelines.batch import BatchProcessor

            return asdict(BatchProcessor(batch, data).run_cycle())
        case "train":
            return _trained(batch, question["names"])
        case "decide":
            from pipelines.serving.live_orders import decide_live

            return decide_live(data, batch, 1)[0].as_dict()
        case "rebuild":
            return _rebuilt(batch, question["run_id"])
    return _of_registry(ModelRegistry(batch), data, **question)


def _of_registry(registry: Any, data: Any, do: str, **question: Any) -> Any:
    if do == "replay":
        from dataclasses import asdict

        from pipelines.serving.decision_log import FILE, DecisionLog
        from pipelines.serving.replay import replay

        logged = DecisionLog(data.data_dir / FILE, 1000, 5.0).get(question["decision"])
        return asdict(replay(logged, lambda name, v: registry.load(registry.get(name, v))))
    if do == "rollback":
        return {"version": registry.rollback(**question).version}
    if do == "promote":
        return {"version": registry.promote(**question, force=True).version}
    from mlflow.models import Model

    version = registry.get(**question)
    return {"names": Model.load(str(version.folder)).signature.inputs.input_names()}


def _trained(batch: Any, names: Sequence[str]) -> dict[str, Any]:
    from pipelines.monitoring.champions import gate
    from pipelines.training.run import train

    found = {}
    for name in names:
        (report,) = train(batch, [name], tasks=_tasks(), gate=gate, quick=True)
        found[name] = report.as_dict()
    return found


def _rebuilt(batch: Any, run_id: str) -> dict[str, Any]:
    import tempfile
    from dataclasses import asdict

    from pipelines.training.manifest import rebuild
    from pipelines.training.tracking import fetch_manifest

    with tempfile.TemporaryDirectory() as folder:
        return asdict(rebuild(batch, run_id, fetch_manifest(batch, run_id, Path(folder))))


def _serve() -> None:
    from pipelines.errors import SynchroChainError

    for line in sys.stdin:
        try:
            answer = _answer(json.loads(line))
        except SynchroChainError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, default=str), flush=True)


if __name__ == "__main__":
    _serve()
