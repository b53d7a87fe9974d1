"""Reads the features of a batch of orders, and stock from the live database where they lack it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import SynchroChainError, said
from pipelines.registry.columns import as_column
from pipelines.serving.candidates import OrderBatch
from pipelines.serving.online import SERVICES, OnlineFeatures, OnlineRows
from pipelines.serving.reference import Reference

NEEDED: Final = ("user_intent", "inventory_levels", "route_conditions")
"""Views without which the model does not decide. A first order has no user_orders, which the model
was trained for."""


@dataclass(frozen=True)
class OrderFeatures:
    """The features of a batch: N orders, R distinct routes, L lanes.

    Attributes:
        sessions: (N,) of the intent model's service.
        routes: (R,) of the delay model's service, one row per route.
        lanes: (L,) of the decision model's service.
        states: (L,) by needed view: present, missing or stale.
        stock: (L,) units not reserved; from the live database where the online store lacks them.
        problem: why the online store could not be read; None if it could.
    """

    sessions: OnlineRows
    routes: OnlineRows
    lanes: OnlineRows
    states: Mapping[str, NDArray[Any]]
    stock: NDArray[np.float64]
    problem: str | None


def read_features(
    batch: OrderBatch, online: OnlineFeatures, reference: Reference, max_age: Mapping[str, float]
) -> OrderFeatures:
    """Read the features of a batch; what the online store cannot give is missing in the result.

    Args:
        batch: the orders.
        online: the online store; not asked again after it has failed once.
        reference: has the stock of the live database.
        max_age: seconds by view beyond which a row is stale.

    Raises:
        LiveDatabaseError: stock must be read from the live database, and cannot be.
    """
    reads: dict[str, OnlineRows] = {}
    problem = None
    for model, rows in _keys_of(batch).items():
        service = SERVICES[model]
        if problem is None:
            try:
                reads[model] = online.read(service, rows)
                continue
            except SynchroChainError as error:
                problem = said(error)
        reads[model] = online.missing(service, rows)
    lanes = reads["ppo_agent"]
    states = {view: np.array(lanes.states(view, max_age.get(view)), object) for view in NEEDED}
    stock = as_column("stock_level", lanes.columns["stock_level"])
    unknown = np.flatnonzero(np.isnan(stock) | (states["inventory_levels"] != "present")).tolist()
    if unknown:
        shelves = [(warehouse, order.product_id) for order, warehouse, _ in batch.lanes]
        live = reference.stock({shelves[n] for n in unknown})
        stock[unknown] = [live.get(shelves[n], np.nan) for n in unknown]
    return OrderFeatures(
        reads["intent_transformer"], reads["supply_gnn"], lanes, states, stock, problem
    )


def _keys_of(batch: OrderBatch) -> dict[str, Sequence[Mapping[str, Any]]]:
    """By model, the entity rows (with request data) that its service is read for."""
    routes: dict[str, dict[str, Any]] = {}
    for order, warehouse, route in batch.lanes:
        key = {"warehouse_id": warehouse, "product_id": order.product_id}
        routes.setdefault(route.route_id, {"route_id": route.route_id, **key})
    return {
        "intent_transformer": [
            {"session_id": one.order.session_id or "", "user_id": one.order.user_id}
            for one in batch.orders
        ],
        "supply_gnn": list(routes.values()),
        "ppo_agent": [
            {
                "user_id": order.user_id,
                "warehouse_id": warehouse,
                "product_id": order.product_id,
                "route_id": route.route_id,
                "quantity": order.quantity,
                "price": float(order.price or 0.0),
                "weight_kg": float(order.weight_kg or 0.0),
            }
            for order, warehouse, route in batch.lanes
        ],
    }
