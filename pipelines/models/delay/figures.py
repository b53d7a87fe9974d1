"""Pictures of how good the delay forecasts are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pipelines.models.delay.evaluation import Judged, reliability
from pipelines.training.figures import new_axes
from pipelines.training.task import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def delay_calibration(judged: Mapping[str, Judged]) -> Figure:
    """Share of late shipments against the forecast probability, by model."""
    labels = ("forecast probability of being late", "share late")
    return _reliability(judged, ("late_probability", "late"), labels, 0.05)


def delay_forecast(judged: Mapping[str, Judged]) -> Figure:
    """Observed delay index against the forecast one, in tenths of the shipments, by model."""
    labels = ("forecast delay index", "observed delay index")
    return _reliability(judged, ("delay_index", "index"), labels, 0.02)


def _reliability(
    judged: Mapping[str, Judged], columns: tuple[str, str], labels: tuple[str, str], least: float
) -> Figure:
    """What happened (the second column) against what was forecast (the first), by model."""
    figure, axes = new_axes(*labels)
    highest = least
    for name, one in judged.items():
        forecast, truth = one.outputs[columns[0]], one.labels[columns[1]]
        bins = np.array(reliability(forecast, truth, one.labels["shipments"]))
        axes.plot(bins[:, 0], bins[:, 1], marker="o", label=name)
        highest = max(highest, float(bins[:, :2].max()))
    axes.plot([0, highest], [0, highest], color="grey", linestyle="--", linewidth=1)
    axes.legend()
    return figure


def comparison(scores: Mapping[str, Interval], what: str) -> Figure:
    """One bar per model with its interval over seeds."""
    figure, axes = new_axes(what, "")
    names = list(scores)[::-1]
    means = [scores[name].mean for name in names]
    halves = [
        scores[name].high - scores[name].mean if len(scores[name].values) > 1 else 0.0
        for name in names
    ]
    axes.barh(names, means, xerr=halves, color="steelblue", ecolor="black")
    axes.axvline(0.0, color="grey", linewidth=1)
    return figure
