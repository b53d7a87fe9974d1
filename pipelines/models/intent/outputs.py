"""What every intent model answers: chances of a purchase, how soon it is, and their calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SOON_S: Final = 600.0
"""A purchase within so many seconds makes the urgency high."""
URGENCY_CLASSES: Final = ("low", "medium", "high")
BUYS, IS_SOON = 0, 1  # places of the two logits: a purchase, and soon if there is one


@dataclass(frozen=True)
class Calibration:
    """Platt's scaling of a logit (Platt 1999), fitted on validation users."""

    slope: float = 1.0
    offset: float = 0.0

    def probability(self, logit: Floats) -> Floats:
        """The calibrated probability."""
        found: Floats = sigmoid(self.slope * logit + self.offset)
        return found


def sigmoid(logit: Floats) -> Floats:
    """1 / (1 + e^−x), without overflow."""
    found: Floats = 0.5 * (1 + np.tanh(0.5 * np.asarray(logit, dtype=np.float64)))
    return found


def outputs(purchase: Floats, soon: Floats) -> dict[str, NDArray[Any]]:
    """The signature's outputs.

    Args:
        purchase: (N,) probability of a purchase later in the session.
        soon: (N,) probability that it comes within 10 minutes, if it comes.
    """
    high, low = purchase * soon, 1 - purchase
    medium = purchase - high
    likeliest = np.argmax(np.stack([low, medium, high], 1), 1)
    return {
        "purchase_probability": purchase,
        "urgency_class": np.array(URGENCY_CLASSES, dtype=object)[likeliest],
        "urgency": high + 0.5 * medium,
    }


def logit(probability: Floats) -> Floats:
    """log(p / (1 − p)), kept finite."""
    kept = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(kept / (1 - kept)))
