"""What the batch flow's update step calls: champions scored on labels that have arrived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.lake.clock import utc_now
from pipelines.settings import BatchConfig


def champions_scorer(config: BatchConfig) -> Callable[[], dict[str, Any]]:
    """A function that scores every champion of a data directory; nothing is loaded before."""

    def score() -> dict[str, Any]:
        from pipelines.models.tasks import MODELS, TASKS
        from pipelines.monitoring.champions import score_champions

        tasks = {MODELS[name]: make for name, make in TASKS.items()}
        return score_champions(config, tasks, utc_now())

    return score
