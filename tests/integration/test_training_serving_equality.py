"""A training row and a served row of the same time are equal to the last bit, for all three models.

A simulated shop is processed and materialized at noon, and orders are decided then. Afterwards the
same orders are recorded a microsecond past noon, and the training data of that time are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from conftest import new_directory, used_directory
from numpy.typing import NDArray
from pinned_clock import START, stopped_clock

from pipelines.batch import BatchProcessor
from pipelines.cli.main_job import simulate_until_now
from pipelines.feast_plugins.repository import open_store
from pipelines.live_databases import LiveDatabases, clickstream, inventory, orders, products, users
from pipelines.models.delay.dataset import columns_at as network_at
from pipelines.models.delay.labels import Logs
from pipelines.models.fulfilment.game import FulfilmentGame
from pipelines.models.fulfilment.shop import ShopHistory, read_history
from pipelines.models.fulfilment.world import Episodes, FulfilmentConfig, shelves_of
from pipelines.models.intent.dataset import columns_at as sessions_at
from pipelines.serving.config import ServingConfig
from pipelines.serving.decision_log import DecisionLog
from pipelines.serving.loading import Absent, Served
from pipelines.serving.online import OnlineFeatures
from pipelines.serving.orchestrator import ModelOrchestrator
from pipelines.serving.orders import Order
from pipelines.settings import BatchConfig, DataConfig
from pipelines.training.source import TrainingSource

Columns = Mapping[str, Any]
SIMULATED = {"stock_ratio", "demand_24h", "days_of_cover"}
"""Of an option: an episode has reorder points and sales of its own."""
METHODS = ("economy", "standard", "express", "overnight")


@dataclass
class Recorder:
    """A model that remembers what it was asked; each answer depends on all numbers of its row."""

    names: tuple[str, ...]
    asked: list[dict[str, NDArray[Any]]] = field(default_factory=list)

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """The same number by every name."""
        self.asked.append({name: np.asarray(values) for name, values in columns.items()})
        numeric = [
            name for name in sorted(columns) if np.asarray(columns[name]).dtype.kind in "fib"
        ]
        total = np.zeros(len(next(iter(columns.values()))))
        for name in numeric:
            if name not in ("snapshot", "order"):
                total = total + np.nan_to_num(np.asarray(columns[name], dtype=np.float64), nan=0.5)
        found: dict[str, NDArray[Any]] = dict.fromkeys(self.names, np.abs(total) % 1.0)
        return found | {"urgency_class": np.array(["low"] * len(total), dtype=object)}


def recorders() -> dict[str, Recorder]:
    """By registered model."""
    return {
        "intent_transformer": Recorder(("purchase_probability", "urgency")),
        "supply_gnn": Recorder(("expected_delay_hours", "late_probability")),
        "ppo_agent": Recorder(("score",)),
    }


@dataclass
class World:
    """The orders of noon, and what the served models were asked about them."""

    orders: list[Order]
    served: dict[str, Recorder]

    def get(self, model: str) -> Served | Absent:
        """The model in service."""
        return Served(model, 1, "test/recorder", self.served[model])


def chosen_orders(databases: LiveDatabases) -> list[Order]:
    """Twelve orders of twelve customers, one of whom has never visited."""
    with databases["users"].connect() as connection:
        newest = sa.select(clickstream).order_by(clickstream.c.event_timestamp.desc())
        visits: dict[int, str] = {}
        for row in connection.execute(newest.limit(2000)):
            visits.setdefault(row.user_id, row.session_id)
        seen = set(connection.scalars(sa.select(clickstream.c.user_id).distinct()))
        stranger = min(set(connection.scalars(sa.select(users.c.user_id))) - seen)
    with databases["inventory"].connect() as connection:
        goods = list(connection.scalars(sa.select(products.c.product_id).order_by(sa.text("1"))))
    return [
        Order(
            user_id=user,
            session_id=session,
            product_id=goods[7 * n % len(goods)],
            quantity=1 + n % 3,
            shipping_method=METHODS[n % 4],
        )
        for n, (user, session) in enumerate([(stranger, None), *list(visits.items())[:11]])
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A shop of six days; its orders of noon, decided and then recorded."""
    with new_directory() as path, used_directory(path):
        with stopped_clock():
            simulate_until_now(DataConfig(), {"users": 900, "products": 30, "days": 6, "seed": 3})
            BatchProcessor(BatchConfig(), DataConfig()).run_cycle()
            with LiveDatabases.open(DataConfig()) as databases:
                made = World(chosen_orders(databases), recorders())
            log = DecisionLog(tmp_path_factory.mktemp("log") / "decisions.db", 100, 1.0)
            decide(made, path, log)
        with LiveDatabases.open(DataConfig()) as databases:
            record(made, databases)
        with stopped_clock(START + timedelta(minutes=1)):
            BatchProcessor(BatchConfig(), DataConfig()).run_cycle()
        yield made


