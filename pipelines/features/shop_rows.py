"""The rows of the shop's logs that its features are made of."""

from __future__ import annotations

from typing import Final

from pipelines.features.declare import changes, facts, reports

CLICKS: Final = facts("clickstream", at="event_timestamp")
ORDERS: Final = facts("orders", at="order_timestamp")
DELIVERIES: Final = reports("shipments", at="delivered_at")
SESSIONS: Final = changes("sessions")
USERS: Final = changes("users")
INVENTORY: Final = changes("inventory")
WAREHOUSES: Final = changes("warehouses")
ROUTES: Final = changes("routes")
