"""Rows of a small shop, each valid unless a test says otherwise."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from stream_helpers import StreamWorld

Row = dict[str, Any]
T = datetime(2024, 3, 20, 12)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
LONG_AGO = datetime(2000, 1, 1)


def user(number: int) -> Row:
    return {"user_id": number, "region": "north", "signed_up_at": LONG_AGO}


def product(name: str) -> Row:
    return {"product_id": name, "category": "c", "unit_price": 1.0, "weight_kg": 1.0}


def warehouse(name: str, region: str = "north") -> Row:
    place = {"latitude": 0.0, "longitude": 0.0, "capacity": 9}
    return {"warehouse_id": name, "region": region, **place}


def session(name: str, at: datetime = T, **changed: Any) -> Row:
    row = {
        "session_id": name,
        "user_id": 1,
        "products_viewed": ["p1"],
        "actions_performed": ["view"],
        "session_duration": 10,
        "timestamp": at,
        "time_on_page": 30.0,
        "scroll_depth": 0.5,
        "click_rate": 0.1,
    }
    return row | changed


def click(number: int, at: datetime = T, **changed: Any) -> Row:
    row = {
        "event_id": number,
        "session_id": "s1",
        "user_id": 1,
        "product_id": "p1",
        "action": "view",
        "time_on_page": 1.0,
        "scroll_depth": 0.5,
        "event_timestamp": at,
    }
    return row | changed


def order(number: int, at: datetime = T, **changed: Any) -> Row:
    row = {
        "id": number,
        "user_id": 1,
        "product_id": "p1",
        "quantity": 1,
        "price": 2.5,
        "warehouse_id": "w1",
        "shipping_method": "standard",
        "order_timestamp": at,
        "status": "placed",
    }
    return row | changed


def stock(at: datetime = T, **changed: Any) -> Row:
    row = {
        "warehouse_id": "w1",
        "product_id": "p1",
        "current_stock": 100,
        "reserved_stock": 0,
        "reorder_point": 10,
        "carbon_footprint": 1.0,
        "updated_at": at,
    }
    return row | changed


def route(name: str, at: datetime = T, **changed: Any) -> Row:
    row = {
        "route_id": name,
        "origin_id": "w1",
        "destination_id": "north",
        "mode": "road",
        "distance_km": 10.0,
        "base_hours": 2.0,
        "base_cost": 1.0,
        "carbon_cost": 3.0,
        "delay_risk": 0.1,
        "congestion": 0.1,
        "updated_at": at,
    }
    return row | changed


def shipment(number: int, delivered: datetime | None, **changed: Any) -> Row:
    row = {
        "shipment_id": number,
        "order_id": None,
        "route_id": "r1",
        "warehouse_id": "w1",
        "shipping_method": "standard",
        "weight_kg": 1.0,
        "cost": 1.0,
        "carbon_kg": 1.0,
        "shipped_at": T - DAY,
        "promised_at": T,
        "delivered_at": delivered,
        "status": "delivered" if delivered else "in_transit",
    }
    return row | changed


def furnish(world: StreamWorld) -> None:
    """One user, product, warehouse and session, streamed."""
    world.commit("users", user(1))
    world.commit("products", product("p1"))
    world.commit("warehouses", warehouse("w1"))
    world.commit("sessions", session("s1"))
    world.stream()
