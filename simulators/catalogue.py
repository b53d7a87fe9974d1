"""The goods: prices, weights, and popularity that is steep in rank and drifts from day to day."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulators.draws import Kind, generator

Floats = NDArray[np.float64]

_CATEGORIES: Final = (
    "electronics",
    "home",
    "fashion",
    "beauty",
    "sports",
    "toys",
    "grocery",
    "garden",
)
# Share of units over share of products: top 1/10/20 % of products sell 27/68/82 % of units, with
# a log-log slope of −0.75 in between (Ta-Feng). The other slopes follow from the shares.
_KNOTS: Final = (0.01, 0.1, 0.2)
_SLOPES: Final = (-0.51, -0.75, -1.45, -1.57)
_LOG_PRICE: Final = (3.3, 0.72)  # median 27, log-sd
_LOG_WEIGHT: Final = (0.0, 0.8)  # median 1 kg, log-sd
_GOLDEN: Final = (np.sqrt(5) - 1) / 2
_TREND_MEMORY: Final = 0.9  # per day
_TREND_SD: Final = 0.3
_DAYS_KEPT: Final = 3


class Catalogue:
    """Products by popularity rank; arrays are indexed by that rank.

    Args:
        seed: of the world.
        size: number of products.
        no_signal: popularity stands still, so past demand says nothing beyond its mean.
    """

    def __init__(self, seed: int, size: int, no_signal: bool) -> None:
        self._seed = seed
        self._no_signal = no_signal
        rng = generator(seed, Kind.PRODUCTS)
        width = max(4, len(str(size)))
        numbers = rng.permutation(size) + 1  # or the id would give the rank away
        self.ids = [f"P{number:0{width}d}" for number in numbers]
        self.popularity = popularity(size)
        self.category_of = rng.integers(0, len(_CATEGORIES), size)
        self.categories = [_CATEGORIES[c] for c in self.category_of]
        # A low-discrepancy walk gives every stretch of ranks the whole range of prices, so the
        # log-sd of order values does not hang on three best-sellers.
        walk = (rng.random() + _GOLDEN * np.arange(size)) % 1.0
        self.prices: list[float] = _log_normal(walk, _LOG_PRICE).round(2).tolist()
        self.weights_kg: list[float] = _log_normal(rng.random(size), _LOG_WEIGHT).round(3).tolist()
        self.embodied_kg: Floats = np.asarray(self.weights_kg) * rng.uniform(1.5, 8.0, size)
        self._first_trend: Floats = rng.standard_normal(size)
        self._trend = self._first_trend
        self._trend_day = 0
        self._cumulative: dict[int, Floats] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def cumulative(self, day: int) -> Floats:
        """Cumulative share of interest over products on a day since the origin; ends in 1."""
        if day not in self._cumulative:
            total = np.cumsum(self.popularity * np.exp(_TREND_SD * self._trend_of(day)))
            self._cumulative = dict(list(self._cumulative.items())[-_DAYS_KEPT:])
            self._cumulative[day] = total / total[-1]
        return self._cumulative[day]

    def _trend_of(self, day: int) -> Floats:
        if self._no_signal:
            return np.zeros(len(self))
        if day < self._trend_day:  # walk again from the first day
            self._trend, self._trend_day = self._first_trend, 0
        while self._trend_day < day:
            self._trend_day += 1
            fresh = generator(self._seed, Kind.TRENDS, self._trend_day).standard_normal(len(self))
            self._trend = _TREND_MEMORY * self._trend + np.sqrt(1 - _TREND_MEMORY**2) * fresh
        return self._trend

    def pick(self, day: int, uniforms: Floats) -> NDArray[np.int64]:
        """Products of that day's interest, one for each uniform number."""
        found = np.searchsorted(self.cumulative(day), uniforms, side="right")
        return np.minimum(found, len(self) - 1)


def popularity(size: int) -> Floats:
    """Shares of units by rank, most popular first, shape (size,), sum 1.

    A power law in pieces (source: the Ta-Feng grocery data): the top 1, 10 and 20 % of products
    sell 27, 68 and 82 % of the units.
    """
    grid = np.geomspace(1e-7, 1.0, 20_001)
    edges = np.log([grid[0], *_KNOTS, 1.0])
    heights = np.concatenate([[0.0], np.cumsum(np.diff(edges) * _SLOPES)])
    density = np.exp(np.interp(np.log(grid), edges, heights))
    pieces = np.diff(grid) * (density[1:] + density[:-1]) / 2
    cumulative = np.concatenate([[0.0], np.cumsum(pieces)]) / pieces.sum()
    shares = np.diff(np.interp(np.arange(size + 1) / size, grid, cumulative, left=0.0))
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def _log_normal(uniforms: Floats, parameters: tuple[float, float]) -> Floats:
    # Quantiles through a logistic curve, a close stand-in for the normal one with lighter code;
    # 0.5513 = sqrt(3) / pi gives it unit variance.
    clipped = np.clip(uniforms, 0.004, 0.996)
    z = 0.5513 * np.log(clipped / (1 - clipped))
    return np.asarray(np.exp(parameters[0] + parameters[1] * z), dtype=np.float64)
