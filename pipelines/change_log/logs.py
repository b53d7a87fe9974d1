"""The processed logs: one typed log per live table, and the rules for its rows.

A log row is a change: `seq` and `op` (I, U, D) from the change log, `committed_at`, then the
table's columns in their types. Both flows read these definitions, so a row that one flow rejects
is rejected by the other too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipelines.live_databases import (
    ACTIONS,
    MODES,
    ORDER_STATUSES,
    SHIPMENT_STATUSES,
    SHIPPING_METHODS,
)
from pipelines.settings import DATABASE_NAMES

INTEGER: Final = "BIGINT"
NUMBER: Final = "DOUBLE"
MONEY: Final = "DECIMAL(10,2)"
TEXT: Final = "VARCHAR"
TIME: Final = "TIMESTAMP"
TEXTS: Final = "VARCHAR[]"

KIND_IN_WORDS: Final[Mapping[str, str]] = {
    INTEGER: "a whole number",
    NUMBER: "a number",
    MONEY: "an amount with at most 8 digits before the point",
    TEXT: "text",
    TIME: "a time stamp",
    TEXTS: "a JSON list of texts",
}
MOVED: Final = "M"
"""`op` in a processed log: the deletion of a key whose row goes on under another key."""
CHANGE_COLUMNS: Final[Mapping[str, str]] = {"seq": INTEGER, "op": TEXT, "committed_at": TIME}


@dataclass(frozen=True)
class Column:
    """One column of a log.

    `path` names the value in the change's JSON where it is not the column itself: "column" or
    "column.field" for a field of a JSON column. `check` is SQL over the typed columns that must
    not be false, `rule` the same in words.
    """

    name: str
    type: str
    check: str | None = None
    rule: str = ""
    nullable: bool = False
    path: str = ""
    allowed: tuple[str, ...] = ()
    """The texts that it may hold; empty where any may be."""

    @property
    def source(self) -> tuple[str, str | None]:
        """The live column, and the field inside it if that column holds JSON."""
        column, _, field = (self.path or self.name).partition(".")
        return column, field or None


@dataclass(frozen=True, eq=False)
class Log:
    """One live table's log: its columns, keys and references to other logs."""

    name: str
    database: str
    table: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    references: Mapping[str, str]
    """Column → the log whose (single) key it must be found in."""
    append_only: bool = False
    """A row is inserted once and is a fact: a second insert of its key is a duplicate."""
    keep_newest_by: tuple[str, ...] = ()
    """Retention keeps the newest row of each value of these columns, however old."""
    expires: bool = True
    """False: exempt from retention, since features look back without a limit."""
    marks_moves: bool = False
    """A row counts by its key even after its deletion. So if its key was only changed, the old
    key's last row has the `op` `MOVED`, whatever happens to the row under the new key."""
    changed_at: str | None = None
    """The column with the event time of a change, where a deletion is an event as well. A
    deletion's event time is its commit time, but no earlier than that of the row that it removes;
    later changes of the key are no earlier than the deletion. The column holds these times, not the
    live row's."""

    @property
    def lasts(self) -> bool:
        """Whether rows outlive the retention, because others refer to them or start from them."""
        return bool(self.keep_newest_by) or not self.expires

    @property
    def types(self) -> dict[str, str]:
        """DuckDB type by column, the change's own columns first."""
        return {**CHANGE_COLUMNS, **{c.name: c.type for c in self.columns}}


def _at_least_zero(name: str, type_: str = NUMBER, nullable: bool = False) -> Column:
    return Column(name, type_, f"{name} >= 0", "must not be negative", nullable)


def _units(name: str, nullable: bool = False) -> Column:
    # Bounded, so that sums of units and of their value always fit into 64 bits.
    return Column(name, INTEGER, f"{name} BETWEEN 1 AND 1000000", "must lie in 1–1000000", nullable)


def _share(name: str, nullable: bool = False, path: str = "") -> Column:
    return Column(name, NUMBER, f"{name} BETWEEN 0 AND 1", "must lie in 0–1", nullable, path)


def _one_of(name: str, allowed: Sequence[str]) -> Column:
    listed = ", ".join(f"'{value}'" for value in allowed)
    rule = "must be one of " + ", ".join(allowed)
    return Column(name, TEXT, f"{name} IN ({listed})", rule, allowed=tuple(allowed))


