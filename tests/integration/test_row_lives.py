"""What I, U and D mean for a row that comes twice, comes again, or was rejected at first."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pytest
from conftest import Clock
from test_bad_input import ORDER, change, logged, rejected

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.lake.rejected import KEPT_KEY
from pipelines.lake.workspace import read_files
from pipelines.live_databases import LiveDatabases
from pipelines.settings import DataConfig
from pipelines.tables.known import BY_NAME

Row = dict[str, Any]
START = datetime(2024, 3, 31, 12)
USER = {"user_id": 77, "region": "r", "signed_up_at": "2024-01-01 00:00:00"}
PRODUCT = {"product_id": "p1", "category": "c", "unit_price": 1, "weight_kg": 1}
WAREHOUSE = {"warehouse_id": "w1", "region": "r", "latitude": 0, "longitude": 0, "capacity": 9}
SESSION = {
    "session_id": "s77",
    "user_id": 77,
    "products_viewed": "[]",
    "actions_performed": "[]",
    "session_duration": 5,
    "timestamp": "2024-03-31 11:00:00.000000",
    "intent_signals": "{}",
}
CLICK = {
    "event_id": 1,
    "session_id": "s77",
    "user_id": 77,
    "product_id": None,
    "action": "view",
    "time_on_page": 3.0,
    "scroll_depth": 0.5,
    "event_timestamp": "2024-03-31 11:59:59.000000",
}


@pytest.fixture
def shop(processor: BatchProcessor, data: DataConfig) -> BatchProcessor:
    """A shop with one user, one product and one warehouse, published."""
    with LiveDatabases.open(data) as databases:
        databases.create()
    change(data, "users", USER | {"user_id": 1})
    change(data, "products", PRODUCT)
    change(data, "warehouses", WAREHOUSE)
    processor.run_cycle(update=False)
    return processor


def rename(data: DataConfig, old: int, row: Row) -> int:
    """An UPDATE that changes an order's key, as the trigger logs it; the number of its U."""
    change(data, "orders", row | {"id": old}, op="D")
    seq = change(data, "orders", row, op="U")
    with closing(sqlite3.connect(data.db_path / "orders.db")) as connection, connection:
        connection.execute("UPDATE change_log SET old_key = ? WHERE seq = ?", (f"[{old}]", seq))
    return seq


def ops(processor: BatchProcessor, log: str = "orders") -> dict[int, str]:
    """`op` by `seq`, as it is published."""
    rows = logged(processor, log)
    assert len({row["seq"] for row in rows}) == len(rows)
    return {row["seq"]: row["op"] for row in rows}


def waiting(processor: BatchProcessor, log: str) -> list[int]:
    """The rows that are kept for their parent to come."""
    files = processor.state.files("rejected", log)
    query = f"SELECT seq FROM {read_files(files)} WHERE waits ORDER BY seq" if files else ""
    return [seq for (seq,) in duckdb.sql(query).fetchall()] if files else []


# What I and U mean


@pytest.mark.parametrize("apart", [False, True])
def test_a_reused_id_is_another_order(shop: BatchProcessor, data: DataConfig, apart: bool) -> None:
    """SQLite gives the highest id again after its row was deleted; both orders happened."""
    first = change(data, "orders", ORDER)
    if apart:
        shop.run_cycle(update=False)
    gone = change(data, "orders", ORDER, op="D")
    if apart:
        shop.run_cycle(update=False)
    second = change(data, "orders", ORDER | {"quantity": 5})
    third = change(data, "orders", ORDER | {"quantity": 6})
    shop.run_cycle(update=False)
    assert ops(shop) == {first: "I", gone: "D", second: "I", third: "U"}
    assert rejected(shop, "orders") == {}


@pytest.mark.parametrize("apart", [False, True])
def test_an_update_of_a_rejected_order_is_its_insertion(
    shop: BatchProcessor, data: DataConfig, apart: bool
) -> None:
    """It was mended; the first good row is the fact, and the line of the bad one stays."""
    bad = change(data, "orders", ORDER | {"quantity": 0})
    worse = change(data, "orders", ORDER | {"price": "x"}, op="U")
    if apart:
        shop.run_cycle(update=False)
    mended = change(data, "orders", ORDER, op="U")
    shipped = change(data, "orders", ORDER | {"status": "shipped"}, op="U")
    shop.run_cycle(update=False)
    assert ops(shop) == {mended: "I", shipped: "U"}
    assert set(rejected(shop, "orders")) == {bad, worse}


def test_an_update_of_an_order_never_seen_stays_an_update(
    shop: BatchProcessor, data: DataConfig
) -> None:
    """It was there before the triggers were; of when it was ordered nothing is known to be new."""
    seq = change(data, "orders", ORDER, op="U")
    shop.run_cycle(update=False)
    assert ops(shop) == {seq: "U"}


