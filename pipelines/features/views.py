"""The feature views: their source logs, windows and schemas."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Final

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from pipelines.change_log.logs import BY_NAME, INTEGER, MONEY, NUMBER, TEXT, TEXTS, TIME
from pipelines.change_log.types import DUCKDB_TYPES
from pipelines.errors import UnknownNameError
from pipelines.features import (
    inventory_levels,
    route_conditions,
    session_events,
    user_intent,
    user_orders,
)
from pipelines.features.columns import COMMITTED_AT, CREATED_TIMESTAMP, EVENT_TIMESTAMP
from pipelines.features.windows import DAY

_compiling: Final = threading.Lock()
_IBIS_TYPES: Final[Mapping[str, str]] = {
    INTEGER: "int64",
    NUMBER: "float64",
    MONEY: "decimal(10, 2)",
    TEXT: "string",
    TIME: "timestamp(6)",
    TEXTS: "array<string>",
}


@dataclass(frozen=True)
class Source:
    """How one log feeds a view.

    `keys` are the log's columns that hold the view's entity keys, in the view's order; `time` is
    the event time of a row. `lookback` is how many microseconds before a row its windows reach;
    None means the key's whole history. With `newest_before`, the newest row of the key before the
    windows is needed too. `only` (SQL) filters the rows. `identity` is the column that identifies
    what a row reports on, where several rows may report on the same thing. `begun_by` is the log
    whose insertion of the key comes before all of the key's rows. `member` is the column of which
    only distinct values are counted: of a key's rows with the same member, only the newest matters
    for the newest result. Rows for which `unnoticed` (SQL) holds change no feature themselves, only
    the meaning of later rows of the same identity.
    """

    log: str
    keys: tuple[str, ...]
    time: str
    lookback: int | None = 0
    newest_before: bool = False
    only: str = "TRUE"
    identity: str | None = None
    begun_by: str | None = None
    member: str | None = None
    unnoticed: str = "FALSE"

    @property
    def at(self) -> str:
        """The event time, quoted for SQL: a column may be called `timestamp`."""
        return f'"{self.time}"'


@dataclass(frozen=True)
class View:
    """One feature view: its name, entity keys, sources and function.

    `tables` are small logs read whole, without a time.
    """

    name: str
    keys: tuple[str, ...]
    function: Callable[..., ir.Table]
    sources: tuple[Source, ...]
    tables: tuple[str, ...] = ()

    @property
    def expression(self) -> ir.Table:
        """The features as an Ibis expression over tables named after the logs."""
        return _expression(self.name, newest=False)

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the offline source: keys, event time, features, created timestamp."""
        return _schema(self.name)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features, in the dictionary's order."""
        apart = {*self.keys, EVENT_TIMESTAMP, CREATED_TIMESTAMP}
        return tuple(name for name in self.schema.names if name not in apart)

    @property
    def databases(self) -> set[str]:
        """The live databases whose changes give the view new rows."""
        return {BY_NAME[source.log].database for source in self.sources}

    def key_pairs(self, source: Source) -> list[tuple[str, str]]:
        """Each entity key with the column of a source's log that holds it: (column, key)."""
        return list(zip(source.keys, self.keys, strict=True))

    def query(self, *, newest: bool = False) -> str:
        """SQL over relations named after the logs; the schema's columns but `created_timestamp`.

        With `newest` it yields only the newest row of each key.
        """
        columns = ", ".join(
            f'CAST("{field.name}" AS {DUCKDB_TYPES[field.type]}) AS "{field.name}"'
            for field in self.schema
            if field.name != CREATED_TIMESTAMP
        )
        return f"SELECT {columns} FROM ({feature_sql(self.name, newest=newest)})"


def log_table(name: str) -> ir.Table:
    """An unbound Ibis table with the columns of one processed log."""
    types = {column: _IBIS_TYPES[kind] for column, kind in BY_NAME[name].types.items()}
    return ibis.table(types, name=name)


