"""The feature views of the dictionary. Formulas live in pipelines/features, one module each."""

from datetime import timedelta
from typing import Any

from data_sources import (
    inventory_levels_source,
    order_request,
    route_conditions_source,
    session_events_source,
    user_intent_source,
    user_orders_source,
)
from entities import product, route, session, user, warehouse
from feast import FeatureView, Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Float64, Int64, String

user_intent = FeatureView(
    name="user_intent",
    entities=[user],
    ttl=timedelta(days=7),
    schema=[
        Field(
            name="intent_score",
            dtype=Float64,
            description="(time_on_page / 300) × scroll_depth × 10, of the latest session",
        ),
        Field(name="urgency_score", dtype=Float64, description="click_rate × 20"),
        Field(name="action_diversity", dtype=Int64, description="distinct actions performed"),
        Field(name="products_viewed", dtype=Int64, description="distinct products viewed"),
        Field(name="session_duration", dtype=Int64, description="seconds"),
        Field(name="sessions_1d", dtype=Int64, description="sessions active in the last day"),
        Field(name="sessions_7d", dtype=Int64, description="sessions active in the last 7 days"),
        Field(name="carts_7d", dtype=Int64, description="add_to_cart events in 7 days"),
        Field(name="purchases_7d", dtype=Int64, description="purchase events in 7 days"),
        Field(name="conversion_rate_7d", dtype=Float64, description="purchases_7d / sessions_7d"),
    ],
    source=user_intent_source,
    description="What a user's latest activity says about the intent to buy",
    tags={"group": "customer", "module": "pipelines/features/user_intent.py"},
    owner="features",
)

session_events = FeatureView(
    name="session_events",
    entities=[session],
    ttl=timedelta(days=1),
    schema=[
        Field(name="actions", dtype=Array(String), description="last 32 actions, oldest first"),
        Field(
            name="product_ids",
            dtype=Array(String),
            description='products of those events, "" where there was none',
        ),
        Field(name="times_on_page", dtype=Array(Float64), description="seconds"),
        Field(name="scroll_depths", dtype=Array(Float64), description="0–1"),
        Field(
            name="gaps",
            dtype=Array(Float64),
            description="seconds since the previous event, 0 for the first",
        ),
        Field(name="event_count", dtype=Int64, description="all events of the session so far"),
    ],
    source=session_events_source,
    description="The sequence of events that a session has produced so far",
    tags={"group": "customer", "module": "pipelines/features/session_events.py"},
    owner="features",
)

user_orders = FeatureView(
    name="user_orders",
    entities=[user],
    ttl=timedelta(days=90),
    schema=[
        Field(name="order_value", dtype=Float64, description="quantity × price of this basket"),
        Field(name="orders_7d", dtype=Int64, description="order lines in 7 days"),
        Field(name="orders_30d", dtype=Int64, description="order lines in 30 days"),
        Field(name="spend_30d", dtype=Float64, description="quantity × price in 30 days"),
        Field(name="avg_order_value_30d", dtype=Float64, description="spend_30d / orders_30d"),
        Field(
            name="express_share_30d",
            dtype=Float64,
            description="share of order lines sent express or overnight",
        ),
        Field(
            name="preferred_shipping_method",
            dtype=String,
            description="most frequent in 30 days, ties to the most recent",
        ),
        Field(name="hour_of_day", dtype=Int64, description="0–23, UTC"),
        Field(name="day_of_week", dtype=Int64, description="Monday 0"),
        Field(name="is_weekend", dtype=Bool, description="Saturday or Sunday, UTC"),
        Field(
            name="days_since_previous_order",
            dtype=Float64,
            description="days; null for the first order",
        ),
    ],
    source=user_orders_source,
    description="What a user has ordered up to now",
    tags={"group": "customer", "module": "pipelines/features/user_orders.py"},
    owner="features",
)

