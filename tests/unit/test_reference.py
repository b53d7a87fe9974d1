"""The reference against hand-worked examples, and the pandas baseline against the reference."""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from random_log import DATABASES, random_log, write_change_logs
from reference import (
    CHANGED_AT,
    FEATURES,
    KEYS,
    VIEWS,
    compute,
    decision_context,
    event_times,
)

from pipelines.benchmarks.pandas_features import features_from_change_logs, features_from_frames
from pipelines.live_databases import (
    METADATA,
    clickstream,
    create_schema,
    open_engine,
    user_sessions,
    users,
)

Row = dict[str, Any]
T = datetime(2024, 3, 1, 12)  # a Friday
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
SEEDS = range(20)


def log(*rows: Row) -> list[Row]:
    """Rows as a log: insertions, unless they say otherwise, in the order given."""
    return [
        {"seq": seq, "op": "I", "committed_at": T, **row} for seq, row in enumerate(rows, start=1)
    ]


def session(at: datetime, session_id: str = "a", /, **columns: Any) -> Row:
    return {
        "session_id": session_id,
        "user_id": 1,
        "products_viewed": [],
        "actions_performed": [],
        "session_duration": 0,
        "timestamp": at,
        "time_on_page": 0.0,
        "scroll_depth": 0.0,
        "click_rate": 0.0,
    } | columns


def click(event_id: int, at: datetime, action: str = "view", **columns: Any) -> Row:
    return {
        "event_id": event_id,
        "session_id": "a",
        "user_id": 1,
        "product_id": "p",
        "action": action,
        "time_on_page": float(event_id),
        "scroll_depth": 0.5,
        "event_timestamp": at,
    } | columns


def order(order_id: int, at: datetime, method: str = "standard", **columns: Any) -> Row:
    return {
        "id": order_id,
        "user_id": 1,
        "product_id": "p",
        "quantity": 1,
        "price": 10.0,
        "warehouse_id": "w",
        "shipping_method": method,
        "order_timestamp": at,
        "status": "placed",
    } | columns


def stock(at: datetime, current: int, reserved: int = 0, **columns: Any) -> Row:
    return {
        "warehouse_id": "w",
        "product_id": "p",
        "current_stock": current,
        "reserved_stock": reserved,
        "reorder_point": 20,
        "carbon_footprint": 5.0,
        "updated_at": at,
    } | columns


def route(at: datetime, **columns: Any) -> Row:
    return {
        "route_id": "r",
        "distance_km": 100.0,
        "base_hours": 30.0,
        "carbon_cost": 50.0,
        "delay_risk": 0.3,
        "congestion": 0.1,
        "updated_at": at,
    } | columns


def shipment(number: int, delivered: datetime | None, late: timedelta, **columns: Any) -> Row:
    return {
        "shipment_id": number,
        "route_id": "r",
        "promised_at": (delivered or T) - late,
        "delivered_at": delivered,
    } | columns


def at(view: str, logs: dict[str, list[Row]], time: datetime) -> Row:
    """The one row of `view` at `time`."""
    (row,) = (row for row in compute(view, logs) if row["event_timestamp"] == time)
    return row


def times(view: str, logs: dict[str, list[Row]]) -> list[datetime]:
    return [row["event_timestamp"] for row in compute(view, logs)]


