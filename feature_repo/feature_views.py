"""The feature views of the dictionary. Features are declared in pipelines/features."""

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
from feast.types import Float64, Int64

from pipelines.feast_plugins.declared_schema import fields

user_intent = FeatureView(
    name="user_intent",
    entities=[user],
    ttl=timedelta(days=7),
    schema=fields("user_intent"),
    source=user_intent_source,
    description="What a user's latest activity says about the intent to buy",
    tags={"group": "customer", "module": "pipelines/features/user_intent.py"},
    owner="features",
)

session_events = FeatureView(
    name="session_events",
    entities=[session],
    ttl=timedelta(days=1),
    schema=fields("session_events"),
    source=session_events_source,
    description="The sequence of events that a session has produced so far",
    tags={"group": "customer", "module": "pipelines/features/session_events.py"},
    owner="features",
)

user_orders = FeatureView(
    name="user_orders",
    entities=[user],
    ttl=timedelta(days=90),
    schema=fields("user_orders"),
    source=user_orders_source,
    description="What a user has ordered up to now",
    tags={"group": "customer", "module": "pipelines/features/user_orders.py"},
    owner="features",
)

inventory_levels = FeatureView(
    name="inventory_levels",
    entities=[warehouse, product],
    ttl=timedelta(days=14),
    schema=fields("inventory_levels"),
    source=inventory_levels_source,
    description="How much of a product a warehouse can still sell, and how long that lasts",
    tags={"group": "supply", "module": "pipelines/features/inventory_levels.py"},
    owner="features",
)

route_conditions = FeatureView(
    name="route_conditions",
    entities=[route],
    ttl=timedelta(days=2),
    schema=fields("route_conditions"),
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
