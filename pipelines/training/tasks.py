"""The tasks by name, made when they are needed: PyTorch takes its time and its memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final

from pipelines.registry.store import ModelRegistry
from pipelines.settings import BatchConfig
from pipelines.training.source import TrainingSource
from pipelines.training.task import Dataset, Evaluation, Predictor, Task

MODELS: Final[Mapping[str, str]] = {
    "intent": "intent_transformer",
    "gnn": "supply_gnn",
    "ppo": "ppo_agent",
}
"""The registered model of each task, in the order of training: the agent decides on the forecasts
of the other two."""


def task_named(name: str, registry: ModelRegistry) -> Task:
    """The task of a name; the agent's decides on the forecasts of the champions there are.

    Raises:
        BrokenModelError: a champion that the agent needs does not load.
        RegistryUnavailableError: MLflow's store is locked, gone or damaged.
    """
    match name:
        case "intent":
            from pipelines.training.intent import IntentTask

            return IntentTask()
        case "gnn":
            from pipelines.training.gnn import GnnTask

            return GnnTask()
        case _:
            from pipelines.training.ppo import PpoTask

            return PpoTask(
                intent=_champion(registry, MODELS["intent"]),
                delay=_champion(registry, MODELS["gnn"]),
            )


@dataclass
class TaskToScore:
    """A task as far as scoring a champion goes; the task itself is made at first use."""

    config: BatchConfig
    name: str

    @property
    def model(self) -> str:
        """The registered model's name."""
        return MODELS[self.name]

    @cached_property
    def _task(self) -> Task:
        return task_named(self.name, ModelRegistry(self.config))

    def dataset(
        self, source: TrainingSource, *, quick: bool, since: datetime | None = None
    ) -> Dataset:
        """The task's data set."""
        return self._task.dataset(source, quick=quick, since=since)

    def evaluate(self, predictor: Predictor, data: Dataset) -> Evaluation:
        """The task's evaluation."""
        return self._task.evaluate(predictor, data)


def _champion(registry: ModelRegistry, model: str) -> Predictor | None:
    registry.experiment(model)  # so that there is a store, though nothing was trained yet
    version = registry.with_alias(model, "champion")
    if version is None:
        return None
    predictor: Predictor = registry.load(version)
    return predictor
