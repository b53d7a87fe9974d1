"""Trial: the five groups of the dictionary, declared."""

from pipelines.features.aggregations import (
    AT_ONCE,
    RowTime,
    as_of,
    count,
    count_distinct,
    days,
    hours,
    in_days,
    in_hours,
    in_seconds,
    last,
    last_k,
    mean,
    most_frequent,
    share,
    time_since_previous,
    total,
)
from pipelines.features.expressions import (
    cases,
    coalesce,
    day_of_week,
    distinct,
    greatest,
    hour_of_day,
    is_in,
    ratio,
)
from pipelines.features.group import Feature, WhileKnown, group
from pipelines.features.rows import changes, facts, reports, since_previous

clicks = facts("clickstream", at="event_timestamp")
sessions = changes("sessions")
users = changes("users")
orders = facts("orders", at="order_timestamp")
inventory = changes("inventory")
warehouses = changes("warehouses")
routes = changes("routes")
deliveries = reports("shipments", at="delivered_at")
time = RowTime()


def current(value):
    return last(value, within=days(7))


sessions_7d = count_distinct(sessions.session_id, within=days(7))
purchases_7d = count(clicks, where=clicks.action == "purchase", within=days(7))
user_intent = group(
    "user_intent",
    keys=("user_id",),
    rows=sessions,
    entity=users,
    features=[
        Feature(
            "intent_score", current(sessions.time_on_page / 300 * sessions.scroll_depth * 10.0), ""
        ),
        Feature("urgency_score", current(sessions.click_rate * 20.0), ""),
        Feature("action_diversity", current(distinct(sessions.actions_performed)), ""),
        Feature("products_viewed", current(distinct(sessions.products_viewed)), ""),
        Feature("session_duration", current(sessions.session_duration), ""),
        Feature("sessions_1d", count_distinct(sessions.session_id, within=days(1)), ""),
        Feature("sessions_7d", sessions_7d, ""),
        Feature(
            "carts_7d", count(clicks, where=clicks.action == "add_to_cart", within=days(7)), ""
        ),
        Feature("purchases_7d", purchases_7d, ""),
        Feature("conversion_rate_7d", ratio(purchases_7d, sessions_7d), ""),
    ],
)
session_events = group(
    "session_events",
    keys=("session_id",),
    rows=clicks,
    entity=sessions,
    features=[
        Feature("actions", last_k(clicks.action, 32), ""),
        Feature("product_ids", last_k(coalesce(clicks.product_id, ""), 32), ""),
        Feature("times_on_page", last_k(clicks.time_on_page, 32), ""),
        Feature("scroll_depths", last_k(clicks.scroll_depth, 32), ""),
        Feature("gaps", last_k(coalesce(in_seconds(since_previous(clicks)), 0.0), 32), ""),
        Feature("event_count", count(clicks), ""),
    ],
)
value = orders.price * orders.quantity
user_orders = group(
    "user_orders",
    keys=("user_id",),
    rows=orders,
    entity=users,
    features=[
        Feature("order_value", total(value, within=AT_ONCE), ""),
        Feature("orders_7d", count(orders, within=days(7)), ""),
        Feature("orders_30d", count(orders, within=days(30)), ""),
        Feature("spend_30d", total(value, within=days(30)), ""),
        Feature("avg_order_value_30d", mean(value, within=days(30)), ""),
        Feature(
            "express_share_30d",
            share(is_in(orders.shipping_method, ("express", "overnight")), within=days(30)),
            "",
        ),
        Feature(
            "preferred_shipping_method", most_frequent(orders.shipping_method, within=days(30)), ""
        ),
        Feature("hour_of_day", hour_of_day(time), ""),
        Feature("day_of_week", day_of_week(time), ""),
        Feature("is_weekend", day_of_week(time) >= 5, ""),
        Feature("days_since_previous_order", in_days(time_since_previous(orders)), ""),
    ],
)
stock = last(inventory.current_stock - inventory.reserved_stock)
demand_24h = total(orders.quantity, within=hours(24))
inventory_levels = group(
    "inventory_levels",
    keys=("warehouse_id", "product_id"),
    rows=inventory,
    entity=inventory,
    features=[
        Feature("stock_level", stock, ""),
        Feature("stock_ratio", ratio(stock, last(inventory.reorder_point)), ""),
        Feature(
            "carbon_intensity",
            ratio(last(inventory.carbon_footprint), last(inventory.current_stock)),
            "",
        ),
        Feature("is_low_stock", stock < 50, ""),
        Feature("warehouse_region", as_of(warehouses.region), ""),
        Feature("demand_24h", demand_24h, ""),
        Feature("days_of_cover", ratio(stock, demand_24h), ""),
    ],
)
delay = greatest(deliveries.delivered_at - deliveries.promised_at, 0)
risk = last(routes.delay_risk)
mean_delay_7d = in_hours(mean(delay, within=days(7)))
base = last(routes.base_hours)
route_conditions = group(
    "route_conditions",
    keys=("route_id",),
    rows=(routes, WhileKnown(deliveries)),
    entity=routes,
    features=[
        Feature("delay_risk", risk, ""),
        Feature("congestion", last(routes.congestion), ""),
        Feature("carbon_cost", last(routes.carbon_cost), ""),
        Feature("deliveries_24h", count(deliveries, within=hours(24)), ""),
        Feature("late_rate_24h", share(delay > 0, within=hours(24)), ""),
        Feature("mean_delay_hours_24h", in_hours(mean(delay, within=hours(24))), ""),
        Feature("mean_delay_hours_7d", mean_delay_7d, ""),
        Feature(
            "risk_category",
            cases((risk < 0.2, "low"), (risk < 0.5, "medium"), otherwise="high"),
            "",
        ),
        Feature("efficiency_score", ratio(base, base + coalesce(mean_delay_7d, 0.0)), ""),
        Feature(
            "carbon_per_tonne_km", ratio(last(routes.carbon_cost), last(routes.distance_km)), ""
        ),
    ],
)
GROUPS = (user_intent, session_events, user_orders, inventory_levels, route_conditions)
