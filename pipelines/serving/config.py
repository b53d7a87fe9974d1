"""How decisions are made: every setting of serving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.errors import ConfigurationError
from pipelines.models.fulfilment.features import CANDIDATES
from pipelines.serving.greedy import GreedyWeights


@dataclass(frozen=True)
class ServingConfig:
    """How decisions are made; durations are seconds.

    Attributes:
        max_warehouses: nearest warehouses among which is chosen; as many as the agent learnt with.
        network_max_age: the network's snapshot is renewed when it is older.
        stale_after: a snapshot older than this is stale, and so are last known values when Redis
            has been away for longer.
        reference_age: how often the live databases are asked whether routes or products changed.
        poll: how often the registry's aliases are looked at.
        max_age: features of a view older than this are stale, besides the view's own time to live.
        keep_decisions: how many decisions the log holds; the oldest give way. One takes about
            4.5 kB, so the file stays below half a gigabyte.
        log_busy: how long a decision waits for another writer of the log.
        weights: the greedy rule's, for when there is no model.
    """

    max_warehouses: int = CANDIDATES
    network_max_age: float = 2.0
    stale_after: float = 60.0
    reference_age: float = 5.0
    poll: float = 2.0
    max_age: Mapping[str, float] = field(default_factory=dict)
    keep_decisions: int = 100_000
    log_busy: float = 0.05
    weights: GreedyWeights = field(default_factory=GreedyWeights)

    def __post_init__(self) -> None:
        for name in ("max_warehouses", "keep_decisions"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1: {getattr(self, name)}")
        for name in ("network_max_age", "stale_after", "reference_age", "poll"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} must be above 0 seconds: {getattr(self, name)}")
