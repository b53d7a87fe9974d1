"""Rows on their way to the live databases: gathered in memory, written in bulk, never twice.

Each statement is safe to repeat: a row that is there is left alone, an update that is not newer
than what is there does nothing. Parents are written before children.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipelines.errors import SimulationError
from pipelines.live_databases import (
    LiveDatabases,
    clickstream,
    inventory,
    orders,
    products,
    routes,
    shipments,
    suppliers,
    translate_errors,
    user_sessions,
    users,
    warehouses,
)
from simulators.world import World

Row = tuple[Any, ...]

# (name, table, columns of its rows, columns that hold a simulated time), in order of writing.
_BATCHES: Final[dict[str, tuple[tuple[str, sa.Table, tuple[str, ...]], ...]]] = {
    "inventory": (
        ("warehouses", warehouses, tuple(warehouses.columns.keys())),
        ("products", products, tuple(products.columns.keys())),
        ("inventory", inventory, tuple(inventory.columns.keys())),
    ),
    "users": (
        ("users", users, tuple(users.columns.keys())),
        ("user_sessions", user_sessions, tuple(user_sessions.columns.keys())),
        ("clickstream", clickstream, tuple(clickstream.columns.keys())),
    ),
    "orders": (
        ("orders", orders, tuple(orders.columns.keys())),
        ("order_status", orders, ("id_", "status_")),
    ),
    "supply_chain": (
        ("suppliers", suppliers, tuple(suppliers.columns.keys())),
        ("routes", routes, tuple(routes.columns.keys())),
        ("conditions", routes, ("updated_at_", "route_id_", "congestion_", "delay_risk_")),
        ("shipments", shipments, tuple(shipments.columns.keys())),
        ("deliveries", shipments, ("shipment_id_", "delivered_at_")),
    ),
}
_NEWER_BY: Final = {"inventory": "updated_at", "user_sessions": "timestamp"}


class Outbox:
    """Rows by batch name; times in them are simulated microseconds until they are written."""

    def __init__(self, databases: LiveDatabases, world: World) -> None:
        self._databases = databases
        self._origin = np.datetime64(world.origin, "us")
        self._statements = {
            name: _statement(name, table, databases[database].dialect.name)
            for database, batches in _BATCHES.items()
            for name, table, _ in batches
        }
        self.rows: dict[str, list[Row]] = {name: [] for name in self._statements}
        self.written: Counter[str] = Counter()

    def add(self, name: str, row: Row) -> None:
        """Keep one row for the next `write`."""
        self.rows[name].append(row)

    def write(self) -> int:
        """Commit what was gathered, one transaction per database, and forget it.

        Returns:
            Rows inserted or changed.

        Raises:
            LiveDatabaseError: a database refused; nothing of it was committed.
        """
        total = 0
        for database, batches in _BATCHES.items():
            if not any(self.rows[name] for name, _, _ in batches):
                continue
            engine = self._databases[database]
            with translate_errors(str(engine.url.database)), engine.begin() as connection:
                for name, table, columns in batches:
                    if rows := self.rows[name]:
                        changed = self._execute(connection, name, table, columns, rows)
                        self.written[table.name] += changed
                        total += changed
        for rows in self.rows.values():
            rows.clear()
        return total

    def _execute(
        self,
        connection: sa.Connection,
        name: str,
        table: sa.Table,
        columns: Sequence[str],
        rows: list[Row],
    ) -> int:
        kinds = [table.columns[column.removesuffix("_")].type for column in columns]
        fields = list(zip(*rows, strict=True))
        for i, kind in enumerate(kinds):
            if isinstance(kind, sa.DateTime):
                fields[i] = tuple(self._texts(fields[i]))
        statement = self._statements[name]
        if connection.dialect.name == "sqlite":
            # Ready-made texts straight to the driver: SQLAlchemy's own conversion costs more
            # than the insert.
            keys = list(columns) if isinstance(statement, sa.Insert) else None
            compiled = statement.compile(dialect=connection.dialect, column_keys=keys)
            order = [columns.index(key) for key in compiled.positiontup or ()]
            values = list(zip(*(fields[i] for i in order), strict=True))
            result = connection.exec_driver_sql(str(compiled), values)
        else:
            for i, kind in enumerate(kinds):
                if isinstance(kind, sa.DateTime):
                    fields[i] = tuple(t and datetime.fromisoformat(t) for t in fields[i])
                elif isinstance(kind, sa.JSON):
                    fields[i] = tuple(map(json.loads, fields[i]))
            named = [dict(zip(columns, row, strict=True)) for row in zip(*fields, strict=True)]
            result = connection.execute(statement, named)
        return max(result.rowcount, 0)

    def _texts(self, times: Sequence[int | None]) -> list[str | None]:
        """`YYYY-MM-DD HH:MM:SS.ffffff` of simulated microseconds, all at once."""
        known = [time for time in times if time is not None]
        moments = self._origin + np.array(known, dtype="timedelta64[us]")
        texts = np.datetime_as_string(moments, unit="us")
        if known:
            texts.view("U1").reshape(len(texts), -1)[:, 10] = " "
        ready = iter(texts.tolist())
        return [None if time is None else next(ready) for time in times]


def _statement(name: str, table: sa.Table, dialect: str) -> sa.UpdateBase:
    if name == "order_status":
        # An order moves forward only, so an old status written again does nothing.
        return (
            sa.update(orders)
            .where(orders.c.id == sa.bindparam("id_"))
            .where(orders.c.status != sa.literal_column("'delivered'"))
            .where(orders.c.status != sa.bindparam("status_"))
            .values(status=sa.bindparam("status_"))
        )
    if name == "conditions":
        return (
            sa.update(routes)
            .where(routes.c.route_id == sa.bindparam("route_id_"))
            .where(routes.c.updated_at < sa.bindparam("updated_at_"))
            .values({c: sa.bindparam(f"{c}_") for c in ("congestion", "delay_risk", "updated_at")})
        )
    if name == "deliveries":
        return (
            sa.update(shipments)
            .where(shipments.c.shipment_id == sa.bindparam("shipment_id_"))
            .where(shipments.c.delivered_at.is_(None))
            .values(
                delivered_at=sa.bindparam("delivered_at_"), status=sa.literal_column("'delivered'")
            )
        )
    if dialect not in ("sqlite", "postgresql"):
        raise SimulationError(
            f"the simulators write SQLite or PostgreSQL, not {dialect}: "
            "unset the URL of that live database"
        )
    make = sqlite.insert if dialect == "sqlite" else postgresql.insert
    insert = make(table)
    newer_by = _NEWER_BY.get(name)
    if newer_by is None:
        return insert.on_conflict_do_nothing()
    keys = [column.name for column in table.primary_key]
    return insert.on_conflict_do_update(
        index_elements=keys,
        set_={c.name: insert.excluded[c.name] for c in table.columns if c.name not in keys},
        where=insert.excluded[newer_by] > table.columns[newer_by],
    )
