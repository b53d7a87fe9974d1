"""Orders as they are asked for, the snapshot of the network, turns, and logged columns."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from serving_shop import open_shop

from pipelines.errors import ConfigurationError
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.live_databases import LiveDatabases
from pipelines.models.delay.features import aggregate_stock, keys_of
from pipelines.registry.signatures import CONTRACTS
from pipelines.serving.config import ServingConfig
from pipelines.serving.fair_lock import FairLock
from pipelines.serving.network_snapshot import NetworkSnapshots, Snapshot
from pipelines.serving.online import OnlineFeatures, OnlineRows, RowStates
from pipelines.serving.orders import Order, OrderError, order_from
from pipelines.serving.recording import pack, unpack
from pipelines.serving.reference import Reference

NAN = float("nan")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quantity", 0),
        ("quantity", -1),
        ("quantity", 1.5),
        ("quantity", True),
        ("quantity", 10**7),
        ("price", -0.01),
        ("price", NAN),
        ("price", float("inf")),
        ("weight_kg", 0.0),
        ("user_id", "1"),
        ("user_id", 2**63),
        ("product_id", ""),
        ("product_id", "P" * 201),
        ("shipping_method", "drone"),
        ("region", ""),
        ("colour", "red"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_with_its_field(field: str, value: Any) -> None:
    """Before anything is looked up."""
    with pytest.raises(ValidationError) as told:
        Order(**{"user_id": 1, "product_id": "P1", field: value})
    assert told.value.errors()[0]["loc"] == (field,)


def test_what_was_typed_is_refused_in_one_line() -> None:
    """With the field, the value and what is allowed."""
    with pytest.raises(OrderError) as told:
        order_from({"user_id": 1, "product_id": "P1", "quantity": -3})
    assert str(told.value) == "quantity = -3: Input should be greater than or equal to 1"
    assert (told.value.field, told.value.exit_code) == ("quantity", 2)


@pytest.mark.parametrize(
    ("name", "value"), [("max_warehouses", 0), ("keep_decisions", 0), ("network_max_age", 0.0)]
)
def test_options_that_make_no_sense_are_refused(name: str, value: float) -> None:
    """By name and value."""
    with pytest.raises(ConfigurationError, match=f"{name} must be"):
        ServingConfig(**{name: value})  # type: ignore[arg-type]  # that is what is tested


class Fixed(OnlineFeatures):
    """Online features that are made up: a number by the row."""

    def __init__(self) -> None:
        super().__init__(lambda: pytest.fail("no store is opened"))
        self.rows: list[Mapping[str, Any]] = []

    def read(self, service: str, rows: Sequence[Mapping[str, Any]]) -> OnlineRows:
        """Every route has delay_risk 0.1, and stock by the product's number."""
        assert service == "supply_gnn_v1"
        self.rows += rows
        count = len(rows)
        names = [n for view in CONTRACTS["supply_gnn"].views for n in VIEWS_BY_NAME[view].features]
        columns: dict[str, list[Any]] = {name: [None] * count for name in names}
        columns["delay_risk"] = [0.1] * count
        levels = {"P1": 2.0, "P2": 4.0, "": None}
        columns["stock_ratio"] = [levels[row["product_id"]] for row in rows]
        return OnlineRows(
            columns, {"route_conditions": RowStates([5.0] * count, ["present"] * count)}
        )


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveDatabases]:
    """A shop that no test changes."""
    with open_shop(tmp_path_factory.mktemp("shop")) as opened:
        yield opened


@pytest.fixture
def snapshot(databases: LiveDatabases) -> Snapshot:
    return NetworkSnapshots(Fixed(), Reference(databases), FairLock()).renew()


def column(snapshot: Snapshot, name: str) -> dict[str, Any]:
    """Values by route."""
    routes = (route.route_id for route in snapshot.network.routes)
    return dict(zip(routes, snapshot.columns[name].tolist(), strict=True))


