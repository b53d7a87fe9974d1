"""What a batch cycle did, and which of its steps is under way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

STEPS: Final = ("read", "validate", "transform", "publish", "update", "cleanup")
"""Rows are transformed while they are staged, so both are `transform`."""


@dataclass
class CycleReport:
    """What one cycle did. Rows by log, table or view; seconds by step."""

    cycle: int
    started_at: str
    changes: int = 0
    accepted: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    resolved: dict[str, int] = field(default_factory=dict)
    """Rows that were quarantined before and are accepted now."""
    unknown_rows: dict[str, int] = field(default_factory=dict)
    """Rows that the change log does not know, for they changed without triggers."""
    feature_rows: dict[str, int] = field(default_factory=dict)
    feature_seconds: dict[str, float] = field(default_factory=dict)
    """By view, from its first row to its last, others being computed beside it."""
    files: int = 0
    applied: bool = False
    materialized: dict[str, list[str]] = field(default_factory=dict)
    """By view, from when to when in event time."""
    online_check: dict[str, Any] = field(default_factory=dict)
    """What was compared online with what is published, and what was mended."""
    after_update: dict[str, Any] = field(default_factory=dict)
    """Result of the `after_update` callback; `error`, one line, if it failed."""
    trimmed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.step = STEPS[0]
        """The step under way; no field, so not part of the stored report."""

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Inside, `step` is under way; afterwards its seconds are known."""
        self.step = step
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = round(time.perf_counter() - started, 3)
