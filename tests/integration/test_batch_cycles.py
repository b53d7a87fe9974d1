"""Cycle after cycle, the offline sources say what the reference says about the whole log."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from comparing import differences
from live_logs import append_changes, complete_log, offline_rows, parts_of
from random_log import Logs
from reference import VIEWS, compute

from pipelines.batch import BatchProcessor, transform
from pipelines.change_log import reading
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.settings import DataConfig

Row = dict[str, Any]


def by_key(view: str, rows: list[Row]) -> dict[tuple[Any, ...], Row]:
    keys = (*VIEWS_BY_NAME[view].keys, "event_timestamp")
    return {tuple(row[key] for key in keys): row for row in rows}


@pytest.mark.parametrize("cycles", [1, 4, 15])
@pytest.mark.parametrize("seed", range(3))
def test_cycles_add_up_to_the_reference(
    processor: BatchProcessor, data: DataConfig, seed: int, cycles: int
) -> None:
    """However the log is cut into cycles, late rows and corrections included."""
    logs = complete_log(seed, size=90)
    run(processor, data, logs, cycles)
    assert_equals_reference(processor, logs)


@pytest.mark.parametrize("rows_at_once", [1, 20])
@pytest.mark.parametrize("cycles", [1, 4])
def test_parts_of_keys_add_up_to_the_reference(
    processor: BatchProcessor,
    data: DataConfig,
    cycles: int,
    rows_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However little memory there is: what a key's rows need is in its part, even a report on a
    delivery that stood under another key before. Changes are read in halves too."""
    monkeypatch.setattr(reading, "LONG_SPAN", 2)
    monkeypatch.setattr(transform, "BYTES_PER_ROW", processor.config.memory // rows_at_once)
    logs = complete_log(3, size=90)
    run(processor, data, logs, cycles)
    assert_equals_reference(processor, logs)


def run(processor: BatchProcessor, data: DataConfig, logs: Logs, cycles: int) -> None:
    """Append the logs in so many parts, and run a cycle after each."""
    for part in parts_of(logs, cycles):
        append_changes(data, part)
        report = processor.run_cycle(update=False)
        assert not report.quarantined


def assert_equals_reference(processor: BatchProcessor, logs: Logs) -> None:
    """What is published is what the reference says."""
    for view in VIEWS:
        ours, theirs = (
            by_key(view, rows) for rows in (offline_rows(processor, view), compute(view, logs))
        )
        # A delivery that was reported again at another time leaves its first event time behind.
        assert ours.keys() >= theirs.keys()
        if view != "route_conditions":
            assert ours.keys() == theirs.keys()
        for key, row in theirs.items():
            assert not differences(ours[key], row), (view, key)


def test_a_warehouse_that_moves_is_elsewhere_from_then_on(
    processor: BatchProcessor, data: DataConfig
) -> None:
    """A move makes no rows; those at or after its commit say where the warehouse is now, be they
    there already, and those before say where it was."""
    logs = complete_log(1)
    append_changes(data, logs)
    processor.run_cycle(update=False)
    before = offline_rows(processor, "inventory_levels")
    times = sorted(row["event_timestamp"] for row in before if row["warehouse_id"] == "w1")
    (warehouse,) = (row for row in logs["warehouses"] if row["warehouse_id"] == "w1")
    last = max(row["seq"] for table in ("warehouses", "inventory") for row in logs[table])

    def move(number: int, region: str, at: datetime) -> int:
        moved = {**warehouse, "seq": last + number, "op": "U", "region": region, "committed_at": at}
        append_changes(data, {"warehouses": [moved]})
        return processor.run_cycle(update=False).feature_rows.get("inventory_levels", 0)

    assert move(1, "west", times[-1] + timedelta(microseconds=1)) == 0
    assert offline_rows(processor, "inventory_levels") == before
    middle = times[len(times) // 2]
    assert move(2, "south", middle) == sum(time >= middle for time in times)
    expected = [
        row
        | (
            {"warehouse_region": "south"}
            if row["warehouse_id"] == "w1"
            and row["event_timestamp"] >= middle
            and row["stock_level"] is not None  # a tombstone stays one
            else {}
        )
        for row in before
    ]
    assert offline_rows(processor, "inventory_levels") == expected
