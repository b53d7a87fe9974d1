"""What the figures of all tasks have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_axes(across: str = "", up: str = "", title: str = "") -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes.

    Args:
        across: label of the horizontal axis.
        up: label of the vertical axis.
        title: of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=across, ylabel=up)
    return figure, axes


def learning_curve(
    curves: Mapping[str, Sequence[float]], across: str = "epoch", up: str = "loss"
) -> Figure:
    """What was measured while learning, by epoch.

    Args:
        curves: values by epoch, by what they are of.
        across: label of the horizontal axis.
        up: label of the vertical axis.
    """
    figure, axes = new_axes(across, up)
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, marker=".", label=name)
    axes.legend()
    return figure
