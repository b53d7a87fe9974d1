"""The tasks by name, made when they are needed: PyTorch takes its time and its memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pipelines.registry.store import ModelRegistry
from pipelines.training.task import Predictor, Task

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


def _champion(registry: ModelRegistry, model: str) -> Predictor | None:
    registry.experiment(model)  # so that there is a store, though nothing was trained yet
    version = registry.with_alias(model, "champion")
    if version is None:
        return None
    predictor: Predictor = registry.load(version)
    return predictor
