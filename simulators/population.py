"""The people: where they live, how often they come, how readily they buy, how they like it sent."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.live_databases import SHIPPING_METHODS
from simulators.draws import Kind, generator

Floats = NDArray[np.float64]

# Log-normal visiting: over 18 months half of the buyers buy once and the top fifth make about
# 66 % of the spend (CDNOW: 50 % and 68 %). A gamma law cannot meet both at our conversion.
_ACTIVITY_LOG_SD: Final = 1.5
_MOST_ACTIVE: Final = 30.0  # times the mean
_READINESS_SD: Final = 0.45
_METHOD_SHARES: Final = (0.55, 0.20, 0.10, 0.15)  # in the order of SHIPPING_METHODS
_SIGNED_UP_DAYS: Final = 730


class Population:
    """Users 1…size; arrays are indexed by user_id − 1.

    Args:
        seed: of the world.
        size: number of users.
        region_shares: (regions,) share of the population, sums to 1.
    """

    def __init__(self, seed: int, size: int, region_shares: Floats) -> None:
        rng = generator(seed, Kind.USERS)
        self.region: NDArray[np.int64] = rng.choice(len(region_shares), size, p=region_shares)
        drawn = rng.normal(-(_ACTIVITY_LOG_SD**2) / 2, _ACTIVITY_LOG_SD, size)
        activity = np.minimum(np.exp(drawn), _MOST_ACTIVE)
        self.activity: Floats = activity / activity.sum()
        self._cumulative: Floats = np.cumsum(self.activity)
        # How much likelier than others a user arrives with a purchase in mind; mean 1.
        drawn = rng.standard_normal(size)
        self.readiness: Floats = np.exp(_READINESS_SD * drawn - _READINESS_SD**2 / 2)
        self.method: NDArray[np.int64] = rng.choice(len(SHIPPING_METHODS), size, p=_METHOD_SHARES)
        # Seconds before the start of the world.
        self.signed_up_before: Floats = rng.uniform(0, _SIGNED_UP_DAYS * 86400.0, size)

    def __len__(self) -> int:
        return len(self.region)

    def pick(self, uniforms: Floats) -> NDArray[np.int64]:
        """Users (as indices) by activity, one for each uniform number."""
        found = np.searchsorted(self._cumulative, uniforms * self._cumulative[-1], side="right")
        return np.asarray(np.minimum(found, len(self) - 1), dtype=np.int64)

    def pick_methods(self, uniforms: Floats) -> NDArray[np.int64]:
        """Shipping methods (as indices) of people who do not follow their habit."""
        found = np.searchsorted(np.cumsum(_METHOD_SHARES), uniforms, side="right")
        return np.minimum(found, len(_METHOD_SHARES) - 1)
