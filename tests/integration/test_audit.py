"""The consistency audit finds what is wrong online, and nothing else, while data keep flowing.

One small shop is processed once for the whole module, in cycles that each update the online store,
with late, duplicate and out-of-order changes. Each test leaves it as it was.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from live_logs import TABLES, append_changes, complete_log, numbered, offline_rows, parts_of
from random_log import Logs
from test_cli import synchrochain
from test_feast_repository import delivered_once, moved

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.change_log.offsets import Offset
from pipelines.cli.audit_table import print_audit
from pipelines.errors import RedisUnavailableError
from pipelines.features.views import VIEWS, view_named
from pipelines.lake.clock import utc_now
from pipelines.lake.state import PipelineState
from pipelines.monitoring.audit import AuditError, AuditReport, ReadersLagError, audit
from pipelines.monitoring.offline_side import offline_side
from pipelines.redis_server import connect, ensure_server, stop_server
from pipelines.settings import DATABASE_NAMES, DataConfig

Row = dict[str, Any]
CYCLES = 3


def duplicated(logs: Logs) -> Logs:
    """The same log with every seventh fact delivered twice, the second time at the end."""
    last = max(row["seq"] for rows in logs.values() for row in rows)
    again = {
        table: [{**row, "seq": last + n} for n, row in enumerate(facts[::7], 1)]
        for table in ("clickstream", "orders")
        if (facts := [row for row in logs[table] if row["op"] == "I"])
    }
    return numbered({table: rows + again.get(table, []) for table, rows in logs.items()})


@dataclass
class Shop:
    """A processed shop with its log, and Redis with what was served at first."""

    logs: Logs
    processor: BatchProcessor
    redis: Any

    @property
    def state(self) -> PipelineState:
        return self.processor.state

    def audit(self, **given: Any) -> AuditReport:
        """All keys, without waiting between rounds."""
        given = {"sample": 0, "pause": lambda: None} | given
        return audit(self.processor.data, self.processor.config, **given)

    def newest(self, view: str) -> Row:
        """The offline row of the view with the latest event, of a key that is not deleted."""
        keys = view_named(view).keys
        last = {tuple(r[k] for k in keys): r for r in offline_rows(self.processor, view)}
        there = [
            r for r in last.values() if any(r[n] is not None for n in view_named(view).features)
        ]
        return max(there, key=lambda row: row["event_timestamp"])

    def key_of(self, view: str, row: Row) -> bytes:
        """The Redis hash that holds the view's row."""
        (found,) = (
            key
            for key in _hashes(self)
            if self.redis.hexists(key, f"_ts:{view}")
            and all(_serialized(row[name]) in key for name in view_named(view).keys)
        )
        return bytes(found)

    def put(self, view: str, row: Row, **changed: Any) -> None:
        """Write a row as a reader would, created just now."""
        import pandas as pd

        from pipelines.feast_plugins.repository import open_store

        row = {**row, "created_timestamp": utc_now(), **changed}
        frame = pd.DataFrame({name: [row[name]] for name in view_named(view).schema.names})
        open_store(self.processor.config).write_to_online_store(view, frame)

    def append(self, **rows: Row) -> dict[str, int]:
        """Commit changes of the given tables; their `seq`, by database."""
        last = self.last()
        for database, tables in TABLES.items():
            for table in tables:
                if table in rows:
                    last[database] += 1
                    rows[table]["seq"] = last[database]
        append_changes(self.processor.data, {table: [row] for table, row in rows.items()})
        return last

    def last(self) -> dict[str, int]:
        """The last change of each database."""
        return {name: self._execute(name, "SELECT max(seq) FROM change_log") for name in TABLES}

    def cut(self, last: dict[str, int]) -> None:
        """Remove later changes."""
        for name, seq in last.items():
            self._execute(name, f"DELETE FROM change_log WHERE seq > {seq}")
            self._execute(name, "UPDATE change_log_info SET removed_seq = 0")  # as if never there

    def another(self, table: str, **changed: Any) -> Row:
        """A new change like the table's last one, half an hour old."""
        like = max((r for r in self.logs[table] if r["op"] == "I"), key=lambda row: row["seq"])
        at = utc_now() - timedelta(minutes=30)
        times = {"timestamp", "event_timestamp", "order_timestamp", "updated_at", "committed_at"}
        return {**like, **dict.fromkeys(times & like.keys(), at), **changed}

    def order(self, user: int) -> Row:
        """A new order."""
        return self.another("orders", id=next(_ids), user_id=user, warehouse_id="w1")

    def _execute(self, name: str, statement: str) -> int:
        connection = sqlite3.connect(self.processor.data.db_path / f"{name}.db")
        with connection:
            found = connection.execute(statement).fetchone()
        connection.close()
        return int(found[0]) if found else 0


