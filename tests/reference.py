"""Every feature of the dictionary, computed the slow and obvious way, to check the real ones.

Plain lists, dicts and loops, written from the specification alone; quadratic in the log's length.
The input is the accepted changes: for each table a list of dict rows, one for each change, with
`seq`, `op` ('I', 'U' or 'D'), `committed_at` and the table's typed columns.

A deletion is an event at its commit time, but not before the time of the row that it removes; what
comes after it in the log happened at that time or later. It leaves a row of nulls in the views of
its key. Facts (orders, clickstream events, delivered shipments) stay when their records go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final

Row = dict[str, Any]
Logs = Mapping[str, Sequence[Row]]

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
SEQUENCE_LENGTH: Final = 32

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "user_intent": ("user_id",),
    "session_events": ("session_id",),
    "user_orders": ("user_id",),
    "inventory_levels": ("warehouse_id", "product_id"),
    "route_conditions": ("route_id",),
}
FEATURES: Final[Mapping[str, tuple[str, ...]]] = {
    "user_intent": (
        "intent_score",
        "urgency_score",
        "action_diversity",
        "products_viewed",
        "session_duration",
        "sessions_1d",
        "sessions_7d",
        "carts_7d",
        "purchases_7d",
        "conversion_rate_7d",
    ),
    "session_events": (
        "actions",
        "product_ids",
        "times_on_page",
        "scroll_depths",
        "gaps",
        "event_count",
    ),
    "user_orders": (
        "order_value",
        "orders_7d",
        "orders_30d",
        "spend_30d",
        "avg_order_value_30d",
        "express_share_30d",
        "preferred_shipping_method",
        "hour_of_day",
        "day_of_week",
        "is_weekend",
        "days_since_previous_order",
    ),
    "inventory_levels": (
        "stock_level",
        "stock_ratio",
        "carbon_intensity",
        "is_low_stock",
        "warehouse_region",
        "demand_24h",
        "days_of_cover",
    ),
    "route_conditions": (
        "delay_risk",
        "congestion",
        "carbon_cost",
        "deliveries_24h",
        "late_rate_24h",
        "mean_delay_hours_24h",
        "mean_delay_hours_7d",
        "risk_category",
        "efficiency_score",
        "carbon_per_tonne_km",
    ),
}
VIEWS: Final = tuple(FEATURES)
CHANGED_AT: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "users": ("committed_at", ("user_id",)),
    "sessions": ("timestamp", ("session_id",)),
    "inventory": ("updated_at", ("warehouse_id", "product_id")),
    "routes": ("updated_at", ("route_id",)),
}
"""By table whose deletions are events: its column with the event time, and its key."""
CLOCK_SET_BACK: Final = timedelta(days=1)


def compute(view: str, logs: Logs) -> list[Row]:
    """All rows of `view`, sorted by its keys and then `event_timestamp`."""
    keys = KEYS[view]
    rows = _VIEW_FUNCTIONS[view](event_times(logs))
    return sorted(rows, key=lambda row: (*(row[key] for key in keys), row["event_timestamp"]))


def event_times(logs: Logs) -> dict[str, list[Row]]:
    """The same changes with the event times that deletions and what follows them have.

    The deletion of a row that was never there is no event and left out. That of a shipment whose
    key was changed, which the row after it says in `old_key`, has 'M' for `op`.
    """
    found = {table: sorted(rows, key=lambda row: row["seq"]) for table, rows in logs.items()}
    moved = {row["seq"] - 1 for row in logs.get("shipments", ()) if row.get("old_key")}
    if moved:
        found["shipments"] = [
            {k: v for k, v in row.items() if k != "old_key"}
            | ({"op": "M"} if row["seq"] in moved else {})
            for row in found["shipments"]
        ]
    for table, (time, key_columns) in CHANGED_AT.items():
        there: set[tuple[Any, ...]] = set()
        gone: dict[tuple[Any, ...], datetime] = {}
        timed = []
        for row in found.get(table, []):
            key = tuple(row[column] for column in key_columns)
            t = row[time]
            if row["op"] == "D":
                if key not in there:
                    continue
                if t is None or t > row["committed_at"] + CLOCK_SET_BACK:
                    t = row["committed_at"]
                t = max(t, row["committed_at"], gone.get(key, t))
                gone[key] = t
            else:
                there.add(key)
                t = max(t, gone.get(key, t))
            timed.append({**row, time: t})
        if table in found:
            found[table] = timed
    return found


def decision_context(
    *,
    quantity: float | None,
    price: float | None,
    weight_kg: float | None,
    carbon_cost: float | None,
    stock_level: float | None,
    urgency_score: float | None,
    mean_delay_hours_24h: float | None,
    late_rate_24h: float | None,
) -> dict[str, float | None]:
    """The on-demand features of one request; null where any operand is null."""
    return {
        "order_carbon_kg": None
        if carbon_cost is None or weight_kg is None
        else carbon_cost * weight_kg / 1000,
        "stock_after_order": None
        if stock_level is None or quantity is None
        else stock_level - quantity,
        "urgency_weighted_delay": None
        if urgency_score is None or mean_delay_hours_24h is None
        else urgency_score * mean_delay_hours_24h,
        "value_at_risk": None
        if quantity is None or price is None or late_rate_24h is None
        else quantity * price * late_rate_24h,
    }


def _user_intent(logs: Logs) -> list[Row]:
    """A row for each user and time of a change of one of the user's sessions, or of its end."""
    sessions = logs.get("sessions", [])
    clicks = _inserts(logs, "clickstream")
    gone = _deletions(logs, "users", "committed_at")
    rows = []
    for user, t in _distinct([*((s["user_id"], s["timestamp"]) for s in sessions), *gone]):
        if (user, t) in gone:
            rows.append(_tombstone("user_intent", user, t))
            continue
        own_clicks = [c for c in clicks if c["user_id"] == user]
        state: dict[str, Row] = {}  # the last change of each session so far
        for session in sorted(sessions, key=lambda s: (s["timestamp"], s["seq"])):
            if session["user_id"] == user and session["timestamp"] <= t:
                state[session["session_id"]] = session
        there = [s for s in state.values() if s["op"] != "D"]
        sessions_7d = [s for s in there if _within(s["timestamp"], t, 7 * DAY)]
        sessions_1d = [s for s in there if _within(s["timestamp"], t, DAY)]
        last = max(sessions_7d, key=lambda s: (s["timestamp"], s["seq"]), default=None)
        time_on_page, scroll_depth, click_rate = (
            None if last is None else last[signal]
            for signal in ("time_on_page", "scroll_depth", "click_rate")
        )
        recent = [c["action"] for c in own_clicks if _within(c["event_timestamp"], t, 7 * DAY)]
        rows.append(
            {
                "user_id": user,
                "event_timestamp": t,
                "intent_score": None
                if time_on_page is None or scroll_depth is None
                else (time_on_page / 300) * scroll_depth * 10,
                "urgency_score": None if click_rate is None else click_rate * 20,
                "action_diversity": last and len(_distinct(last["actions_performed"])),
                "products_viewed": last and len(_distinct(last["products_viewed"])),
                "session_duration": last and last["session_duration"],
                "sessions_1d": len(sessions_1d),
                "sessions_7d": len(sessions_7d),
                "carts_7d": recent.count("add_to_cart"),
                "purchases_7d": recent.count("purchase"),
                "conversion_rate_7d": _ratio(recent.count("purchase"), len(sessions_7d)),
            }
        )
    return rows