class TestUserIntent:
    def test_scores_and_counts_of_the_session(self) -> None:
        rows = log(
            session(
                T,
                products_viewed=["p", "q", "p"],
                actions_performed=["view", "view"],
                session_duration=90,
                time_on_page=150.0,
                scroll_depth=0.8,
                click_rate=0.25,
            )
        )
        assert compute("user_intent", {"sessions": rows}) == [
            {
                "user_id": 1,
                "event_timestamp": T,
                "intent_score": pytest.approx(4.0),
                "urgency_score": pytest.approx(5.0),
                "action_diversity": 1,
                "products_viewed": 2,
                "session_duration": 90,
                "sessions_1d": 1,
                "sessions_7d": 1,
                "carts_7d": 0,
                "purchases_7d": 0,
                "conversion_rate_7d": 0.0,
            }
        ]

    @pytest.mark.parametrize(
        ("missing", "score"),
        [
            ("time_on_page", "intent_score"),
            ("scroll_depth", "intent_score"),
            ("click_rate", "urgency_score"),
        ],
    )
    def test_null_signal_gives_null_score(self, missing: str, score: str) -> None:
        row = at("user_intent", {"sessions": log(session(T, **{missing: None}))}, T)
        nulls = [name for name, value in row.items() if value is None]
        assert nulls == [score]

    def test_windows_exclude_their_start_and_include_their_end(self) -> None:
        sessions = log(
            session(T - 7 * DAY, "out of both"),
            session(T - 7 * DAY + MICROSECOND, "b"),
            session(T - DAY, "c"),
            session(T - DAY + MICROSECOND, "d"),
            session(T - HOUR, "d", op="U"),
            session(T, "e"),
            session(T + MICROSECOND, "after"),
            session(T, "of another", user_id=2),
        )
        row = compute("user_intent", {"sessions": sessions})[-3]
        assert (row["user_id"], row["event_timestamp"]) == (1, T)
        assert (row["sessions_1d"], row["sessions_7d"]) == (2, 4)

    def test_carts_and_purchases_are_the_users_inserted_events(self) -> None:
        clicks = log(
            click(1, T - 7 * DAY, "purchase"),
            click(2, T - 7 * DAY + MICROSECOND, "purchase"),
            click(3, T, "purchase"),
            click(4, T, "add_to_cart", session_id="of no session row"),
            click(5, T, "view"),
            click(6, T, "purchase", user_id=2),
            click(3, T, "purchase", op="U"),
            click(2, T, "purchase", op="D"),
            click(7, T + MICROSECOND, "add_to_cart"),
        )
        sessions = log(*(session(T, name) for name in "abcd"))
        row = at("user_intent", {"sessions": sessions, "clickstream": clicks}, T)
        assert (row["carts_7d"], row["purchases_7d"], row["sessions_7d"]) == (1, 2, 4)
        assert row["conversion_rate_7d"] == 0.5

    def test_one_row_for_a_time_with_the_last_change_in_log_order(self) -> None:
        sessions = log(
            session(T, "b", session_duration=2),
            session(T, "a", session_duration=1),
            session(T, "a", session_duration=3, op="D"),
            session(T - HOUR, "c", session_duration=4),
        )
        row = at("user_intent", {"sessions": sessions}, T)
        assert (row["session_duration"], row["sessions_1d"]) == (2, 2)

    def test_deletion_of_what_never_was_gives_no_row(self) -> None:
        assert compute("user_intent", {"sessions": log(session(T, op="D"))}) == []


class TestSessionEvents:
    def test_lists_in_order_of_time_then_id(self) -> None:
        clicks = log(
            click(3, T + SECOND, "checkout"),
            click(2, T, "search", product_id=None),
            click(1, T - 1.5 * SECOND + MICROSECOND),
            click(4, T, "purchase", session_id="b"),
            click(0, T, "add_to_cart", product_id="q"),
        )
        rows = compute("session_events", {"clickstream": clicks})
        assert [row["session_id"] for row in rows] == ["a", "a", "a", "b"]
        assert rows[1] == {
            "session_id": "a",
            "event_timestamp": T,
            "actions": ["view", "add_to_cart", "search"],
            "product_ids": ["p", "q", ""],
            "times_on_page": [1.0, 0.0, 2.0],
            "scroll_depths": [0.5, 0.5, 0.5],
            "gaps": [0.0, pytest.approx(1.499999, abs=1e-12), 0.0],
            "event_count": 3,
        }
        assert rows[0]["event_count"] == 1
        assert rows[2]["gaps"] == [0.0, pytest.approx(1.499999), 0.0, 1.0]

    def test_keeps_32_events_and_the_true_gap_before_them(self) -> None:
        clicks = log(*(click(n, T + n * SECOND) for n in range(40)))
        rows = compute("session_events", {"clickstream": clicks})
        assert rows[31]["times_on_page"] == [float(n) for n in range(32)]
        assert rows[31]["gaps"] == [0.0] + [1.0] * 31
        assert rows[39]["times_on_page"] == [float(n) for n in range(8, 40)]
        assert rows[39]["gaps"] == [1.0] * 32
        assert rows[39]["event_count"] == 40

    def test_only_insertions_are_events(self) -> None:
        clicks = log(click(1, T), click(1, T + SECOND, op="U"), click(1, T + SECOND, op="D"))
        assert times("session_events", {"clickstream": clicks}) == [T]


