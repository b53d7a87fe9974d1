"""Drift of a feature's distribution: the population stability index.

PSI = Σ (current − reference) · ln(current / reference) over bins, with each bin's share of the
rows: the symmetrised Kullback–Leibler divergence of the two histograms. Formula and the customary
bounds (below 0.1 stable, above 0.25 another population): N. Siddiqi, Credit Risk Scorecards, 2006.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS: Final = 10
HALF_A_ROW: Final = 0.5
"""Added to each bin's count, so that the logarithm of an empty one is finite."""


def psi(reference: ArrayLike, current: ArrayLike, bins: int = BINS) -> float:
    """The population stability index of one numeric feature.

    Bins are quantiles of the reference, so that each holds as many of its rows as ties allow;
    nulls are a bin of their own. Two samples of n and m rows of the same distribution differ by
    about (bins − 1) · (1/n + 1/m) by chance.

    Args:
        reference: values of the training set, NaN where null.
        current: the values of today, NaN where null.
        bins: the number of quantile bins.

    Returns:
        0 for equal shares, larger without bound the further they are apart; NaN without rows.
    """
    before, now = np.asarray(reference, np.float64), np.asarray(current, np.float64)
    if not before.size or not now.size:
        return float("nan")
    present = before[~np.isnan(before)]
    inner = np.arange(1, bins) / bins
    # A value that fills several quantiles makes one bin edge; a constant feature makes one bin,
    # with all larger values in another.
    edges = np.unique(np.quantile(present, inner)) if present.size else np.empty(0)
    p, q = _shares(before, edges), _shares(now, edges)
    return float(((q - p) * np.log(q / p)).sum())


def _shares(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of rows per bin; the last bin is that of the nulls."""
    null = np.isnan(values)
    # "left": a value on an edge belongs below it, so a constant feature and a larger value differ.
    place: NDArray[Any] = np.where(null, len(edges) + 1, np.searchsorted(edges, values, "left"))
    counts = np.bincount(place, minlength=len(edges) + 2) + HALF_A_ROW
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares
