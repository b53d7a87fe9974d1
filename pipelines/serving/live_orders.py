"""Decisions without a server: on one order, or on the newest ones of the live shop."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from typing import Any

import sqlalchemy as sa

from pipelines.live_databases import (
    LiveDatabases,
    orders,
    translate_errors,
    user_sessions,
)
from pipelines.serving.candidates import CompletedOrder
from pipelines.serving.decisions import Decision
from pipelines.serving.orchestrator import ModelOrchestrator
from pipelines.serving.orders import OrderError, order_from
from pipelines.settings import BatchConfig, DataConfig

logger = logging.getLogger(__name__)


def decide_live(data: DataConfig, batch: BatchConfig, count: int) -> list[Decision]:
    """Decide on the newest orders of the orders database, newest first.

    Each is decided with the features of now, as if it had just come in. One that cannot be
    decided, for example for a region that no warehouse serves, is skipped with a warning.

    Args:
        data: the live databases and Redis.
        batch: the data directory.
        count: the most orders.

    Raises:
        NotReadyError: the feature repository was never applied here.
        LiveDatabaseError: a live database cannot be read.
    """
    with ModelOrchestrator.open(data, batch) as orchestrator:
        return orchestrator.decide_completed(_decidable(orchestrator, count))


def decide_one(data: DataConfig, batch: BatchConfig, given: Mapping[str, Any]) -> Decision:
    """Decide on one order.

    Args:
        data: the live databases and Redis.
        batch: the data directory.
        given: the fields of `Order`.

    Raises:
        OrderError: a value is not allowed, or the order cannot be decided.
        NotReadyError, LiveDatabaseError: as for `decide_live`.
    """
    order = order_from(given)
    with ModelOrchestrator.open(data, batch) as orchestrator:
        return orchestrator.decide(order)


def newest_orders(databases: LiveDatabases, count: int) -> list[dict[str, Any]]:
    """Fields of the shop's newest orders, newest first, each with its customer's latest visit."""
    engine = databases["orders"]
    with translate_errors(str(engine.url.database)), engine.connect() as connection:
        newest = sa.select(orders).order_by(orders.c.id.desc()).limit(count)
        rows = connection.execute(newest).all()
    sessions = _latest_sessions(databases, {row.user_id for row in rows})
    return [
        {
            "user_id": row.user_id,
            "product_id": row.product_id,
            "quantity": row.quantity,
            "price": float(row.price),
            "shipping_method": row.shipping_method,
            "session_id": sessions.get(row.user_id),
            "order_id": str(row.id),
        }
        for row in rows
    ]


def _decidable(orchestrator: ModelOrchestrator, count: int) -> list[CompletedOrder]:
    found: list[CompletedOrder] = []
    for given in newest_orders(orchestrator.databases, count):
        try:
            found += orchestrator.complete([order_from(given)])
        except OrderError as error:
            logger.warning("order %s is not decided: %s", given["order_id"], error)
    return found


def _latest_sessions(databases: LiveDatabases, users: Set[int]) -> dict[int, str]:
    """By user the session that was active last; one scan, for the table has no index on users."""
    engine, table = databases["users"], user_sessions.c
    query = (
        sa.select(table.user_id, table.session_id)
        .where(table.user_id.in_(sorted(users)))
        .order_by(table.timestamp)
    )
    with translate_errors(str(engine.url.database)), engine.connect() as connection:
        return {row.user_id: row.session_id for row in connection.execute(query)}
