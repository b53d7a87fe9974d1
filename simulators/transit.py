"""How long a shipment takes: mostly to the hour as promised, sometimes early, late with a tail.

Source of the figures: SCMS delivery history. 61 % arrive in the promised hour, 27 % earlier, the
rest late: air 9.6 %, road 16 %, sea 17.5 % (rail 12 % is ours). Late ones are log-normal with
log-sd 1.2 around a median in proportion to the route's hours (about 12 days for sea freight). How
likely and how bad a delay is follows the hidden congestion of the route's two hubs.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulators.congestion import observe, squash
from simulators.draws import Kind, generator
from simulators.network import Route
from simulators.world import HOUR_US, World

Floats = NDArray[np.float64]

LATE_SHARE: Final = {"air": 0.096, "road": 0.160, "rail": 0.120, "sea": 0.175}
_EARLY_OF_THE_REST: Final = 0.27 / 0.885
_MEDIAN_DELAY: Final = {"air": 0.35, "road": 0.45, "rail": 0.8, "sea": 1.7}  # of base_hours
_DELAY_LOG_SD: Final = 1.2
_DELAY_BY_CONGESTION: Final = 0.5
_ODDS_BY_CONGESTION: Final = 1.4
_ODDS_BY_RELIABILITY: Final = 0.35
_LONGEST_DELAY_HOURS: Final = 120 * 24.0
_SHORTEST_HOURS: Final = 3.0
# Hours promised, as a multiple of the route's base hours.
PROMISE_FACTOR: Final = {"overnight": 0.85, "express": 1.0, "standard": 1.1, "economy": 1.3}
# What one carrier publishes says little; what all of them at a place publish says more.
_REPORT_VARIANCE: Final = 0.13  # share of noise in the congestion that a carrier reports
_RISK_NOISE: Final = 1.4  # log-odds by which a carrier misjudges its own risk

_NORMAL: Final = NormalDist()


class Transit:
    """Delays and published conditions of a world's routes.

    In a world without signal, lateness ignores congestion and the carrier's standing.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        routes = world.network.routes
        self._origins = np.array([route.origin_hub for route in routes])
        self._destinations = np.array([route.destination_hub for route in routes])
        together = world.congestion.correlation[self._origins, self._destinations]
        self._scale: Floats = 1 / np.sqrt(2 + 2 * together)
        signal = 0.0 if world.config.no_signal else 1.0
        self.odds_slope = signal * _ODDS_BY_CONGESTION
        self._delay_slope = signal * _DELAY_BY_CONGESTION
        spread = signal * math.hypot(_ODDS_BY_CONGESTION, _ODDS_BY_RELIABILITY)
        base = {mode: _centre(share, spread) for mode, share in LATE_SHARE.items()}
        standing = _centred_by_mode(routes)
        self.log_odds: Floats = (
            np.array([base[route.mode] for route in routes])
            + signal * _ODDS_BY_RELIABILITY * standing
        )
        self._hour = -1
        self._latent: list[float] = []

    def latent(self, hour: int) -> Floats:
        """(routes,) hidden congestion of each route in that hour, unit variance."""
        hubs = self._world.congestion.at(hour)
        both = hubs[self._origins] + hubs[self._destinations]
        return np.asarray(both * self._scale, dtype=np.float64)

    def hours(
        self, route_number: int, shipped_at: int, promised_hours: float, draws: list[float]
    ) -> float:
        """Hours until delivery.

        Args:
            route_number: index into the network's routes.
            shipped_at: simulated time; its hour's congestion counts.
            promised_hours: from shipping to the promise.
            draws: two uniform numbers.
        """
        hour = shipped_at // HOUR_US
        if hour != self._hour:
            self._hour, self._latent = hour, self.latent(hour).tolist()
        latent = self._latent[route_number]
        route = self._world.network.routes[route_number]
        odds = float(self.log_odds[route_number]) + self.odds_slope * latent
        late = 1 / (1 + math.exp(-odds))
        which, size = draws
        if which < late:
            rest = math.sqrt(_DELAY_LOG_SD**2 - self._delay_slope**2)
            z = self._delay_slope * latent + rest * _NORMAL.inv_cdf(min(max(size, 1e-9), 1 - 1e-9))
            delay = route.base_hours * _MEDIAN_DELAY[route.mode] * math.exp(z)
            return promised_hours + min(delay, _LONGEST_DELAY_HOURS)
        if which < late + (1 - late) * _EARLY_OF_THE_REST:
            gain = 1.0 + size * 0.3 * promised_hours
            return max(promised_hours - gain, min(_SHORTEST_HOURS, 0.5 * promised_hours))
        return promised_hours - 0.95 * size * size  # in the promised hour, most at its end


def condition_rows(
    world: World, transit: Transit, hour: int
) -> list[tuple[int, str, float, float]]:
    """What carriers publish in one hour: (time, route_id, congestion, delay_risk) in time order.

    Each route has its own minute of the hour, so that the feed is steady.

    Args:
        world: whose routes they are.
        transit: how routes are doing.
        hour: since the origin.
    """
    routes = world.network.routes
    count = len(routes)
    rng = generator(world.config.seed, Kind.OBSERVATION, hour)
    noise, risk_noise, other = rng.standard_normal((3, count))
    seen = squash(observe(transit.latent(hour), noise, _REPORT_VARIANCE)).round(5)
    if world.config.no_signal:  # the same spread of published risks, about nothing
        odds = transit.log_odds + _ODDS_BY_CONGESTION * other
    else:
        odds = transit.log_odds + _ODDS_BY_CONGESTION * transit.latent(hour)
    risk = (1 / (1 + np.exp(-(odds + _RISK_NOISE * risk_noise)))).round(5)
    slot = HOUR_US // (count + 1)
    rows = zip(seen.tolist(), risk.tolist(), strict=True)
    return [
        (hour * HOUR_US + (number + 1) * slot + 137, routes[number].route_id, c, r)
        for number, (c, r) in enumerate(rows)
    ]


def _centred_by_mode(routes: list[Route]) -> Floats:
    """Reliability about the mean of its mode, or few routes would move a mode's lateness."""
    values = np.array([route.reliability for route in routes])
    modes = np.array([route.mode for route in routes])
    for mode in set(modes.tolist()):
        values[modes == mode] -= values[modes == mode].mean()
    return values


def _centre(share: float, spread: float) -> float:
    """Log-odds whose logistic averages `share` when normal noise of sd `spread` is added."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    weights = weights / weights.sum()
    low, high = -12.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = float((weights / (1 + np.exp(-(middle + spread * nodes)))).sum())
        low, high = (middle, high) if mean < share else (low, middle)
    return (low + high) / 2
