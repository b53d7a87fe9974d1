"""The default policy on shelves that a test has arranged: nearest first, and what if nothing is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import simpy

from pipelines.live_databases import LiveDatabases
from pipelines.settings import DataConfig
from simulators.checkpoint import WorldState
from simulators.fulfilment import Fulfilment
from simulators.outbox import Outbox
from simulators.shoppers import Basket
from simulators.world import DAY_US, World, WorldConfig


class Shelves:
    """A shop that has opened, and what it told the outbox about orders."""

    def __init__(self, databases: LiveDatabases) -> None:
        self.world = World(WorldConfig(users=50, products=40), datetime(2026, 1, 5))
        self.state = WorldState(now=0)
        self.outbox = Outbox(databases, self.world)
        self.env = simpy.Environment(initial_time=0)
        self.floor = Fulfilment(self.env, self.world, self.state, self.outbox)
        self.floor.start()
        self.floor.open()

    def fill(self, units: int) -> None:
        self.state.current = [units] * len(self.state.current)

    def buy(self, luck: float, product: int = 3, units: int = 2) -> bool:
        return self.floor.place(Basket(self.env.now, 0, 7, 0, [product], [units], [luck]))

    @property
    def orders(self) -> list[tuple[object, ...]]:
        return [row for name, row in self.outbox._turns["orders"] if name == "orders"]

    def nearest(self, product: int = 3) -> list[int]:
        region = int(self.world.population.region[7])
        return self.floor.stockroom.candidates(region, product)


@pytest.fixture
def shelves(tmp_path: Path) -> Iterator[Shelves]:
    with LiveDatabases.open(DataConfig(data_dir=tmp_path)) as databases:
        databases.create()
        yield Shelves(databases)


def test_candidates_are_in_order_of_distance(shelves: Shelves) -> None:
    """The first candidate is the warehouse nearest to the shopper's region."""
    network, room = shelves.world.network, shelves.floor.stockroom
    hub = len(network.warehouse_ids) + int(shelves.world.population.region[7])
    far = [network.distance[room.warehouse[position], hub] for position in shelves.nearest()]
    assert len(far) > 1
    assert far == sorted(far)


def test_the_nearest_warehouse_with_stock_serves(shelves: Shelves) -> None:
    """The order goes to the nearest; once that one is short, to the next."""
    shelves.fill(2)
    assert shelves.buy(luck=0.9)
    assert shelves.buy(luck=0.9)
    names = shelves.world.network.warehouse_ids
    served = [names[shelves.floor.stockroom.warehouse[p]] for p in shelves.nearest()[:2]]
    assert [row[5] for row in shelves.orders] == served
    assert [shelves.state.reserved[p] for p in shelves.nearest()[:2]] == [2, 2]


@pytest.mark.parametrize(
    ("luck", "outcome"), [(0.0, None), (1 / 7 - 0.01, None), (1 / 7 + 0.01, "switch")]
)
def test_without_stock_a_seventh_leave_and_a_third_switch(
    shelves: Shelves, luck: float, outcome: str | None
) -> None:
    """Gruen and Corsten: 1/7 leave; the next 1/3 take another product of the category."""
    shelves.fill(5)
    for position in shelves.nearest():
        shelves.state.current[position] = 0
    assert shelves.buy(luck) is (outcome is not None)
    if outcome is None:
        assert shelves.orders == []
        return
    catalogue = shelves.world.catalogue
    bought = catalogue.ids.index(str(shelves.orders[0][2]))
    assert bought != 3
    assert catalogue.categories[bought] == catalogue.categories[3]
    assert shelves.orders[0][8] == "placed"


def test_the_others_wait_until_the_nearest_is_restocked(shelves: Shelves) -> None:
    """A backorder holds no stock; it is reserved as soon as a delivery covers it."""
    shelves.fill(0)
    assert shelves.buy(luck=0.99)
    order, position = int(str(shelves.orders[0][0])), shelves.nearest()[0]
    assert shelves.orders[0][8] == "backordered"
    assert shelves.state.reserved[position] == 0
    shelves.floor._restock(position, 1)
    assert order in shelves.state.waiting
    shelves.floor._restock(position, 1)
    assert order in shelves.state.to_ship
    assert shelves.state.reserved[position] == 2


def test_an_order_is_shipped_within_hours_and_leaves_the_shelf(shelves: Shelves) -> None:
    """Packing takes 1 to 8 hours; then reserved and current both fall by the units."""
    shelves.fill(5)
    position = shelves.nearest()[0]
    shelves.buy(luck=0.5)
    shelves.env.run(until=DAY_US // 24)
    assert (shelves.state.current[position], shelves.state.reserved[position]) == (5, 2)
    shelves.env.run(until=DAY_US // 3 + 1)
    assert (shelves.state.current[position], shelves.state.reserved[position]) == (3, 0)


def test_a_low_position_is_ordered_up_to_its_target(shelves: Shelves) -> None:
    """Reserving down to the reorder point orders the difference to the target, once."""
    room, state = shelves.floor.stockroom, shelves.state
    position = shelves.nearest()[0]
    shelves.fill(100)
    state.coming = [0] * len(state.coming)
    units = 100 - room.reorder_point[position]
    shelves.buy(luck=0.5, units=units)
    assert state.coming[position] == room.up_to[position] - room.reorder_point[position]
    shelves.floor._reorder(position)
    assert state.coming[position] == room.up_to[position] - room.reorder_point[position]