class TestUserOrders:
    def test_basket_of_two_rows(self) -> None:
        orders = log(
            order(1, T - 30 * DAY, quantity=100),
            order(2, T - 30 * DAY + MICROSECOND, "express"),
            order(3, T - 7 * DAY, "overnight", price=5.0),
            order(4, T, quantity=2, price=2.5),
            order(5, T, "economy", quantity=3, price=1.0),
            order(6, T, user_id=2),
            order(4, T, op="U", quantity=50),
            order(5, T, op="D"),
        )
        assert at("user_orders", {"orders": orders[:5]}, T) == {
            "user_id": 1,
            "event_timestamp": T,
            "order_value": 8.0,
            "orders_7d": 2,
            "orders_30d": 4,
            "spend_30d": 23.0,
            "avg_order_value_30d": 5.75,
            "express_share_30d": 0.5,
            "preferred_shipping_method": "economy",
            "hour_of_day": 12,
            "day_of_week": 4,
            "is_weekend": False,
            "days_since_previous_order": 7.0,
        }
        assert compute("user_orders", {"orders": orders})[3]["order_value"] == 8.0
        assert len(compute("user_orders", {"orders": orders})) == 5

    def test_preferred_method_is_the_most_frequent_then_the_latest(self) -> None:
        orders = log(
            order(1, T - 2 * DAY, "economy"),
            order(2, T - 2 * DAY, "economy"),
            order(3, T - DAY, "express"),
            order(9, T, "standard"),
            order(4, T, "express"),
            order(5, T, "standard"),
        )
        # Two of each; express and standard both at T, of which 9 is the greatest id.
        assert at("user_orders", {"orders": orders}, T)["preferred_shipping_method"] == "standard"
        preferred = [
            row["preferred_shipping_method"] for row in compute("user_orders", {"orders": orders})
        ]
        assert preferred == ["economy", "economy", "standard"]

    def test_calendar_and_first_order(self) -> None:
        saturday = datetime(2024, 2, 3, 23, 59, 59, 999_999)
        sunday, monday = saturday + MICROSECOND, saturday + DAY + MICROSECOND
        orders = log(order(1, monday), order(2, saturday), order(3, sunday))
        rows = compute("user_orders", {"orders": orders})
        assert [row["hour_of_day"] for row in rows] == [23, 0, 0]
        assert [row["day_of_week"] for row in rows] == [5, 6, 0]
        assert [row["is_weekend"] for row in rows] == [True, True, False]
        since = [row["days_since_previous_order"] for row in rows]
        assert since == [None, pytest.approx(1e-6 / 86400), 1.0]

    def test_previous_order_has_no_window(self) -> None:
        orders = log(order(1, T - 100 * DAY), order(2, T))
        row = at("user_orders", {"orders": orders}, T)
        assert (row["orders_30d"], row["days_since_previous_order"]) == (1, 100.0)


