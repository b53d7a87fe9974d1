"""The rule that decides when the model cannot.

One step ahead, in $: what shipping costs, how long the customer waits beyond what was wished for,
and carbon. A missing value counts as nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Columns = Mapping[str, Any]


@dataclass(frozen=True)
class GreedyWeights:
    """What the rule weighs beside $ of shipping.

    Attributes:
        late_hour: $ for an hour beyond what the customer was promised, at an urgency of one half.
        patience: the share of it that counts for a customer in no hurry at all.
        carbon_kg: $ for each kgCO2e; 0.1 is 100 $ per tonne.
    """

    late_hour: float = 0.4
    patience: float = 0.3
    carbon_kg: float = 0.1


def greedy_scores(columns: Columns, weights: GreedyWeights) -> Floats:
    """(N,) score of each option: minus its cost in $."""
    delay = numbers(columns["expected_delay_hours"])
    late = numbers(columns["promised_hours"]) + delay - numbers(columns["wanted_hours"])
    hurry = weights.patience + (1.0 - weights.patience) * 2.0 * numbers(columns["urgency"])
    carbon = numbers(columns["order_carbon_kg"])
    waiting = weights.late_hour * hurry * np.maximum(late, 0.0)
    cost = numbers(columns["ship_cost"]) + waiting + weights.carbon_kg * carbon
    return np.asarray(-cost, dtype=np.float64)


def numbers(values: Any) -> Floats:
    """Floats of a column, 0 where it has none."""
    return np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
