"""The simulated shop's tables, in four databases: the contract with the world."""

from __future__ import annotations

from typing import Final

from pipelines.tables.declare import Log, money, number, text, texts, time, whole

ACTIONS: Final = ("view", "search", "add_to_cart", "remove_from_cart", "checkout", "purchase")
SHIPPING_METHODS: Final = ("standard", "express", "overnight", "economy")
MODES: Final = ("air", "road", "rail", "sea")
ORDER_STATUSES: Final = ("placed", "shipped", "delivered", "cancelled", "backordered")
SHIPMENT_STATUSES: Final = ("in_transit", "delivered", "lost")
MOST_UNITS: Final = 1_000_000  # so that sums of units and of their value always fit into 64 bits

USERS: Final = Log(
    name="users",
    database="users",
    key=("user_id",),
    columns=(whole("user_id"), text("region"), time("signed_up_at")),
    retention="newest",
    changed_at="committed_at",
    event_time="signed_up_at",
)
SESSIONS: Final = Log(
    name="sessions",
    database="users",
    table="user_sessions",
    key=("session_id",),
    columns=(
        text("session_id"),
        whole("user_id"),
        texts("products_viewed"),
        texts("actions_performed"),
        whole("session_duration", at_least=0),
        time("timestamp"),
        number("time_on_page", at_least=0, nullable=True, path="intent_signals.time_on_page"),
        number(
            "scroll_depth", at_least=0, at_most=1, nullable=True, path="intent_signals.scroll_depth"
        ),
        number("click_rate", at_least=0, nullable=True, path="intent_signals.click_rate"),
    ),
    references={"user_id": "users"},
    changed_at="timestamp",
    event_time="timestamp",
)
CLICKSTREAM: Final = Log(
    name="clickstream",
    database="users",
    key=("event_id",),
    columns=(
        whole("event_id"),
        text("session_id"),
        whole("user_id"),
        text("product_id", nullable=True),
        text("action", one_of=ACTIONS),
        number("time_on_page", at_least=0),
        number("scroll_depth", at_least=0, at_most=1),
        time("event_timestamp"),
    ),
    references={"session_id": "sessions", "user_id": "users", "product_id": "products"},
    append_only=True,
    event_time="event_timestamp",
)
WAREHOUSES: Final = Log(
    name="warehouses",
    database="inventory",
    key=("warehouse_id",),
    columns=(
        text("warehouse_id"),
        text("region"),
        number("latitude", at_least=-90, at_most=90),
        number("longitude", at_least=-180, at_most=180),
        whole("capacity", at_least=0),
    ),
    retention="newest",
)
PRODUCTS: Final = Log(
    name="products",
    database="inventory",
    key=("product_id",),
    columns=(
        text("product_id"),
        text("category"),
        money("unit_price", at_least=0),
        number("weight_kg", at_least=0),
    ),
    retention="newest",
)
INVENTORY: Final = Log(
    name="inventory",
    database="inventory",
    key=("warehouse_id", "product_id"),
    columns=(
        text("warehouse_id"),
        text("product_id"),
        whole("current_stock", at_least=0),
        whole("reserved_stock", at_least=0),
        whole("reorder_point", at_least=0),
        number("carbon_footprint", at_least=0),
        time("updated_at"),
    ),
    references={"warehouse_id": "warehouses", "product_id": "products"},
    retention="newest",
    changed_at="updated_at",
    event_time="updated_at",
)
ORDERS: Final = Log(
    name="orders",
    database="orders",
    key=("id",),
    columns=(
        whole("id"),
        whole("user_id"),
        text("product_id"),
        whole("quantity", at_least=1, at_most=MOST_UNITS),
        money("price", at_least=0),
        text("warehouse_id"),
        text("shipping_method", one_of=SHIPPING_METHODS),
        time("order_timestamp"),
        text("status", one_of=ORDER_STATUSES),
    ),
    references={"user_id": "users", "product_id": "products", "warehouse_id": "warehouses"},
    append_only=True,
    retention="all",
    event_time="order_timestamp",
)
SUPPLIERS: Final = Log(
    name="suppliers",
    database="supply_chain",
    key=("supplier_id",),
    columns=(
        text("supplier_id"),
        text("region"),
        number("lead_time_days", at_least=0),
    ),
    retention="newest",
)
ROUTES: Final = Log(
    name="routes",
    database="supply_chain",
    key=("route_id",),
    columns=(
        text("route_id"),
        text("origin_id"),
        text("destination_id"),
        text("mode", one_of=MODES),
        number("distance_km", at_least=0),
        number("base_hours", at_least=0),
        number("base_cost", at_least=0),
        number("carbon_cost", at_least=0),
        number("delay_risk", at_least=0, at_most=1),
        number("congestion", at_least=0, at_most=1),
        time("updated_at"),
    ),
    retention="newest",
    changed_at="updated_at",
    event_time="updated_at",
)
SHIPMENTS: Final = Log(
    name="shipments",
    database="supply_chain",
    key=("shipment_id",),
    columns=(
        whole("shipment_id"),
        whole("order_id", nullable=True),
        text("route_id"),
        text("warehouse_id"),
        text("product_id", nullable=True),
        whole("quantity", at_least=1, at_most=MOST_UNITS, nullable=True),
        text("shipping_method", one_of=SHIPPING_METHODS),
        number("weight_kg", at_least=0),
        number("cost", at_least=0),
        number("carbon_kg", at_least=0),
        time("shipped_at"),
        time("promised_at", not_before="shipped_at", planned=True),
        time("delivered_at", not_before="shipped_at", nullable=True),
        text("status", one_of=SHIPMENT_STATUSES),
    ),
    references={"route_id": "routes", "order_id": "orders", "warehouse_id": "warehouses"},
    marks_moves=True,
    event_time="shipped_at",
)

SHOP_LOGS: Final = (
    USERS,
    SESSIONS,
    CLICKSTREAM,
    WAREHOUSES,
    PRODUCTS,
    INVENTORY,
    ORDERS,
    SUPPLIERS,
    ROUTES,
    SHIPMENTS,
)
