"""Cycle after cycle, the offline sources say what the reference says about the whole log."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
from comparing import differences
from live_logs import append_changes, complete_log, offline_rows, parts_of
from reference import VIEWS, compute

from pipelines.batch import BatchProcessor
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
    for part in parts_of(logs, cycles):
        append_changes(data, part)
        report = processor.run_cycle(update=False)
        assert not report.quarantined
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


def test_a_warehouse_that_moves_is_known_to_be_elsewhere_from_then_on(
    processor: BatchProcessor, data: DataConfig
) -> None:
    """The newest row of each of its positions is computed anew; older rows keep the region that
    was known when they were computed, and other warehouses' rows are left alone."""
    logs = complete_log(1)
    append_changes(data, logs)
    processor.run_cycle(update=False)
    before = offline_rows(processor, "inventory_levels")
    (warehouse,) = (row for row in logs["warehouses"] if row["warehouse_id"] == "w1")
    last = max(row["seq"] for table in ("warehouses", "inventory") for row in logs[table])
    append_changes(
        data, {"warehouses": [{**warehouse, "seq": last + 1, "op": "U", "region": "west"}]}
    )
    report = processor.run_cycle(update=False)
    expected = []
    for position, rows in groupby(before, lambda row: (row["warehouse_id"], row["product_id"])):
        *older, newest = rows
        expected += older
        expected.append(newest | ({"warehouse_region": "west"} if position[0] == "w1" else {}))
    assert offline_rows(processor, "inventory_levels") == expected
    positions = {row["product_id"] for row in before if row["warehouse_id"] == "w1"}
    assert report.feature_rows == {"inventory_levels": len(positions)}
    assert len(positions) > 1