@pytest.mark.parametrize("apart", [False, True])
def test_an_order_whose_key_changes_is_the_same_order(
    shop: BatchProcessor, data: DataConfig, apart: bool
) -> None:
    """The old id is free, the new one is taken."""
    first = change(data, "orders", ORDER)
    if apart:
        shop.run_cycle(update=False)
    moved = rename(data, ORDER["id"], ORDER | {"id": 5})
    again = rename(data, 5, ORDER | {"id": 6})
    if apart:
        shop.run_cycle(update=False)
    replaced = change(data, "orders", ORDER | {"id": 6})
    reused = change(data, "orders", ORDER)
    shop.run_cycle(update=False)
    found = {seq: op for seq, op in ops(shop).items() if op != "D"}
    assert found == {first: "I", moved: "U", again: "U", replaced: "U", reused: "I"}


@pytest.mark.parametrize("apart", [False, True])
def test_a_rejected_order_that_is_mended_under_another_key_counts_once(
    shop: BatchProcessor, data: DataConfig, apart: bool
) -> None:
    """Even when what its first row waited for comes after all."""
    orphan = change(data, "orders", ORDER | {"user_id": 77})
    if apart:
        shop.run_cycle(update=False)
    mended = rename(data, ORDER["id"], ORDER | {"id": 5})
    shop.run_cycle(update=False)
    assert ops(shop)[mended] == "I"
    change(data, "users", USER)
    shop.run_cycle(update=False)
    shop.run_cycle(update=False)
    assert "I" not in {op for seq, op in ops(shop).items() if seq != mended}
    assert orphan in ops(shop) or orphan in rejected(shop, "orders")


# Rows that wait


def test_a_late_parent_lets_its_rows_in(shop: BatchProcessor, data: DataConfig) -> None:
    """They leave the quarantine, and count in the features as if they had come in time."""
    waits = change(data, "orders", ORDER | {"user_id": 77})
    other = change(data, "orders", ORDER | {"id": 3, "user_id": 78})
    report = shop.run_cycle(update=False)
    assert report.quarantined == {"orders": 2}
    assert shop.run_cycle(update=False).resolved == {}
    change(data, "users", USER)
    report = shop.run_cycle(update=False)
    assert (report.resolved, report.accepted) == ({"orders": 1}, {"users": 1})
    assert ops(shop) == {waits: "I"}
    assert rejected(shop, "orders") == {other: "user_id = 78 is not in users"}
    assert waiting(shop, "orders") == [other]
    assert report.feature_rows["user_orders"] == 1
    assert shop.state.resolved_changes(0) == (report.cycle, {"orders": [waits]})
    change(data, "users", USER | {"user_id": 78})
    assert shop.run_cycle(update=False).resolved == {"orders": 1}
    assert not list((shop.config.quarantine_path / "orders").iterdir())
    assert shop.run_cycle(update=False).resolved == {}
    assert ops(shop) == {waits: "I", other: "I"}


def test_a_chain_of_parents_is_let_in_at_once(shop: BatchProcessor, data: DataConfig) -> None:
    """The click's session waits for its user; when that comes, all three are there."""
    session = change(data, "user_sessions", SESSION)
    click = change(data, "clickstream", CLICK)
    assert shop.run_cycle(update=False).quarantined == {"sessions": 1, "clickstream": 1}
    user = change(data, "users", USER)
    assert shop.run_cycle(update=False).resolved == {"sessions": 1, "clickstream": 1}
    assert (ops(shop, "sessions"), ops(shop, "clickstream")) == ({session: "I"}, {click: "I"})
    assert user in ops(shop, "users")


def test_a_parent_that_was_rejected_and_mended_lets_its_rows_in(
    shop: BatchProcessor, data: DataConfig
) -> None:
    """The update that mends it counts."""
    bad = change(data, "users", USER | {"region": None})
    waits = change(data, "orders", ORDER | {"user_id": 77})
    shop.run_cycle(update=False)
    mended = change(data, "users", USER, op="U")
    assert shop.run_cycle(update=False).resolved == {"orders": 1}
    assert ops(shop) == {waits: "I"}
    assert mended in ops(shop, "users")
    assert list(rejected(shop, "users")) == [bad]


def test_a_waiting_row_that_is_mended_counts_once(shop: BatchProcessor, data: DataConfig) -> None:
    """The update names another user; that the first one comes later makes no second order."""
    waits = change(data, "orders", ORDER | {"user_id": 77})
    shop.run_cycle(update=False)
    mended = change(data, "orders", ORDER, op="U")
    shop.run_cycle(update=False)
    assert ops(shop) == {mended: "I"}
    change(data, "users", USER)
    shop.run_cycle(update=False)
    assert ops(shop) == {mended: "I", waits: "U"}