class TestInventoryLevels:
    def test_levels_ratios_and_demand(self) -> None:
        logs = {
            "inventory": log(stock(T, 60, 10, op="U")),
            "warehouses": log(
                {"warehouse_id": "w", "region": "north"},
                {"warehouse_id": "w", "region": "south", "op": "U"},
            ),
            "orders": log(
                order(1, T - DAY, quantity=100),
                order(2, T - DAY + MICROSECOND, quantity=3),
                order(3, T, quantity=1),
                order(4, T + MICROSECOND, quantity=100),
                order(5, T, quantity=100, warehouse_id="other"),
                order(6, T, quantity=100, product_id="other"),
                order(3, T, quantity=100, op="U"),
            ),
        }
        assert compute("inventory_levels", logs) == [
            {
                "warehouse_id": "w",
                "product_id": "p",
                "event_timestamp": T,
                "stock_level": 50,
                "stock_ratio": 2.5,
                "carbon_intensity": pytest.approx(5 / 60),
                "is_low_stock": False,
                "warehouse_region": "south",
                "demand_24h": 4,
                "days_of_cover": 12.5,
            }
        ]

    def test_nulls_at_zero_and_for_an_unknown_warehouse(self) -> None:
        logs = {"inventory": log(stock(T, 0, 1, reorder_point=0))}
        row = at("inventory_levels", logs, T)
        assert (row["stock_level"], row["is_low_stock"], row["demand_24h"]) == (-1, True, 0)
        nulls = [name for name, value in row.items() if value is None]
        assert nulls == ["stock_ratio", "carbon_intensity", "warehouse_region", "days_of_cover"]

    def test_last_change_at_a_time_wins_and_late_ones_do_not(self) -> None:
        logs = {
            "inventory": log(
                stock(T, 1),
                stock(T, 2, op="U"),
                stock(T - HOUR, 3, op="U"),
                {**stock(T, 2, op="D"), "committed_at": T + HOUR},
            )
        }
        rows = compute("inventory_levels", logs)
        assert [row["stock_level"] for row in rows] == [3, 2, None]


class TestRouteConditions:
    def test_changes_and_deliveries(self) -> None:
        logs = {
            "routes": log(route(T - 10 * DAY), route(T, delay_risk=0.6, op="U")),
            "shipments": log(
                shipment(1, T - 7 * DAY, 1000 * HOUR),
                shipment(2, T - 7 * DAY + MICROSECOND, 9 * HOUR),
                shipment(3, T - DAY, 21 * HOUR),
                shipment(4, T - DAY + MICROSECOND, 0 * HOUR),
                shipment(5, T, 10 * HOUR),
                shipment(6, T, -5 * HOUR),
                shipment(7, None, 0 * HOUR),
                shipment(8, T, HOUR, route_id="unknown"),
            ),
        }
        assert at("route_conditions", logs, T) == {
            "route_id": "r",
            "event_timestamp": T,
            "delay_risk": 0.6,
            "congestion": 0.1,
            "carbon_cost": 50.0,
            "deliveries_24h": 3,
            "late_rate_24h": pytest.approx(1 / 3),
            "mean_delay_hours_24h": pytest.approx(10 / 3),
            "mean_delay_hours_7d": pytest.approx(8.0),
            "risk_category": "high",
            "efficiency_score": pytest.approx(30 / 38),
            "carbon_per_tonne_km": 0.5,
        }
        assert at("route_conditions", logs, T - DAY)["risk_category"] == "medium"
        assert times("route_conditions", logs) == [
            T - 10 * DAY,
            T - 7 * DAY,
            T - 7 * DAY + MICROSECOND,
            T - DAY,
            T - DAY + MICROSECOND,
            T,
        ]

    def test_nulls_without_deliveries_and_at_zero(self) -> None:
        logs = {"routes": log(route(T, base_hours=0.0, distance_km=0.0))}
        row = at("route_conditions", logs, T)
        assert row["deliveries_24h"] == 0
        assert [name for name, value in row.items() if value is None] == [
            "late_rate_24h",
            "mean_delay_hours_24h",
            "mean_delay_hours_7d",
            "efficiency_score",
            "carbon_per_tonne_km",
        ]

    def test_efficiency_without_deliveries_is_one(self) -> None:
        assert at("route_conditions", {"routes": log(route(T))}, T)["efficiency_score"] == 1.0

    @pytest.mark.parametrize(
        ("risk", "category"),
        [(0.0, "low"), (0.1999, "low"), (0.2, "medium"), (0.4999, "medium"), (0.5, "high")],
    )
    def test_risk_category(self, risk: float, category: str) -> None:
        logs = {"routes": log(route(T, delay_risk=risk))}
        assert at("route_conditions", logs, T)["risk_category"] == category

    def test_a_shipment_delivers_once_where_its_last_delivery_says(self) -> None:
        logs = {
            "routes": log(route(T - DAY)),
            "shipments": log(
                shipment(1, None, 0 * HOUR),
                shipment(1, T, 0 * HOUR, op="U"),
                shipment(1, T + HOUR, HOUR, op="U"),
                shipment(1, None, 0 * HOUR, op="U"),
                shipment(1, T + 2 * HOUR, 0 * HOUR, op="D"),
            ),
        }
        assert times("route_conditions", logs) == [T - DAY, T + HOUR]
        assert at("route_conditions", logs, T + HOUR)["late_rate_24h"] == 1.0

    def test_no_row_before_the_route_is_known_but_its_deliveries_count_later(self) -> None:
        logs = {
            "routes": log(route(T)),
            "shipments": log(shipment(1, T - HOUR, HOUR)),
        }
        assert times("route_conditions", logs) == [T]
        assert at("route_conditions", logs, T)["deliveries_24h"] == 1

    def test_state_is_the_latest_by_time_then_by_log_order(self) -> None:
        logs = {
            "routes": log(
                route(T, congestion=0.1),
                route(T, congestion=0.2, op="U"),
                route(T - DAY, congestion=0.3, op="U"),
                route(T, congestion=0.4, op="D"),
            ),
            "shipments": log(shipment(1, T + HOUR, HOUR)),
        }
        rows = compute("route_conditions", logs)
        assert [row["congestion"] for row in rows] == [0.3, None]

    def test_state_is_the_latest_one_known(self) -> None:
        logs = {
            "routes": log(route(T, congestion=0.1), route(T, congestion=0.2, op="U")),
            "shipments": log(shipment(1, T + HOUR, HOUR)),
        }
        rows = compute("route_conditions", logs)
        assert [row["congestion"] for row in rows] == [0.2, 0.2]


