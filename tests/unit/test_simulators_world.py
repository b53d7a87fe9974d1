"""A simulated world in real databases: its rows, its figures, going on, and crashing."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hidden_risk import late_probability

from pipelines.errors import ConfigurationError, SimulationError, SynchroChainError, UsageError
from pipelines.live_databases import METADATA, LiveDatabases, check_contract
from pipelines.settings import DATABASE_NAMES, DataConfig
from simulators import WorldConfig, fill_history, load_or_create, run_live
from simulators.outbox import Outbox
from simulators.shoppers import day_script
from simulators.simulation import SimulationReport
from simulators.transit import Transit
from simulators.world import DAY_US, HOUR_US

NOW = datetime(2026, 3, 4, 13, 27, 5, 123456)
# Of this seed one purchase falls past midnight, which a test below needs.
SMALL = WorldConfig(users=1200, products=60, warehouses=4, days=5, seed=3)
TIMES = {
    "orders": {"orders": ["order_timestamp"]},
    "users": {"users": ["signed_up_at"], "user_sessions": ["timestamp"]}
    | {"clickstream": ["event_timestamp"]},
    "inventory": {"inventory": ["updated_at"]},
    "supply_chain": {"routes": ["updated_at"], "shipments": ["shipped_at", "delivered_at"]},
}


def simulate(
    data_dir: Path, config: WorldConfig | None = SMALL, until: datetime = NOW
) -> SimulationReport:
    """Open, go on to `until`, close: what one run of the command does. A new world ends at NOW."""
    with LiveDatabases.open(DataConfig(data_dir=data_dir)) as databases:
        return fill_history(databases, load_or_create(data_dir, config, NOW), until)


def query(data_dir: Path, database: str, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(data_dir / "live_databases" / f"{database}.db")) as connection:
        return connection.execute(sql).fetchall()


def live_rows(data_dir: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every live table, and each table's changes in their order."""
    rows = {}
    for database in DATABASE_NAMES:
        for table in METADATA[database].tables:
            rows[table] = sorted(query(data_dir, database, f"SELECT * FROM {table}"), key=repr)
            rows[f"changes of {table}"] = query(
                data_dir,
                database,
                f"SELECT op, key, row FROM change_log WHERE table_name = '{table}' ORDER BY seq",
            )
    return rows


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three weeks of the default world."""
    data_dir = tmp_path_factory.mktemp("shop")
    simulate(data_dir, WorldConfig(days=21))
    return data_dir


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("small")
    simulate(data_dir)
    return data_dir


@pytest.fixture
def databases(tmp_path: Path) -> Iterator[LiveDatabases]:
    with LiveDatabases.open(DataConfig(data_dir=tmp_path)) as opened:
        yield opened


def test_the_contract_of_the_pipelines_is_met(shop: Path) -> None:
    """Every table and column the pipelines need is there, and foreign keys hold."""
    with LiveDatabases.open(DataConfig(data_dir=shop)) as databases:
        for name in DATABASE_NAMES:
            check_contract(databases[name], METADATA[name])
            assert query(shop, name, "PRAGMA foreign_key_check") == []


def test_rows_of_one_database_point_to_rows_of_another(shop: Path) -> None:
    """Orders name known users and products; shipments name known orders and warehouses."""
    users = {row[0] for row in query(shop, "users", "SELECT user_id FROM users")}
    products = {row[0] for row in query(shop, "inventory", "SELECT product_id FROM products")}
    stores = {row[0] for row in query(shop, "inventory", "SELECT warehouse_id FROM warehouses")}
    orders = query(shop, "orders", "SELECT id, user_id, product_id, warehouse_id FROM orders")
    assert {row[1] for row in orders} <= users
    assert {row[2] for row in orders} <= products
    assert {row[3] for row in orders} <= stores
    sent = query(shop, "supply_chain", "SELECT order_id, warehouse_id FROM shipments")
    assert {row[0] for row in sent} - {None} <= {row[0] for row in orders}
    assert {row[1] for row in sent} <= stores


@pytest.mark.parametrize("world", ["shop", "small"])
def test_no_row_lies_in_the_future(world: str, request: pytest.FixtureRequest) -> None:
    """No event is later than the moment simulated to; every time has microseconds."""
    data_dir = request.getfixturevalue(world)
    limit = NOW.strftime("%Y-%m-%d %H:%M:%S.%f")
    for database, tables in TIMES.items():
        for table, columns in tables.items():
            for column in columns:
                sql = f"SELECT MAX({column}), MIN(LENGTH({column})) FROM {table}"
                assert query(data_dir, database, sql)[0][0] <= limit
                assert query(data_dir, database, sql)[0][1] == 26


def test_history_reaches_from_its_start_to_its_end(shop: Path) -> None:
    """The first and the last click lie within an hour of the ends of the three weeks."""
    first, last = query(
        shop, "users", "SELECT MIN(event_timestamp), MAX(event_timestamp) FROM clickstream"
    )[0]
    assert datetime.fromisoformat(first) - (NOW - timedelta(days=21)) < timedelta(hours=1)
    assert timedelta(0) < NOW - datetime.fromisoformat(last) < timedelta(hours=1)


def test_default_sizes_make_the_promised_number_of_events(shop: Path) -> None:
    """About 300,000 clicks and 15,000 to 20,000 shipments in 30 days, from 21 days' worth."""
    clicks = query(shop, "users", "SELECT COUNT(*) FROM clickstream")[0][0]
    shipments = query(shop, "supply_chain", "SELECT COUNT(*) FROM shipments")[0][0]
    assert clicks * 30 / 21 == pytest.approx(300_000, rel=0.1)
    assert 15_000 <= shipments * 30 / 21 <= 20_000


