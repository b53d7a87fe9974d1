"""The policy's scores in numpy, for serving: no torch, and orders of any number of options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DOLLARS: Final = 4.0
"""What one unit of the network's output is worth."""
LARGEST_REGRET: Final = 30.0
"""$ by which an option may look worse than the best before it is all the same."""


def score_options(
    network: Mapping[str, NDArray[np.float32]],
    options: NDArray[np.float32],
    feasible: NDArray[np.bool_],
    greedy: Floats,
    order: NDArray[Any],
) -> Floats:
    """What `network.OptionScorer` gives, for N options of several orders.

    Args:
        network: the scorer's weights by their names.
        options: (N, F) encoded.
        feasible, greedy, order: (N,) whether it can be done, $ of the greedy rule, which order.

    Returns:
        (N,) scores in $, higher is better.
    """
    if (order == order[:1]).all():
        place = np.arange(len(order))
        starts, group = np.zeros(1, dtype=np.int64), np.zeros(len(order), dtype=np.int64)
    else:
        found, number = np.unique(order, return_inverse=True)
        place = np.argsort(number, kind="stable")
        group = number[place]
        starts = np.searchsorted(group, np.arange(len(found)))
        options, feasible, greedy = options[place], feasible[place], greedy[place]
    able = feasible.astype(np.float32)
    count = np.add.reduceat(able, starts)
    best = np.minimum.reduceat(np.where(feasible, greedy, np.inf), starts)[group]
    regret = greedy - np.where(np.isfinite(best), best, greedy)
    regret = np.clip(regret, -LARGEST_REGRET, LARGEST_REGRET) / 10
    seen = np.concatenate([options, regret[:, None].astype(np.float32)], axis=1)  # (N, F + 1)
    mean = np.add.reduceat(seen * able[:, None], starts, axis=0)
    mean /= np.maximum(count, 1)[:, None]
    hidden = seen @ network["own.weight"].T + network["own.bias"]
    hidden = np.tanh(hidden + (mean @ network["others.weight"].T)[group])
    hidden = np.tanh(hidden @ network["second.weight"].T + network["second.bias"])
    correction = hidden @ network["out.weight"][0] + network["out.bias"][0]
    score = np.empty(len(greedy))
    score[place] = DOLLARS * correction - greedy
    return score
