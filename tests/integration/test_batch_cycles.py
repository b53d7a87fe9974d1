"""Cycle after cycle, the offline sources say what the reference says about the whole log."""

from __future__ import annotations

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
        # A delivery that was reported again at another time leaves its first moment behind.
        assert ours.keys() >= theirs.keys()
        if view != "route_conditions":
            assert ours.keys() == theirs.keys()
        for key, row in theirs.items():
            assert not differences(ours[key], row), (view, key)
