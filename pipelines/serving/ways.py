"""The ways an order can go: from which warehouse, by which shipping method, over which route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.models.fulfilment.tariff import SHIPPING_METHODS, mode_of, promised_hours, ship_cost
from pipelines.serving.reference import Candidate, Route


@dataclass(frozen=True)
class Way:
    """One option of an order; `ship_cost` in $, `promised_hours` to the door."""

    warehouse_id: str
    shipping_method: str
    route: Route
    ship_cost: float
    promised_hours: float


def ways_of(candidates: Sequence[Candidate], weight_kg: float) -> list[Way]:
    """Every way on offer, nearest warehouse first, slowest method first."""
    found = []
    for warehouse_id, routes in candidates:
        for method in SHIPPING_METHODS:
            mode = mode_of(method, set(routes))
            if mode is not None:
                route = routes[mode]
                cost = ship_cost(method, route.base_cost, weight_kg)
                hours = promised_hours(method, route.base_hours)
                found.append(Way(warehouse_id, method, route, cost, hours))
    return found


def wanted_hours(ways: Sequence[Way], method: str) -> float:
    """Hours that the customer was promised: their method from the nearest warehouse that has it.

    Where none has, the fastest of all ways.
    """
    asked = (way.promised_hours for way in ways if way.shipping_method == method)
    return next(asked, None) or min(way.promised_hours for way in ways)
