"""When the batch flow says that it has computed a row, whatever the clock does."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import duckdb
import pytest
from conftest import Clock
from live_logs import append_changes, complete_log, parts_of

from pipelines.batch import BatchProcessor, cycle
from pipelines.features.views import VIEWS
from pipelines.lake.hybrid_clock import CLOCK_KEY
from pipelines.lake.workspace import read_files
from pipelines.settings import DataConfig

TICK = timedelta(microseconds=1)


def created(processor: BatchProcessor) -> list[datetime]:
    """The distinct created timestamps of all feature rows, the first one first."""
    found: set[datetime] = set()
    for view in VIEWS:
        files = processor.state.files("view", view.name)
        rows = duckdb.sql(f"SELECT DISTINCT created_timestamp FROM {read_files(files)}").fetchall()
        found.update(row[0] for row in rows)
    return sorted(found)


def test_rows_are_created_before_the_change_logs_are_looked_at(
    processor: BatchProcessor, data: DataConfig, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that a streamer creates after that knows what these know, or will be written again."""
    looked = []

    def plan(*given: Any) -> Any:
        looked.append(clock())
        return planned(*given)

    planned = cycle.plan
    monkeypatch.setattr(cycle, "plan", plan)
    append_changes(data, complete_log(1))
    processor.run_cycle(update=False)
    (at,) = created(processor)
    assert at < looked[0]


def test_created_times_grow_although_the_clock_steps_back(
    processor: BatchProcessor, data: DataConfig, clock: Clock
) -> None:
    """So that a correction is newer than what it corrects; in another process too."""
    first, second, third = parts_of(complete_log(1), 3)
    append_changes(data, first)
    processor.run_cycle(update=False)
    (before,) = created(processor)
    clock.advance(days=-1)
    append_changes(data, second)
    processor.run_cycle(update=False)
    append_changes(data, third)
    BatchProcessor(processor.config, data, clock=clock).run_cycle(update=False)
    assert created(processor) == [before, before + TICK, before + 2 * TICK]


def test_created_times_go_on_from_those_of_the_streamer(
    processor: BatchProcessor, data: DataConfig
) -> None:
    """Both write down the latest one in one place, where it never goes back."""
    latest = datetime(2024, 5, 1)
    processor.state.set_metadata(CLOCK_KEY, latest.isoformat())
    append_changes(data, complete_log(1))
    processor.run_cycle(update=False)
    assert created(processor) == [latest + TICK]
    noted = (latest + TICK).isoformat()
    assert processor.state.metadata(CLOCK_KEY) == noted
    assert processor.state.raise_metadata(CLOCK_KEY, latest.isoformat()) == noted
    assert processor.state.metadata(CLOCK_KEY) == noted