def _session_events(logs: Logs) -> list[Row]:
    """A row for each session and time of an event, with the session's events until then."""
    clicks = _inserts(logs, "clickstream")
    gone = _deletions(logs, "sessions", "timestamp")
    rows = [_tombstone("session_events", session, t) for session, t in gone]
    for session, t in _distinct((c["session_id"], c["event_timestamp"]) for c in clicks):
        if (session, t) in gone:
            continue
        events = [c for c in clicks if c["session_id"] == session and c["event_timestamp"] <= t]
        events.sort(key=lambda c: (c["event_timestamp"], c["event_id"]))
        gaps = [0.0]
        for earlier, later in pairwise(events):
            gaps.append(_seconds(later["event_timestamp"] - earlier["event_timestamp"]))
        last = events[-SEQUENCE_LENGTH:]
        rows.append(
            {
                "session_id": session,
                "event_timestamp": t,
                "actions": [c["action"] for c in last],
                "product_ids": ["" if c["product_id"] is None else c["product_id"] for c in last],
                "times_on_page": [c["time_on_page"] for c in last],
                "scroll_depths": [c["scroll_depth"] for c in last],
                "gaps": gaps[-SEQUENCE_LENGTH:],
                "event_count": len(events),
            }
        )
    return rows


def _user_orders(logs: Logs) -> list[Row]:
    """A row for each user and time of an order."""
    orders = _inserts(logs, "orders")
    gone = _deletions(logs, "users", "committed_at")
    rows = [_tombstone("user_orders", user, t) for user, t in gone]
    for user, t in _distinct((o["user_id"], o["order_timestamp"]) for o in orders):
        if (user, t) in gone:
            continue
        own = [o for o in orders if o["user_id"] == user]
        now = [o for o in own if o["order_timestamp"] == t]
        week = [o for o in own if _within(o["order_timestamp"], t, 7 * DAY)]
        month = [o for o in own if _within(o["order_timestamp"], t, 30 * DAY)]
        fast = [o for o in month if o["shipping_method"] in ("express", "overnight")]
        earlier_times = [o["order_timestamp"] for o in own if o["order_timestamp"] < t]
        rows.append(
            {
                "user_id": user,
                "event_timestamp": t,
                "order_value": _value(now),
                "orders_7d": len(week),
                "orders_30d": len(month),
                "spend_30d": _value(month),
                "avg_order_value_30d": _value(month) / len(month),
                "express_share_30d": len(fast) / len(month),
                "preferred_shipping_method": _preferred_method(month),
                "hour_of_day": t.hour,
                "day_of_week": t.weekday(),
                "is_weekend": t.weekday() in (5, 6),
                "days_since_previous_order": _seconds(t - max(earlier_times)) / 86400
                if earlier_times
                else None,
            }
        )
    return rows


