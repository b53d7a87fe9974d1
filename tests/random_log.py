"""Small random live logs, full of the cases in which a feature goes wrong.

Few keys, so that they collide; times from a handful of anchors minus exactly the widths of the
windows, some a microsecond off, so that ties and window edges are common; a fifth of the changes
arrive late. The same seed gives the same logs.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pipelines.live_databases import (
    ACTIONS,
    METADATA,
    MODES,
    ORDER_STATUSES,
    SHIPPING_METHODS,
    create_schema,
    open_engine,
)

Row = dict[str, Any]
Logs = dict[str, list[Row]]

# The tables of the logs, by database: a change log numbers the tables of one database together.
DATABASES: Final[Mapping[str, tuple[str, ...]]] = {
    "orders": ("orders",),
    "users": ("users", "sessions", "clickstream"),
    "inventory": ("warehouses", "inventory"),
    "supply_chain": ("routes", "shipments"),
}
TABLE_NAMES: Final[Mapping[str, str]] = {"sessions": "user_sessions"}
PRIMARY_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "orders": ("id",),
    "users": ("user_id",),
    "sessions": ("session_id",),
    "clickstream": ("event_id",),
    "warehouses": ("warehouse_id",),
    "inventory": ("warehouse_id", "product_id"),
    "routes": ("route_id",),
    "shipments": ("shipment_id",),
}
SIGNALS: Final = ("time_on_page", "scroll_depth", "click_rate")

_USERS: Final = (1, 2, 3, 4)
_SESSIONS: Final = tuple(f"s{number}" for number in range(1, 8))
_PRODUCTS: Final = ("p1", "p2", "p3")
_WAREHOUSES: Final = ("w1", "w2", "w3")  # the log of warehouses never mentions w3
_ROUTES: Final = ("r1", "r2", "r3")
_OF_CHANGES: Final = ("seq", "op", "committed_at", "old_key")
_MICROSECOND: Final = timedelta(microseconds=1)
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
# A table is left empty now and then; more entries where a view needs long histories.
_EMPTY_SHARE: Final = 0.08
_LATE_SHARE: Final = 0.2
_DELETED_SHARE: Final = 0.08
_REUSE_SHARE: Final = 0.3
_USER_SHARE: Final = 0.15
_WEIGHTS: Final[Mapping[str, float]] = {
    "orders": 1.0,
    "sessions": 1.0,
    "clickstream": 2.0,
    "warehouses": 0.1,
    "inventory": 1.0,
    "routes": 0.5,
    "shipments": 1.0,
}


def random_log(seed: int, size: int = 60) -> Logs:
    """The processed logs of eight tables, about `size` changes in each of the larger ones."""
    world = _World(random.Random(seed))
    logs: Logs = {table: [] for tables in DATABASES.values() for table in tables}
    for database, tables in DATABASES.items():
        entries = world.changes(tuple(t for t in tables if t in _WEIGHTS), size)
        if database == "users":
            entries = _with_users(random.Random(f"users of {seed}"), entries)
        for entry in entries:
            logs[entry.pop("table")].append(entry)
    return logs


def with_changed_keys(logs: Logs, seed: int, *, routes: bool = True, share: float = 0.15) -> Logs:
    """The same with shipments that are given other ids, as the trigger of an UPDATE logs it.

    Args:
        routes: whether some are given another route at once.
    """
    rng = random.Random(f"keys of {seed}")
    changes = sorted(logs["shipments"], key=lambda row: row["seq"])
    live: dict[int, Row] = {}
    new_id: dict[int, int] = {}
    unused = 1 + max((row["shipment_id"] for row in changes), default=0)
    found: list[Row] = []
    for row in changes:
        if row["op"] == "I":
            new_id.pop(row["shipment_id"], None)
        known = new_id.get(row["shipment_id"], row["shipment_id"])
        row = {**row, "seq": 3 * row["seq"], "shipment_id": known}
        found.append(row)
        live[known] = row
        if row["op"] == "D":
            del live[known]
        if live and rng.random() < share:
            old = rng.choice(sorted(live))
            moved = {**live.pop(old), "committed_at": row["committed_at"], "seq": row["seq"] + 1}
            live[unused] = {**moved, "op": "U", "seq": row["seq"] + 2, "shipment_id": unused}
            if routes and rng.random() < 0.3:
                live[unused]["route_id"] = rng.choice(_ROUTES)
            first = next((k for k, v in new_id.items() if v == old), old)
            new_id[first] = unused
            found += [moved | {"op": "D"}, live[unused] | {"old_key": f"[{old}]"}]
            unused += 1
    states = [{**row, "seq": 3 * row["seq"]} for row in logs["routes"]]
    return {**logs, "routes": states, "shipments": found}


def _with_users(rng: random.Random, entries: list[Row]) -> list[Row]:
    """The same with users who come, change, go and come again among them."""
    if rng.random() < _EMPTY_SHARE:
        return entries
    there: set[int] = set()
    found: list[Row] = []
    for entry in entries:
        if rng.random() < _USER_SHARE:
            user = rng.choice(_USERS)
            op = "I" if user not in there else rng.choice(["U", "D"])
            (there.discard if op == "D" else there.add)(user)
            found.append(
                {
                    "table": "users",
                    "seq": entry["seq"] - 1,
                    "op": op,
                    "committed_at": entry["committed_at"],
                    "user_id": user,
                    "region": rng.choice(["north", "south"]),
                    "signed_up_at": entry["committed_at"] - _DAY,
                }
            )
        found.append(entry)
    added = 0
    for entry in found:
        added += entry["table"] == "users"
        entry["seq"] += added
    return found


def write_change_logs(logs: Logs, directory: Path) -> dict[str, Path]:
    """Four live databases whose change logs hold `logs` in the form in which triggers write them.

    The live tables themselves stay empty. Returns the files by database name.
    """
    paths = {}
    for database, tables in DATABASES.items():
        paths[database] = directory / f"{database}.db"
        engine = open_engine(f"sqlite:///{paths[database]}")
        create_schema(engine, METADATA[database])
        engine.dispose()
        entries = [(row["seq"], table, row) for table in tables for row in logs.get(table, [])]
        entries.sort(key=lambda entry: entry[0])
        connection = sqlite3.connect(paths[database])
        with connection:
            connection.executemany(
                "INSERT INTO change_log (seq, table_name, op, key, row, committed_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (
                        seq,
                        TABLE_NAMES.get(table, table),
                        row["op"],
                        json.dumps([row[column] for column in PRIMARY_KEYS[table]]),
                        _row_json(table, row),
                        _stored(row["committed_at"]),
                    )
                    for seq, table, row in entries
                ],
            )
        connection.close()
    return paths


def _row_json(table: str, entry: Row) -> str:
    """A row as a trigger writes it: times as text, JSON columns as strings."""
    row = {k: v for k, v in entry.items() if k not in _OF_CHANGES}
    if table == "sessions":
        row["intent_signals"] = {signal: row.pop(signal) for signal in SIGNALS}
        for column in ("products_viewed", "actions_performed", "intent_signals"):
            row[column] = json.dumps(row[column])
    return json.dumps({k: _stored(v) if isinstance(v, datetime) else v for k, v in row.items()})


def _stored(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S.%f")


class _World:
    """One random shop: its keys, its clock and what its tables hold."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.live: dict[str, dict[Any, Row]] = {table: {} for table in PRIMARY_KEYS}
        self.used_ids: dict[str, set[int]] = {table: set() for table in PRIMARY_KEYS}
        # Near the end of February of a leap year: months, years and weekdays differ by seed.
        start = datetime(2024, 2, 20) + rng.randrange(0, 20) * _DAY
        self.anchors = [
            start
            + rng.randrange(0, 60) * 6 * _HOUR
            + rng.choice([0, 0, 1, 123_456, 999_999]) * _MICROSECOND
            for _ in range(3)
        ]

    def time(self) -> datetime:
        """A time on the grid around the anchors, sometimes a microsecond off it."""
        days = self.rng.choice([0, 1, 1, 2, 7, 7, 8, 30, self.rng.randrange(0, 40)])
        short = self.rng.choice([timedelta(0), timedelta(0), timedelta(seconds=1), _HOUR])
        off = self.rng.choice([0, 0, 0, 0, 0, 0, 1, -1]) * _MICROSECOND
        return self.rng.choice(self.anchors) - days * _DAY - short + off

    def changes(self, tables: tuple[str, ...], size: int) -> list[Row]:
        """The change log of one database, in order, each entry with the name of its table."""
        instants = [
            (self.time(), table)
            for table in tables
            if self.rng.random() >= _EMPTY_SHARE
            for _ in range(round(size * _WEIGHTS[table]))
        ]
        instants.sort()
        order = [
            index + (self.rng.random() * len(instants) if self.rng.random() < _LATE_SHARE else 0)
            for index in range(len(instants))
        ]
        entries = []
        seq, committed_at = 0, datetime(2024, 1, 1)
        for _, (t, table) in sorted(zip(order, instants, strict=True)):
            # Other tables take numbers from the same log, so there are holes.
            seq += self.rng.choice([1, 1, 1, 2, 5])
            committed_at = max(committed_at, t) + timedelta(milliseconds=self.rng.randrange(0, 3))
            op, row = self.change(table, t)
            entries.append(
                {"table": table, "seq": seq, "op": op, "committed_at": committed_at, **row}
            )
        return entries

    def change(self, table: str, t: datetime) -> tuple[str, Row]:
        """One insertion, update or deletion at `t`, applied to the tables as they stand."""
        live = self.live[table]
        proposed: Row = getattr(self, f"_{table}")(t)
        key = tuple(proposed[column] for column in PRIMARY_KEYS[table])
        if key not in live:
            live[key] = proposed
            return "I", proposed
        if self.rng.random() < _DELETED_SHARE:
            return "D", live.pop(key)
        live[key] = proposed
        return "U", proposed

    def _old_or_new(self, table: str, new_share: float) -> tuple[int, Row | None]:
        """An id of a live row with the row, or one that was never used; ids run in no order.

        A deleted shipment's id may be given to another one.
        """
        live = self.live[table]
        if live and self.rng.random() >= new_share:
            key = self.rng.choice(sorted(live))
            return key[0], live[key]
        used = self.used_ids[table]
        free = used - {key[0] for key in live}
        if table == "shipments" and free and self.rng.random() < _REUSE_SHARE:
            return self.rng.choice(sorted(free)), None
        while (number := self.rng.randrange(1, 10 * len(used) + 100)) in used:
            pass
        used.add(number)
        return number, None

    def _sessions(self, t: datetime) -> Row:
        rng = self.rng
        session = rng.choice(_SESSIONS)
        signals: Row = {
            "time_on_page": rng.choice([0.0, 12.5, 300.0, rng.uniform(0, 900)]),
            "scroll_depth": rng.choice([0.0, 1.0, rng.random()]),
            "click_rate": rng.choice([0.0, 0.05, rng.random()]),
        }
        for signal in SIGNALS:
            if rng.random() < 0.15:
                signals[signal] = None
        return {
            "session_id": session,
            "user_id": _user_of(session),
            "products_viewed": rng.choices(_PRODUCTS, k=rng.randrange(0, 5)),
            "actions_performed": rng.choices(ACTIONS, k=rng.randrange(0, 7)),
            "session_duration": rng.choice([0, 1, rng.randrange(0, 7200)]),
            "timestamp": t,
            **signals,
        }

    def _clickstream(self, t: datetime) -> Row:
        rng = self.rng
        event_id, _ = self._old_or_new("clickstream", new_share=0.92)
        # The first session is long, so that more than 32 events come together; the last has none.
        session = "s1" if rng.random() < 0.55 else rng.choice(_SESSIONS[:-1])
        return {
            "event_id": event_id,
            "session_id": session,
            "user_id": _user_of(session),
            "product_id": None if rng.random() < 0.25 else rng.choice(_PRODUCTS),
            "action": rng.choice(ACTIONS),
            "time_on_page": rng.choice([0.0, rng.uniform(0, 300)]),
            "scroll_depth": rng.choice([0.0, 1.0, rng.random()]),
            "event_timestamp": t,
        }

    def _orders(self, t: datetime) -> Row:
        rng = self.rng
        order_id, old = self._old_or_new("orders", new_share=0.8)
        if old is not None and rng.random() < 0.8:
            return {**old, "status": rng.choice(ORDER_STATUSES)}
        return {
            "id": order_id,
            "user_id": rng.choice(_USERS),
            "product_id": rng.choice(_PRODUCTS),
            "quantity": rng.randrange(1, 6),
            "price": rng.choice([0.0, 0.01, 9.99, round(rng.uniform(0, 500), 2)]),
            "warehouse_id": rng.choice(_WAREHOUSES),
            "shipping_method": rng.choice(SHIPPING_METHODS),
            "order_timestamp": t,
            "status": "placed",
        }

    def _warehouses(self, _t: datetime) -> Row:
        rng = self.rng
        return {
            "warehouse_id": rng.choice(_WAREHOUSES[:-1]),
            "region": rng.choice(["north", "south"]),
            "latitude": rng.uniform(-60, 60),
            "longitude": rng.uniform(-180, 180),
            "capacity": rng.randrange(100, 1000),
        }

    def _inventory(self, t: datetime) -> Row:
        rng = self.rng
        return {
            "warehouse_id": rng.choice(_WAREHOUSES),
            "product_id": rng.choice(_PRODUCTS),
            "current_stock": rng.choice([0, 49, 50, 51, rng.randrange(0, 300)]),
            "reserved_stock": rng.choice([0, 0, 1, rng.randrange(0, 60)]),
            "reorder_point": rng.choice([0, 20, rng.randrange(0, 100)]),
            "carbon_footprint": rng.choice([0.0, rng.uniform(0, 50)]),
            "updated_at": t,
        }

    def _routes(self, t: datetime) -> Row:
        rng = self.rng
        return {
            "route_id": rng.choice(_ROUTES),
            "origin_id": rng.choice(_WAREHOUSES),
            "destination_id": rng.choice(["north", "south"]),
            "mode": rng.choice(MODES),
            "distance_km": rng.choice([0.0, 100.0, rng.uniform(1, 5000)]),
            "base_hours": rng.choice([0.0, 0.0, 24.0, rng.uniform(1, 200)]),
            "base_cost": rng.uniform(1, 100),
            "carbon_cost": rng.choice([0.0, rng.uniform(1, 500)]),
            "delay_risk": rng.choice([0.0, 0.2, 0.5, 1.0, rng.random()]),
            "congestion": rng.choice([0.0, rng.random()]),
            "updated_at": t,
        }

    def _shipments(self, t: datetime) -> Row:
        rng = self.rng
        shipment_id, old = self._old_or_new("shipments", new_share=0.5)
        delivered = rng.random() < 0.65
        promised_at = t if rng.random() < 0.2 else self.time()
        row: Row = {
            "shipment_id": shipment_id,
            "order_id": None if rng.random() < 0.3 else rng.randrange(1, 100),
            "route_id": rng.choice(_ROUTES),
            "warehouse_id": rng.choice(_WAREHOUSES),
            "product_id": rng.choice([None, *_PRODUCTS]),
            "quantity": rng.choice([None, 1, 20]),
            "shipping_method": rng.choice(SHIPPING_METHODS),
            "weight_kg": rng.uniform(0.1, 100),
            "cost": rng.uniform(1, 100),
            "carbon_kg": rng.uniform(0, 10),
            "shipped_at": min(t, promised_at) - _DAY,
            "promised_at": promised_at,
            "delivered_at": t if delivered else None,
            "status": "delivered" if delivered else "in_transit",
        }
        if old is not None and rng.random() < 0.9:
            # Mostly the same shipment with another delivery; now and then on another route too.
            return {**old, "delivered_at": row["delivered_at"], "status": row["status"]}
        return row


def _user_of(session: str) -> int:
    return _USERS[int(session[1:]) % len(_USERS)]