def test_a_snapshot_holds_every_route_with_the_stock_at_its_end(snapshot: Snapshot) -> None:
    """The mean over the warehouse's probe products, at whichever end the warehouse is."""
    assert set(snapshot.columns) == set(CONTRACTS["supply_gnn"].inputs) - {"snapshot"}
    ratios = column(snapshot, "warehouse_stock_ratio")
    assert ratios["W1-north-air"] == ratios["S1-W1-sea"] == 2.0
    assert ratios["W2-north-rail"] == ratios["S1-W2-road"] == pytest.approx(14 / 5)
    assert np.isnan(list(column(snapshot, "congestion").values())).all()
    assert (snapshot.missing, snapshot.newest) == (0, 5.0)


def test_a_decision_puts_what_it_has_read_over_the_snapshot(snapshot: Snapshot) -> None:
    """Only there; the snapshot itself stays, for others look at it too."""
    fresh: dict[str, list[Any]] = {
        name: [None, None] for name in VIEWS_BY_NAME["route_conditions"].features
    }
    fresh["delay_risk"] = [0.7, 0.8]
    columns = snapshot.overlaid(["W1-north-air", "S1-W2-road"], fresh)
    position = snapshot.network.position
    assert columns["delay_risk"][position["W1-north-air"]] == 0.7
    assert columns["delay_risk"][position["S1-W2-road"]] == 0.8
    assert sorted(columns["delay_risk"])[:8] == [0.1] * 8
    assert set(column(snapshot, "delay_risk").values()) == {0.1}
    assert columns["warehouse_stock_ratio"] is snapshot.columns["warehouse_stock_ratio"]


def test_stock_is_judged_as_in_training(databases: LiveDatabases) -> None:
    """The same probes, asked for beside the same routes, with the same means."""
    reference, features = Reference(databases), Fixed()
    snapshot = NetworkSnapshots(features, reference, FairLock()).renew()
    chosen = {"W1": ["P1"], "W2": ["P1", "P2"], "W3": ["P1"]}
    assert reference.probes() == chosen
    keys = keys_of(snapshot.network.constants, chosen)
    asked = [(row["warehouse_id"], row["product_id"]) for row in features.rows]
    assert asked == list(zip(keys["warehouse_id"], keys["product_id"], strict=True))
    levels = [{"P1": 2.0, "P2": 4.0}[product] for _, product in asked]
    nothing = [NAN] * len(levels)
    values = {"stock_ratio": levels, "is_low_stock": nothing, "days_of_cover": nothing}
    expected = aggregate_stock(np.array(keys["warehouse_id"]), values)
    for name, means in expected.items():
        np.testing.assert_array_equal(snapshot.columns[name], means)


def test_a_snapshot_is_due_by_age_and_when_the_network_is_another(
    databases: LiveDatabases,
) -> None:
    """Or when there is none yet."""
    reference = Reference(databases)
    snapshots = NetworkSnapshots(Fixed(), reference, FairLock())
    assert snapshots.is_due(2.0, now=0.0)
    taken = snapshots.renew().taken
    assert not snapshots.is_due(2.0, now=taken + 1.9)
    assert snapshots.is_due(2.0, now=taken + 2.1)
    reference._network = reference._read_network()
    assert snapshots.is_due(2.0, now=taken)


def test_a_fair_lock_is_given_in_the_order_of_asking() -> None:
    """Whoever has just had it stands behind whoever waits."""
    lock, order, waiting = FairLock(), [], threading.Event()

    def second() -> None:
        waiting.set()
        with lock:
            order.append("second")

    with lock:
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait()
        while lock._next < 2:  # until it stands in line
            pass
        order.append("first")
    with lock:
        order.append("first again")
    thread.join()
    assert order == ["first", "second", "first again"]


def test_columns_that_are_alike_are_packed_into_one_value() -> None:
    """Nothing is lost, also where there is no value at all."""
    columns: dict[str, Any] = {
        "price": np.array([2.0, 2.0]),
        "score": np.array([1.0, 2.0]),
        "days": np.array([NAN, NAN]),
        "half": np.array([NAN, 1.0]),
        "method": np.array(["express", "express"], dtype=object),
    }
    packed = pack(columns)
    assert (packed["price"], packed["score"], len(packed["days"])) == ([2.0], [1.0, 2.0], 1)
    whole = unpack(packed, 2)
    for name, values in columns.items():
        np.testing.assert_array_equal(np.array(whole[name]), values)