def decide(world: World, path: Path, log: DecisionLog) -> None:
    """As the server does, all orders at once."""
    store = open_store(BatchConfig(data_dir=path))
    orchestrator = ModelOrchestrator(
        LiveDatabases.open(DataConfig()),
        OnlineFeatures(lambda: store),
        world,
        log,
        ServingConfig(network_max_age=3600, reference_age=3600),
    )
    with orchestrator:
        decisions = orchestrator.decide_many(world.orders)
    assert {note.what for one in decisions[1:] for note in one.fallbacks} <= {"stock"}


def record(world: World, databases: LiveDatabases) -> None:
    """Put the orders into the live database, a microsecond after they were decided."""
    with databases["inventory"].connect() as connection:
        query = sa.select(products.c.product_id, products.c.unit_price)
        price = {row.product_id: row.unit_price for row in connection.execute(query)}
    with databases["orders"].begin() as connection:
        last = connection.scalar(sa.select(sa.func.max(orders.c.id))) or 0
        rows = [
            {
                "id": last + 1 + n,
                "user_id": order.user_id,
                "product_id": order.product_id,
                "quantity": order.quantity,
                "price": price[order.product_id],
                "warehouse_id": "W01",
                "shipping_method": order.shipping_method,
                "order_timestamp": START + timedelta(microseconds=1),
                "status": "placed",
            }
            for n, order in enumerate(world.orders)
        ]
        connection.execute(orders.insert(), rows)


@pytest.fixture(scope="module")
def trained(world: World) -> dict[str, Recorder]:
    """The models whose forecasts the agent is trained on."""
    return recorders()


@pytest.fixture(scope="module")
def history(world: World, trained: dict[str, Recorder]) -> ShopHistory:
    """What the agent is trained on."""
    intent, delay = trained["intent_transformer"], trained["supply_gnn"]
    return read_history(TrainingSource(BatchConfig()), intent=intent, delay=delay)


def check_equal(name: str, trained: Any, served: Any) -> None:
    """All values are the same bits, or nothing on both sides."""
    trained, served = np.asarray(trained), np.asarray(served)
    assert trained.shape == served.shape, name
    if served.dtype.kind in "OU":
        for one, other in zip(trained, served, strict=True):
            if isinstance(one, np.ndarray | list):
                check_equal(name, np.asarray(one, object), np.asarray(other, object))
            else:
                assert one == other or (one is None and other is None), (name, one, other)
        return
    trained, served = trained.astype(np.float64), served.astype(np.float64)
    assert (np.isnan(trained) == np.isnan(served)).all(), name
    known = ~np.isnan(served)
    assert (trained[known].view(np.int64) == served[known].view(np.int64)).all(), name


def test_the_intent_models_rows_are_equal(world: World) -> None:
    """Sessions that hold no purchase, as in training: the lists, the count, the user's features."""
    served = world.served["intent_transformer"].asked[0]
    rows = {
        "session_id": [order.session_id or "" for order in world.orders],
        "user_id": [order.user_id for order in world.orders],
        "event_timestamp": [pd.Timestamp(START)] * len(world.orders),
    }
    found = sessions_at(TrainingSource(BatchConfig()), pd.DataFrame(rows), "equality")
    before = [n for n, a in enumerate(found["actions"]) if a is None or "purchase" not in a]
    assert len(before) > 5
    assert found.keys() == served.keys()
    for name, values in served.items():
        check_equal(name, found[name][before], values[before])


