"""A tiny shop to decide orders in: three warehouses, three regions, three products, four users.

W1 is near the north, W2 further away and by rail too; both reach north and south. W3 serves the
island, by sea alone. P1 is carried by W1 and W2, P2 by W2, P3 by nobody; user 3 lives where nothing
goes, user 4 on the island.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from pipelines.feast_plugins.writing.online_writer import OnlineWriter
from pipelines.features.views import view_named
from pipelines.lake.clock import aware_now
from pipelines.live_databases import (
    LiveDatabases,
    inventory,
    products,
    routes,
    suppliers,
    user_sessions,
    users,
    warehouses,
)
from pipelines.redis_server import connect, ensure_server
from pipelines.serving.loading import Absent, Served
from pipelines.settings import DataConfig

THEN = datetime(2026, 1, 31, 12)
Columns = Mapping[str, Any]

_ROUTES = {
    # route_id: (origin, destination, mode, km, hours, $ per kg, kgCO2e per tonne)
    "W1-north-road": ("W1", "north", "road", 100.0, 10.0, 1.0, 12.0),
    "W1-north-air": ("W1", "north", "air", 100.0, 6.0, 8.0, 170.0),
    "W2-north-road": ("W2", "north", "road", 900.0, 24.0, 2.0, 110.0),
    "W2-north-rail": ("W2", "north", "rail", 1000.0, 40.0, 1.2, 30.0),
    "W2-north-air": ("W2", "north", "air", 880.0, 8.0, 9.0, 1500.0),
    "W1-south-road": ("W1", "south", "road", 950.0, 25.0, 2.1, 115.0),
    "W2-south-road": ("W2", "south", "road", 80.0, 9.0, 0.9, 10.0),
    "W3-island-sea": ("W3", "island", "sea", 500.0, 70.0, 0.8, 8.0),
    "S1-W1-sea": ("S1", "W1", "sea", 4000.0, 200.0, 1.0, 60.0),
    "S1-W2-road": ("S1", "W2", "road", 1500.0, 35.0, 2.5, 190.0),
}


def open_shop(data_dir: Path) -> LiveDatabases:
    """Live databases that hold the shop."""
    databases = LiveDatabases.open(DataConfig(data_dir=data_dir))
    databases.create()
    place = {"latitude": 50.0, "longitude": 10.0, "capacity": 1000}
    insert(
        databases,
        warehouses,
        *({"warehouse_id": w, "region": r, **place} for w, r in (("W1", "north"), ("W2", "south"))),
        {"warehouse_id": "W3", "region": "island", **place},
    )
    goods = {"category": "c", "unit_price": 20, "weight_kg": 2.0}
    insert(databases, products, *({"product_id": p, **goods} for p in ("P1", "P2", "P3")))
    stock = {"reserved_stock": 5, "reorder_point": 10, "carbon_footprint": 3.0, "updated_at": THEN}
    carried = (("W1", "P1", 45), ("W2", "P1", 105), ("W2", "P2", 5), ("W3", "P1", 25))
    insert(
        databases,
        inventory,
        *(
            {"warehouse_id": w, "product_id": p, "current_stock": units, **stock}
            for w, p, units in carried
        ),
    )
    insert(databases, suppliers, {"supplier_id": "S1", "region": "north", "lead_time_days": 3.0})
    insert(databases, routes, *(route_row(name) for name in _ROUTES))
    homes = {1: "north", 2: "south", 3: "moon", 4: "island"}
    insert(
        databases,
        users,
        *({"user_id": u, "region": r, "signed_up_at": THEN} for u, r in homes.items()),
    )
    insert(
        databases,
        user_sessions,
        {
            "session_id": "s1",
            "user_id": 1,
            "products_viewed": ["P1"],
            "actions_performed": ["view"],
            "session_duration": 10,
            "timestamp": THEN,
            "intent_signals": {"time_on_page": 30.0, "scroll_depth": 0.5, "click_rate": 0.1},
        },
    )
    return databases


def route_row(name: str) -> dict[str, Any]:
    """A row of `routes`."""
    origin, destination, mode, km, hours, cost, carbon = _ROUTES[name]
    return {
        "route_id": name,
        "origin_id": origin,
        "destination_id": destination,
        "mode": mode,
        "distance_km": km,
        "base_hours": hours,
        "base_cost": cost,
        "carbon_cost": carbon,
        "delay_risk": 0.1,
        "congestion": 0.3,
        "updated_at": THEN,
    }


def order_row(number: int, product: str = "P1", user: int = 1) -> dict[str, Any]:
    """A row of `orders`."""
    return {
        "id": number,
        "user_id": user,
        "product_id": product,
        "quantity": 2,
        "price": 20,
        "warehouse_id": "W1",
        "shipping_method": "express",
        "order_timestamp": THEN,
        "status": "placed",
    }


DATABASE_OF = {
    "orders": "orders",
    "users": "users",
    "user_sessions": "users",
    "warehouses": "inventory",
    "products": "inventory",
    "inventory": "inventory",
    "suppliers": "supply_chain",
    "routes": "supply_chain",
}


def insert(databases: LiveDatabases, table: sa.Table, *rows: Mapping[str, Any]) -> None:
    """Insert rows in one transaction."""
    with databases[DATABASE_OF[table.name]].begin() as connection:
        connection.execute(table.insert(), list(rows))


def execute(databases: LiveDatabases, database: str, statement: Any) -> None:
    """Execute a statement in one transaction."""
    with databases[database].begin() as connection:
        connection.execute(statement)


_VALUES: dict[str, dict[str, Any]] = {
    "user_intent": {"urgency_score": 0.5, "intent_score": 1.0},
    "user_orders": {"preferred_shipping_method": "express", "orders_30d": 3},
    "inventory_levels": {"stock_level": 40, "stock_ratio": 4.0, "warehouse_region": "north"},
    "route_conditions": {
        "risk_category": "low",
        "carbon_cost": 100.0,
        "delay_risk": 0.1,
        "mean_delay_hours_24h": 2.0,
        "late_rate_24h": 0.2,
    },
    "session_events": {
        "actions": ["view", "add_to_cart"],
        "product_ids": ["P1", "P1"],
        "times_on_page": [30.0, 5.0],
        "scroll_depths": [0.5, 0.1],
        "gaps": [0.0, 20.0],
        "event_count": 2,
    },
}


def put(store: Any, view: str, keys: Mapping[str, Any], age: timedelta, **values: Any) -> None:
    """Write one row of a view into the online store; its event was `age` ago."""
    import pandas as pd

    at = aware_now() - age
    schema = view_named(view).schema
    row: dict[str, Any] = {
        name: {"int64": 1, "double": 0.5, "bool": False, "string": "x"}.get(str(kind))
        for name, kind in zip(schema.names, schema.types, strict=True)
    }
    row |= {**_VALUES[view], **keys, **values, "event_timestamp": at, "created_timestamp": at}
    frame = pd.DataFrame({name: [value] for name, value in row.items()})
    store.write_to_online_store(view, frame)


def delete(data: DataConfig, view: str, keys: Mapping[str, Any]) -> None:
    """Write the row of a deleted key as both flows do; Feast itself passes over rows of nulls."""
    now = aware_now().replace(tzinfo=None)
    schema = view_named(view).schema
    row = {**dict(keys), "event_timestamp": now, "created_timestamp": now}
    rows = pa.table({f.name: pa.array([row.get(f.name)], f.type) for f in schema})
    with connect(ensure_server(data)) as client:
        OnlineWriter(client, "synchrochain").write({view: rows}, {view: tuple(keys)})


def put_everything(store: Any, age: timedelta = timedelta(minutes=1)) -> None:
    """Features of everybody and everything in the shop."""
    for user in (1, 2, 3, 4):
        put(store, "user_intent", {"user_id": user}, age)
        put(store, "user_orders", {"user_id": user}, age)
    put(store, "session_events", {"session_id": "s1"}, age)
    for warehouse, product, level in (
        ("W1", "P1", 40),
        ("W2", "P1", 100),
        ("W2", "P2", 0),
        ("W3", "P1", 20),
    ):
        keys = {"warehouse_id": warehouse, "product_id": product}
        put(store, "inventory_levels", keys, age, stock_level=level)
    for route in _ROUTES:
        put(store, "route_conditions", {"route_id": route}, age)


@dataclass
class Linear:
    """A small model: answers with a function of its input columns, and remembers them."""

    answer: Callable[[Columns], dict[str, Any]]
    asked: list[dict[str, Any]] = field(default_factory=list)

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """The outputs."""
        self.asked.append(dict(columns))
        return {name: np.asarray(values) for name, values in self.answer(columns).items()}


def size(columns: Columns) -> int:
    """How many rows columns have."""
    return len(next(iter(columns.values())))


def intent_model() -> Linear:
    """Urgency 0.8, and the probability grows with the events of the session."""

    def answer(columns: Columns) -> dict[str, Any]:
        count = np.nan_to_num(np.asarray(columns["event_count"], dtype=float))
        return {
            "purchase_probability": count / (count + 10.0),
            "urgency_class": np.array(["high"] * size(columns), dtype=object),
            "urgency": np.full(size(columns), 0.8),
        }

    return Linear(answer)


def delay_model() -> Linear:
    """A delay that depends on all routes, so that the whole network must be there."""

    def answer(columns: Columns) -> dict[str, Any]:
        risk = np.nan_to_num(np.asarray(columns["delay_risk"], dtype=float), nan=0.5)
        return {
            "expected_delay_hours": 10.0 * risk + risk.mean(),
            "late_probability": risk,
            "expected_carbon_kg": np.zeros(size(columns)),
        }

    return Linear(answer)


def decision_model(favourite: str = "express") -> Linear:
    """Prefers one shipping method, and cheap."""

    def answer(columns: Columns) -> dict[str, Any]:
        liked = np.asarray(columns["shipping_method"], dtype=object) == favourite
        return {"score": 100.0 * liked - np.asarray(columns["ship_cost"], dtype=float)}

    return Linear(answer)


@dataclass
class Models:
    """Models by name; what is not there is absent. Versions can be loaded again by number."""

    predictors: dict[str, Any] = field(default_factory=dict)
    version: int = 7

    @classmethod
    def all(cls) -> Models:
        """All three."""
        return cls(
            {
                "intent_transformer": intent_model(),
                "supply_gnn": delay_model(),
                "ppo_agent": decision_model(),
            }
        )

    def get(self, model: str) -> Served | Absent:
        """The model in service."""
        if model not in self.predictors:
            return Absent(model, f"no version of {model} is champion")
        return Served(model, self.version, "test/linear", self.predictors[model])

    def load(self, model: str, version: int) -> Any:
        """The predictor of a version."""
        assert version == self.version
        return self.predictors[model]
