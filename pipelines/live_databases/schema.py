"""The live tables as SQLAlchemy knows them: they follow from the declared logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import sqlalchemy as sa

from pipelines.settings import DATABASE_NAMES
from pipelines.tables.declare import INTEGER, MONEY, NUMBER, TEXT, TEXTS, TIME, Log
from pipelines.tables.known import BY_NAME, LOGS

_TYPES: Final[Mapping[str, Any]] = {
    INTEGER: sa.Integer,
    NUMBER: sa.Float,
    MONEY: sa.Numeric(10, 2),
    TEXT: sa.Text,
    TIME: sa.DateTime,
    TEXTS: sa.JSON,
}


def tables_of(logs: Iterable[Log], metadata: sa.MetaData) -> None:
    """Add the live tables of some logs to a database's metadata.

    Args:
        logs: of one database.
        metadata: the database's.
    """
    for log in logs:
        parts: dict[str, sa.Column[Any]] = {}
        for column in log.columns:
            name, field = column.source
            if name in parts:
                continue
            parts[name] = sa.Column(
                name,
                sa.JSON if field else _TYPES[column.type],
                *_reference(log, column.name),
                primary_key=column.name in log.key,
                nullable=column.nullable and not field,
            )
        sa.Table(log.table, metadata, *parts.values())


def _reference(log: Log, column: str) -> list[sa.ForeignKey]:
    """The foreign key, where what is referred to lies in the same database."""
    parent = BY_NAME.get(log.references.get(column, ""))
    if parent is None or parent.database != log.database:
        return []
    return [sa.ForeignKey(f"{parent.table}.{parent.live_column(parent.key[0])}")]


METADATA: Final[Mapping[str, sa.MetaData]] = {name: sa.MetaData() for name in DATABASE_NAMES}
for _name, _metadata in METADATA.items():
    tables_of((log for log in LOGS if log.database == _name), _metadata)

orders_db, users_db, inventory_db, supply_chain_db = METADATA.values()
orders = orders_db.tables["orders"]
users = users_db.tables["users"]
user_sessions = users_db.tables["user_sessions"]
clickstream = users_db.tables["clickstream"]
warehouses = inventory_db.tables["warehouses"]
products = inventory_db.tables["products"]
inventory = inventory_db.tables["inventory"]
suppliers = supply_chain_db.tables["suppliers"]
routes = supply_chain_db.tables["routes"]
shipments = supply_chain_db.tables["shipments"]

CHANGED_AT: Final[Mapping[str, str]] = {
    log.table: log.live_column(log.event_time) for log in LOGS if log.event_time
}
"""By table, the column that says when a row came about or changed, where there is one."""
