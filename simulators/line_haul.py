"""The steady trade on every route: consignments that are nobody's order, so that it is in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from simulators.draws import Kind, generator
from simulators.world import DAY_US, World

# Per route and day, log-normal kg (median, log-sd). The mix of modes makes about 12 % late.
_A_DAY: Final = {"air": 8.0, "road": 2.5, "rail": 2.0, "sea": 1.5}
_MEDIAN_KG: Final = {"air": 20.0, "road": 120.0, "rail": 400.0, "sea": 600.0}
_LOG_SD_KG: Final = 0.8
METHOD: Final = {"air": "express", "road": "standard", "rail": "economy", "sea": "economy"}


@dataclass(frozen=True)
class Consignment:
    """One load: when it leaves (simulated time), on which route (index), how heavy."""

    time: int
    route: int
    weight_kg: float


def consignments(world: World, day: int) -> list[Consignment]:
    """The loads that leave on a day since the origin, in order of time."""
    rng = generator(world.config.seed, Kind.LINE_HAUL, day)
    modes = [route.mode for route in world.network.routes]
    route = np.repeat(np.arange(len(modes)), rng.poisson([_A_DAY[mode] for mode in modes]))
    time = day * DAY_US + (rng.random(len(route)) * DAY_US).astype(np.int64)
    medians = np.array([_MEDIAN_KG[mode] for mode in modes])[route]
    weights = (medians * np.exp(_LOG_SD_KG * rng.standard_normal(len(route)))).round(2)
    order = np.argsort(time, kind="stable")
    rows = zip(time[order].tolist(), route[order].tolist(), weights[order].tolist(), strict=True)
    return [Consignment(*row) for row in rows]