class TestDecisionContext:
    OPERANDS = {  # noqa: RUF012
        "quantity": 3,
        "price": 10.0,
        "weight_kg": 4.0,
        "carbon_cost": 500.0,
        "stock_level": 2,
        "urgency_score": 1.5,
        "mean_delay_hours_24h": 6.0,
        "late_rate_24h": 0.1,
    }

    def test_values(self) -> None:
        assert decision_context(**self.OPERANDS) == {
            "order_carbon_kg": 2.0,
            "stock_after_order": -1,
            "urgency_weighted_delay": 9.0,
            "value_at_risk": pytest.approx(3.0),
        }

    @pytest.mark.parametrize(
        ("missing", "nulls"),
        [
            ("quantity", {"stock_after_order", "value_at_risk"}),
            ("price", {"value_at_risk"}),
            ("weight_kg", {"order_carbon_kg"}),
            ("carbon_cost", {"order_carbon_kg"}),
            ("stock_level", {"stock_after_order"}),
            ("urgency_score", {"urgency_weighted_delay"}),
            ("mean_delay_hours_24h", {"urgency_weighted_delay"}),
            ("late_rate_24h", {"value_at_risk"}),
        ],
    )
    def test_null_operand(self, missing: str, nulls: set[str]) -> None:
        features = decision_context(**{**self.OPERANDS, missing: None})
        assert {name for name, value in features.items() if value is None} == nulls


class TestRandomLog:
    def test_same_seed_same_logs(self) -> None:
        assert random_log(3) == random_log(3)
        assert random_log(3) != random_log(4)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_log_order_and_operations_are_possible(self, seed: int) -> None:
        logs = random_log(seed)
        for tables in DATABASES.values():
            entries = sorted((row["seq"], row["committed_at"]) for t in tables for row in logs[t])
            assert len({seq for seq, _ in entries}) == len(entries)
            assert [at for _, at in entries] == sorted(at for _, at in entries)
        ids = [row["event_id"] for row in logs["clickstream"] if row["op"] == "I"]
        assert len(set(ids)) == len(ids)

    def test_nasty_cases_occur(self) -> None:
        found: Counter[str] = Counter()
        for seed in range(60):
            found.update(_nasty_cases(random_log(seed)))
        assert [case for case, count in found.items() if count < 3] == []