def test_a_session_row_sums_up_its_clicks(shop: Path) -> None:
    """A finished session's row holds all its actions, views, duration and signals, as JSON."""
    clicks: dict[str, list[tuple[Any, ...]]] = {}
    for session_id, *rest in query(
        shop,
        "users",
        "SELECT session_id, action, product_id, time_on_page, scroll_depth, event_timestamp "
        "FROM clickstream ORDER BY event_timestamp",
    ):
        clicks.setdefault(session_id, []).append(tuple(rest))
    rows = query(shop, "users", "SELECT * FROM user_sessions WHERE timestamp < '2026-03-04'")
    assert len(rows) > 10_000
    for session_id, _, viewed, actions, duration, last, signals in rows:
        events = [c for c in clicks[session_id] if c[4] <= last]
        if last < "2026-03-03":
            assert events == clicks[session_id]
        assert json.loads(actions) == [c[0] for c in events]
        assert json.loads(viewed) == [c[1] for c in events if c[0] == "view"]
        elapsed = datetime.fromisoformat(last) - datetime.fromisoformat(events[0][4])
        assert duration == int(elapsed.total_seconds())
        intent = json.loads(signals)
        assert intent["time_on_page"] == pytest.approx(np.mean([c[2] for c in events]), abs=0.001)
        assert intent["scroll_depth"] == pytest.approx(np.mean([c[3] for c in events]), abs=0.001)
        assert 0 < intent["click_rate"] <= 1


def test_a_session_row_changes_at_each_cart_and_purchase_action(shop: Path) -> None:
    """The change log has a session's row as of every cart, checkout and purchase action."""
    wanted = query(
        shop,
        "users",
        "SELECT session_id, event_timestamp FROM clickstream "
        "WHERE action NOT IN ('view', 'search')",
    )
    written = query(
        shop,
        "users",
        "SELECT row ->> 'session_id', row ->> 'timestamp' FROM change_log "
        "WHERE table_name = 'user_sessions'",
    )
    assert set(wanted) <= set(written)
    assert len(written) == len(set(written))


