"""What the batch flow's update step calls: champions scored on labels that have arrived."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from pipelines.lake.clock import utc_now
from pipelines.settings import BatchConfig


def champions_scorer(config: BatchConfig) -> Callable[[], dict[str, Any]]:
    """A function that scores every champion of a data directory; nothing is loaded before."""

    def score() -> dict[str, Any]:
        from pipelines.monitoring.champions import score_champions
        from pipelines.training.tasks import MODELS, TaskToScore

        if not os.path.lexists(config.mlflow_path / "mlflow.db"):
            return {}
        return score_champions(config, [TaskToScore(config, name) for name in MODELS], utc_now())

    return score
