"""Pictures of how good the delay forecasts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines.models.delay.evaluation import Judged, reliability
from pipelines.training.task import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
    figure, axes = _axes(*labels)
    highest = least
    for name, one in judged.items():
        forecast, truth = one.outputs[columns[0]], one.labels[columns[1]]
        bins = np.array(reliability(forecast, truth, one.labels["shipments"]))
        axes.plot(bins[:, 0], bins[:, 1], marker="o", label=name)
        highest = max(highest, float(bins[:, :2].max()))
    axes.plot([0, highest], [0, highest], color="grey", linestyle="--", linewidth=1)
    axes.legend()
    return figure


def learning_curve(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Loss by epoch."""
    figure, axes = _axes("epoch", "loss")
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, marker=".", label=name)
    axes.legend()
    return figure


def comparison(scores: Mapping[str, Interval], what: str) -> Figure:
    """One bar per model with its interval over seeds."""
    figure, axes = _axes(what, "")
    names = list(scores)[::-1]
    means = [scores[name].mean for name in names]
    halves = [
        scores[name].high - scores[name].mean if len(scores[name].values) > 1 else 0.0
        for name in names
    ]
    axes.barh(names, means, xerr=halves, color="steelblue", ecolor="black")
    axes.axvline(0.0, color="grey", linewidth=1)
    figure.tight_layout()
    return figure


def _axes(across: str, up: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="tight")
    axes = figure.subplots()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return figure, axes