LOGS: Final = (
    Log(
        "users",
        "users",
        "users",
        key=("user_id",),
        columns=(Column("user_id", INTEGER), Column("region", TEXT), Column("signed_up_at", TIME)),
        references={},
        keep_newest_by=("user_id",),
        changed_at="committed_at",
    ),
    Log(
        "sessions",
        "users",
        "user_sessions",
        key=("session_id",),
        columns=(
            Column("session_id", TEXT),
            Column("user_id", INTEGER),
            Column("products_viewed", TEXTS),
            Column("actions_performed", TEXTS),
            _at_least_zero("session_duration", INTEGER),
            Column("timestamp", TIME),
            Column(
                "time_on_page",
                NUMBER,
                "time_on_page >= 0",
                "must not be negative",
                True,
                "intent_signals.time_on_page",
            ),
            _share("scroll_depth", True, "intent_signals.scroll_depth"),
            Column(
                "click_rate",
                NUMBER,
                "click_rate >= 0",
                "must not be negative",
                True,
                "intent_signals.click_rate",
            ),
        ),
        references={"user_id": "users"},
        changed_at="timestamp",
    ),
    Log(
        "clickstream",
        "users",
        "clickstream",
        key=("event_id",),
        columns=(
            Column("event_id", INTEGER),
            Column("session_id", TEXT),
            Column("user_id", INTEGER),
            Column("product_id", TEXT, nullable=True),
            _one_of("action", ACTIONS),
            _at_least_zero("time_on_page"),
            _share("scroll_depth"),
            Column("event_timestamp", TIME),
        ),
        references={"session_id": "sessions", "user_id": "users", "product_id": "products"},
        append_only=True,
    ),
    Log(
        "warehouses",
        "inventory",
        "warehouses",
        key=("warehouse_id",),
        columns=(
            Column("warehouse_id", TEXT),
            Column("region", TEXT),
            Column("latitude", NUMBER, "latitude BETWEEN -90 AND 90", "must lie in -90–90"),
            Column("longitude", NUMBER, "longitude BETWEEN -180 AND 180", "must lie in -180–180"),
            _at_least_zero("capacity", INTEGER),
        ),
        references={},
        keep_newest_by=("warehouse_id",),
    ),
    Log(
        "products",
        "inventory",
        "products",
        key=("product_id",),
        columns=(
            Column("product_id", TEXT),
            Column("category", TEXT),
            _at_least_zero("unit_price", MONEY),
            _at_least_zero("weight_kg"),
        ),
        references={},
        keep_newest_by=("product_id",),
    ),
    Log(
        "inventory",
        "inventory",
        "inventory",
        key=("warehouse_id", "product_id"),
        columns=(
            Column("warehouse_id", TEXT),
            Column("product_id", TEXT),
            _at_least_zero("current_stock", INTEGER),
            _at_least_zero("reserved_stock", INTEGER),
            _at_least_zero("reorder_point", INTEGER),
            _at_least_zero("carbon_footprint"),
            Column("updated_at", TIME),
        ),
        references={"warehouse_id": "warehouses", "product_id": "products"},
        keep_newest_by=("warehouse_id", "product_id"),
        changed_at="updated_at",
    ),
    Log(
        "orders",
        "orders",
        "orders",
        key=("id",),
        columns=(
            Column("id", INTEGER),
            Column("user_id", INTEGER),
            Column("product_id", TEXT),
            _units("quantity"),
            _at_least_zero("price", MONEY),
            Column("warehouse_id", TEXT),
            _one_of("shipping_method", SHIPPING_METHODS),
            Column("order_timestamp", TIME),
            _one_of("status", ORDER_STATUSES),
        ),
        references={"user_id": "users", "product_id": "products", "warehouse_id": "warehouses"},
        append_only=True,
        expires=False,
    ),
    Log(
        "suppliers",
        "supply_chain",
        "suppliers",
        key=("supplier_id",),
        columns=(
            Column("supplier_id", TEXT),
            Column("region", TEXT),
            _at_least_zero("lead_time_days"),
        ),
        references={},
        keep_newest_by=("supplier_id",),
    ),
    Log(
        "routes",
        "supply_chain",
        "routes",
        key=("route_id",),
        columns=(
            Column("route_id", TEXT),
            Column("origin_id", TEXT),
            Column("destination_id", TEXT),
            _one_of("mode", MODES),
            _at_least_zero("distance_km"),
            _at_least_zero("base_hours"),
            _at_least_zero("base_cost"),
            _at_least_zero("carbon_cost"),
            _share("delay_risk"),
            _share("congestion"),
            Column("updated_at", TIME),
        ),
        references={},
        keep_newest_by=("route_id",),
        changed_at="updated_at",
    ),
    Log(
        "shipments",
        "supply_chain",
        "shipments",
        key=("shipment_id",),
        columns=(
            Column("shipment_id", INTEGER),
            Column("order_id", INTEGER, nullable=True),
            Column("route_id", TEXT),
            Column("warehouse_id", TEXT),
            Column("product_id", TEXT, nullable=True),
            _units("quantity", nullable=True),
            _one_of("shipping_method", SHIPPING_METHODS),
            _at_least_zero("weight_kg"),
            _at_least_zero("cost"),
            _at_least_zero("carbon_kg"),
            Column("shipped_at", TIME),
            Column(
                "promised_at", TIME, "promised_at >= shipped_at", "must not be before shipped_at"
            ),
            Column(
                "delivered_at",
                TIME,
                "delivered_at >= shipped_at",
                "must not be before shipped_at",
                nullable=True,
            ),
            _one_of("status", SHIPMENT_STATUSES),
        ),
        references={"route_id": "routes", "order_id": "orders", "warehouse_id": "warehouses"},
        marks_moves=True,
    ),
)

BY_NAME: Final[Mapping[str, Log]] = {log.name: log for log in LOGS}
READING_ORDER: Final = ("supply_chain", "orders", "users", "inventory")
"""Databases that refer to others come first: the row referred to was committed before, so a
database read later contains it."""


def logs_of(database: str) -> tuple[Log, ...]:
    """The logs fed by one live database."""
    return tuple(log for log in LOGS if log.database == database)


def parents_first() -> tuple[Log, ...]:
    """All logs, each after the logs that it refers to."""
    ordered: list[Log] = []

    def place(log: Log) -> None:
        for parent in log.references.values():
            place(BY_NAME[parent])
        if log not in ordered:
            ordered.append(log)

    for log in LOGS:
        place(log)
    return tuple(ordered)


if set(READING_ORDER) != set(DATABASE_NAMES):
    raise AssertionError("READING_ORDER names each live database once")