def test_every_purchase_has_its_orders_and_every_order_its_purchase(shop: Path) -> None:
    """User and moment of purchase clicks and of orders are the same sets."""
    clicks = query(
        shop, "users", "SELECT user_id, event_timestamp FROM clickstream WHERE action = 'purchase'"
    )
    orders = query(shop, "orders", "SELECT user_id, order_timestamp FROM orders")
    assert set(clicks) == set(orders)
    assert len(orders) > 1.3 * len(clicks)


def test_stock_is_reserved_within_what_is_there(shop: Path) -> None:
    """At every change 0 ≤ reserved ≤ current, times rise per position, each is seen weekly."""
    rows = query(
        shop,
        "inventory",
        "SELECT key, row ->> 'current_stock', row ->> 'reserved_stock', row ->> 'updated_at' "
        "FROM change_log WHERE table_name = 'inventory' ORDER BY seq",
    )
    last: dict[str, str] = {}
    for key, current, reserved, updated_at in rows:
        assert 0 <= reserved <= current
        assert last.get(key, "") < updated_at
        last[key] = updated_at
    assert min(last.values()) >= str(NOW - timedelta(days=7))


def test_reserved_stock_is_that_of_orders_not_yet_shipped(shop: Path) -> None:
    """What is reserved is what orders with status `placed` wait for."""
    reserved = query(shop, "inventory", "SELECT SUM(reserved_stock) FROM inventory")
    placed = query(shop, "orders", "SELECT SUM(quantity) FROM orders WHERE status = 'placed'")
    assert reserved == placed


def test_one_shelf_position_in_twelve_is_empty(shop: Path) -> None:
    """About 8 % of positions have nothing to sell (Gruen and Corsten), best-sellers over 50."""
    empty, most = query(
        shop,
        "inventory",
        "SELECT AVG(current_stock - reserved_stock <= 0), MAX(current_stock) FROM inventory",
    )[0]
    assert empty == pytest.approx(0.08, abs=0.025)
    assert most > 50


def test_order_status_follows_its_shipment(shop: Path) -> None:
    """Delivered, shipped or not yet sent: order and shipment say the same."""
    sent = dict(
        query(
            shop,
            "supply_chain",
            "SELECT order_id, status FROM shipments WHERE order_id IS NOT NULL",
        )
    )
    expected = {"in_transit": "shipped", "delivered": "delivered"}
    for order, status in query(shop, "orders", "SELECT id, status FROM orders"):
        if order in sent:
            assert status == expected[sent[order]]
        else:
            assert status in ("placed", "backordered")


def test_shipments_are_late_as_often_as_the_mode_says(shop: Path) -> None:
    """Of what should have arrived: 11.5 % late (10–14), 61 % to the hour, 27 % early (SCMS)."""
    rows = query(
        shop,
        "supply_chain",
        "SELECT mode, promised_at, delivered_at FROM shipments JOIN routes USING (route_id) "
        f"WHERE promised_at < '{NOW}'",
    )
    over = np.array(
        [
            (datetime.fromisoformat(d) - datetime.fromisoformat(p)).total_seconds() / 3600
            if d
            else np.inf
            for _, p, d in rows
        ]
    )
    modes = np.array([row[0] for row in rows])
    assert 0.10 <= np.mean(over > 0) <= 0.14
    assert np.mean((over <= 0) & (over >= -1)) == pytest.approx(0.61, abs=0.03)
    assert np.mean(over < -1) == pytest.approx(0.27, abs=0.03)
    # Few go by rail or sea in three weeks, and they share the same jams.
    for mode, share, off in (
        ("air", 0.096, 0.03),
        ("road", 0.16, 0.03),
        ("rail", 0.12, 0.06),
        ("sea", 0.175, 0.06),
    ):
        assert np.mean(over[modes == mode] > 0) == pytest.approx(share, abs=off), mode


