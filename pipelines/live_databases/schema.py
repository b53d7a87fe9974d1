"""The tables that the pipelines read, in four databases: the contract with the world."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

ACTIONS: Final = ("view", "search", "add_to_cart", "remove_from_cart", "checkout", "purchase")
SHIPPING_METHODS: Final = ("standard", "express", "overnight", "economy")
MODES: Final = ("air", "road", "rail", "sea")
ORDER_STATUSES: Final = ("placed", "shipped", "delivered", "cancelled", "backordered")
SHIPMENT_STATUSES: Final = ("in_transit", "delivered", "lost")

orders_db: Final = sa.MetaData()
users_db: Final = sa.MetaData()
inventory_db: Final = sa.MetaData()
supply_chain_db: Final = sa.MetaData()

METADATA: Final[Mapping[str, sa.MetaData]] = {
    "orders": orders_db,
    "users": users_db,
    "inventory": inventory_db,
    "supply_chain": supply_chain_db,
}

orders = sa.Table(
    "orders",
    orders_db,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("user_id", sa.Integer, nullable=False),
    sa.Column("product_id", sa.Text, nullable=False),
    sa.Column("quantity", sa.Integer, nullable=False),
    sa.Column("price", sa.Numeric(10, 2), nullable=False),
    sa.Column("warehouse_id", sa.Text, nullable=False),
    sa.Column("shipping_method", sa.Text, nullable=False),
    sa.Column("order_timestamp", sa.DateTime, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
)

users = sa.Table(
    "users",
    users_db,
    sa.Column("user_id", sa.Integer, primary_key=True),
    sa.Column("region", sa.Text, nullable=False),
    sa.Column("signed_up_at", sa.DateTime, nullable=False),
)
user_sessions = sa.Table(
    "user_sessions",
    users_db,
    sa.Column("session_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Integer, sa.ForeignKey("users.user_id"), nullable=False),
    sa.Column("products_viewed", sa.JSON, nullable=False),
    sa.Column("actions_performed", sa.JSON, nullable=False),
    sa.Column("session_duration", sa.Integer, nullable=False),
    sa.Column("timestamp", sa.DateTime, nullable=False),
    sa.Column("intent_signals", sa.JSON, nullable=False),
)
clickstream = sa.Table(
    "clickstream",
    users_db,
    sa.Column("event_id", sa.Integer, primary_key=True),
    sa.Column("session_id", sa.Text, sa.ForeignKey("user_sessions.session_id"), nullable=False),
    sa.Column("user_id", sa.Integer, sa.ForeignKey("users.user_id"), nullable=False),
    sa.Column("product_id", sa.Text),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("time_on_page", sa.Float, nullable=False),
    sa.Column("scroll_depth", sa.Float, nullable=False),
    sa.Column("event_timestamp", sa.DateTime, nullable=False),
)

warehouses = sa.Table(
    "warehouses",
    inventory_db,
    sa.Column("warehouse_id", sa.Text, primary_key=True),
    sa.Column("region", sa.Text, nullable=False),
    sa.Column("latitude", sa.Float, nullable=False),
    sa.Column("longitude", sa.Float, nullable=False),
    sa.Column("capacity", sa.Integer, nullable=False),
)
products = sa.Table(
    "products",
    inventory_db,
    sa.Column("product_id", sa.Text, primary_key=True),
    sa.Column("category", sa.Text, nullable=False),
    sa.Column("unit_price", sa.Numeric(10, 2), nullable=False),
    sa.Column("weight_kg", sa.Float, nullable=False),
)
inventory = sa.Table(
    "inventory",
    inventory_db,
    sa.Column("warehouse_id", sa.Text, sa.ForeignKey("warehouses.warehouse_id"), primary_key=True),
    sa.Column("product_id", sa.Text, sa.ForeignKey("products.product_id"), primary_key=True),
    sa.Column("current_stock", sa.Integer, nullable=False),
    sa.Column("reserved_stock", sa.Integer, nullable=False),
    sa.Column("reorder_point", sa.Integer, nullable=False),
    sa.Column("carbon_footprint", sa.Float, nullable=False),
    sa.Column("updated_at", sa.DateTime, nullable=False),
)

suppliers = sa.Table(
    "suppliers",
    supply_chain_db,
    sa.Column("supplier_id", sa.Text, primary_key=True),
    sa.Column("region", sa.Text, nullable=False),
    sa.Column("lead_time_days", sa.Float, nullable=False),
)
routes = sa.Table(
    "routes",
    supply_chain_db,
    sa.Column("route_id", sa.Text, primary_key=True),
    sa.Column("origin_id", sa.Text, nullable=False),
    sa.Column("destination_id", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("distance_km", sa.Float, nullable=False),
    sa.Column("base_hours", sa.Float, nullable=False),
    sa.Column("base_cost", sa.Float, nullable=False),
    sa.Column("carbon_cost", sa.Float, nullable=False, comment="kgCO2e per tonne"),
    sa.Column("delay_risk", sa.Float, nullable=False),
    sa.Column("congestion", sa.Float, nullable=False),
    sa.Column("updated_at", sa.DateTime, nullable=False),
)
shipments = sa.Table(
    "shipments",
    supply_chain_db,
    sa.Column("shipment_id", sa.Integer, primary_key=True),
    sa.Column("order_id", sa.Integer, comment="null: a replenishment, not a customer's order"),
    sa.Column("route_id", sa.Text, sa.ForeignKey("routes.route_id"), nullable=False),
    sa.Column("warehouse_id", sa.Text, nullable=False),
    sa.Column("product_id", sa.Text),
    sa.Column("quantity", sa.Integer),
    sa.Column("shipping_method", sa.Text, nullable=False),
    sa.Column("weight_kg", sa.Float, nullable=False),
    sa.Column("cost", sa.Float, nullable=False),
    sa.Column("carbon_kg", sa.Float, nullable=False),
    sa.Column("shipped_at", sa.DateTime, nullable=False),
    sa.Column("promised_at", sa.DateTime, nullable=False),
    sa.Column("delivered_at", sa.DateTime),
    sa.Column("status", sa.Text, nullable=False),
)

CHANGED_AT: Final[Mapping[str, str]] = {
    "orders": "order_timestamp",
    "users": "signed_up_at",
    "user_sessions": "timestamp",
    "clickstream": "event_timestamp",
    "inventory": "updated_at",
    "routes": "updated_at",
    "shipments": "shipped_at",
}
"""By table, the column that says when a row came about or changed, where there is one."""