def test_a_waiting_row_that_is_deleted_is_waited_for_no_longer(
    shop: BatchProcessor, data: DataConfig
) -> None:
    """A session that is gone does not come alive; an order that was archived did happen."""
    session = change(data, "user_sessions", SESSION)
    order = change(data, "orders", ORDER | {"user_id": 77})
    shop.run_cycle(update=False)
    change(data, "user_sessions", SESSION, op="D")
    change(data, "orders", ORDER | {"user_id": 77}, op="D")
    shop.run_cycle(update=False)
    change(data, "users", USER)
    assert shop.run_cycle(update=False).resolved == {"orders": 1}
    assert ops(shop)[order] == "I"
    assert session not in ops(shop, "sessions")
    reason = rejected(shop, "user_sessions")[session]
    assert reason.startswith("user_id = 77 is not in users; given up in cycle ")
    assert reason.endswith(": the row was deleted, or has another key")


def test_rows_wait_no_longer_than_the_retention(
    data: DataConfig, shop: BatchProcessor, clock: Clock
) -> None:
    """Then the quarantine says that they are given up."""
    config = BatchConfig(data_dir=shop.config.data_dir, retention_days=30)
    processor = BatchProcessor(config, data, clock=clock)
    clock.now = START + timedelta(days=29)
    waits = change(data, "orders", ORDER | {"user_id": 77})
    processor.run_cycle(update=False)
    assert waiting(processor, "orders") == [waits]
    clock.now += timedelta(days=2)
    report = processor.run_cycle(update=False)
    over = f"given up in cycle {report.cycle}: 30 days have passed"
    assert rejected(processor, "orders") == {waits: f"user_id = 77 is not in users; {over}"}
    assert waiting(processor, "orders") == []
    change(data, "users", USER)
    assert processor.run_cycle(update=False).resolved == {}


def test_a_row_with_a_fast_clock_waits_for_its_time(
    shop: BatchProcessor, data: DataConfig, clock: Clock
) -> None:
    """What lay in the future when it was committed does not lie there for ever."""
    clock.now = START
    early = change(data, "orders", ORDER | {"order_timestamp": "2024-03-31 12:30:00"})
    wrong = change(data, "orders", ORDER | {"id": 2, "order_timestamp": "2024-03-31 12:30:00"})
    with closing(sqlite3.connect(data.db_path / "orders.db")) as connection, connection:
        connection.execute(
            "UPDATE change_log SET row = json_set(row, '$.quantity', 0) WHERE seq = ?", (wrong,)
        )
    shop.run_cycle(update=False)
    assert waiting(shop, "orders") == [early]
    clock.now = START + timedelta(minutes=29)
    assert shop.run_cycle(update=False).resolved == {}
    clock.now = START + timedelta(minutes=31)
    assert shop.run_cycle(update=False).resolved == {"orders": 1}
    assert ops(shop) == {early: "I"}
    assert list(rejected(shop, "orders")) == [wrong]


def test_what_an_earlier_version_quarantined_is_looked_at_again(
    shop: BatchProcessor, data: DataConfig
) -> None:
    """Its files alone are left of the rows: orphans, and second insertions after a deletion."""
    first = change(data, "orders", ORDER)
    orphan = change(data, "orders", ORDER | {"id": 2, "user_id": 77})
    bad = change(data, "orders", ORDER | {"id": 3, "quantity": 0})
    shop.run_cycle(update=False)
    files = shop.state.files("rejected", "orders")
    shop.state.forget_files([file.path for file in files])
    for file in files:
        file.path.unlink()
    shop.state.forget_metadata(KEPT_KEY)
    change(data, "users", USER)
    mended = change(data, "orders", ORDER | {"id": 3}, op="U")
    report = shop.run_cycle(update=False)
    assert report.resolved == {"orders": 1}
    assert ops(shop) == {first: "I", orphan: "I", mended: "I"}
    assert list(rejected(shop, "orders")) == [bad]


def test_what_is_kept_no_longer_is_not_read_from_the_quarantine_again(
    shop: BatchProcessor, data: DataConfig
) -> None:
    """The lines there are for people: a deletion of what was never accepted waits for nothing."""
    change(data, "user_sessions", SESSION)
    shop.run_cycle(update=False)
    change(data, "user_sessions", SESSION, op="D")
    for _ in range(2):
        shop.run_cycle(update=False)
        assert shop.state.files("rejected", "sessions") == []
        change(data, "products", PRODUCT, op="U")


