"""The live databases: their schema, and the change log that every reader follows.

This is the contract with the world. Four databases; in each, a trigger on every table appends the
new row to `change_log` inside the transaction that changed it (a transactional outbox), so that a
change and its record are committed together or not at all.

SQLite files by default, in WAL mode with `synchronous=FULL`: a commit that was acknowledged
survives a power cut, so a reader can never be ahead of the database it reads.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from pipelines.errors import (
    ConfigurationError,
    ContractError,
    LiveDatabaseBusyError,
    LiveDatabaseError,
    StorageFullError,
)
from pipelines.paths import sqlite_file
from pipelines.settings import DATABASE_NAMES, DataConfig

ACTIONS: Final = ("view", "search", "add_to_cart", "remove_from_cart", "checkout", "purchase")
SHIPPING_METHODS: Final = ("standard", "express", "overnight", "economy")
MODES: Final = ("air", "road", "rail", "sea")
ORDER_STATUSES: Final = ("placed", "shipped", "delivered", "cancelled", "backordered")
SHIPMENT_STATUSES: Final = ("in_transit", "delivered", "lost")

orders_db: Final = sa.MetaData()
users_db: Final = sa.MetaData()
inventory_db: Final = sa.MetaData()
supply_chain_db: Final = sa.MetaData()

METADATA: Final[Mapping[str, sa.MetaData]] = {
    "orders": orders_db,
    "users": users_db,
    "inventory": inventory_db,
    "supply_chain": supply_chain_db,
}

orders = sa.Table(
    "orders",
    orders_db,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("user_id", sa.Integer, nullable=False),
    sa.Column("product_id", sa.Text, nullable=False),
    sa.Column("quantity", sa.Integer, nullable=False),
    sa.Column("price", sa.Numeric(10, 2), nullable=False),
    sa.Column("warehouse_id", sa.Text, nullable=False),
    sa.Column("shipping_method", sa.Text, nullable=False),
    sa.Column("order_timestamp", sa.DateTime, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
)

users = sa.Table(
    "users",
    users_db,
    sa.Column("user_id", sa.Integer, primary_key=True),
    sa.Column("region", sa.Text, nullable=False),
    sa.Column("signed_up_at", sa.DateTime, nullable=False),
)
user_sessions = sa.Table(
    "user_sessions",
    users_db,
    sa.Column("session_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Integer, sa.ForeignKey("users.user_id"), nullable=False),
    sa.Column("products_viewed", sa.JSON, nullable=False),
    sa.Column("actions_performed", sa.JSON, nullable=False),
    sa.Column("session_duration", sa.Integer, nullable=False),
    sa.Column("timestamp", sa.DateTime, nullable=False),
    sa.Column("intent_signals", sa.JSON, nullable=False),
)
clickstream = sa.Table(
    "clickstream",
    users_db,
    sa.Column("event_id", sa.Integer, primary_key=True),
    sa.Column("session_id", sa.Text, sa.ForeignKey("user_sessions.session_id"), nullable=False),
    sa.Column("user_id", sa.Integer, sa.ForeignKey("users.user_id"), nullable=False),
    sa.Column("product_id", sa.Text),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("time_on_page", sa.Float, nullable=False),
    sa.Column("scroll_depth", sa.Float, nullable=False),
    sa.Column("event_timestamp", sa.DateTime, nullable=False),
)

warehouses = sa.Table(
    "warehouses",
    inventory_db,
    sa.Column("warehouse_id", sa.Text, primary_key=True),
    sa.Column("region", sa.Text, nullable=False),
    sa.Column("latitude", sa.Float, nullable=False),
    sa.Column("longitude", sa.Float, nullable=False),
    sa.Column("capacity", sa.Integer, nullable=False),
)
products = sa.Table(
    "products",
    inventory_db,
    sa.Column("product_id", sa.Text, primary_key=True),
    sa.Column("category", sa.Text, nullable=False),
    sa.Column("unit_price", sa.Numeric(10, 2), nullable=False),
    sa.Column("weight_kg", sa.Float, nullable=False),
)
inventory = sa.Table(
    "inventory",
    inventory_db,
    sa.Column("warehouse_id", sa.Text, sa.ForeignKey("warehouses.warehouse_id"), primary_key=True),
    sa.Column("product_id", sa.Text, sa.ForeignKey("products.product_id"), primary_key=True),
    sa.Column("current_stock", sa.Integer, nullable=False),
    sa.Column("reserved_stock", sa.Integer, nullable=False),
    sa.Column("reorder_point", sa.Integer, nullable=False),
    sa.Column("carbon_footprint", sa.Float, nullable=False),
    sa.Column("updated_at", sa.DateTime, nullable=False),
)

suppliers = sa.Table(
    "suppliers",
    supply_chain_db,
    sa.Column("supplier_id", sa.Text, primary_key=True),
    sa.Column("region", sa.Text, nullable=False),
    sa.Column("lead_time_days", sa.Float, nullable=False),
)
routes = sa.Table(
    "routes",
    supply_chain_db,
    sa.Column("route_id", sa.Text, primary_key=True),
    sa.Column("origin_id", sa.Text, nullable=False),
    sa.Column("destination_id", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("distance_km", sa.Float, nullable=False),
    sa.Column("base_hours", sa.Float, nullable=False),
    sa.Column("base_cost", sa.Float, nullable=False),
    sa.Column("carbon_cost", sa.Float, nullable=False, comment="kgCO2e per tonne"),
    sa.Column("delay_risk", sa.Float, nullable=False),
    sa.Column("congestion", sa.Float, nullable=False),
    sa.Column("updated_at", sa.DateTime, nullable=False),
)
shipments = sa.Table(
    "shipments",
    supply_chain_db,
    sa.Column("shipment_id", sa.Integer, primary_key=True),
    sa.Column("order_id", sa.Integer, comment="null: a replenishment, not a customer's order"),
    sa.Column("route_id", sa.Text, sa.ForeignKey("routes.route_id"), nullable=False),
    sa.Column("warehouse_id", sa.Text, nullable=False),
    sa.Column("product_id", sa.Text),
    sa.Column("quantity", sa.Integer),
    sa.Column("shipping_method", sa.Text, nullable=False),
    sa.Column("weight_kg", sa.Float, nullable=False),
    sa.Column("cost", sa.Float, nullable=False),
    sa.Column("carbon_kg", sa.Float, nullable=False),
    sa.Column("shipped_at", sa.DateTime, nullable=False),
    sa.Column("promised_at", sa.DateTime, nullable=False),
    sa.Column("delivered_at", sa.DateTime),
    sa.Column("status", sa.Text, nullable=False),
)

_OPERATIONS: Final = (("I", "INSERT", "NEW"), ("U", "UPDATE", "NEW"), ("D", "DELETE", "OLD"))
_PASSWORD: Final = re.compile(r"(://[^/@]*?:)[^/@]*@")
CHANGE_LOG_COLUMNS: Final = ("seq", "table_name", "op", "key", "row", "committed_at")
# One change log in each database; seq never repeats, not even after rows were deleted.
_CHANGE_LOG_DDL: Final = """
CREATE TABLE IF NOT EXISTS change_log (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    table_name TEXT NOT NULL,
    op TEXT NOT NULL CHECK (op IN ('I', 'U', 'D')),
    key TEXT NOT NULL,
    row TEXT NOT NULL,
    committed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')
)
"""


def trigger_statements(table: sa.Table) -> list[str]:
    """SQLite triggers that append each change of `table` to `change_log`.

    `key` is a JSON array of the primary key's values; `row` the new row as a JSON object (the old
    one for a deletion), its JSON columns as strings, so that malformed JSON in one of them is the
    reader's to refuse and never fails the writer's transaction.
    """
    statements = []
    for op, event, image in _OPERATIONS:
        key = ", ".join(f'{image}."{column.name}"' for column in table.primary_key)
        row = ", ".join(f"'{column.name}', {image}.\"{column.name}\"" for column in table.columns)
        statements.append(
            f"CREATE TRIGGER IF NOT EXISTS {table.name}_{event.lower()}_to_change_log "
            f"AFTER {event} ON {table.name} BEGIN "
            f"INSERT INTO change_log (table_name, op, key, row) "
            f"VALUES ('{table.name}', '{op}', json_array({key}), json_object({row})); END"
        )
    return statements


def open_engine(url: str, busy_timeout: float = 5.0) -> sa.Engine:
    """An engine for one live database; a SQLite file is made, owner-only, if it is not there.

    Args:
        url: an SQLAlchemy URL.
        busy_timeout: seconds a SQLite connection waits for another writer's lock.

    Raises:
        ConfigurationError: the URL cannot be parsed, or its driver is not installed.
    """
    path = sqlite_path(url)
    try:
        engine = sa.create_engine(
            url, **({"connect_args": {"timeout": busy_timeout}} if path else {})
        )
    except (sa.exc.ArgumentError, ModuleNotFoundError) as error:
        raise _unusable(url, str(error)) from None
    if path is not None:
        _create_owner_only(path)
        sa.event.listen(engine, "connect", _set_pragmas)
    return engine


def sqlite_path(url: str) -> Path | None:
    """The file behind a SQLite URL; None for any other database.

    Raises:
        ConfigurationError: the URL cannot be parsed.
    """
    try:
        parsed = make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # the latter for a port that is no number
        raise _unusable(url, "it is not of the form dialect://user:password@host/name") from None
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return sqlite_file(parsed.database, uri="uri" in parsed.query)


def _unusable(url: str, reason: str) -> ConfigurationError:
    shown = _PASSWORD.sub(r"\1***@", url)
    return ConfigurationError(f"database URL {shown!r} cannot be used: {reason}")


def create_schema(engine: sa.Engine, metadata: sa.MetaData) -> None:
    """Make the tables, the change log and its triggers where they are not there yet."""
    with translate_errors(str(engine.url.database)):
        metadata.create_all(engine)
        if engine.dialect.name != "sqlite":
            return  # elsewhere the owner of the database provides change_log: see the README
        with engine.begin() as connection:
            connection.exec_driver_sql(_CHANGE_LOG_DDL)
            for table in metadata.sorted_tables:
                for statement in trigger_statements(table):
                    connection.exec_driver_sql(statement)


def check_contract(engine: sa.Engine, metadata: sa.MetaData) -> None:
    """Make sure that every table and column the pipelines need is there.

    Raises:
        ContractError: one is missing.
        LiveDatabaseError: the database cannot be read.
    """
    where = str(engine.url.database)
    needed = {table.name: [c.name for c in table.columns] for table in metadata.sorted_tables}
    needed["change_log"] = list(CHANGE_LOG_COLUMNS)
    with translate_errors(where):
        inspector = sa.inspect(engine)
        there = {name: inspector.get_columns(name) for name in inspector.get_table_names()}
    for table, columns in needed.items():
        if table not in there:
            raise ContractError(
                f"{where} has no table {table!r}: create it with `synchrochain simulate`, "
                "or see 'Your own database' in the README"
            )
        present = {column["name"] for column in there[table]}
        for column in columns:
            if column not in present:
                raise ContractError(
                    f"{where}: table {table!r} has no column {column!r}; it has: "
                    + ", ".join(sorted(present))
                )


@contextmanager
def translate_errors(where: str) -> Iterator[None]:
    """Turn a driver's exceptions into ours, one line each, naming the database."""
    try:
        yield
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        origin = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        raise live_database_error(where, str(origin)) from None


