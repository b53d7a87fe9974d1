"""What stands still is read from the live databases, and read again when it has moved after all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_shop import THEN, execute, insert, open_shop, route_row

from pipelines.errors import LiveDatabaseError
from pipelines.live_databases import LiveDatabases, inventory, products, routes, users, warehouses
from pipelines.models.delay.features import keys_of
from pipelines.serving.candidates import (
    OrderBatch,
    candidates_of,
    complete_orders,
    wanted_hours,
)
from pipelines.serving.orders import (
    Order,
    UnknownProductError,
    UnknownUserError,
    UnservedOrderError,
)
from pipelines.serving.reference import Reference


@pytest.fixture
def databases(tmp_path: Path) -> Iterator[LiveDatabases]:
    with open_shop(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveDatabases]:
    """A shop that no test changes."""
    with open_shop(tmp_path_factory.mktemp("shop")) as opened:
        yield opened


@pytest.fixture
def reference(shop: LiveDatabases) -> Reference:
    """What is known of the shop."""
    return known(shop)


def known(databases: LiveDatabases) -> Reference:
    made = Reference(databases)
    made.refresh()
    return made


def test_warehouses_come_nearest_first_and_only_those_that_carry_the_product(
    reference: Reference,
) -> None:
    """By road where there is one, at most as many as are asked for."""

    def names(region: str, product: str, most: int = 6) -> list[str]:
        found = reference.warehouses_for(region, reference.product(product), most)
        return [warehouse for warehouse, _ in found]

    assert names("north", "P1") == ["W1", "W2"]
    assert names("south", "P1") == ["W2", "W1"]
    assert names("north", "P2") == ["W2"]
    assert names("north", "P1", 1) == ["W1"]


def test_suppliers_and_warehouses_serve_no_region_of_their_own(reference: Reference) -> None:
    """A route into a warehouse is none to a customer."""
    assert set(reference.network.serving) == {"north", "south", "island"}


def test_each_route_is_read_with_the_warehouse_at_its_end(reference: Reference) -> None:
    """Whichever end it is."""
    keys = keys_of(reference.network.constants, reference.probes())
    ends = dict(zip(keys["route_id"], keys["warehouse_id"], strict=True))
    assert ends["W2-north-rail"] == "W2"
    assert ends["S1-W1-sea"] == "W1"


def test_probes_are_those_of_the_positions_there_are(databases: LiveDatabases) -> None:
    """Another position is another choice, though no route has changed."""
    made = known(databases)
    assert made.probes()["W1"] == ["P1"]
    stock = {"current_stock": 1, "reserved_stock": 0, "reorder_point": 1, "carbon_footprint": 0.0}
    carried = {"warehouse_id": "W1", "product_id": "P2", "updated_at": THEN, **stock}
    insert(databases, inventory, carried)
    made.refresh()
    assert made.probes()["W1"] == ["P1", "P2"]


def test_methods_take_their_mode_or_the_next(reference: Reference) -> None:
    """Economy goes by rail where there is one, else by road; the price follows the tariff."""
    candidates = candidates_of(
        reference.warehouses_for("north", reference.product("P1"), 6), weight_kg=2.0
    )
    found = {(c.warehouse_id, c.shipping_method): c for c in candidates}
    assert len(found) == 8
    assert found["W1", "economy"].route.route_id == "W1-north-road"
    assert found["W2", "economy"].route.route_id == "W2-north-rail"
    assert found["W1", "overnight"].ship_cost == pytest.approx(1.5 + 2.0 * 8.0 * 1.6)
    assert found["W1", "overnight"].promised_hours == pytest.approx(6.0 * 0.85)


def test_what_was_wished_for_is_promised_by_the_nearest_warehouse(reference: Reference) -> None:
    """That has the method; where none has, the fastest way counts."""
    candidates = candidates_of(
        reference.warehouses_for("north", reference.product("P1"), 6), weight_kg=2.0
    )
    assert wanted_hours(candidates, "express") == 6.0
    by_road = [c for c in candidates if c.route.mode == "road"]
    assert wanted_hours(by_road, "express") == min(c.promised_hours for c in by_road)


def test_a_batch_knows_whose_each_candidate_is(reference: Reference) -> None:
    """By order and by lane: candidates of one warehouse and route share the lane's features."""
    orders = [Order(user_id=1, product_id=product) for product in ("P1", "P2")]
    completed = complete_orders(orders, reference, 6)
    batch = OrderBatch.of(completed)
    assert batch.first == [0, 8, 12]
    assert batch.order_of.tolist() == [0] * 8 + [1] * 4
    for number, candidate in enumerate(batch.candidates):
        order, warehouse, route = batch.lanes[batch.lane_of[number]]
        assert order.product_id == orders[batch.order_of[number]].product_id
        assert (warehouse, route) == (candidate.warehouse_id, candidate.route)
    assert len(batch.lanes) == sum(len(one.lanes) for one in completed) < len(batch.candidates)