VIEWS: Final = (
    View(
        "user_intent",
        user_intent.KEYS,
        user_intent.user_intent,
        (
            Source("sessions", ("user_id",), "timestamp", 7 * DAY, member="session_id"),
            Source(
                "clickstream",
                ("user_id",),
                "event_timestamp",
                7 * DAY,
                only="op = 'I' AND action IN ('add_to_cart', 'purchase')",
            ),
            Source("users", ("user_id",), COMMITTED_AT, only="op = 'D'"),
        ),
    ),
    View(
        "session_events",
        session_events.KEYS,
        session_events.session_events,
        (
            Source(
                "clickstream",
                ("session_id",),
                "event_timestamp",
                None,
                only="op = 'I'",
                begun_by="sessions",
            ),
            Source("sessions", ("session_id",), "timestamp", only="op = 'D'"),
        ),
    ),
    View(
        "user_orders",
        user_orders.KEYS,
        user_orders.user_orders,
        (
            Source(
                "orders",
                ("user_id",),
                "order_timestamp",
                30 * DAY,
                newest_before=True,
                only="op = 'I'",
            ),
            Source("users", ("user_id",), COMMITTED_AT, only="op = 'D'"),
        ),
    ),
    View(
        "inventory_levels",
        inventory_levels.KEYS,
        inventory_levels.inventory_levels,
        (
            Source("inventory", ("warehouse_id", "product_id"), "updated_at"),
            Source(
                "orders",
                ("warehouse_id", "product_id"),
                "order_timestamp",
                DAY,
                only="op = 'I'",
            ),
        ),
        tables=("warehouses",),
    ),
    View(
        "route_conditions",
        route_conditions.KEYS,
        route_conditions.route_conditions,
        (
            Source("routes", ("route_id",), "updated_at", newest_before=True),
            Source(
                "shipments",
                ("route_id",),
                "delivered_at",
                7 * DAY,
                only="(delivered_at IS NOT NULL OR op IN ('D', 'M'))",
                identity="shipment_id",
                unnoticed="op = 'D'",
            ),
        ),
    ),
)

VIEWS_BY_NAME: Final[Mapping[str, View]] = {view.name: view for view in VIEWS}
LONGEST_WINDOW: Final = timedelta(
    microseconds=max(source.lookback or 0 for view in VIEWS for source in view.sources)
)
"""The longest window of any feature."""


def view_named(name: str) -> View:
    """The view of that name.

    Raises:
        UnknownNameError: there is no such view.
    """
    if name not in VIEWS_BY_NAME:
        raise UnknownNameError(
            f"there is no feature view {name!r}; there are: {', '.join(VIEWS_BY_NAME)}"
        )
    return VIEWS_BY_NAME[name]


def feature_sql(name: str, *, newest: bool = False) -> str:
    """The view's expression compiled for DuckDB once; it reads relations named after the logs.

    With `newest` it yields only the newest row of each key, which is cheaper.
    """
    with _compiling:  # who asks meanwhile waits, and finds it compiled
        return _feature_sql(name, newest=newest)


def compile_all() -> None:
    """Compile every view, which takes a second, once per process."""
    for view in VIEWS:
        feature_sql(view.name)


@cache
def _feature_sql(name: str, *, newest: bool) -> str:
    return str(ibis.to_sql(_expression(name, newest=newest), dialect="duckdb"))


@cache
def _expression(name: str, *, newest: bool) -> ir.Table:
    view = view_named(name)
    logs = [source.log for source in view.sources] + list(view.tables)
    return view.function(**{log: log_table(log) for log in logs}, newest=newest)


@cache
def _schema(name: str) -> pa.Schema:
    view = view_named(name)
    fields = list(view.expression.schema().to_pyarrow())
    typed = [
        pa.field(f.name, pa.timestamp("us") if f.name == EVENT_TIMESTAMP else f.type)
        for f in fields
    ]
    return pa.schema([*typed, pa.field(CREATED_TIMESTAMP, pa.timestamp("us"))])