def _inventory_levels(logs: Logs) -> list[Row]:
    """A row for each warehouse, product and time of a change of the stock."""
    changes = logs.get("inventory", [])
    orders = _inserts(logs, "orders")
    regions: dict[str, list[Row]] = {}
    for row in sorted(logs.get("warehouses", []), key=lambda w: (w["committed_at"], w["seq"])):
        regions.setdefault(row["warehouse_id"], []).append(row)
    rows = []
    for warehouse, product, t in _distinct(
        (i["warehouse_id"], i["product_id"], i["updated_at"]) for i in changes
    ):
        last = [
            i
            for i in changes
            if (i["warehouse_id"], i["product_id"], i["updated_at"]) == (warehouse, product, t)
        ][-1]
        if last["op"] == "D":
            rows.append(_tombstone("inventory_levels", warehouse, product, t))
            continue
        demand = sum(
            o["quantity"]
            for o in orders
            if (o["warehouse_id"], o["product_id"]) == (warehouse, product)
            and _within(o["order_timestamp"], t, DAY)
        )
        stock_level = last["current_stock"] - last["reserved_stock"]
        rows.append(
            {
                "warehouse_id": warehouse,
                "product_id": product,
                "event_timestamp": t,
                "stock_level": stock_level,
                "stock_ratio": _ratio(stock_level, last["reorder_point"]),
                "carbon_intensity": _ratio(last["carbon_footprint"], last["current_stock"]),
                "is_low_stock": stock_level < 50,
                "warehouse_region": _region_at(regions.get(warehouse, []), t),
                "demand_24h": demand,
                "days_of_cover": _ratio(stock_level, demand),
            }
        )
    return rows


def _region_at(rows: Sequence[Row], t: datetime) -> str | None:
    """Of a warehouse's rows, the newest at or before t; before its first one, that one."""
    known = [row for row in rows if row["committed_at"] <= t] or list(rows[:1])
    return known[-1]["region"] if known and known[-1]["op"] != "D" else None