def test_written_congestion_remembers(shop: Path) -> None:
    """Each route is reported hourly, and its congestion correlates with the last hour's."""
    rows = query(
        shop,
        "supply_chain",
        "SELECT row ->> 'route_id', row ->> 'congestion' FROM change_log "
        "WHERE table_name = 'routes' AND op = 'U' ORDER BY seq",
    )
    paths: dict[str, list[float]] = {}
    for route_id, congestion in rows:
        paths.setdefault(route_id, []).append(congestion)
    assert {len(path) for path in paths.values()} <= {21 * 24 - 1, 21 * 24, 21 * 24 + 1}
    lags = {1: 0.8, 6: 0.45}
    for lag, figure in lags.items():
        found = [np.corrcoef(path[:-lag], path[lag:])[0, 1] for path in paths.values()]
        assert np.mean(found) == pytest.approx(figure, abs=0.12)


def test_carbon_of_a_shipment_is_by_the_tonne(shop: Path) -> None:
    """carbon_kg = carbon_cost × weight / 1000, and carbon_cost is the mode's factor × distance."""
    rows = query(
        shop,
        "supply_chain",
        "SELECT carbon_kg, carbon_cost * weight_kg / 1000, mode, carbon_cost / distance_km "
        "FROM shipments JOIN routes USING (route_id)",
    )
    factors = {"air": 1.735, "road": 0.126, "rail": 0.032, "sea": 0.0154}
    for carbon, expected, mode, factor in rows:
        assert carbon == pytest.approx(expected, abs=1e-5)
        assert factor == pytest.approx(factors[mode], rel=0.01)


def test_nothing_hidden_is_written(shop: Path) -> None:
    """No column beyond the contract, and none that gives the intent or the true path away."""
    for database in DATABASE_NAMES:
        for name, table in METADATA[database].tables.items():
            columns = [row[1] for row in query(shop, database, f"PRAGMA table_info({name})")]
            assert columns == list(table.columns.keys())
    for (signals,) in query(shop, "users", "SELECT DISTINCT intent_signals FROM user_sessions"):
        assert set(json.loads(signals)) == {"time_on_page", "scroll_depth", "click_rate"}
    text = (shop / "simulation.json").read_text().lower()
    assert not any(word in text for word in ("intent", "congestion", "script"))


def test_published_conditions_are_not_the_truth(shop: Path) -> None:
    """Congestion is seen through noise, and the carrier's risk is a noisier guess still."""
    world = load_or_create(shop, None, NOW).world
    transit = Transit(world)
    number_of = {route.route_id: n for n, route in enumerate(world.network.routes)}
    seen, truth, guess, risk = [], [], [], []
    for row in query(
        shop,
        "supply_chain",
        "SELECT row ->> 'route_id', row ->> 'updated_at', row ->> 'congestion', "
        "row ->> 'delay_risk' FROM change_log WHERE table_name = 'routes' AND op = 'U' LIMIT 9000",
    ):
        hour = world.microseconds(datetime.fromisoformat(row[1])) // HOUR_US
        truth.append(transit.latent(hour)[number_of[row[0]]])
        risk.append(late_probability(transit, hour)[number_of[row[0]]])
        seen.append(row[2])
        guess.append(row[3])
    assert 0.9 < np.corrcoef(np.log(np.array(seen) / (1 - np.array(seen))), truth)[0, 1] < 0.99
    assert 0.6 < np.corrcoef(guess, risk)[0, 1] < 0.95


def test_a_delivery_is_not_known_before_it_happens(shop: Path) -> None:
    """A shipment is inserted without its delivery, and changed once, when it arrives."""
    rows = query(
        shop,
        "supply_chain",
        "SELECT op, row ->> 'delivered_at', row ->> 'status' FROM change_log "
        "WHERE table_name = 'shipments'",
    )
    assert {(at, status) for op, at, status in rows if op == "I"} == {(None, "in_transit")}
    assert {status for op, _, status in rows if op == "U"} == {"delivered"}
    assert all(at for op, at, _ in rows if op == "U")


