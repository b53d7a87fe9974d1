"""Completes orders and lists the candidates of each: warehouse, shipping method, route."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.models.fulfilment import features
from pipelines.models.fulfilment.tariff import METHODS, mode_of, promised_hours, ship_cost
from pipelines.serving.orders import Order, OrderError, UnservedOrderError
from pipelines.serving.reference import Reference, Route, ServingWarehouse


@dataclass(frozen=True)
class Candidate:
    """One option to fulfil an order; `ship_cost` in $, `promised_hours` to the door."""

    warehouse_id: str
    shipping_method: str
    route: Route
    ship_cost: float
    promised_hours: float


@dataclass(frozen=True)
class CompletedOrder:
    """An order with price, weight and region filled in, and its candidates.

    Attributes:
        candidates: nearest warehouse first, slowest method first.
        wanted_hours: promised for the method that the customer asks for.
        lanes: the distinct (warehouse, route) of the candidates; features are read once for each.
        lane_of: by candidate, its index in `lanes`.
        seconds: how long completing it took; looking several up at once counts for the first.
    """

    order: Order
    candidates: list[Candidate]
    wanted_hours: float
    lanes: list[tuple[str, Route]]
    lane_of: list[int]
    seconds: float


@dataclass(frozen=True)
class OrderBatch:
    """Orders decided together, and which rows of the columns are whose.

    Sizes: N orders, C candidates of all orders, L lanes of all orders.

    Attributes:
        candidates: (C,).
        lanes: (L,) each with its order.
        first: (N + 1,) where the candidates of an order begin.
        order_of: (C,) the candidate's order.
        lane_of: (C,) the candidate's lane.
    """

    orders: Sequence[CompletedOrder]
    candidates: list[Candidate]
    lanes: list[tuple[Order, str, Route]]
    first: list[int]
    order_of: NDArray[np.int64]
    lane_of: NDArray[np.int64]

    @classmethod
    def of(cls, orders: Sequence[CompletedOrder]) -> OrderBatch:
        """Lay out at least one order."""
        counts = [len(one.candidates) for one in orders]
        before = np.cumsum([0, *(len(one.lanes) for one in orders)])
        return cls(
            orders,
            [candidate for one in orders for candidate in one.candidates],
            [(one.order, warehouse, route) for one in orders for warehouse, route in one.lanes],
            np.cumsum([0, *counts]).tolist(),
            np.repeat(np.arange(len(orders)), counts),
            np.concatenate([before[n] + one.lane_of for n, one in enumerate(orders)]),
        )


def complete_orders(
    orders: Sequence[Order], reference: Reference, max_warehouses: int
) -> list[CompletedOrder]:
    """Complete orders and list their candidates.

    Args:
        orders: as they came in.
        reference: looks up users, products and routes.
        max_warehouses: nearest warehouses that are considered.

    Raises:
        OrderError: one of them (`position`) cannot be decided.
        LiveDatabaseError: something is not known yet and cannot be looked up.
    """
    began = time.perf_counter()
    reference.look_up({o.user_id for o in orders}, {o.product_id for o in orders})
    completed = []
    for position, order in enumerate(orders):
        try:
            completed.append(_complete(order, reference, max_warehouses, began))
        except OrderError as error:
            error.position = position
            raise
        began = time.perf_counter()
    return completed


def candidates_of(warehouses: Sequence[ServingWarehouse], weight_kg: float) -> list[Candidate]:
    """Every candidate, nearest warehouse first, slowest method first."""
    found = []
    for warehouse_id, routes in warehouses:
        for method in METHODS:
            mode = mode_of(method, set(routes))
            if mode is not None:
                route = routes[mode]
                cost = ship_cost(method, route.base_cost, weight_kg)
                hours = promised_hours(method, route.base_hours)
                found.append(Candidate(warehouse_id, method, route, cost, hours))
    return found


def wanted_hours(candidates: Sequence[Candidate], method: str) -> float:
    """Hours that the customer was promised, see `pipelines.models.fulfilment.features`."""
    promised = np.array([candidate.promised_hours for candidate in candidates])
    asked = np.array([candidate.shipping_method == method for candidate in candidates])
    return float(features.wanted_hours(promised, asked))


def _complete(
    order: Order, reference: Reference, max_warehouses: int, began: float
) -> CompletedOrder:
    home = reference.region_of(order.user_id)
    product = reference.product(order.product_id)
    weight = product.weight_kg * order.quantity if order.weight_kg is None else order.weight_kg
    region = order.region or home
    price = product.price if order.price is None else order.price
    candidates = candidates_of(reference.warehouses_for(region, product, max_warehouses), weight)
    if not candidates:
        raise UnservedOrderError("region", f"no shipping method reaches region {region!r}")
    lanes = {
        (candidate.warehouse_id, candidate.route.route_id): candidate.route
        for candidate in candidates
    }
    number = {lane: n for n, lane in enumerate(lanes)}
    return CompletedOrder(
        order.model_copy(update={"price": price, "weight_kg": weight, "region": region}),
        candidates,
        wanted_hours(candidates, order.shipping_method),
        [(warehouse, route) for (warehouse, _), route in lanes.items()],
        [number[candidate.warehouse_id, candidate.route.route_id] for candidate in candidates],
        time.perf_counter() - began,
    )
