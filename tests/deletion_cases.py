"""What is deleted, when, and what every feature is before, at and after: one table per view.

A case is a list of changes, each with the event time from which on the key's features are the
expected ones. Of a row the features that are named are compared; `NULLS` is a row without any
value, `ABSENT` no row at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from stream_rows import (
    DAY,
    HOUR,
    SECOND,
    T,
    click,
    order,
    product,
    route,
    session,
    shipment,
    stock,
    user,
    warehouse,
)

Row = dict[str, Any]
NULLS: Final[Row] = {"": None}
ABSENT: Final[Row] = {}
MICROSECOND: Final = SECOND / 1_000_000
MINUTE: Final = HOUR / 60


@dataclass(frozen=True)
class Step:
    """A change, and what the key's newest row is from `at` on, in event time."""

    table: str
    row: Row
    at: datetime
    expected: Row


@dataclass(frozen=True)
class Case:
    """Changes in the order of the log and what becomes of one key of a view."""

    name: str
    view: str
    key: tuple[Any, ...]
    steps: tuple[Step, ...]
    rewritten: bool = False
    """Older rows say what was known when they were computed, so only the newest is compared."""

    def __str__(self) -> str:
        return f"{self.view}: {self.name}"

    def as_of(self) -> list[tuple[datetime, Row]]:
        """The expected rows by event time, once all changes are known."""
        steps = self.steps[-1:] if self.rewritten else self.steps
        return sorted({step.at: step.expected for step in steps}.items(), key=lambda p: p[0])


def put(row: Row, at: datetime | None = None, op: str = "I") -> Row:
    """An insertion or update, committed at a time; by default at the latest one in the row."""
    times = [value for value in row.values() if isinstance(value, datetime)]
    return {**row, "op": op, "committed_at": at or max(times)}


def gone(row: Row, at: datetime) -> Row:
    """A deletion, committed at a time."""
    return {**row, "op": "D", "committed_at": at}


def renamed(old: int, row: Row) -> Row:
    """The second half of a changed key: the row has it now."""
    return {**put(row, T + 2 * HOUR, "U"), "old_key": f"[{old}]"}


def _case(
    name: str,
    view: str,
    key: tuple[Any, ...],
    *steps: tuple[str, Row, datetime, Row],
    rewritten: bool = False,
) -> Case:
    return Case(name, view, key, tuple(Step(*step) for step in steps), rewritten)


STOCK: Final = ("inventory_levels", ("w1", "p1"))
ROUTE: Final = ("route_conditions", ("r1",))
EVENTS: Final = ("session_events", ("s1",))
INTENT: Final = ("user_intent", (1,))
ORDERS: Final = ("user_orders", (1,))

_REGION: Final = {"stock_level": 100, "warehouse_region": "north"}
_NOWHERE: Final = {"stock_level": 100, "warehouse_region": None}
_FAST: Final = {"session_duration": 1, "sessions_7d": 1}
_SLOW: Final = {"session_duration": 2, "sessions_7d": 2}
_NO_SESSION: Final = {
    "intent_score": None,
    "urgency_score": None,
    "action_diversity": None,
    "products_viewed": None,
    "session_duration": None,
    "conversion_rate_7d": None,
}


def one(at: datetime, **changed: Any) -> Row:
    """The user's first session."""
    return session("s1", at, session_duration=1, **changed)


def two(at: datetime, **changed: Any) -> Row:
    """The user's second session."""
    return session("s2", at, session_duration=2, **changed)