@pytest.mark.parametrize(
    ("database", "table", "column"),
    [
        ("users", "clickstream", "event_timestamp"),
        ("users", "user_sessions", "timestamp"),
        ("orders", "orders", "order_timestamp"),
        ("supply_chain", "shipments", None),
        ("supply_chain", "routes", "updated_at"),
    ],
)
def test_changes_are_logged_in_the_order_of_their_times(
    shop: Path, database: str, table: str, column: str | None
) -> None:
    """Within a table the change log never goes back in time, however large the commits were."""
    time = f"row ->> '{column}'"
    if column is None:
        time = "COALESCE(row ->> 'delivered_at', row ->> 'shipped_at')"
    which = "AND op = 'I'" if table == "orders" else ""
    rows = query(
        shop,
        database,
        f"SELECT {time} FROM change_log WHERE table_name = '{table}' {which} ORDER BY seq",
    )
    assert rows == sorted(rows)


def test_the_same_seed_writes_the_same_rows(small: Path, tmp_path: Path) -> None:
    """Two worlds of one seed and start are equal, row by row and change by change."""
    simulate(tmp_path)
    assert live_rows(tmp_path) == live_rows(small)


def test_another_seed_writes_other_rows(small: Path, tmp_path: Path) -> None:
    """The seed is what makes a world."""
    simulate(tmp_path, WorldConfig(users=1200, products=60, warehouses=4, days=5, seed=8))
    ours, theirs = live_rows(tmp_path), live_rows(small)
    assert ours["clickstream"] != theirs["clickstream"]
    assert ours["shipments"] != theirs["shipments"]
    assert ours["routes"] != theirs["routes"]


def test_going_on_is_the_same_as_going_on_in_one_go(small: Path, tmp_path: Path) -> None:
    """Stopping twice on the way, at odd moments, changes no row and no change."""
    simulate(tmp_path, SMALL, NOW - timedelta(days=3, hours=5, seconds=17))
    second = simulate(tmp_path, None, NOW - timedelta(minutes=33))
    third = simulate(tmp_path, None)
    assert second.simulated_until == third.simulated_from == NOW - timedelta(minutes=33)
    assert live_rows(tmp_path) == live_rows(small)