def _nasty_cases(logs: dict[str, list[Row]]) -> dict[str, int]:
    """How often each case that the random logs promise occurs in one of them."""
    clicks = [row for row in logs["clickstream"] if row["op"] == "I"]
    orders = [row for row in logs["orders"] if row["op"] == "I"]
    computed = {view: compute(view, logs) for view in VIEWS}
    cases: Counter[str] = Counter({f"{table} empty": not rows for table, rows in logs.items()})
    for table, rows in logs.items():
        cases[f"{table} deletion"] += sum(row["op"] == "D" for row in rows)
        cases[f"{table} update"] += sum(row["op"] == "U" for row in rows)
    for view, time, key, rows, width in [
        ("user_intent", "event_timestamp", "user_id", clicks, 7 * DAY),
        ("user_orders", "order_timestamp", "user_id", orders, 7 * DAY),
        ("user_orders", "order_timestamp", "user_id", orders, 30 * DAY),
        ("inventory_levels", "order_timestamp", "warehouse_id", orders, DAY),
        ("route_conditions", "delivered_at", "route_id", logs["shipments"], DAY),
        ("route_conditions", "delivered_at", "route_id", logs["shipments"], 7 * DAY),
    ]:
        events = {(row[key], row[time]) for row in rows}
        for row in computed[view]:
            edge = row["event_timestamp"] - width
            for name, shift in [("on", 0 * DAY), ("in", MICROSECOND), ("out", -MICROSECOND)]:
                case = f"{view}: {name} the edge of {width}"
                cases[case] += (row[key], edge + shift) in events
    for view, time in [
        ("sessions", "timestamp"),
        ("clickstream", "event_timestamp"),
        ("orders", "order_timestamp"),
        ("inventory", "updated_at"),
        ("routes", "updated_at"),
    ]:
        arrived = [row[time] for row in logs[view]]
        cases[f"{view} late"] += arrived != sorted(arrived)
    keyed: Counter[tuple[Any, ...]]
    keyed = Counter((row["user_id"], row["timestamp"]) for row in logs["sessions"])
    cases["session tie"] += sum(count > 1 for count in keyed.values())
    keyed = Counter((row["user_id"], row["order_timestamp"]) for row in orders)
    cases["basket"] += sum(count > 1 for count in keyed.values())
    keyed = Counter((row["session_id"], row["event_timestamp"]) for row in clicks)
    cases["event tie"] += sum(count > 1 for count in keyed.values())
    keyed = Counter(
        (row["warehouse_id"], row["product_id"], row["updated_at"])
        for row in logs["inventory"]
        if row["op"] != "D"
    )
    cases["stock tie"] += sum(count > 1 for count in keyed.values())
    cases["long session"] += sum(
        (row["event_count"] or 0) > 32 for row in computed["session_events"]
    )
    cases["null product"] += sum(row["product_id"] is None for row in clicks)
    delivered: dict[int, list[datetime]] = {}
    for row in logs["shipments"]:
        if row["op"] != "D":
            delivered.setdefault(row["shipment_id"], []).append(row["delivered_at"])
    for history in delivered.values():
        known = [time for time in history if time is not None]
        cases["never delivered"] += not known
        cases["delivered again"] += len(set(known)) > 1
        cases["delivery taken back"] += bool(known) and history[-1] is None
    cases["on the promise"] += sum(r["delivered_at"] == r["promised_at"] for r in logs["shipments"])
    routed = {(row["route_id"], row["event_timestamp"]) for row in computed["route_conditions"]}
    last = {r["shipment_id"]: r for r in logs["shipments"] if r["delivered_at"] and r["op"] != "D"}
    cases["delivery before route"] += sum(
        (row["route_id"], row["delivered_at"]) not in routed for row in last.values()
    )
    for table, (time, key_columns) in CHANGED_AT.items():
        timed = {row["seq"]: row[time] for row in event_times(logs)[table]}
        gone: set[tuple[Any, ...]] = set()
        for row in logs[table]:
            key = tuple(row[name] for name in key_columns)
            cases[f"{table} there again"] += row["op"] == "I" and key in gone
            if time != "committed_at":
                cases[f"{table} put back as it was"] += (
                    row["op"] != "D" and timed[row["seq"]] > row[time]
                )
            (gone.add if row["op"] == "D" else gone.discard)(key)
    ids = Counter(row["shipment_id"] for row in logs["shipments"] if row["op"] == "I")
    cases["reused shipment id"] += sum(count > 1 for count in ids.values())
    for view in VIEWS:
        for row in computed[view]:
            cases[f"{view} tombstone"] += all(row[name] is None for name in FEATURES[view])
            for name in _NULLABLE & row.keys():
                cases[f"{name} null"] += row[name] is None
    cases["no session left"] += sum(row["sessions_7d"] == 0 for row in computed["user_intent"])
    return dict(cases)