def _route_conditions(logs: Logs) -> list[Row]:
    """A row for each route and time of a change of the route or of a delivery on it."""
    routes = logs.get("routes", [])
    # A shipment delivers once: what the last change with a delivery time says. Once its record is
    # deleted, its id may stand for another shipment; where its id was changed, the new one says.
    last_delivery: dict[int, Row] = {}
    deliveries = []
    for shipment in logs.get("shipments", []):
        if shipment["op"] in ("D", "M"):
            ended = last_delivery.pop(shipment["shipment_id"], None)
            if ended is not None and shipment["op"] == "D":
                deliveries.append(ended)
        elif shipment["delivered_at"] is not None:
            last_delivery[shipment["shipment_id"]] = shipment
    deliveries += last_delivery.values()

    rows = []
    for route, t in _distinct(
        [(r["route_id"], r["updated_at"]) for r in routes]
        + [(d["route_id"], d["delivered_at"]) for d in deliveries]
    ):
        known = [r for r in routes if r["route_id"] == route and r["updated_at"] <= t]
        if not known:
            continue  # delivered before anything was known of the route
        state = max(known, key=lambda r: (r["updated_at"], r["seq"]))
        if state["op"] == "D":
            if state["updated_at"] == t:
                rows.append(_tombstone("route_conditions", route, t))
            continue  # delivered while the route is not there
        own = [d for d in deliveries if d["route_id"] == route]
        day = [d for d in own if _within(d["delivered_at"], t, DAY)]
        week = [d for d in own if _within(d["delivered_at"], t, 7 * DAY)]
        late = [d for d in day if d["delivered_at"] > d["promised_at"]]
        mean_delay_7d = _mean_delay_hours(week)
        base_hours = state["base_hours"]
        rows.append(
            {
                "route_id": route,
                "event_timestamp": t,
                "delay_risk": state["delay_risk"],
                "congestion": state["congestion"],
                "carbon_cost": state["carbon_cost"],
                "deliveries_24h": len(day),
                "late_rate_24h": _ratio(len(late), len(day)),
                "mean_delay_hours_24h": _mean_delay_hours(day),
                "mean_delay_hours_7d": mean_delay_7d,
                "risk_category": _risk_category(state["delay_risk"]),
                "efficiency_score": _ratio(base_hours, base_hours + (mean_delay_7d or 0.0)),
                "carbon_per_tonne_km": _ratio(state["carbon_cost"], state["distance_km"]),
            }
        )
    return rows


_VIEW_FUNCTIONS: Final[Mapping[str, Callable[[Logs], list[Row]]]] = {
    "user_intent": _user_intent,
    "session_events": _session_events,
    "user_orders": _user_orders,
    "inventory_levels": _inventory_levels,
    "route_conditions": _route_conditions,
}


def _changes(logs: Logs, table: str) -> list[Row]:
    """Insertions and updates of a table, in change-log order."""
    return sorted(
        (row for row in logs.get(table, ()) if row["op"] in ("I", "U")), key=lambda row: row["seq"]
    )


def _deletions(logs: Logs, table: str, time: str) -> list[tuple[Any, datetime]]:
    """The keys that were deleted from a table, each with when."""
    (key,) = CHANGED_AT[table][1]
    return _distinct((row[key], row[time]) for row in logs.get(table, ()) if row["op"] == "D")


def _tombstone(view: str, *keys_and_time: Any) -> Row:
    """A row without a single value."""
    names = (*KEYS[view], "event_timestamp")
    return {**dict(zip(names, keys_and_time, strict=True)), **dict.fromkeys(FEATURES[view])}


def _inserts(logs: Logs, table: str) -> list[Row]:
    """Insertions into a table, in change-log order."""
    return [row for row in _changes(logs, table) if row["op"] == "I"]


def _distinct(values: Iterable[Any]) -> list[Any]:
    """The values without repetitions, in order of first appearance."""
    return list(dict.fromkeys(values))


def _within(time: datetime, t: datetime, width: timedelta) -> bool:
    """Whether `time` is in the window of `width` at `t`: (t − width, t]."""
    return t - width < time <= t


def _seconds(difference: timedelta) -> float:
    return difference / timedelta(seconds=1)


def _ratio(numerator: float, denominator: float) -> float | None:
    """The quotient; null where the denominator is 0."""
    return None if denominator == 0 else numerator / denominator


def _value(orders: Iterable[Row]) -> float:
    """What the order rows are worth together."""
    return math.fsum(o["quantity"] * o["price"] for o in orders)


def _preferred_method(orders: Sequence[Row]) -> str:
    """The most frequent method; among equals the one that was ordered last."""
    best: tuple[int, datetime, int] | None = None
    preferred = ""
    for method in _distinct(o["shipping_method"] for o in orders):
        own = [o for o in orders if o["shipping_method"] == method]
        time, order_id = max((o["order_timestamp"], o["id"]) for o in own)
        if best is None or (len(own), time, order_id) > best:
            best = (len(own), time, order_id)
            preferred = method
    return preferred


def _mean_delay_hours(deliveries: Sequence[Row]) -> float | None:
    """Mean of the hours past the promise, 0 for one in time; null without deliveries."""
    delays = [max(0.0, (d["delivered_at"] - d["promised_at"]) / HOUR) for d in deliveries]
    return _ratio(math.fsum(delays), len(delays))


def _risk_category(delay_risk: float) -> str:
    if delay_risk < 0.2:
        return "low"
    if delay_risk < 0.5:
        return "medium"
    return "high"
