"""How long each part of a decision takes.

A module of its own: the benchmarks themselves are loaded in a way that dataclasses do not bear.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Final

from pipelines.serving.online import SERVICES

PARTS: Final = {
    "reference": "orders",
    "wait": "waiting",
    "features": "features",
    **{service: model for model, service in SERVICES.items()},
    "answer": "answer",
    "log": "log",
}


@dataclass
class Stopwatch:
    """Adds up, order by order, how long each part takes; called when a part begins."""

    spent: dict[str, list[float]] = field(default_factory=dict)
    _stage: str | None = None
    _since: float = 0.0
    _order: dict[str, float] = field(default_factory=dict)

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        if self._stage is not None:
            part = PARTS[self._stage]
            self._order[part] = self._order.get(part, 0.0) + (now - self._since) * 1000
        self._stage, self._since = (None if stage == "done" else stage), now
        if stage == "done":
            for part, took in self._order.items():
                self.spent.setdefault(part, []).append(took)
            self._order = {}

    def medians(self) -> dict[str, float]:
        """Milliseconds by part."""
        return {part: round(statistics.median(all_), 3) for part, all_ in self.spent.items()}
