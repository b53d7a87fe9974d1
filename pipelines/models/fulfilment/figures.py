"""Pictures of the comparison; each function draws one and gives it back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from pipelines.models.fulfilment.evaluation import AGENT, CLAIRVOYANT, PACED, Comparison
from pipelines.training.figures import learning_curve, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAP: Final = "gap to the clairvoyant plan closed"


def by_policy(comparisons: Sequence[Comparison]) -> Figure:
    """Cost per order of every policy, mean and range over seeds."""
    costs = {
        name: [-c.outcomes[name].value.mean() for c in comparisons]
        for name in comparisons[0].outcomes
    }
    costs[CLAIRVOYANT] = [-c.clairvoyant.mean() for c in comparisons]
    order = sorted(costs, key=lambda name: -float(np.mean(costs[name])))
    figure, axes = new_axes("$ per order on the hold-out, lower is better (range over seeds)")
    mean = [float(np.mean(costs[name])) for name in order]
    low = [m - min(costs[name]) for m, name in zip(mean, order, strict=True)]
    high = [max(costs[name]) - m for m, name in zip(mean, order, strict=True)]
    colours = ["tab:orange" if name == AGENT else "tab:blue" for name in order]
    axes.barh(order, mean, xerr=[low, high], color=colours)
    return figure


def learning(curves: Sequence[Sequence[float]], seeds: Sequence[int]) -> Figure:
    """Gap closed on training episodes as learning goes on: the rule, then prices, then PPO."""
    named = {f"seed {seed}": curve for curve, seed in zip(curves, seeds, strict=True)}
    return learning_curve(named, "stage: start, prices learnt, then PPO", _GAP)


def by_seed(comparisons: Sequence[Comparison], seeds: Sequence[int]) -> Figure:
    """Gap closed on each seed's hold-out, with two standard errors over episodes."""
    figure, axes = new_axes(up=_GAP)
    for shift, name in ((-0.15, PACED), (0.15, AGENT)):
        axes.bar(
            np.arange(len(seeds)) + shift,
            [c.gap(name) for c in comparisons],
            0.3,
            yerr=[2 * c.noise(name) for c in comparisons],
            label=name,
        )
    axes.axhline(0.3, linestyle="--", color="grey")
    axes.set_xticks(range(len(seeds)), [f"seed {seed}" for seed in seeds])
    axes.legend()
    return figure
