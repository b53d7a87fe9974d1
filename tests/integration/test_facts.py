"""A fact counts once in both flows, whatever becomes of its record, its key and its parents."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from both_flows import BothFlows
from conftest import Clock
from stream_rows import DAY, HOUR, T, click, order, product, session, user, warehouse

Row = dict[str, Any]
Entry = tuple[str, Row]
IDS = range(1, 5)
MISSING = 3
"""How many parents of a history come late, if they come at all."""


@dataclass
class Fact:
    """One order or click, whatever its record's key is."""

    seqs: list[int] = field(default_factory=list)
    from_before: bool = False
    """Whether it was there before the triggers were."""


@dataclass
class Histories:
    """What an application does to a few records at a time, and to how many things these belong."""

    table: str
    rng: random.Random
    count: int
    now: datetime = T
    seq: int = 0
    facts: list[Fact] = field(default_factory=list)
    live: dict[int, tuple[Fact, Row]] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)

    def row(self, history: int, key: int, at: datetime) -> Row:
        """A record that may break a rule or lack its parent."""
        parent = self.rng.choice([0, 0, 0, 0, *range(1, MISSING + 1)])
        bad = self.rng.random() < 0.15
        if self.table == "orders":
            wanted = 1 if parent == 0 else 10 * history + 1000 + parent
            return order(key, at, user_id=wanted, quantity=0 if bad else 1)
        wanted = "s1" if parent == 0 else f"late {history} {parent}"
        scrolled = 2.0 if bad else 0.5
        return click(key, at, session_id=wanted, scroll_depth=scrolled, action="purchase")

    def parent(self) -> Entry:
        """One that came late."""
        history, number = self.rng.randrange(self.count), self.rng.randrange(1, MISSING + 1)
        if self.table == "orders":
            row = user(10 * history + 1000 + number)
            return "users", row | {"op": "I", "committed_at": self.now}
        return "sessions", self._changed(session(f"late {history} {number}", self.now), "I")

    def step(self) -> list[Entry]:
        """The next changes of one record."""
        rng = self.rng
        self.now += rng.randrange(0, 120) * HOUR / 60
        history = rng.randrange(self.count)
        key = 10 * history + rng.choice(IDS)
        if key not in self.live:
            before = key not in self.used and rng.random() < 0.1
            self.used.add(key)
            at = self.now - rng.choice([0, 0, 1, 50]) * DAY / 2
            self.facts.append(Fact(from_before=before))
            return [self._put("U" if before else "I", self.facts[-1], self.row(history, key, at))]
        fact, old = self.live[key]
        time = "order_timestamp" if self.table == "orders" else "event_timestamp"
        at = rng.choice([old[time], old[time], self.now, self.now - 40 * DAY])
        what = rng.random()
        if what < 0.2:
            return [self._put("I", fact, self.row(history, key, at))]
        if what < 0.4:
            del self.live[key]
            return [self._gone(old)]
        free = [k for k in (10 * history + n for n in IDS) if k not in self.live]
        if what < 0.6 and free:
            del self.live[key]
            new = rng.choice(free)
            self.used.add(new)
            deleted = self._gone(old)
            table, row = self._put("U", fact, self.row(history, new, old[time]))
            return [deleted, (table, row | {"old_key": json.dumps([key])})]
        return [self._put("U", fact, self.row(history, key, old[time]))]

    def _put(self, op: str, fact: Fact, row: Row) -> Entry:
        self.live[row["id" if self.table == "orders" else "event_id"]] = (fact, row)
        entry = self._changed(row, op)
        fact.seqs.append(self.seq)
        return self.table, entry

    def _gone(self, row: Row) -> Entry:
        return self.table, self._changed(row, "D")

    def _changed(self, row: Row, op: str) -> Row:
        self.seq += 1
        return {**row, "op": op, "committed_at": self.now}