def test_where_only_the_sea_goes_there_is_no_method(reference: Reference) -> None:
    """The warehouse is there, and no way of it is on offer."""
    assert candidates_of(reference.warehouses_for("island", reference.product("P1"), 6), 1.0) == []


@pytest.mark.parametrize(
    ("region", "product", "field"), [("moon", "P1", "region"), ("north", "P3", "product_id")]
)
def test_what_nobody_can_serve_is_told_with_its_field(
    reference: Reference, region: str, product: str, field: str
) -> None:
    """A region without a warehouse, and a product that nobody carries."""
    with pytest.raises(UnservedOrderError) as told:
        reference.warehouses_for(region, reference.product(product), 6)
    assert told.value.field == field


def test_a_user_and_a_product_that_come_later_are_known_at_once(databases: LiveDatabases) -> None:
    """They are looked up when they are first named, not when everything was read."""
    reference = known(databases)
    with pytest.raises(UnknownUserError, match="there is no user 77"):
        reference.region_of(77)
    with pytest.raises(UnknownProductError, match="there is no product 'P9'"):
        reference.product("P9")
    insert(databases, users, {"user_id": 77, "region": "south", "signed_up_at": THEN})
    goods = {"product_id": "P9", "category": "c", "unit_price": 7, "weight_kg": 1.0}
    insert(databases, products, goods)
    assert reference.region_of(77) == "south"
    assert reference.product("P9").price == 7.0


def test_what_has_changed_is_read_again(databases: LiveDatabases) -> None:
    """The change log says what; until it is looked at, the old values answer."""
    reference = known(databases)
    assert reference.region_of(1) == "north"
    assert reference.product("P2").carriers == {"W2"}
    before = reference.network
    execute(databases, "users", users.update().where(users.c.user_id == 1).values(region="south"))
    execute(databases, "inventory", products.update().values(unit_price=99))
    stock = {"current_stock": 1, "reserved_stock": 0, "reorder_point": 1, "carbon_footprint": 0.0}
    carried = {"warehouse_id": "W1", "product_id": "P2", "updated_at": THEN, **stock}
    insert(databases, inventory, carried)
    execute(databases, "supply_chain", routes.update().values(base_cost=3.0))
    assert reference.region_of(1) == "north"
    assert reference.network is before
    reference.refresh()
    assert reference.region_of(1) == "south"
    assert reference.product("P2").price == 99.0
    assert reference.product("P2").carriers == {"W1", "W2"}
    assert {route.base_cost for route in reference.network.routes} == {3.0}


def test_nothing_is_read_again_when_nothing_has_changed(databases: LiveDatabases) -> None:
    """Stock and congestion go up and down; who carries what and which way it goes stay."""
    reference = known(databases)
    before, product = reference.network, reference.product("P1")
    execute(databases, "inventory", inventory.update().values(current_stock=3))
    execute(databases, "supply_chain", routes.update().values(congestion=0.9))
    reference.refresh()
    assert reference.network is before
    assert reference.product("P1") is product


def test_a_new_warehouse_joins_the_network(databases: LiveDatabases) -> None:
    """Its routes served no region before, for nobody knew that it is a warehouse."""
    reference = known(databases)
    route = route_row("W1-north-road") | {"route_id": "W4-north-road", "origin_id": "W4"}
    insert(databases, routes, route | {"distance_km": 1.0})
    row = {"warehouse_id": "W4", "region": "north", "latitude": 1.0, "longitude": 1.0}
    insert(databases, warehouses, row | {"capacity": 10})
    reference.refresh()
    assert [w for w, _ in reference.network.serving["north"]] == ["W4", "W1", "W2"]


def test_stock_is_read_from_the_live_database_by_place(reference: Reference) -> None:
    """What is reserved is not free; a place that carries nothing of it is not there."""
    pairs = {("W1", "P1"), ("W2", "P2"), ("W1", "P2")}
    assert reference.stock(pairs) == {("W1", "P1"): 40, ("W2", "P2"): 0}


def test_a_broken_database_is_one_line_and_what_is_known_still_answers(
    databases: LiveDatabases, tmp_path: Path
) -> None:
    """Decisions on known users and products go on."""
    reference = known(databases)
    assert reference.region_of(1) == "north"
    databases.dispose()
    path = tmp_path / "live_databases" / "users.db"
    for name in (path, path.with_name("users.db-wal"), path.with_name("users.db-shm")):
        name.unlink(missing_ok=True)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(LiveDatabaseError, match=r"users\.db"):
        reference.refresh()
    assert reference.region_of(1) == "north"