_NULLABLE = {
    "intent_score",
    "urgency_score",
    "days_since_previous_order",
    "stock_ratio",
    "carbon_intensity",
    "warehouse_region",
    "days_of_cover",
    "late_rate_24h",
    "mean_delay_hours_24h",
    "mean_delay_hours_7d",
    "efficiency_score",
    "carbon_per_tonne_km",
}


def without_deletions(logs: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The logs of a shop that deletes nothing, for which the baseline is made."""
    return {table: [row for row in rows if row["op"] != "D"] for table, rows in logs.items()}


class TestPandasFeatures:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_equals_the_reference(self, seed: int) -> None:
        logs = without_deletions(random_log(seed))
        frames = features_from_frames({table: pd.DataFrame(rows) for table, rows in logs.items()})
        for view in VIEWS:
            assert_same(view, frames[view], compute(view, logs))

    @pytest.mark.parametrize("size", [0, 1, 5, 150])
    def test_equals_the_reference_at_other_sizes(self, size: int) -> None:
        logs = without_deletions(random_log(100 + size, size))
        frames = features_from_frames({table: pd.DataFrame(rows) for table, rows in logs.items()})
        for view in VIEWS:
            assert_same(view, frames[view], compute(view, logs))

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_reads_change_logs(self, seed: int, tmp_path: Path) -> None:
        logs = without_deletions(random_log(seed))
        frames = features_from_change_logs(write_change_logs(logs, tmp_path))
        for view in VIEWS:
            assert_same(view, frames[view], compute(view, logs))

    def test_reads_what_the_triggers_write(self, tmp_path: Path) -> None:
        paths = {name: tmp_path / f"{name}.db" for name in METADATA}
        engines = {name: open_engine(f"sqlite:///{path}") for name, path in paths.items()}
        for name, engine in engines.items():
            create_schema(engine, METADATA[name])
        with engines["users"].begin() as connection:
            connection.execute(
                sa.insert(users).values(user_id=1, region="north", signed_up_at=T - DAY)
            )
            signals = {"time_on_page": 150.0, "scroll_depth": 0.8, "click_rate": None}
            row = {k: v for k, v in session(T).items() if k not in signals}
            connection.execute(sa.insert(user_sessions).values(intent_signals=signals, **row))
            connection.execute(
                sa.insert(clickstream).values(**click(1, T, "purchase", product_id=None))
            )
        for engine in engines.values():
            engine.dispose()
        logs = {
            "sessions": log(session(T, **signals)),
            "clickstream": log(click(1, T, "purchase", product_id=None)),
        }
        frames = features_from_change_logs(paths)
        for view in VIEWS:
            assert_same(view, frames[view], compute(view, logs))


def assert_same(view: str, frame: pd.DataFrame, expected: list[Row]) -> None:
    """Columns, order, nulls and types as in the reference; floats to 1e-9."""
    assert list(frame.columns) == [*KEYS[view], "event_timestamp", *FEATURES[view]]
    assert len(frame) == len(expected)
    for found, row in zip(frame.to_dict("records"), expected, strict=True):
        assert set(row) == set(found)
        for name, value in row.items():
            where = f"{view} {[row[key] for key in KEYS[view]]} {row['event_timestamp']} {name}"
            assert _same(found[name], value), f"{where}: {found[name]!r}, not {value!r}"


def _same(found: Any, expected: Any) -> bool:
    if expected is None:
        return found is None or (isinstance(found, float) and math.isnan(found))
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_same, found, expected))
    if isinstance(expected, float):
        return isinstance(found, float) and math.isclose(
            found, expected, rel_tol=1e-9, abs_tol=1e-9
        )
    if isinstance(expected, datetime):
        return bool(pd.Timestamp(expected) == found)
    return type(found) is type(expected) and bool(found == expected)