CASES: Final = (
    _case(
        "a position is deleted, and there again later",
        *STOCK,
        ("orders", put(order(1, T - HOUR)), T - HOUR, ABSENT),
        ("inventory", put(stock(T)), T, {"stock_level": 100, "demand_24h": 1}),
        ("inventory", gone(stock(T), T + HOUR), T + HOUR, NULLS),
        ("orders", put(order(2, T + HOUR + SECOND)), T + HOUR + SECOND, NULLS),
        (
            "inventory",
            put(stock(T + 2 * HOUR, current_stock=7)),
            T + 2 * HOUR,
            {"stock_level": 7, "demand_24h": 2, "is_low_stock": True},
        ),
    ),
    _case(
        "a position is put back as it was, and changes",
        *STOCK,
        ("inventory", put(stock(T)), T, {"stock_level": 100}),
        ("inventory", gone(stock(T), T + HOUR), T + HOUR, NULLS),
        ("inventory", put(stock(T), T + HOUR), T + HOUR, {"stock_level": 100}),
        (
            "inventory",
            put(stock(T + MINUTE, current_stock=5), T + 2 * HOUR, "U"),
            T + HOUR,
            {"stock_level": 5},
        ),
        ("inventory", gone(stock(T + MINUTE), T + 3 * HOUR), T + 3 * HOUR, NULLS),
    ),
    _case(
        "a deletion by a clock that is behind the row's",
        *STOCK,
        ("inventory", put(stock(T + 4 * MINUTE), T), T + 4 * MINUTE, {"stock_level": 100}),
        ("inventory", gone(stock(T + 4 * MINUTE), T + MINUTE), T + 4 * MINUTE, NULLS),
    ),
    _case(
        "the key of a position is changed",
        *STOCK,
        ("inventory", put(stock(T)), T, {"stock_level": 100}),
        ("inventory", gone(stock(T), T + HOUR), T + HOUR, NULLS),
        ("inventory", put(stock(T, product_id="p2"), T + HOUR, "U"), T + HOUR, NULLS),
    ),
    _case(
        "the row under the new key",
        "inventory_levels",
        ("w1", "p2"),
        ("inventory", put(stock(T)), T, ABSENT),
        ("inventory", gone(stock(T), T + HOUR), T, ABSENT),
        ("inventory", put(stock(T, product_id="p2"), T + HOUR, "U"), T, {"stock_level": 100}),
    ),
    _case(
        "a warehouse is deleted, and there again",
        *STOCK,
        ("inventory", put(stock(T)), T, _REGION),
        ("warehouses", gone(warehouse("w1"), T + HOUR), T, _REGION),
        ("inventory", put(stock(T + 2 * HOUR), op="U"), T + 2 * HOUR, _NOWHERE),
        ("warehouses", put(warehouse("w1"), T + 3 * HOUR), T + 2 * HOUR, _NOWHERE),
        ("inventory", put(stock(T + 4 * HOUR), op="U"), T + 4 * HOUR, _REGION),
    ),
    _case(
        "a product is deleted",
        *STOCK,
        ("inventory", put(stock(T)), T, _REGION),
        ("products", gone(product("p1"), T + HOUR), T, _REGION),
    ),
    _case(
        "a position that never was",
        "inventory_levels",
        ("w1", "p2"),
        ("inventory", gone(stock(T, product_id="p2"), T + HOUR), T + HOUR, ABSENT),
    ),
    _case(
        "a position that was rejected",
        *STOCK,
        ("inventory", put(stock(T, current_stock=-5)), T, ABSENT),
        ("inventory", gone(stock(T, current_stock=-5), T + HOUR), T + HOUR, ABSENT),
    ),
    _case(
        "a position is deleted twice",
        *STOCK,
        ("inventory", put(stock(T)), T, {"stock_level": 100}),
        ("inventory", gone(stock(T), T + HOUR), T + HOUR, NULLS),
        ("inventory", gone(stock(T), T + 2 * HOUR), T + 2 * HOUR, NULLS),
    ),
    _case(
        "a route is deleted, delivers, and is there again",
        *ROUTE,
        ("routes", put(route("r1", T)), T, {"delay_risk": 0.1, "deliveries_24h": 0}),
        ("routes", gone(route("r1", T), T + HOUR), T + HOUR, NULLS),
        ("shipments", put(shipment(1, T + 2 * HOUR)), T + 2 * HOUR, NULLS),
        ("routes", put(route("r1", T + 3 * HOUR)), T + 3 * HOUR, {"deliveries_24h": 1}),
    ),
    _case(
        "a delivered shipment is deleted, and its id given to another one",
        *ROUTE,
        ("routes", put(route("r1", T)), T, {"deliveries_24h": 0}),
        ("shipments", put(shipment(1, None), T), T, {"deliveries_24h": 0}),
        ("shipments", put(shipment(1, T + HOUR), op="U"), T + HOUR, {"deliveries_24h": 1}),
        ("shipments", gone(shipment(1, T + HOUR), T + 2 * HOUR), T + HOUR, {"deliveries_24h": 1}),
        ("shipments", put(shipment(1, None), T + 2 * HOUR), T + HOUR, {"deliveries_24h": 1}),
        ("shipments", put(shipment(1, T + 3 * HOUR), op="U"), T + 3 * HOUR, {"deliveries_24h": 2}),
    ),
    _case(
        "the id of a delivered shipment is changed twice, and given to another one",
        *ROUTE,
        ("routes", put(route("r1", T)), T, {"deliveries_24h": 0}),
        ("shipments", put(shipment(1, T + HOUR), op="I"), T + HOUR, {"deliveries_24h": 1}),
        ("shipments", gone(shipment(1, T + HOUR), T + 2 * HOUR), T + HOUR, {"deliveries_24h": 1}),
        ("shipments", renamed(1, shipment(2, T + HOUR)), T + HOUR, {"deliveries_24h": 1}),
        ("shipments", gone(shipment(2, T + HOUR), T + 2 * HOUR), T + HOUR, {"deliveries_24h": 1}),
        ("shipments", renamed(2, shipment(3, T + HOUR)), T + HOUR, {"deliveries_24h": 1}),
        ("shipments", put(shipment(1, T + 3 * HOUR)), T + 3 * HOUR, {"deliveries_24h": 2}),
        (
            "shipments",
            gone(shipment(3, T + HOUR), T + 4 * HOUR),
            T + 3 * HOUR,
            {"deliveries_24h": 2},
        ),
    ),
    _case(
        "the id and the route of a delivered shipment are changed",
        *ROUTE,
        ("routes", put(route("r1", T)), T, {"deliveries_24h": 0}),
        ("routes", put(route("r2", T)), T, {"deliveries_24h": 0}),
        ("shipments", put(shipment(1, T + HOUR)), T + HOUR, {"deliveries_24h": 1}),
        ("shipments", gone(shipment(1, T + HOUR), T + 2 * HOUR), T + HOUR, {"deliveries_24h": 1}),
        (
            "shipments",
            renamed(1, shipment(2, T + HOUR, route_id="r2")),
            T + HOUR,
            {"deliveries_24h": 1},  # as the row of that time says, until there is a newer one
        ),
        ("routes", put(route("r1", T + 3 * HOUR), op="U"), T + 3 * HOUR, {"deliveries_24h": 0}),
        rewritten=True,
    ),
    _case(
        "a session is deleted, and there again",
        *EVENTS,
        ("sessions", put(one(T)), T, ABSENT),
        ("clickstream", put(click(1, T)), T, {"event_count": 1}),
        ("sessions", gone(one(T), T + HOUR), T + HOUR, NULLS),
        ("sessions", put(one(T + 2 * HOUR)), T + 2 * HOUR, NULLS),
        (
            "clickstream",
            put(click(2, T + 2 * HOUR + SECOND)),
            T + 2 * HOUR + SECOND,
            {"event_count": 2, "gaps": [0.0, 7201.0]},
        ),
    ),
    _case(
        "the record of an event is deleted",
        *EVENTS,
        ("sessions", put(one(T)), T, ABSENT),
        ("clickstream", put(click(1, T)), T, {"event_count": 1}),
        ("clickstream", gone(click(1, T), T + HOUR), T, {"event_count": 1}),
    ),
    _case(
        "one session after the other is deleted, and one is there again",
        *INTENT,
        ("sessions", put(one(T)), T, _FAST),
        ("clickstream", put(click(1, T, action="purchase")), T, {"purchases_7d": 1}),
        ("sessions", put(two(T + HOUR)), T + HOUR, _SLOW),
        (
            "sessions",
            gone(two(T + HOUR), T + 2 * HOUR),
            T + 2 * HOUR,
            {**_FAST, "conversion_rate_7d": 1.0},
        ),
        (
            "sessions",
            gone(one(T), T + 3 * HOUR),
            T + 3 * HOUR,
            {**_NO_SESSION, "sessions_1d": 0, "sessions_7d": 0, "purchases_7d": 1},
        ),
        ("sessions", put(two(T + 4 * HOUR)), T + 4 * HOUR, {**_SLOW, "sessions_7d": 1}),
    ),
    _case(
        "an older session is deleted",
        *INTENT,
        ("sessions", put(one(T)), T, _FAST),
        ("sessions", put(two(T + HOUR)), T + HOUR, _SLOW),
        ("sessions", gone(one(T), T + 2 * HOUR), T + 2 * HOUR, {**_SLOW, "sessions_7d": 1}),
    ),
    _case(
        "of the session that is left the last change is a week old",
        *INTENT,
        ("sessions", put(one(T)), T, _FAST),
        ("sessions", put(two(T + HOUR)), T + HOUR, _SLOW),
        ("sessions", gone(two(T + HOUR), T + 7 * DAY), T + 7 * DAY, _NO_SESSION),
    ),
    _case(
        "of the session that is left the last change is almost a week old",
        *INTENT,
        ("sessions", put(one(T)), T, _FAST),
        ("sessions", put(two(T + HOUR)), T + HOUR, _SLOW),
        (
            "sessions",
            gone(two(T + HOUR), T + 7 * DAY - MICROSECOND),
            T + 7 * DAY - MICROSECOND,
            {**_FAST, "sessions_1d": 0},
        ),
    ),
    _case(
        "a user is deleted with all sessions, and there again",
        *INTENT,
        ("sessions", put(one(T)), T, _FAST),
        ("clickstream", put(click(1, T + SECOND, action="purchase")), T + SECOND, _FAST),
        ("sessions", gone(one(T), T + HOUR), T + HOUR, _NO_SESSION),
        ("users", gone(user(1), T + HOUR), T + HOUR, NULLS),
        ("users", put(user(1), T + 2 * HOUR), T + 2 * HOUR, NULLS),
        ("sessions", put(two(T + 3 * HOUR)), T + 3 * HOUR, {"sessions_7d": 1, "purchases_7d": 1}),
    ),
    _case(
        "a user is deleted, and orders again",
        *ORDERS,
        ("orders", put(order(1, T)), T, {"orders_7d": 1}),
        ("users", gone(user(1), T + HOUR), T + HOUR, NULLS),
        ("users", put(user(1), T + 2 * HOUR), T + 2 * HOUR, NULLS),
        (
            "orders",
            put(order(2, T + 3 * HOUR)),
            T + 3 * HOUR,
            {"orders_7d": 2, "days_since_previous_order": 0.125},
        ),
    ),
    _case(
        "the record of an order is deleted",
        *ORDERS,
        ("orders", put(order(1, T)), T, {"orders_7d": 1}),
        ("orders", gone(order(1, T), T + HOUR), T, {"orders_7d": 1}),
        ("orders", put(order(2, T + 2 * HOUR)), T + 2 * HOUR, {"orders_7d": 2}),
    ),
)