# All of it at random


@dataclass
class Obvious:
    """The rules, one row after the other, with everything in memory."""

    users: set[int] = field(default_factory=lambda: {1})
    published: dict[int, tuple[Row, str]] = field(default_factory=dict)
    waiting: dict[int, Row] = field(default_factory=dict)
    rejected: set[int] = field(default_factory=set)
    rejected_keys: set[int] = field(default_factory=set)

    def cycle(self, changes: list[Row], users: set[int]) -> None:
        """Take in what a cycle brings."""
        self.users |= users
        good: dict[int, Row] = {}
        for entry in [*self.waiting.values(), *changes]:
            row = entry["row"]
            self.waiting.pop(entry["seq"], None)
            if entry["op"] == "D" or (row["quantity"] > 0 and row["user_id"] in self.users):
                good[entry["seq"]] = entry
                continue
            self.rejected_keys.add(row["id"])
            if row["quantity"] > 0:
                self.waiting[entry["seq"]] = entry
            else:
                self.rejected.add(entry["seq"])
        every = {seq: entry for seq, (entry, _) in self.published.items()} | good
        alive: dict[int, list[int]] = {}
        lives: list[list[int]] = []
        ended: list[int] = []
        for seq in sorted(every):
            key, op, old = every[seq]["row"]["id"], every[seq]["op"], every[seq]["old"]
            if op == "D":
                ended = alive.pop(key, [])
                self.published[seq] = (every[seq], "D")
                continue
            if old is not None and ended:
                alive[key] = ended
            if key not in alive:
                alive[key] = []
                lives.append(alive[key])
            alive[key].append(seq)
        for life in lives:
            known = any(seq in self.published for seq in life)
            for place, seq in enumerate(life):
                if seq in self.published:
                    continue
                entry = every[seq]
                mends = {entry["row"]["id"], entry["old"]} & self.rejected_keys
                fact = not known and place == 0 and (entry["op"] == "I" or mends)
                self.published[seq] = (entry, "I" if fact else "U")


def random_changes(rng: random.Random, first: int) -> list[Row]:
    """Changes of orders with four ids, whatever an application may do to them."""
    live: dict[int, Row] = {}
    found: list[Row] = []
    clean: set[int] = set()  # keys none of whose rows waits

    def add(op: str, row: Row, old: int | None = None) -> None:
        found.append({"seq": first + len(found), "op": op, "row": row, "old": old})

    for _ in range(60):
        key = rng.choice([1, 2, 3, 4])
        row = ORDER | {
            "id": key,
            "user_id": rng.choice([1, 1, 77, 78]),
            "quantity": rng.choice([0, 1, 2, 3]),
        }
        if key not in live or rng.random() < 0.2:
            clean.add(key)
            add("I", row)
            live[key] = row
        elif rng.random() < 0.3:
            add("D", live.pop(key))
        elif rng.random() < 0.2 and key in clean and (free := {1, 2, 3, 4} - live.keys()):
            add("D", live.pop(key))
            new = rng.choice(sorted(free))
            live[new] = row = row | {"id": new, "user_id": 1}
            clean.add(new)
            add("U", row, key)
        else:
            add("U", row)
            live[key] = row
        if row["user_id"] != 1:
            clean.discard(row["id"])
    return found


@pytest.mark.parametrize("seed", range(12))
def test_any_sequence_in_any_cycles_means_what_the_rules_say(
    shop: BatchProcessor, data: DataConfig, seed: int
) -> None:
    """Insertions, replacements, updates, deletions, changed keys, rejected rows, late parents."""
    rng = random.Random(seed)
    changes = random_changes(rng, 1)
    obvious = Obvious()
    missing = [77, 78]
    while changes:
        size = rng.randrange(1, 15)
        part, changes = changes[:size], changes[size:]
        for entry in part:
            seq = change(data, "orders", entry["row"], entry["op"])
            assert seq == entry["seq"]
            if entry["old"] is not None:
                with closing(sqlite3.connect(data.db_path / "orders.db")) as live, live:
                    old = json.dumps([entry["old"]])
                    live.execute("UPDATE change_log SET old_key = ? WHERE seq = ?", (old, seq))
        users = set()
        if missing and rng.random() < 0.3:
            users.add(missing.pop())
            change(data, "users", USER | {"user_id": max(users)})
        shop.run_cycle(update=False)
        obvious.cycle(part, users)
        assert ops(shop) == {seq: op for seq, (_, op) in obvious.published.items()}
        assert waiting(shop, "orders") == sorted(obvious.waiting)
        assert set(rejected(shop, "orders")) == obvious.rejected | obvious.waiting.keys()
    assert BY_NAME["orders"].append_only
