"""user_orders: what a user has ordered up to now. The lines of a basket share a time and a row."""

from __future__ import annotations

from typing import Final

from pipelines.features.declare import (
    AT_ONCE,
    Feature,
    count,
    day_of_week,
    days,
    event_time,
    group,
    hour_of_day,
    in_days,
    is_in,
    mean,
    most_frequent,
    share,
    time_since_previous,
    total,
)
from pipelines.features.shop_rows import ORDERS, USERS

MONTH: Final = days(30)
FAST_METHODS: Final = ("express", "overnight")
SATURDAY: Final = 5
value = ORDERS.price * ORDERS.quantity

USER_ORDERS: Final = group(
    "user_orders",
    keys=("user_id",),
    rows=ORDERS,
    entity=USERS,
    about=(
        "a row per time of new orders, at their `order_timestamp`; an order counts as it was placed"
    ),
    features=(
        Feature("order_value", total(value, within=AT_ONCE), "quantity × price of this basket"),
        Feature("orders_7d", count(ORDERS, within=days(7)), "order lines in 7 days"),
        Feature("orders_30d", count(ORDERS, within=MONTH), "order lines in 30 days"),
        Feature("spend_30d", total(value, within=MONTH), "quantity × price in 30 days"),
        Feature("avg_order_value_30d", mean(value, within=MONTH), "spend_30d / orders_30d"),
        Feature(
            "express_share_30d",
            share(is_in(ORDERS.shipping_method, FAST_METHODS), within=MONTH),
            "share of order lines sent express or overnight",
        ),
        Feature(
            "preferred_shipping_method",
            most_frequent(ORDERS.shipping_method, within=MONTH),
            "most frequent in 30 days, ties to the most recent",
        ),
        Feature("hour_of_day", hour_of_day(event_time), "0–23, UTC"),
        Feature("day_of_week", day_of_week(event_time), "Monday 0"),
        Feature("is_weekend", day_of_week(event_time) >= SATURDAY, "Saturday or Sunday, UTC"),
        Feature(
            "days_since_previous_order",
            in_days(time_since_previous(ORDERS)),
            "days; null for the first order",
        ),
    ),
)
