"""Which warehouse carries what, how much it aims to hold, and what it holds at the start."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulators.draws import Kind, generator
from simulators.shoppers import SESSIONS_PER_USER_DAY
from simulators.world import World

Floats = NDArray[np.float64]

UNITS_PER_SESSION: Final = 0.063  # what the sessions of `shoppers` come to
# Suppliers take a log-normal time around their lead time; now and then a line is short for long.
HANDLING_LOG_SD: Final = 0.5
SHORTAGE_CHANCE: Final = 0.25
SHORTAGE_FACTOR: Final = 6.0
# An order brings so many days of expected demand, up to four times as many for best-sellers.
_COVER_DAYS: Final = 65.0
_BEST_SELLER_PER_DAY: Final = 0.2
_SAFETY: Final = 0.4  # standard deviations of demand over the lead time
_NO_REORDER_POINT: Final = 0.05  # share of slow movers that are reordered only when sold out
_SLOW_PER_DAY: Final = 0.02
# Share of positions that a world starts without stock: Gruen and Corsten found 8 % on shelves.
_EMPTY_AT_START: Final = 0.08


class Stockroom:
    """Positions, i.e. (warehouse, product) pairs that are carried; lists are indexed by them.

    A product is carried where its supplier delivers. `demand` is the expected units a day when
    every order comes from the nearest warehouse.
    """

    def __init__(self, world: World) -> None:
        network, catalogue = world.network, world.catalogue
        rng = generator(world.config.seed, Kind.FIRST_STOCK)
        self._serving = network.serving
        supplier: list[int] = rng.integers(0, len(network.supplier_ids), len(catalogue)).tolist()
        self.warehouse: list[int] = []
        self.product: list[int] = []
        self.route: list[int] = []  # the supplier's route to the position's warehouse
        self.lead_days: list[float] = []  # the supplier's own, before transport
        self._by_place: dict[tuple[int, int], int] = {}
        for product, s in enumerate(supplier):
            for w in network.supplied[s]:
                self._by_place[w, product] = len(self.warehouse)
                self.warehouse.append(w)
                self.product.append(product)
                self.route.append(network.inbound[s, w])
                self.lead_days.append(network.lead_time_days[s])
        self.candidates = cache(self._candidates)

        size = len(self.warehouse)
        daily = world.config.users * SESSIONS_PER_USER_DAY * UNITS_PER_SESSION
        demand = np.zeros(size)
        for region, share in enumerate(network.region_shares.tolist()):
            for product in range(len(catalogue)):
                nearest = self._candidates(region, product)[0]
                demand[nearest] += daily * share * catalogue.popularity[product]
        self.demand: Floats = demand
        transport = np.array([network.routes[r].base_hours / 24 for r in self.route])
        over_lead = demand * (np.array(self.lead_days) + transport)
        reorder = np.ceil(over_lead + _SAFETY * np.sqrt(over_lead))
        forgotten = (demand < _SLOW_PER_DAY) & (rng.random(size) < _NO_REORDER_POINT)
        reorder = np.where(forgotten, 0, np.maximum(reorder, 1)).astype(np.int64)
        spare = rng.integers(0, 3, size)
        cover = _COVER_DAYS * (1 + 3 * demand / (demand + _BEST_SELLER_PER_DAY))
        up_to = reorder + np.ceil(cover * demand).astype(np.int64) + spare
        self.reorder_point: list[int] = reorder.tolist()
        self.up_to: list[int] = up_to.tolist()
        carried = np.array(self.product)
        per_tonne = np.array([network.routes[r].carbon_cost for r in self.route])
        weights = np.asarray(catalogue.weights_kg)[carried]
        # kgCO2e held in one unit: making it, and bringing it here.
        self.unit_carbon: list[float] = (
            catalogue.embodied_kg[carried] + weights * per_tonne / 1000
        ).tolist()

        # Half-way through a cycle on average; what is at or below the reorder point is on order,
        # some of it (`wait`, in days) nearly here.
        level = np.ceil(reorder * 0.7 + rng.random(size) * (up_to - reorder * 0.7)).astype(np.int64)
        level = np.where(rng.random(size) < _EMPTY_AT_START, 0, np.minimum(level, up_to))
        self.first_level: list[int] = level.tolist()
        wait = rng.random(size) * np.where(level == 0, 5.0, 1.0) * np.array(self.lead_days)
        self.first_wait_days: list[float] = wait.tolist()

    def __len__(self) -> int:
        return len(self.warehouse)

    def _candidates(self, region: int, product: int) -> list[int]:
        """Positions that can serve a region with a product, nearest warehouse first."""
        places = ((w, product) for w in self._serving[region])
        return [self._by_place[place] for place in places if place in self._by_place]
