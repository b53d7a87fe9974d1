"""Rows on their way to the live databases: gathered in memory, written in bulk, never twice.

Each statement is safe to repeat: a row that is there is left alone, an update that is not newer
than what is there does nothing. Parents are written before children.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

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
# Batches whose rows are written in the order in which they came: inserts and updates of one table.
_IN_TURN: Final = {"order_status": "orders", "deliveries": "shipments"}
_NEWER_BY: Final = {"inventory": "updated_at", "user_sessions": "timestamp"}


class Outbox:
    """Rows by batch name; times in them are simulated microseconds until they are written."""

    def __init__(self, databases: LiveDatabases, world: World) -> None:
        self._databases = databases
        self._origin = np.datetime64(world.origin, "us")
        self._plans = {
            name: _Plan(name, table, columns, databases[database].dialect)
            for database, batches in _BATCHES.items()
            for name, table, columns in batches
        }
        self.rows: dict[str, list[Row]] = {name: [] for name in self._plans}
        self._turns: dict[str, list[tuple[str, Row]]] = {n: [] for n in _IN_TURN.values()}
        self.written: Counter[str] = Counter()

    def add(self, name: str, row: Row) -> None:
        """Keep one row for the next `write`."""
        if name in _IN_TURN or name in _IN_TURN.values():
            self._turns[_IN_TURN.get(name, name)].append((name, row))
        else:
            self.rows[name].append(row)

    def write(self) -> int:
        """Commit what was gathered, one transaction per database, and forget it.

        Returns:
            Rows inserted or changed.

        Raises:
            LiveDatabaseError: a database refused; nothing of it was committed.
        """
        before = self.written.total()
        for database, batches in _BATCHES.items():
            if not any(self.rows[name] or self._turns.get(name) for name, _, _ in batches):
                continue
            engine = self._databases[database]
            with translate_errors(str(engine.url.database)), engine.begin() as connection:
                for name, _, _ in batches:
                    for kind, run in groupby(self._turns.get(name, ()), key=itemgetter(0)):
                        self._execute(connection, kind, [row for _, row in run])
                    if rows := self.rows[name]:
                        self._execute(connection, name, rows)
        for kept in (*self.rows.values(), *self._turns.values()):
            kept.clear()
        return self.written.total() - before

    def _execute(self, connection: sa.Connection, name: str, rows: list[Row]) -> None:
        plan = self._plans[name]
        fields = list(zip(*rows, strict=True))
        for i in plan.times:
            fields[i] = tuple(self._texts(fields[i]))
        # Ready-made texts straight to the driver: SQLAlchemy's own conversion costs more than the
        # insert.
        values = list(zip(*(fields[i] for i in plan.order), strict=True))
        result = connection.exec_driver_sql(plan.sql, values)
        self.written[plan.table.name] += max(result.rowcount, 0)

    def _texts(self, times: Sequence[int | None]) -> list[str | None]:
        """`YYYY-MM-DD HH:MM:SS.ffffff` of simulated microseconds, all at once."""
        known = [time for time in times if time is not None]
        known_times = self._origin + np.array(known, dtype="timedelta64[us]")
        texts = np.datetime_as_string(known_times, unit="us")
        if known:
            texts.view("U1").reshape(len(texts), -1)[:, 10] = " "
        ready = iter(texts.tolist())
        return [None if time is None else next(ready) for time in times]


class _Plan:
    """How one batch is written: its statement, and where simulated times and parameters are."""

    def __init__(
        self, name: str, table: sa.Table, columns: tuple[str, ...], dialect: sa.Dialect
    ) -> None:
        self.table = table
        types = [table.columns[column.removesuffix("_")].type for column in columns]
        self.times = [i for i, kind in enumerate(types) if isinstance(kind, sa.DateTime)]
        statement = _statement(name, table)
        keys = list(columns) if isinstance(statement, sa.Insert) else None
        compiled = statement.compile(dialect=dialect, column_keys=keys)
        self.sql = str(compiled)
        self.order = [columns.index(key) for key in compiled.positiontup or ()]


def _statement(name: str, table: sa.Table) -> sa.UpdateBase:
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
    insert = sqlite.insert(table)
    newer_by = _NEWER_BY.get(name)
    if newer_by is None:
        return insert.on_conflict_do_nothing()
    keys = [column.name for column in table.primary_key]
    return insert.on_conflict_do_update(
        index_elements=keys,
        set_={c.name: insert.excluded[c.name] for c in table.columns if c.name not in keys},
        where=insert.excluded[newer_by] > table.columns[newer_by],
    )