def live_database_error(where: str, text: str) -> LiveDatabaseError | StorageFullError:
    """Our error for a driver's message about the database `where`."""
    lowered = text.lower()
    if "locked" in lowered or "busy" in lowered:
        return LiveDatabaseBusyError(f"{where} is locked by another writer: {text}")
    if "full" in lowered and "disk" in lowered:
        return StorageFullError(f"{where}: the disk is full; free some room and try again")
    if "not a database" in lowered or "malformed" in lowered or "corrupt" in lowered:
        return LiveDatabaseError(
            f"{where} is corrupt or not a database ({text}): restore it from a backup"
        )
    return LiveDatabaseError(f"{where}: {text}")


@dataclass(frozen=True)
class LiveDatabases:
    """Engines of the four live databases, by name."""

    engines: Mapping[str, sa.Engine]

    @classmethod
    def open(cls, config: DataConfig) -> LiveDatabases:
        """Open what `config` names; nothing is created inside the databases."""
        return cls(
            {
                name: open_engine(config.database_url(name), config.busy_timeout)
                for name in DATABASE_NAMES
            }
        )

    def create(self) -> None:
        """Make the schema of all four where it is not there yet."""
        for name, engine in self.engines.items():
            create_schema(engine, METADATA[name])

    def __getitem__(self, name: str) -> sa.Engine:
        return self.engines[name]

    def dispose(self) -> None:
        """Close every pooled connection."""
        for engine in self.engines.values():
            engine.dispose()

    def __enter__(self) -> LiveDatabases:
        return self

    def __exit__(self, *_: object) -> None:
        self.dispose()


def _create_owner_only(path: Path) -> None:
    # SQLite gives its -wal and -shm files the mode of the database, so this covers all three.
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # One that is there is not even opened: closing it again would undo every lock that SQLite holds
    # on it in this process, and somebody else would remove the log that commits are written to.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _set_pragmas(connection: Any, _record: object) -> None:
    # Some readers open a file that is no database; that is reported at the first statement.
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
    finally:
        cursor.close()