@pytest.mark.parametrize("lost", ["everything", "two databases"])
def test_a_crash_between_commit_and_simulation_json_doubles_nothing(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Rows committed but not noted are simulated again and found to be there already."""
    simulate(tmp_path, SMALL, NOW - timedelta(days=2))
    noted = (tmp_path / "simulation.json").read_bytes()
    if lost == "two databases":
        crash_in_the_middle_of_a_commit(tmp_path, monkeypatch)
    else:
        simulate(tmp_path, None, NOW - timedelta(hours=20))
        (tmp_path / "simulation.json").write_bytes(noted)
    assert (tmp_path / "simulation.json").read_bytes() == noted
    simulate(tmp_path, None)
    assert live_rows(tmp_path) == live_rows(small)


def crash_in_the_middle_of_a_commit(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the four databases have committed a chunk when the process dies."""
    execute = Outbox._execute

    def die_at_orders(self: Outbox, connection: Any, name: str, *rest: Any) -> None:
        if name == "orders":
            raise KeyboardInterrupt
        execute(self, connection, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "_execute", die_at_orders)
        with pytest.raises(KeyboardInterrupt):
            simulate(data_dir, None)


def test_an_interrupted_world_can_be_continued_in_the_same_process(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of a commit: the same object goes on from the last whole one."""
    chunks = []
    write = Outbox.write

    def interrupt(self: Outbox) -> int:
        chunks.append(1)
        if len(chunks) == 4:
            raise KeyboardInterrupt
        return write(self)

    simulation = load_or_create(tmp_path, SMALL, NOW)
    with LiveDatabases.open(DataConfig(data_dir=tmp_path)) as databases:
        with monkeypatch.context() as patch:
            patch.setattr(Outbox, "write", interrupt)
            with pytest.raises(KeyboardInterrupt):
                fill_history(databases, simulation, NOW)
        assert NOW - timedelta(days=5) < simulation.simulated_until < NOW
        fill_history(databases, simulation, NOW)
    assert live_rows(tmp_path) == live_rows(small)


def test_a_purchase_past_midnight_survives_a_stop_at_midnight(small: Path, tmp_path: Path) -> None:
    """A session that began yesterday still buys when the world was stopped in between."""
    world = load_or_create(small, None, NOW).world
    late = [
        (day, basket)
        for day in range(5)
        for basket in day_script(world, day).baskets
        if basket.time // DAY_US > day
    ]
    assert late, "choose another seed: no purchase crosses midnight"
    midnight = world.time_of((late[0][0] + 1) * DAY_US)
    simulate(tmp_path, SMALL, midnight)
    simulate(tmp_path, None)
    assert live_rows(tmp_path) == live_rows(small)


def test_nothing_is_simulated_twice(tmp_path: Path) -> None:
    """A run up to a moment already reached writes nothing."""
    simulate(tmp_path)
    report = simulate(tmp_path, None, NOW)
    assert report.total_rows == 0
    assert report.simulated_from == report.simulated_until == NOW


def test_a_report_counts_the_rows_written(tmp_path: Path) -> None:
    """Rows by table are inserts and updates: exactly the change log's."""
    seen: list[tuple[float, int]] = []
    simulation = load_or_create(tmp_path, SMALL, NOW)
    with LiveDatabases.open(DataConfig(data_dir=tmp_path)) as databases:
        report = fill_history(databases, simulation, NOW, lambda f, r: seen.append((f, r)))
    logged = dict(
        pair
        for database in DATABASE_NAMES
        for pair in query(
            tmp_path, database, "SELECT table_name, COUNT(*) FROM change_log GROUP BY 1"
        )
    )
    assert report.rows == logged
    assert seen[-1] == (1.0, report.total_rows)
    assert seen == sorted(seen)


class FakeTime:
    """A clock that sleeping moves, and that stops the run at an hour."""

    def __init__(self, stop: threading.Event, seconds: float) -> None:
        self.now, self.stop, self.seconds = 1000.0, stop, seconds

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= 1000.0 + self.seconds:
            self.stop.set()


def test_live_mode_writes_the_rows_that_history_would(
    small: Path, tmp_path: Path, databases: LiveDatabases
) -> None:
    """Five minutes at 36 times the speed are three hours of the same world."""
    simulate(tmp_path, SMALL, NOW - timedelta(hours=3))
    stop, seen = threading.Event(), []
    wall = FakeTime(stop, 300.0)
    report = run_live(
        databases,
        load_or_create(tmp_path, None, NOW),
        speed=36.0,
        stop=stop,
        clock=wall.clock,
        sleep=wall.sleep,
        progress=lambda moment, _rows: seen.append(moment),
    )
    assert report.simulated_until == NOW
    assert seen[:2] == [NOW - timedelta(hours=3, seconds=-9 * n) for n in (1, 2)]
    assert live_rows(tmp_path) == live_rows(small)
    assert load_or_create(tmp_path, None, NOW).simulated_until == NOW


def test_live_mode_never_runs_ahead_of_its_clock(tmp_path: Path, databases: LiveDatabases) -> None:
    """At speed 1 a commit holds only rows whose moment has come."""
    simulate(tmp_path, SMALL, NOW - timedelta(hours=1))
    stop = threading.Event()
    wall = FakeTime(stop, 60.0)
    limits = []

    def compare(moment: datetime, _rows: int) -> None:
        newest = query(tmp_path, "supply_chain", "SELECT MAX(updated_at) FROM routes")[0][0]
        passed = timedelta(seconds=wall.now - 1000.0)
        limits.append(datetime.fromisoformat(newest) < NOW - timedelta(hours=1) + passed)
        assert moment == NOW - timedelta(hours=1) + passed

    run_live(
        databases,
        load_or_create(tmp_path, None, NOW),
        stop=stop,
        clock=wall.clock,
        sleep=wall.sleep,
        progress=compare,
    )
    assert len(limits) == 240
    assert all(limits)


def test_a_control_world_has_the_same_shape(tmp_path: Path, small: Path) -> None:
    """Without signal the same tables fill to about the same sizes, and constraints hold."""
    config = WorldConfig(users=1200, products=60, warehouses=4, days=5, no_signal=True)
    simulate(tmp_path, config)
    for database in DATABASE_NAMES:
        assert query(tmp_path, database, "PRAGMA foreign_key_check") == []
        for table in METADATA[database].tables:
            sql = f"SELECT COUNT(*) FROM {table}"
            ours, theirs = query(tmp_path, database, sql)[0][0], query(small, database, sql)[0][0]
            assert 0.6 * theirs <= ours <= 1.6 * theirs, table
    purchases = query(
        tmp_path, "users", "SELECT user_id FROM clickstream WHERE action = 'purchase'"
    )
    assert len(purchases) > 3


@pytest.mark.parametrize("values", [{"users": 1}, {"products": 1}, {"warehouses": 1}])
def test_the_smallest_worlds_run(tmp_path: Path, values: dict[str, int]) -> None:
    """One user, one product or one warehouse is a world too."""
    sizes = {"users": 200, "products": 20, "warehouses": 3, "days": 2} | values
    assert simulate(tmp_path, WorldConfig(**sizes)).total_rows > 100


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"users": 0}, "users"),
        ({"products": -1}, "products"),
        ({"warehouses": 100}, "warehouses"),
        ({"days": 1.5}, "days"),
        ({"seed": -1}, "seed"),
        ({"no_signal": "yes"}, "no_signal"),
    ],
)
def test_a_size_out_of_range_is_refused_in_one_line(values: dict[str, Any], word: str) -> None:
    """The error names the field, its value and what is allowed."""
    with pytest.raises(ConfigurationError, match=f"WorldConfig.{word} = ") as caught:
        WorldConfig(**values)
    assert_one_line(caught.value)