_ids = itertools.count(1_000_000)


def _serialized(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else int(value).to_bytes(8, "little")


@pytest.fixture(scope="module")
def processed() -> Iterator[Shop]:
    """The shop after several cycles; its Redis ends with the module."""
    folder = Path(tempfile.mkdtemp(prefix="sc-")).resolve()  # short, as a socket's path must be
    logs = moved(
        duplicated(delivered_once(complete_log(5, size=50))), utc_now() - timedelta(hours=1)
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "_MLFLOW_SERVER_ARTIFACT_ROOT"):
            patch.setenv(name, "")  # so that what Feast's plug-in sets is undone
            patch.delenv(name)
        patch.delenv("SYNCHROCHAIN_REDIS_HOST", raising=False)
        patch.setenv("SYNCHROCHAIN_DATA_DIR", str(folder))
        data = DataConfig()
        processor = BatchProcessor(BatchConfig(retention_days=30 * 365), data)
        try:
            rejected = 0
            for part in parts_of(logs, CYCLES):
                append_changes(data, part)
                rejected += sum(processor.run_cycle().quarantined.values())
            assert rejected == 0  # a fact that is delivered twice is an update, not a duplicate
            with connect(ensure_server(data)) as client:
                yield Shop(logs, processor, client)
        finally:
            stop_server(data)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def shop(processed: Shop) -> Iterator[Shop]:
    """The same; what a test writes to Redis, commits or claims is undone."""
    served = {key: processed.redis.hgetall(key) for key in _hashes(processed)}
    last = processed.last()
    yield processed
    for key in _hashes(processed):
        processed.redis.delete(key)
    for key, fields in served.items():
        processed.redis.hset(key, mapping=fields)
    processed.cut(last)
    with closing(sqlite3.connect(processed.processor.config.state_path)) as state, state:
        state.execute("DELETE FROM offsets WHERE reader = 'stream'")
    processed.state.set_metadata("stream", "{}")


def _hashes(shop: Shop) -> list[bytes]:
    return list(shop.redis.scan_iter(_type="hash"))


def unequal(report: AuditReport) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Online only, offline only and unequal values, by view and feature, where there are any."""
    return {
        (name, feature): (figures.left_null, figures.right_null, figures.mismatch)
        for name, view in report.views.items()
        for feature, figures in view.features.items()
        if figures.unequal
    }


def claim(shop: Shop, offsets: dict[str, int]) -> None:
    """Let the stream reader stand there, whatever it has written."""
    shop.state.set_offsets("stream", {name: Offset(seq) for name, seq in offsets.items()})


def test_what_was_processed_is_served(shop: Shop) -> None:
    """Every key of every view, although changes came late, twice and in another order."""
    report = shop.audit()
    assert report.consistency == 1.0
    assert (report.rows, report.unequal_rows, report.rounds) == ([], 0, 1)
    assert report.online == report.last == shop.last()
    for view in VIEWS:
        found = report.views[view.name]
        there = {tuple(r[k] for k in view.keys) for r in offline_rows(shop.processor, view.name)}
        assert found.keys >= len(there)
        assert (found.consistency, found.in_flux) == (1.0, 0)
        assert found.served > 0
        assert set(found.features) == {"event_timestamp", *view.features}
        assert all(figures.total == found.keys for figures in found.features.values())


def test_a_sample_is_as_large_as_asked_for(shop: Shop) -> None:
    """Or as there are keys."""
    every = shop.audit()
    some = shop.audit(sample=2)
    for name, view in some.views.items():
        assert view.keys == min(2, every.views[name].keys)


def test_an_audit_leaves_nothing_behind(shop: Shop) -> None:
    """It reads; its staging folder is gone."""
    home = shop.processor.config.data_dir

    def listed() -> dict[Path, tuple[int, int]]:
        kept = (p for p in home.rglob("*") if "redis" not in p.parts and "-" not in p.suffix)
        return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in kept if p.is_file()}

    before = listed()
    shop.append(orders=shop.order(1))
    shop.audit()
    shop.cut(shop.state.offsets("batch"))
    live = shop.processor.data.db_path
    assert {p: s for p, s in listed().items() if p.parent != live} == {
        p: s for p, s in before.items() if p.parent != live
    }
    assert list((home / "staging").iterdir()) == []


def test_an_altered_number_is_found(shop: Shop) -> None:
    """With how far it is off, and the row."""
    row = shop.newest("user_orders")
    shop.put("user_orders", row, orders_30d=row["orders_30d"] * 3)
    report = shop.audit()
    assert unequal(report) == {("user_orders", "orders_30d"): (0, 0, 1)}
    view = report.views["user_orders"]
    figures = view.features["orders_30d"]
    assert figures.smape == pytest.approx(1.0 / (figures.total - figures.both_null))
    assert view.consistency == 1 - 1 / (view.keys * len(view.features))
    assert 1.0 > report.consistency > view.consistency
    (found,) = report.rows
    assert (found.view, found.keys) == ("user_orders", {"user_id": row["user_id"]})
    assert found.online == {"orders_30d": row["orders_30d"] * 3}
    assert found.offline == {"orders_30d": row["orders_30d"]}
    assert report.unequal_rows == 1


def test_an_altered_bit_is_found(shop: Shop) -> None:
    """Equal means equal."""
    import math

    row = shop.newest("route_conditions")
    near = math.nextafter(row["carbon_cost"], math.inf)
    shop.put("route_conditions", row, carbon_cost=near)
    assert unequal(shop.audit()) == {("route_conditions", "carbon_cost"): (0, 0, 1)}


def test_an_altered_list_is_found(shop: Shop) -> None:
    """With the number of edits."""
    row = shop.newest("session_events")
    actions = row["actions"]
    shop.put("session_events", row, actions=[*actions[1:], "view", "view"])
    report = shop.audit()
    assert unequal(report) == {("session_events", "actions"): (0, 0, 1)}
    view = report.views["session_events"]
    figures = view.features["actions"]
    assert figures.edit_distance is not None
    pairs = figures.total - figures.both_null
    assert 2 <= round(figures.edit_distance * pairs, 6) <= 3


def test_a_value_that_is_gone_is_found(shop: Shop) -> None:
    """And so is one that should not be there."""
    row = shop.newest("user_orders")
    shop.put("user_orders", row, preferred_shipping_method=None)
    assert unequal(shop.audit()) == {("user_orders", "preferred_shipping_method"): (0, 1, 0)}
    rows = offline_rows(shop.processor, "route_conditions")
    row = max((r for r in rows if r["late_rate_24h"] is None), key=lambda r: r["event_timestamp"])
    shop.put("route_conditions", row, late_rate_24h=0.5, event_timestamp=utc_now())
    assert unequal(shop.audit())["route_conditions", "late_rate_24h"][::2] in {(1, 0), (0, 1)}


def test_a_deleted_row_is_found(shop: Shop) -> None:
    """As offline only, in every feature that has a value there."""
    row = shop.newest("session_events")
    shop.redis.delete(shop.key_of("session_events", row))
    report = shop.audit()
    view = view_named("session_events")
    features = ("event_timestamp", *view.features)
    assert unequal(report) == {("session_events", name): (0, 1, 0) for name in features}
    (found,) = report.rows
    assert found.keys == {"session_id": row["session_id"]}
    assert set(found.online.values()) == {None}
    assert found.offline["event_timestamp"] == row["event_timestamp"]


def test_an_emptied_store_is_found(shop: Shop) -> None:
    """Nothing is served, so nothing is consistent but what is null."""
    for key in _hashes(shop):
        shop.redis.delete(key)
    report = shop.audit()
    assert report.consistency < 1.0
    for view in report.views.values():
        assert view.features["event_timestamp"].right_null == view.served > 0


def test_a_row_of_another_time_is_found(shop: Shop) -> None:
    """Even if its values are the same."""
    row = shop.newest("inventory_levels")
    newer = row["event_timestamp"] + timedelta(seconds=1)
    shop.put("inventory_levels", row, event_timestamp=newer)
    report = shop.audit()
    assert unequal(report) == {("inventory_levels", "event_timestamp"): (0, 0, 1)}
    assert report.rows[0].online == {"event_timestamp": newer}


def test_what_has_expired_is_null_on_both_sides(shop: Shop) -> None:
    """Whenever it is looked at."""
    report = shop.audit(now=lambda: utc_now() + timedelta(days=3))
    assert report.consistency == 1.0
    assert report.views["route_conditions"].served == 0
    assert report.views["session_events"].served == 0
    assert report.views["user_orders"].served > 0


def test_a_row_expires_at_the_same_time_on_both_sides(shop: Shop) -> None:
    """To the microsecond."""
    at = shop.newest("route_conditions")["event_timestamp"] + timedelta(days=2)
    last = shop.audit(now=lambda: at).views["route_conditions"]
    gone = shop.audit(now=lambda: at + timedelta(microseconds=1)).views["route_conditions"]
    assert (last.consistency, gone.consistency) == (1.0, 1.0)
    assert last.served == gone.served + 1


def test_a_row_that_expires_during_the_reading_is_still_compared(shop: Shop) -> None:
    """However long the reading takes, times to live count from when it began."""
    ttl = timedelta(days=1)
    newest: dict[str, Row] = {}
    for row in offline_rows(shop.processor, "session_events"):  # in the order of time
        newest[row["session_id"]] = row
    expired = [r for r in newest.values() if r["event_timestamp"] + ttl < utc_now()]
    row = max(expired, key=lambda row: row["event_timestamp"])
    shop.put("session_events", row)
    at = row["event_timestamp"] + ttl
    assert shop.audit(now=lambda: at).views["session_events"].consistency == 1.0


def test_keys_in_flux_are_counted_apart(shop: Shop) -> None:
    """A change that nobody has written yet says nothing against the rest."""
    before = shop.audit()
    shop.append(orders=shop.order(1))
    report = shop.audit()
    assert report.consistency == 1.0
    for name, view in report.views.items():
        assert view.in_flux == (name in ("user_orders", "inventory_levels"))
        assert view.keys == before.views[name].keys - view.in_flux
    assert report.last["orders"] == report.online["orders"] + 1


def test_a_mistake_is_found_beside_keys_in_flux(shop: Shop) -> None:
    """They do not hide it."""
    shop.append(orders=shop.order(1))
    row = shop.newest("route_conditions")
    shop.put("route_conditions", row, congestion=0.123)
    assert unequal(shop.audit()) == {("route_conditions", "congestion"): (0, 0, 1)}


def test_a_region_that_changes_unsettles_what_is_there(shop: Shop) -> None:
    """The small tables count too."""
    shop.append(warehouses=shop.another("warehouses", warehouse_id="w1", op="U"))
    there = {
        (r["warehouse_id"], r["product_id"])
        for r in offline_rows(shop.processor, "inventory_levels")
        if r["warehouse_id"] == "w1"
    }
    assert shop.audit().views["inventory_levels"].in_flux >= len(there) > 0


def test_a_shipment_that_changes_its_route_unsettles_both(shop: Shop) -> None:
    """The route that loses the delivery and the one that gets it."""
    delivered = next(r for r in shop.logs["shipments"] if r["delivered_at"] and r["op"] != "D")
    other = next(r for r in ("r1", "r2", "r3") if r != delivered["route_id"])
    shop.append(shipments={**delivered, "op": "U", "route_id": other})
    assert shop.audit().views["route_conditions"].in_flux == 2


def test_an_audit_of_nothing_but_flux_is_an_error(shop: Shop) -> None:
    """It names the lag, and does not call it consistent."""
    shop.state.rematerialize_all()
    try:
        with pytest.raises(ReadersLagError, match=r"orders [\d,]+, users") as caught:
            shop.audit()
    finally:
        for view in VIEWS:
            shop.state.view_is_materialized(view.name)
    assert caught.value.lag == shop.last()
    assert "\n" not in str(caught.value)


def test_a_view_that_waits_says_nothing_about_the_others(shop: Shop) -> None:
    """Its keys are in flux."""
    shop.state.rematerialize_all()
    for view in VIEWS[1:]:
        shop.state.view_is_materialized(view.name)
    report = shop.audit()
    shop.state.view_is_materialized(VIEWS[0].name)
    first, *others = report.views.values()
    assert (first.keys, first.consistency) == (0, None)
    assert first.in_flux > 0
    assert all(view.consistency == 1.0 and not view.in_flux for view in others)


def test_a_reader_that_claims_too_much_is_found(shop: Shop) -> None:
    """Its offset says that it wrote what is not there."""
    session = shop.another("sessions", session_id="s99", op="I", user_id=1)
    click = shop.another("clickstream", session_id="s99", event_id=next(_ids), user_id=1)
    claim(shop, shop.append(sessions=session, clickstream=click, orders=shop.order(2)))
    report = shop.audit()
    assert not any(view.in_flux for view in report.views.values())
    found = unequal(report)
    assert found["session_events", "event_timestamp"] == (0, 1, 0)
    assert found["user_intent", "event_timestamp"] in {(0, 0, 1), (0, 1, 0)}
    assert found["user_orders", "event_timestamp"] in {(0, 0, 1), (0, 1, 0)}
    assert {"session_id": "s99"} in [row.keys for row in report.rows]


def test_a_reader_that_wrote_first_is_believed(shop: Shop) -> None:
    """What it wrote counts as soon as its offset says so, before any batch cycle."""
    at = utc_now() - timedelta(minutes=20)
    like = shop.logs["routes"][-1]
    changed = {**like, "op": "U", "updated_at": at, "committed_at": at, "congestion": 0.25}
    last = shop.append(routes=changed)
    view = view_named("route_conditions")
    data, config = shop.processor.data, shop.processor.config
    with offline_side(data, config, shop.state, lambda _step, _rows: None) as offline:
        keys = offline.sample(view, [], 0)
        (row,) = offline.newest(view, keys, datetime(1970, 1, 1)).to_pylist()
    shop.put("route_conditions", row)
    assert shop.audit().views["route_conditions"].in_flux == 1
    claim(shop, last)
    report = shop.audit()
    assert report.consistency == 1.0
    assert report.views["route_conditions"].in_flux == 0


def test_keys_of_deferred_changes_are_in_flux(shop: Shop) -> None:
    """Until a cycle has passed it, wherever the stream stands."""
    last = shop.append(orders=shop.order(1))
    claim(shop, last)
    assert unequal(shop.audit())
    deferred = {"orders": [last["orders"]]}
    report = shop.audit(deferred=lambda: deferred)
    assert report.consistency == 1.0
    assert report.views["user_orders"].in_flux == 1
    done = {"orders": [last["orders"] - 1]}
    assert unequal(shop.audit(deferred=lambda: done))


def test_what_the_streamer_has_recorded_as_deferred_is_in_flux(shop: Shop) -> None:
    """Its report is read after its offset, which it moves afterwards."""
    last = shop.append(orders=shop.order(1))
    claim(shop, last)
    deferred = {"orders": [last["orders"]], "users": []}
    shop.state.set_metadata("stream", json.dumps({"pid": 1, "deferred": deferred}))
    report = shop.audit()
    assert report.consistency == 1.0
    assert report.views["user_orders"].in_flux == 1
    shop.state.set_metadata("stream", json.dumps({"pid": 1, "deferred": {"orders": []}}))
    assert unequal(shop.audit())


def test_a_warehouse_that_has_moved_is_elsewhere_in_rows_from_then_on(processed: Shop) -> None:
    """The rows of its positions stay as they were; the next change of one says where it is."""
    moved = processed.another("warehouses", warehouse_id="w1", op="U", region="west")
    processed.append(warehouses=moved)
    processed.processor.run_cycle()
    assert processed.audit().consistency == 1.0
    rows = offline_rows(processed.processor, "inventory_levels")
    assert "west" not in {row["warehouse_region"] for row in rows}
    stocked = processed.another("inventory", warehouse_id="w1", op="U")
    processed.append(inventory=stocked)
    processed.processor.run_cycle()
    report = processed.audit()
    assert report.consistency == 1.0
    assert not any(view.in_flux for view in report.views.values())
    rows = offline_rows(processed.processor, "inventory_levels")
    assert "west" in {row["warehouse_region"] for row in rows}


def test_a_change_during_the_reading_unsettles_its_keys(shop: Shop) -> None:
    """Whether it was seen online or not, nobody can say."""
    order = shop.order(1)

    def meanwhile(step: str, _rows: int) -> None:
        if step == "read online" and "seq" not in changed:
            changed["seq"] = shop.append(orders=order)["orders"]

    changed: dict[str, int] = {}
    report = shop.audit(progress=meanwhile)
    assert report.consistency == 1.0
    assert report.views["user_orders"].in_flux == 1


@pytest.mark.parametrize("when", ["read online", "compare"])
def test_keys_come_to_rest_when_a_cycle_has_passed_them(processed: Shop, when: str) -> None:
    """One that runs while the audit does, between its steps too; then they are compared."""
    shop = processed
    ran = []

    def meanwhile(step: str, _rows: int) -> None:
        if step == when and not ran:
            shop.append(orders=shop.order(1))
            ran.append(shop.processor.run_cycle())

    report = shop.audit(progress=meanwhile)
    assert len(ran) == 1
    assert report.consistency == 1.0
    assert not any(view.in_flux for view in report.views.values())
    assert report.rounds == (2 if when == "read online" else 1)


def test_a_sampled_key_is_judged_by_all_that_bears_on_it(processed: Shop) -> None:
    """Here by a delivery that has moved to a route which is not in the sample."""
    sampled = min(("r1", "r2", "r3"), key=lambda route: hashlib.md5(route.encode()).hexdigest())
    other = next(route for route in ("r1", "r2", "r3") if route != sampled)

    def report(number: int, route: str, minutes: float, op: str = "I") -> None:
        at = utc_now() - timedelta(minutes=minutes)
        given = {"shipment_id": number, "route_id": route, "op": op, "order_id": None}
        times = {"delivered_at": at, "committed_at": utc_now()}
        processed.append(shipments=processed.another("shipments", **given, **times))

    first, last = next(_ids), next(_ids)
    report(first, sampled, minutes=10)
    report(last, sampled, minutes=5)  # stays the newest, and the first lies in its windows
    processed.processor.run_cycle()
    report(first, other, minutes=10, op="U")
    processed.processor.run_cycle()
    view = processed.audit(sample=1).views["route_conditions"]
    assert (view.keys, view.served, view.consistency) == (1, 1, 1.0)


def test_a_cycle_between_rounds_settles(processed: Shop) -> None:
    """The keys that waited are compared, and counted once."""
    processed.append(orders=processed.order(2))
    every = processed.audit()
    report = processed.audit(pause=processed.processor.run_cycle)
    assert (report.consistency, report.rounds) == (1.0, 2)
    for name, view in report.views.items():
        assert view.in_flux == 0
        assert view.keys == every.views[name].keys + every.views[name].in_flux


def test_the_report_is_one_json_document(shop: Shop) -> None:
    """All figures are in it."""
    found = json.loads(json.dumps(shop.audit(sample=1).as_dict(), default=str))
    assert found["consistency"] == 1.0
    figures = found["views"]["session_events"]["features"]["actions"]
    assert set(figures) == {
        *("total", "both_null", "left_null", "right_null", "mismatch"),
        *("smape", "edit_distance"),
    }


def test_the_report_can_be_read(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Views, features, the rows that differ, and the headline."""
    row = shop.newest("user_orders")
    shop.put("user_orders", row, orders_30d=12_345)
    print_audit(shop.audit())
    shown = capsys.readouterr().out
    for part in ("user_intent", "orders_30d", "smape", f"user_id={row['user_id']}", "12,345"):
        assert part in shown
    assert "consistency: 9" in shown


def test_values_remembered_from_before_are_never_compared(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When Redis is away, that is the answer."""
    monkeypatch.setenv("SYNCHROCHAIN_REDIS_HOST", "127.0.0.1")
    monkeypatch.setenv("SYNCHROCHAIN_REDIS_PORT", "1")
    with pytest.raises(RedisUnavailableError) as caught:
        shop.audit()
    assert "\n" not in str(caught.value)


def test_without_anything_applied_there_is_nothing_to_compare(tmp_path: Path) -> None:
    """And nothing is made."""
    home = tmp_path / "new"
    with pytest.raises(AuditError, match="batch --once"):
        audit(DataConfig(data_dir=home), BatchConfig(data_dir=home))
    assert not home.exists()


def test_without_published_features_there_is_nothing_to_compare(tmp_path: Path) -> None:
    """As before the first cycle."""
    config = BatchConfig(data_dir=tmp_path)
    PipelineState(config.state_path)
    config.registry_path.parent.mkdir(parents=True)
    config.registry_path.touch()
    with pytest.raises(AuditError, match="no features are published"):
        audit(DataConfig(data_dir=tmp_path), config)


def test_every_database_has_its_lag() -> None:
    """Those that are not behind are left out of the message."""
    error = ReadersLagError({**dict.fromkeys(DATABASE_NAMES, 0), "users": 1234})
    assert "(users 1,234)" in str(error)


def test_the_command_that_an_audit_names_mends_what_it_found(
    processed: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also rows under each other's keys, of which the check of a cycle takes one for newer."""
    monkeypatch.setenv("SYNCHROCHAIN_BATCH_RETENTION_DAYS", str(30 * 365))
    for view in VIEWS:
        held = [
            key for key in _hashes(processed) if processed.redis.hexists(key, f"_ts:{view.name}")
        ]
        for one, other in zip(held[::2], held[1::2], strict=False):
            for old, new in ((one, b"away"), (other, one), (b"away", other)):
                processed.redis.rename(old, new)
    found = synchrochain("audit")
    assert found.status == 1
    (command,) = re.findall("`synchrochain (.*?)`", found.complaint)
    assert synchrochain(*command.split()).status == 0
    assert synchrochain("audit").status == 0
