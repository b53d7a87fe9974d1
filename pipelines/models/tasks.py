"""The training tasks by name, made when they are needed: PyTorch takes its time and its memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from pipelines.registry.packaging import Predictor
from pipelines.registry.signatures import CONTRACTS
from pipelines.registry.store import ModelRegistry
from pipelines.training.task import Task

MODELS: Final[Mapping[str, str]] = {c.task: name for name, c in CONTRACTS.items()}
"""The registered model of each task, in the order of training: the agent decides on the forecasts
of the other two."""


def _intent(_registry: ModelRegistry) -> Task:
    from pipelines.models.intent.task import IntentTask

    return IntentTask()


def _delay(_registry: ModelRegistry) -> Task:
    from pipelines.models.delay.task import GnnTask

    return GnnTask()


def _fulfilment(registry: ModelRegistry) -> Task:
    from pipelines.models.fulfilment.task import PpoTask

    return PpoTask(
        intent=_champion(registry, MODELS["intent"]),
        delay=_champion(registry, MODELS["gnn"]),
    )


TASKS: Final[Mapping[str, Callable[[ModelRegistry], Task]]] = {
    "intent": _intent,
    "gnn": _delay,
    "ppo": _fulfilment,
}
"""What makes the task of a name. The agent's decides on the forecasts of the champions there are,
and raises BrokenModelError when one of them does not load, RegistryUnavailableError when MLflow's
store is locked, gone or damaged."""


def _champion(registry: ModelRegistry, model: str) -> Predictor | None:
    registry.experiment(model)  # so that there is a store, though nothing was trained yet
    version = registry.with_alias(model, "champion")
    if version is None:
        return None
    predictor: Predictor = registry.load(version)
    return predictor
