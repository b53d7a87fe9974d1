"""What the simulated carriers hide."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulators.transit import Transit


def late_probability(transit: Transit, hour: int) -> NDArray[np.float64]:
    """(routes,) chance that a shipment leaving in that hour is late."""
    odds = transit.log_odds + transit.odds_slope * transit.latent(hour)
    return np.asarray(1 / (1 + np.exp(-odds)), dtype=np.float64)
