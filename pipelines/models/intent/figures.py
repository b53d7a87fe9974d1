"""Plots of the intent models on the hold-out of the first seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.models.intent.evaluation import ECE_BINS
from pipelines.training.figures import new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def reliability(probability: Floats, truth: Bools) -> Figure:
    """Forecast against frequency in bins of equal mass; the diagonal is perfect."""
    figure, axes = new_axes(
        "forecast probability of a purchase", "share that bought", "Reliability"
    )
    parts = np.array_split(np.argsort(probability, kind="stable"), ECE_BINS)
    forecast = [probability[part].mean() for part in parts if len(part)]
    happened = [truth[part].mean() for part in parts if len(part)]
    error = [np.sqrt(max(truth[p].mean() * (1 - truth[p].mean()), 1e-9) / len(p)) for p in parts]
    axes.errorbar(forecast, happened, yerr=error[: len(forecast)], fmt="o-", label="± 1 s.e.")
    top = max(*forecast, *happened)
    axes.plot([0, top], [0, top], "k--", linewidth=1)
    axes.legend()
    return figure


def precision_recall(forecasts: Mapping[str, Floats], truth: Bools) -> Figure:
    """One curve a model, the best average precision first."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    figure, axes = new_axes("recall", "precision", "Precision and recall")
    areas = {name: average_precision_score(truth, p) for name, p in forecasts.items()}
    for name in sorted(areas, key=lambda name: -areas[name]):
        precision, recall, _ = precision_recall_curve(truth, forecasts[name])
        axes.plot(recall, precision, label=f"{name} ({areas[name]:.3f})", linewidth=1.2)
    axes.legend(fontsize="small")
    return figure