def test_the_delay_models_rows_are_equal(world: World) -> None:
    """All routes of the network, with the stock of their warehouses."""
    served = world.served["supply_gnn"].asked[0]
    source = TrainingSource(BatchConfig())
    found = network_at(source, Logs.read(source), np.array([START], "datetime64[us]"))
    assert served.keys() == found.keys() - {"snapshot"}
    assert np.isfinite(served["warehouse_stock_ratio"]).any()
    for name, values in served.items():
        check_equal(name, found[name], values)


def test_the_agent_learns_on_the_forecasts_that_it_is_served_with(
    world: World, trained: dict[str, Recorder], history: ShopHistory
) -> None:
    """The models that forecast for it are asked the same in training as in serving."""
    served, asked = world.served["intent_transformer"].asked[0], trained["intent_transformer"].asked
    assert served.keys() == asked[0].keys()
    for name, values in served.items():
        check_equal(name, asked[0][name][-len(world.orders) :], values)
    served, asked = world.served["supply_gnn"].asked[0], trained["supply_gnn"].asked
    noon = asked[0]["snapshot"] == look_of_noon(history)
    assert served.keys() == asked[0].keys() - {"snapshot"}
    for name, values in served.items():
        check_equal(name, asked[0][name][noon], values)


def look_of_noon(history: ShopHistory) -> int:
    """The look at the routes that is as of noon."""
    hours = (np.datetime64(START, "us") - history.origin) // np.timedelta64(1, "h")
    assert hours % history.shop.look_hours == 0
    return int(hours // history.shop.look_hours)


def game_of(history: ShopHistory, databases: LiveDatabases, count: int) -> FulfilmentGame:
    """The newest orders, an episode each, with the stock that the shop really has."""
    shop, lines = history.shop, history.lines.where(np.arange(-count, 0))
    product, quantity = lines.product[:, None], lines.quantity[:, None]
    candidates = shop.candidates[lines.region, lines.product][:, None]
    shelf, code = shelves_of(candidates, product, shop)
    with databases["inventory"].connect() as connection:
        free = inventory.c.current_stock - inventory.c.reserved_stock
        query = sa.select(inventory.c.warehouse_id, inventory.c.product_id, free.label("free"))
        level = {(r.warehouse_id, r.product_id): r.free for r in connection.execute(query)}
    names = [divmod(int(c), len(shop.products)) for c in code.ravel()]
    stock = [
        level[shop.warehouses[w], shop.products[p]] if c >= 0 else 0
        for c, (w, p) in zip(code.ravel().tolist(), names, strict=True)
    ]
    nothing = np.zeros((count, 1, code.shape[1]), np.int64)
    return FulfilmentGame(
        shop,
        FulfilmentConfig(orders=1, days=1),
        Episodes(
            lines=lines,
            line=np.arange(count)[:, None],
            product=product,
            quantity=quantity,
            day=np.zeros((count, 1), np.int64),
            time=lines.time[:, None],
            look=np.full((count, 1), look_of_noon(history)),
            shelf=shelf,
            code=code,
            target=np.zeros_like(code),
            reorder_point=np.ones_like(code),
            stock=np.array(stock).reshape(code.shape),
            arriving=nothing.astype(np.int32),
            leads=nothing.astype(np.int8),
            capacity=np.full(len(shop.warehouses), 1000),
        ),
    )


def test_the_agents_rows_are_equal(world: World, history: ShopHistory) -> None:
    """Every option of every order: features, tariff, wishes, forecasts, stock, the hour."""
    served = world.served["ppo_agent"].asked[0]
    with LiveDatabases.open(DataConfig()) as databases:
        game = game_of(history, databases, len(world.orders))
    offered = game.has_route[:, 0]
    assert offered.sum(axis=1).tolist() == np.bincount(served["order"].astype(int)).tolist()
    columns = game.columns()
    assert served.keys() - columns.keys() == {"order"}
    assert columns.keys() - served.keys() == {"capacity_left"}
    for name in sorted(served.keys() - SIMULATED - {"order"}):
        check_equal(name, columns[name][offered], served[name])