def wrong(flows: BothFlows, histories: Histories) -> list[str]:
    """What does not count as often as it should, or not in both flows."""
    table, found = histories.table, []
    published = flows.published(table)
    for fact in histories.facts:
        accepted = [published[seq]["op"] for seq in fact.seqs if seq in published]
        count = accepted.count("I")
        if count != bool(accepted) and not (fact.from_before and count == 0):
            found.append(f"{fact}: {accepted}")
    batch, hot = flows.facts(table), flows.hot_facts(table)
    if batch != hot:
        found.append(f"batch only: {sorted(batch - hot)}; stream only: {sorted(hot - batch)}")
    return found


def furnished(flows: BothFlows) -> BothFlows:
    """A shop with one parent of each kind."""
    long_ago = {"op": "I", "committed_at": T - 400 * DAY}
    flows.log(
        [
            ("users", user(1) | long_ago),
            ("sessions", session("s1", T - 400 * DAY) | long_ago),
            ("products", product("p1") | long_ago),
            ("warehouses", warehouse("w1") | long_ago),
        ]
    )
    flows.stream()
    flows.cycle()
    return flows


def run(folder: Path, seed: int, table: str, count: int, steps: int) -> list[str]:
    """What was wrong after some micro-batch or cycle of random histories, at the first time."""
    rng = random.Random(seed)
    clock = Clock(T + 1000 * DAY)
    size = rng.choice([1, 7, 1000])
    flows = furnished(
        BothFlows(folder, clock, lateness=rng.choice([DAY / 2, 3 * DAY]), batch_size=size)
    )
    histories = Histories(table, rng, count)
    histories.seq = 2 if table == "clickstream" else 0
    try:
        while steps > 0:
            entries: list[Entry] = []
            for _ in range(rng.randrange(1, 2 + steps // 3)):
                entries += [histories.parent()] if rng.random() < 0.1 else histories.step()
                steps -= 1
            flows.log(entries)
            if rng.random() < 0.6:
                flows.stream()
            if rng.random() < 0.6:
                flows.cycle()
                flows.stream()
                if found := wrong(flows, histories):
                    return found
            if rng.random() < 0.5:
                flows.stream()
                flows.evict()
            if rng.random() < 0.2:
                flows.restart()
        flows.stream()
        flows.cycle()
        flows.stream()
        return wrong(flows, histories)
    finally:
        flows.close()


@pytest.fixture
def flows(tmp_path: Path) -> Iterator[BothFlows]:
    """Both flows over a furnished shop."""
    flows = furnished(BothFlows(tmp_path, Clock(T + 1000 * DAY), lateness=DAY))
    yield flows
    flows.close()


def put(row: Row, op: str = "I", **more: Any) -> Entry:
    """A change of an order."""
    return "orders", {**row, "op": op, "committed_at": T + 900 * DAY, **more}


def comes(number: int) -> Entry:
    """A user at last."""
    return "users", {**user(number), "op": "I", "committed_at": T + 900 * DAY}


@pytest.mark.parametrize("restarted", [False, True])
def test_an_order_that_is_replaced_long_after_it_was_forgotten_is_no_new_one(
    flows: BothFlows, restarted: bool
) -> None:
    """INSERT OR REPLACE gives it a time within the hot window; a deleted one's id is free."""
    flows.log([put(order(number, T)) for number in (1, 2, 3)])
    flows.log([put(order(9, T + 60 * DAY)), put(order(3, T), "D")])
    flows.stream()
    flows.evict()
    flows.cycle()
    if restarted:
        flows.restart()
    flows.log([put(order(number, T + (59 + number) * DAY)) for number in (1, 2, 3)])
    flows.stream()
    flows.cycle()
    flows.stream()
    assert flows.hot_facts("orders") == flows.facts("orders") == {4, 8}
    assert [flows.published("orders")[seq]["op"] for seq in (6, 7)] == ["U", "U"]


@pytest.mark.parametrize("apart", [False, True])
def test_an_order_from_before_the_triggers_is_no_new_one_when_it_is_replaced(
    flows: BothFlows, apart: bool
) -> None:
    """Once an update has said that it is there."""
    flows.log([put(order(5, T), "U")])
    if apart:
        flows.stream()
    flows.log([put(order(5, T + HOUR)), put(order(6, T + HOUR))])
    flows.stream()
    flows.cycle()
    assert flows.hot_facts("orders") == flows.facts("orders") == {3}


@pytest.mark.parametrize("apart", [False, True])
def test_an_order_that_an_update_mends_long_after_its_time_is_no_new_one_when_it_is_replaced(
    flows: BothFlows, apart: bool
) -> None:
    """The stream leaves the old one to the batch flow, and what follows it too."""
    flows.log([put(order(3, T, quantity=0)), put(order(9, T + 60 * DAY))])
    flows.stream()
    flows.evict()
    flows.log([put(order(3, T), "U")])
    if apart:
        flows.stream()
    flows.log([put(order(3, T + 60 * DAY))])
    flows.stream()
    flows.cycle()
    flows.stream()
    assert flows.hot_facts("orders") == flows.facts("orders") == {2}
    assert [flows.published("orders")[seq]["op"] for seq in (3, 4)] == ["I", "U"]


@pytest.mark.parametrize("replaced", [False, True])
def test_an_order_that_was_deleted_and_forgotten_stays_so_when_a_row_of_it_is_let_in(
    flows: BothFlows, replaced: bool
) -> None:
    """Whichever row it was that had to wait for the user, the id is another order's."""
    begun = [put(order(3, T))] if replaced else []
    flows.log([*begun, put(order(3, T, user_id=7)), put(order(3, T), "D")])
    flows.log([put(order(9, T + 60 * DAY))])
    flows.stream()
    flows.cycle()
    flows.evict()
    flows.log([comes(7)])
    flows.cycle()
    flows.stream()
    flows.log([put(order(3, T + 60 * DAY))])
    flows.stream()
    flows.cycle()
    flows.stream()
    latest = 4 + replaced
    assert flows.hot_facts("orders") == flows.facts("orders") == {latest - 1, latest}


@pytest.mark.parametrize("apart", [False, True])
def test_an_order_whose_key_changes_over_rejected_rows_counts_once(
    flows: BothFlows, apart: bool
) -> None:
    """Wherever a row is refused or waits, and whether another key or an update mends it."""
    kinds: dict[str, Row] = {"late": {"user_id": 7}, "bad": {"quantity": 0}, "good": {}}
    hops = [("late", "late"), ("late", "bad"), ("bad", "late"), ("good", "bad"), ("good", "late")]
    cases = [(*hop, mended) for hop in hops for mended in ("by a key", "by an update")]
    transactions: list[list[Entry]] = [[], [], []]
    for number, (first, second, mended) in enumerate(cases):
        one, two, three = (10 * number + n for n in (1, 2, 3))
        begun, moved = order(one, T, **kinds[first]), order(two, T, **kinds[second])
        transactions[0] += [put(begun)]
        transactions[1] += [put(begun, "D"), put(moved, "U", old_key=f"[{one}]")]
        if mended == "by a key":
            transactions[2] += [put(moved, "D"), put(order(three, T), "U", old_key=f"[{two}]")]
        else:
            transactions[2] += [put(order(two, T), "U")]
    for entries in transactions:
        flows.log(entries)
        if apart:
            flows.stream()
            flows.cycle()
    flows.stream()
    flows.cycle()
    flows.log([comes(7)])
    for _ in range(2):
        flows.cycle()
        flows.stream()
    assert flows.hot_facts("orders") == flows.facts("orders")
    counted = sorted(flows.published("orders")[seq]["id"] // 10 for seq in flows.facts("orders"))
    assert counted == list(range(len(cases)))


@pytest.mark.parametrize(("seed", "table"), [(0, "orders"), (1, "clickstream")])
def test_whatever_happens_to_records_a_fact_counts_once(
    tmp_path: Path, seed: int, table: str
) -> None:
    """Inserted, replaced, updated, deleted, given other keys, refused, waiting, forgotten."""
    assert not run(tmp_path, seed, table, count=100, steps=400)
