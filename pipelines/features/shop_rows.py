"""The rows of the shop's logs that its features are made of."""

from __future__ import annotations

from typing import Final

from pipelines.features.declare import changes, facts, reports
from pipelines.tables import shop

CLICKS: Final = facts(shop.CLICKSTREAM)
ORDERS: Final = facts(shop.ORDERS)
DELIVERIES: Final = reports(shop.SHIPMENTS, at="delivered_at")
SESSIONS: Final = changes(shop.SESSIONS)
USERS: Final = changes(shop.USERS)
INVENTORY: Final = changes(shop.INVENTORY)
WAREHOUSES: Final = changes(shop.WAREHOUSES)
ROUTES: Final = changes(shop.ROUTES)
