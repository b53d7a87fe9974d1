"""What the batch flow's update step calls: champions scored on labels that have arrived."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pipelines.lake.clock import utc_now
from pipelines.settings import BatchConfig


def champions_scorer(config: BatchConfig) -> Callable[[], dict[str, Any]]:
    """A function that scores every champion of a data directory; nothing is loaded before."""

    def score() -> dict[str, Any]:
        from pipelines.monitoring.champions import score_champions
        from pipelines.training.tasks import MODELS, task_named

        tasks = {model: partial(task_named, name) for name, model in MODELS.items()}
        return score_champions(config, tasks, utc_now())

    return score