def test_another_seed_cannot_continue_a_world(small: Path) -> None:
    """The error says which world is there and what to do."""
    other = WorldConfig(users=1200, products=60, warehouses=4, days=5, seed=9)
    with pytest.raises(SimulationError, match=r"seed=3.*delete it together") as caught:
        load_or_create(small, other, NOW)
    assert_one_line(caught.value)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 99}', '{"format": 1, "config": 3}'])
def test_a_damaged_simulation_json_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    """Never a traceback, never a silent new world."""
    (tmp_path / "simulation.json").write_text(text)
    with pytest.raises(SimulationError, match=r"simulation\.json") as caught:
        load_or_create(tmp_path, None, NOW)
    assert_one_line(caught.value)


@pytest.mark.parametrize("missing", ["simulation.json", "live_databases/orders.db"])
def test_half_a_world_is_refused_in_one_line(tmp_path: Path, missing: str) -> None:
    """Without its file or its rows a world is not continued by guessing."""
    simulate(tmp_path)
    for path in tmp_path.glob(f"{missing}*"):
        path.unlink()
    with pytest.raises(SimulationError, match="delete") as caught:
        simulate(tmp_path, None, NOW + timedelta(hours=1))
    assert_one_line(caught.value)


def test_a_speed_that_stands_still_is_refused(tmp_path: Path, databases: LiveDatabases) -> None:
    """The error names the value."""
    with pytest.raises(UsageError, match="speed = 0") as caught:
        run_live(databases, load_or_create(tmp_path, SMALL, NOW), speed=0, stop=threading.Event())
    assert_one_line(caught.value)


def assert_one_line(error: SynchroChainError) -> None:
    assert "\n" not in str(error)
