"""Places and the routes between them: suppliers → warehouses → regions, each by one mode.

Hubs, the places that congest, are numbered warehouses first, then regions, then suppliers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulators.draws import Kind, generator

Floats = NDArray[np.float64]

KM_PER_DEGREE: Final = 111.2
_LATITUDES: Final = (38.0, 56.0)
_LONGITUDES: Final = (-6.0, 26.0)
# Direct kgCO2e per tonne-km (DEFRA); never mixed with well-to-wheel factors.
CARBON_FACTOR: Final = {"air": 1.735, "road": 0.126, "rail": 0.032, "sea": 0.0154}
# Dollars per kg over a typical distance: air, truck, ocean from the SCMS delivery history.
COST_PER_KG: Final = {"air": 10.0, "road": 2.5, "rail": 2.0, "sea": 1.7}
_TYPICAL_KM: Final = 1500.0
_DETOUR: Final = {"air": 1.05, "road": 1.25, "rail": 1.2, "sea": 1.5}
_HANDLING_HOURS: Final = {"air": 6.0, "road": 8.0, "rail": 16.0, "sea": 60.0}
_KM_PER_HOUR: Final = {"air": 500.0, "road": 55.0, "rail": 40.0, "sea": 28.0}
_RAIL_FROM_KM: Final = 1000.0
_SEA_FROM_KM: Final = 700.0
_SUPPLY_MODES: Final = ("sea", "rail", "road", "air")
_SUPPLY_SHARES: Final = (0.35, 0.15, 0.35, 0.15)


@dataclass(frozen=True)
class Route:
    """One way from an origin to a destination by one mode; costs are per kg, carbon per tonne."""

    route_id: str
    origin_id: str
    destination_id: str
    mode: str
    distance_km: float
    base_hours: float
    base_cost: float
    carbon_cost: float
    origin_hub: int
    destination_hub: int
    reliability: float  # hidden: a carrier's own standing, standard normal, high is bad


class Network:
    """Regions, warehouses, suppliers, and who ships to whom.

    Attributes of note: `serving[r]` warehouses that deliver to region r, nearest first;
    `supplied[s]` warehouses that supplier s delivers to; `outbound[w, r]` and `inbound[s, w]`
    route numbers by mode.
    """

    def __init__(self, seed: int, warehouses: int) -> None:
        rng = generator(seed, Kind.PLACES)
        regions = int(np.clip(warehouses, 4, 12))
        suppliers = max(3, round(1.5 * warehouses))
        self.region_ids = [f"R{i + 1:02d}" for i in range(regions)]
        self.warehouse_ids = [f"W{i + 1:02d}" for i in range(warehouses)]
        self.supplier_ids = [f"S{i + 1:02d}" for i in range(suppliers)]
        region_places = _spread_out(rng, regions)
        self.warehouse_region = np.arange(warehouses) % regions
        self.supplier_region: NDArray[np.int64] = rng.integers(0, regions, suppliers)
        near = rng.normal(0, 0.6, (warehouses, 2))
        self.warehouse_places: Floats = region_places[self.warehouse_region] + near
        supplier_places = region_places[self.supplier_region] + rng.normal(0, 1.0, (suppliers, 2))
        shares = rng.gamma(4.0, 1.0, regions)
        self.region_shares: Floats = shares / shares.sum()
        self.capacity: list[int] = (rng.integers(20, 61, warehouses) * 1000).tolist()
        self.lead_time_days: list[float] = rng.uniform(5.0, 16.0, suppliers).round(1).tolist()

        hubs = np.concatenate([self.warehouse_places, region_places, supplier_places])
        narrowing = np.cos(np.radians(np.mean(_LATITUDES)))
        self.places_km: Floats = hubs * [KM_PER_DEGREE, KM_PER_DEGREE * narrowing]
        self.distance: Floats = np.linalg.norm(
            self.places_km[:, None] - self.places_km[None, :], axis=2
        )
        first_region, first_supplier = warehouses, warehouses + regions
        # Sizes that leave two warehouses (of two or more) that serve a region and are supplied.
        serving = max(1, round(warehouses / 2))
        supplied = min(warehouses, warehouses - serving + 2)
        to_regions = self.distance[:warehouses, first_region:first_supplier]
        to_suppliers = self.distance[:warehouses, first_supplier:]
        self.serving = np.argsort(to_regions, axis=0, kind="stable")[:serving].T.tolist()
        self.supplied = np.argsort(to_suppliers, axis=0, kind="stable")[:supplied].T.tolist()

        self.routes: list[Route] = []
        self.outbound: dict[tuple[int, int], dict[str, int]] = {}
        self.inbound: dict[tuple[int, int], int] = {}
        route_rng = generator(seed, Kind.ROUTES)
        for region, region_id in enumerate(self.region_ids):
            for w in self.serving[region]:
                ends = (self.warehouse_ids[w], region_id, w, first_region + region)
                far = self.distance[ends[2], ends[3]] >= _RAIL_FROM_KM
                modes = ("air", "road", "rail") if far else ("air", "road")
                self.outbound[w, region] = {m: self._add(route_rng, m, *ends) for m in modes}
        for supplier, supplier_id in enumerate(self.supplier_ids):
            for w in self.supplied[supplier]:
                ends = (supplier_id, self.warehouse_ids[w], first_supplier + supplier, w)
                mode = str(route_rng.choice(_SUPPLY_MODES, p=_SUPPLY_SHARES))
                if mode == "sea" and self.distance[ends[2], ends[3]] < _SEA_FROM_KM:
                    mode = "road"
                self.inbound[supplier, w] = self._add(route_rng, mode, *ends)

    def _add(
        self,
        rng: np.random.Generator,
        mode: str,
        origin_id: str,
        destination_id: str,
        origin_hub: int,
        destination_hub: int,
    ) -> int:
        crow = max(float(self.distance[origin_hub, destination_hub]), 20.0)
        km = crow * _DETOUR[mode] * rng.uniform(0.95, 1.1)
        hours = (_HANDLING_HOURS[mode] + km / _KM_PER_HOUR[mode]) * rng.uniform(0.9, 1.15)
        cost = COST_PER_KG[mode] * (0.5 + 0.5 * km / _TYPICAL_KM) * rng.uniform(0.85, 1.15)
        self.routes.append(
            Route(
                route_id=f"{origin_id}-{destination_id}-{mode}",
                origin_id=origin_id,
                destination_id=destination_id,
                mode=mode,
                distance_km=round(km, 1),
                base_hours=round(hours, 2),
                base_cost=round(cost, 3),
                carbon_cost=round(km * CARBON_FACTOR[mode], 3),
                origin_hub=origin_hub,
                destination_hub=destination_hub,
                reliability=float(rng.standard_normal()),
            )
        )
        return len(self.routes) - 1


def _spread_out(rng: np.random.Generator, count: int) -> Floats:
    """Best of many candidates for each next place, so that regions do not pile up."""
    low, high = np.array([_LATITUDES, _LONGITUDES]).T
    places = [rng.uniform(low, high)]
    while len(places) < count:
        candidates = rng.uniform(low, high, (6, 2))
        gaps = np.linalg.norm(candidates[:, None] - np.array(places)[None, :], axis=2).min(axis=1)
        places.append(candidates[int(gaps.argmax())])
    return np.array(places)
