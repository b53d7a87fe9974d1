"""A removed row is not served on: deletions in the batch flow, the real-time flow and between."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime
from typing import Any

import pytest
from conftest import Clock
from deletion_cases import ABSENT, CASES, MICROSECOND, NULLS, Case, put
from live_logs import LONG_AGO, append_changes, offline_rows
from reference import FEATURES, compute
from reference import KEYS as REFERENCE_KEYS
from stream_batch import BatchProcess
from stream_helpers import FOREVER, StreamWorld, stream_world
from stream_rows import T, product, stock, user, warehouse

from pipelines.batch import BatchProcessor
from pipelines.change_log.offsets import Offset
from pipelines.settings import DATABASE_NAMES, DataConfig
from pipelines.tables.known import BY_NAME

Row = dict[str, Any]
FURNITURE = [
    (table, put(row, LONG_AGO))
    for table, row in (
        ("users", user(1)),
        ("products", product("p1")),
        ("products", product("p2")),
        ("warehouses", warehouse("w1")),
    )
]


def logs_of(entries: Iterable[tuple[str, Row]], last: dict[str, int]) -> dict[str, list[Row]]:
    """Changes by table, numbered on from the last `seq` of each database."""
    logs: dict[str, list[Row]] = {}
    for table, row in entries:
        database = BY_NAME[table].database
        last[database] = last.get(database, 0) + 1
        logs.setdefault(table, []).append({**row, "seq": last[database]})
    return logs


def changes_of(case: Case) -> list[tuple[str, Row]]:
    """The case's changes, each with its table."""
    return [(step.table, step.row) for step in case.steps]


def transactions_of(case: Case) -> list[list[tuple[str, Row]]]:
    """The same, both halves of a changed key together."""
    found: list[list[tuple[str, Row]]] = []
    for table, row in changes_of(case):
        if row.get("old_key"):
            found[-1].append((table, row))
        else:
            found.append([(table, row)])
    return found


def begin(world: StreamWorld) -> None:
    """Stream what the cases' changes refer to."""
    for table, row in FURNITURE:
        world.commit(table, row)
    world.stream()


def of_key(case: Case, rows: list[Row]) -> list[Row]:
    """The rows of the case's key."""
    return [row for row in rows if tuple(row[key] for key in REFERENCE_KEYS[case.view]) == case.key]


def check(case: Case, rows: list[Row]) -> None:
    """The key's rows are the expected ones just before, at and after each change."""
    before = None if case.rewritten else ABSENT
    for at, expected in case.as_of():
        for instant, wanted in ((at - MICROSECOND, before), (at, expected)):
            if wanted is not None:
                found = shown(case.view, newest(rows, instant), wanted)
                assert found == wanted, instant
        before = expected


def newest(rows: list[Row], upto: datetime) -> Row:
    """The last of the rows at or before a time; nothing, if there is none."""
    known = [row for row in rows if row["event_timestamp"] <= upto]
    return max(known, key=lambda row: row["event_timestamp"]) if known else ABSENT


def shown(view: str, row: Row, expected: Row) -> Row:
    """What of a row is compared with the expected one."""
    if row == ABSENT or expected == ABSENT:
        return row
    if expected == NULLS:
        return NULLS if all(row[name] is None for name in FEATURES[view]) else row
    return {name: row[name] for name in expected}


def accepted(change: tuple[str, Row]) -> bool:
    """Whether a change of a case keeps the rules."""
    row = change[1]
    return row["op"] == "D" or row.get("current_stock", 0) >= 0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_says_so(case: Case) -> None:
    """As of just before, at and after each change."""
    logs = logs_of(filter(accepted, [*FURNITURE, *changes_of(case)]), {})
    check(case, of_key(case, compute(case.view, logs)))


@pytest.mark.parametrize("each", [False, True], ids=["one cycle", "a cycle for each change"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_history_says_so(
    processor: BatchProcessor, data: DataConfig, case: Case, each: bool
) -> None:
    """The offline source, however the changes are cut into cycles."""
    last: dict[str, int] = {}
    parts = [FURNITURE, *transactions_of(case)]
    for entries in parts if each else [itertools.chain(*parts)]:
        append_changes(data, logs_of(entries, last))
        processor.run_cycle(update=False)
    check(case, of_key(case, offline_rows(processor, case.view)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_online_says_so(clock: Clock, batch: BatchProcess, case: Case) -> None:
    """After each change the streamer alone; then one that starts from what was published."""
    with stream_world(clock, batch, allowed_lateness=FOREVER) as world:
        world.state.set_offsets("stream", dict.fromkeys(DATABASE_NAMES, Offset(0)))
        begin(world)
        last = 0
        for entries in transactions_of(case):
            for table, changed in entries:
                world.commit(table, changed)
            last += len(entries)
            step = case.steps[last - 1]
            world.stream()
            row = world.online(case.view).get(case.key, ABSENT)
            assert shown(case.view, row, step.expected) == step.expected, last
        world.cycle()
        with world.redis() as client:
            client.flushall()
        world.restart(save=False)
        row = world.online(case.view).get(case.key, ABSENT)
        assert shown(case.view, row, step.expected) == step.expected


@pytest.mark.parametrize("case", CASES, ids=str)
def test_online_says_so_at_once(clock: Clock, case: Case) -> None:
    """All changes in one micro-batch."""
    with stream_world(clock, allowed_lateness=FOREVER) as world:
        begin(world)
        for step in case.steps:
            world.commit(step.table, step.row)
        world.stream()
        row = world.online(case.view).get(case.key, ABSENT)
        assert shown(case.view, row, step.expected) == step.expected


def test_what_the_triggers_record(processor: BatchProcessor, data: DataConfig) -> None:
    """DELETE, an UPDATE of the key, one back again, and REPLACE, in a real live database."""
    append_changes(data, logs_of(FURNITURE, {}))
    columns = list(stock(T))
    insert = f"INTO inventory ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"

    def values(product: str) -> list[Any]:
        row = stock(T, product_id=product)
        return [str(row[name]) if name == "updated_at" else row[name] for name in columns]

    with closing(sqlite3.connect(data.db_path / "inventory.db")) as connection:
        for statement, *given in (
            (f"INSERT {insert}", values("p1")),
            (f"INSERT {insert}", values("p2")),
            ("DELETE FROM inventory WHERE product_id = 'p2'",),
            ("UPDATE inventory SET product_id = 'p2' WHERE product_id = 'p1'",),
        ):
            connection.execute(statement, *given)
            connection.commit()
        assert not processor.run_cycle(update=False).quarantined
        assert now_null(processor) == {"p1": True, "p2": False}
        connection.execute("UPDATE inventory SET product_id = 'p1'")
        connection.execute(f"REPLACE {insert}", values("p1"))
        connection.commit()
    assert not processor.run_cycle(update=False).quarantined
    assert now_null(processor) == {"p1": False, "p2": True}


def now_null(processor: BatchProcessor) -> dict[str, bool]:
    """By product, whether the newest offline row of its position has no values."""
    rows = {row["product_id"]: row for row in offline_rows(processor, "inventory_levels")}
    return {
        product: all(row[name] is None for name in FEATURES["inventory_levels"])
        for product, row in rows.items()
    }
