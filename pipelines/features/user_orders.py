"""user_orders: one row per user and time of an order."""

from __future__ import annotations

from typing import Final

import ibis
import ibis.expr.types as ir

from pipelines.features.tombstones import deletions, with_tombstones
from pipelines.features.windows import DAY, Sliding, ratio, totals_at
from pipelines.live_databases import SHIPPING_METHODS

KEYS: Final = ("user_id",)
FAST_METHODS: Final = ("express", "overnight")
# A method's score is its count, then how late its last order stands in the user's sequence.
_COUNT_WEIGHT: Final = 2**40


def user_orders(orders: ir.Table, users: ir.Table, *, newest: bool = False) -> ir.Table:
    """What a user has ordered so far. The lines of one basket share an event time and a row.

    Args:
        orders: the change log of `orders`; a row counts as it was placed.
        users: the change log of `users`, for its deletions.
        newest: only each user's newest row.

    Returns:
        user_id, event_timestamp and the view's features; money in the shop's currency. All
        features are null where the user was deleted.
    """
    placed = orders.filter(orders["op"] == "I").rename(event_timestamp="order_timestamp")
    in_order = ibis.window(group_by="user_id", order_by=[placed.event_timestamp, placed.id])
    lines = placed.select(
        "user_id",
        "event_timestamp",
        "shipping_method",
        cents=((placed.price * 100).round().cast("int64") * placed.quantity).cast("int64"),
        place=ibis.row_number().over(in_order).cast("int64"),
    )
    one = ibis.literal(1)
    by_method = {_count(m): (lines.shipping_method == m).cast("int64") for m in SHIPPING_METHODS}
    counted = totals_at(
        _instants(lines, newest=newest),
        KEYS,
        "event_timestamp",
        [
            Sliding(lines, "event_timestamp", 7 * DAY, {"orders_7d": one}),
            Sliding(
                lines,
                "event_timestamp",
                30 * DAY,
                {"orders_30d": one, "cents_30d": lines.cents, **by_method},
            ),
        ],
        newest=newest,
    )
    known = _with_last_places(counted, lines, newest=newest)
    time = known.event_timestamp
    day = time.day_of_week.index().cast("int64")
    rows = known.select(
        "user_id",
        "event_timestamp",
        order_value=known.order_cents / 100.0,
        orders_7d=known.orders_7d,
        orders_30d=known.orders_30d,
        spend_30d=known.cents_30d / 100.0,
        avg_order_value_30d=ratio(known.cents_30d / 100.0, known.orders_30d),
        express_share_30d=ratio(
            sum((known[_count(m)] for m in FAST_METHODS), ibis.literal(0)), known.orders_30d
        ),
        preferred_shipping_method=_preferred(known),
        hour_of_day=time.hour().cast("int64"),
        day_of_week=day,
        is_weekend=day >= 5,
        days_since_previous_order=known.microseconds_since / float(DAY),
    )
    return with_tombstones(rows, deletions(users, KEYS, "committed_at"), KEYS, newest=newest)


def _count(method: str) -> str:
    return f"count_{method}"


def _last(method: str) -> str:
    return f"last_{method}"


def _instants(lines: ir.Table, *, newest: bool) -> ir.Table:
    """Per user and order time, the value ordered and the microseconds since the previous order."""
    instants = lines.group_by(["user_id", "event_timestamp"]).agg(order_cents=lines.cents.sum())
    if newest:
        last = instants.group_by("user_id").agg(last_time=instants.event_timestamp.max())
        known = instants.inner_join(last, "user_id")
        is_last = known.event_timestamp == known.last_time
        instants = known.group_by("user_id").agg(
            event_timestamp=known.last_time.max(),
            order_cents=known.order_cents.sum(where=is_last),
            previous=known.event_timestamp.max(where=~is_last),
        )
    else:
        in_order = ibis.window(group_by="user_id", order_by=instants.event_timestamp)
        instants = instants.mutate(previous=instants.event_timestamp.lag().over(in_order))
    since = instants.event_timestamp.delta(instants.previous, unit="microsecond")
    return instants.mutate(microseconds_since=since).drop("previous")


def _with_last_places(counted: ir.Table, lines: ir.Table, *, newest: bool) -> ir.Table:
    """Add, per shipping method, the place of its last order so far in the user's sequence."""
    at = ["user_id"] if newest else ["user_id", "event_timestamp"]
    per_instant = lines.group_by(at).agg(
        **{
            _last(m): lines.place.max(where=lines.shipping_method == m).fill_null(-1)
            for m in SHIPPING_METHODS
        }
    )
    if newest:
        return counted.inner_join(per_instant, at)
    so_far = ibis.range_window(
        preceding=None, following=0, group_by="user_id", order_by=per_instant.event_timestamp
    )
    running = per_instant.select(
        *at, **{_last(m): per_instant[_last(m)].max().over(so_far) for m in SHIPPING_METHODS}
    )
    return counted.inner_join(running, at)


def _preferred(known: ir.Table) -> ir.Value:
    scores = {m: known[_count(m)] * _COUNT_WEIGHT + known[_last(m)] for m in SHIPPING_METHODS}
    best = ibis.greatest(*scores.values())
    return ibis.cases(*((score == best, method) for method, score in scores.items()))