inventory_levels = FeatureView(
    name="inventory_levels",
    entities=[warehouse, product],
    ttl=timedelta(days=14),
    schema=[
        Field(name="stock_level", dtype=Int64, description="units not reserved"),
        Field(
            name="stock_ratio",
            dtype=Float64,
            description="stock_level / reorder_point, null at 0",
        ),
        Field(
            name="carbon_intensity",
            dtype=Float64,
            description="carbon_footprint / current_stock, null at 0",
        ),
        Field(name="is_low_stock", dtype=Bool, description="stock_level < 50"),
        Field(name="warehouse_region", dtype=String, description="where the warehouse stands"),
        Field(name="demand_24h", dtype=Int64, description="units ordered in 24 hours"),
        Field(
            name="days_of_cover",
            dtype=Float64,
            description="stock_level / demand_24h, null at 0",
        ),
    ],
    source=inventory_levels_source,
    description="How much of a product a warehouse can still sell, and how long that lasts",
    tags={"group": "supply", "module": "pipelines/features/inventory_levels.py"},
    owner="features",
)

route_conditions = FeatureView(
    name="route_conditions",
    entities=[route],
    ttl=timedelta(days=2),
    schema=[
        Field(name="delay_risk", dtype=Float64, description="0–1, as published by the carrier"),
        Field(name="congestion", dtype=Float64, description="0–1, as measured"),
        Field(name="carbon_cost", dtype=Float64, description="kgCO2e per tonne"),
        Field(name="deliveries_24h", dtype=Int64, description="deliveries in 24 hours"),
        Field(
            name="late_rate_24h",
            dtype=Float64,
            description="share delivered after the promise; null without deliveries",
        ),
        Field(
            name="mean_delay_hours_24h",
            dtype=Float64,
            description="hours past the promise, at least 0; null without deliveries",
        ),
        Field(name="mean_delay_hours_7d", dtype=Float64, description="the same over 7 days"),
        Field(
            name="risk_category",
            dtype=String,
            description="low < 0.2 ≤ medium < 0.5 ≤ high, on delay_risk",
        ),
        Field(
            name="efficiency_score",
            dtype=Float64,
            description="base_hours / (base_hours + mean_delay_hours_7d)",
        ),
        Field(name="carbon_per_tonne_km", dtype=Float64, description="carbon_cost / distance_km"),
    ],
    source=route_conditions_source,
    description="How a route has been doing: its state and what its deliveries showed",
    tags={"group": "supply", "module": "pipelines/features/route_conditions.py"},
    owner="features",
)


@on_demand_feature_view(
    sources=[
        user_intent[["urgency_score"]],
        inventory_levels[["stock_level"]],
        route_conditions[["carbon_cost", "mean_delay_hours_24h", "late_rate_24h"]],
        order_request,
    ],
    schema=[  # Feast 0.67 refuses descriptions on fields of a view in Python mode
        Field(name="order_carbon_kg", dtype=Float64),
        Field(name="stock_after_order", dtype=Int64),
        Field(name="urgency_weighted_delay", dtype=Float64),
        Field(name="value_at_risk", dtype=Float64),
    ],
    mode="python",
    description=(
        "An order seen against its customer, stock and route: order_carbon_kg = carbon_cost × "
        "weight_kg / 1000 (kgCO2e), stock_after_order = stock_level − quantity, "
        "urgency_weighted_delay = urgency_score × mean_delay_hours_24h, value_at_risk = quantity "
        "× price × late_rate_24h"
    ),
    tags={"group": "decision"},
    owner="features",
)
def decision_context(inputs: dict[str, Any]) -> dict[str, Any]:
    """Null where anything it is made from is null. Feast stores this function's source."""

    def each(formula: Any, *names: str) -> list[Any]:
        return [
            None if any(value is None or value != value for value in values) else formula(*values)
            for values in zip(*(inputs[name] for name in names), strict=True)
        ]

    return {
        "order_carbon_kg": each(lambda c, w: c * w / 1000.0, "carbon_cost", "weight_kg"),
        "stock_after_order": each(lambda s, q: int(s - q), "stock_level", "quantity"),
        "urgency_weighted_delay": each(lambda u, d: u * d, "urgency_score", "mean_delay_hours_24h"),
        "value_at_risk": each(lambda q, p, r: q * p * r, "quantity", "price", "late_rate_24h"),
    }
