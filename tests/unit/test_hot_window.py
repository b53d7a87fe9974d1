"""The hot window: what is kept suffices, and warming yields what absorbing yields."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from comparing import differences
from live_logs import append_changes, complete_log
from log_tables import load_logs
from reference import VIEWS as NAMES
from reference import compute, event_times

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.features import FeatureEngineer
from pipelines.features.views import VIEWS, View
from pipelines.lake.published_snapshot import published
from pipelines.lake.state import PipelineState
from pipelines.settings import DATABASE_NAMES, DataConfig
from pipelines.streaming.hot_tables import hot_columns, logs_of_view
from pipelines.streaming.hot_window import HotWindow
from pipelines.streaming.stream import Stream
from pipelines.streaming.warming import warm
from pipelines.tables.declare import TEXTS

FOREVER = timedelta(days=60 * 365)
Rows = dict[tuple[str, str], list[Any]]


@pytest.fixture
def open_window() -> Iterator[Callable[[timedelta], HotWindow]]:
    """Opens windows, which are closed in the end."""
    windows: list[HotWindow] = []

    def opened(lateness: timedelta) -> HotWindow:
        windows.append(HotWindow(lateness))
        return windows[-1]

    yield opened
    for window in windows:
        window.close()


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_the_columns_that_are_kept_suffice(view: View) -> None:
    """The view's statement runs on relations with no other columns, and says the same."""
    logs = complete_log(2)
    with duckdb.connect() as connection:
        load_logs(connection, event_times(logs))
        for log in logs_of_view(view):
            kept = ", ".join(f'"{name}"' for name in hot_columns(view, log))
            connection.execute(f'ALTER TABLE "{log}" RENAME TO "all_{log}"')
            connection.execute(f'CREATE VIEW "{log}" AS SELECT {kept} FROM "all_{log}"')
        rows = FeatureEngineer(connection).compute(view.name, newest=True).to_pylist()
    wanted = {
        tuple(row[key] for key in view.keys): row for row in compute(view.name, logs)
    }  # the last one of a key is its newest
    assert len(rows) == len(wanted)
    for row in rows:
        assert not differences(row, wanted[tuple(row[key] for key in view.keys)])


def test_the_columns_that_are_kept_are_few() -> None:
    """What no view asks for would only take room; lists are kept as text."""
    (sessions,) = (v for v in VIEWS if v.name == "user_intent")
    columns = hot_columns(sessions, "sessions")
    assert "committed_at" not in columns
    assert {columns[name] for name in ("products_viewed", "actions_performed")} == {"VARCHAR"}
    assert TEXTS not in columns.values()


def rows_of(window: HotWindow) -> Rows:
    """The sorted rows of every hot table."""
    with window.cursor() as cursor:
        return {
            (view.name, log): sorted(
                cursor.execute(f"SELECT * FROM {view.name}.hot_{log}").fetchall(), key=json_key
            )
            for view in VIEWS
            for log in logs_of_view(view)
        }


def json_key(row: tuple[Any, ...]) -> str:
    return json.dumps(row, default=str)


def absorbed(config: DataConfig, window: HotWindow) -> None:
    """Take the change logs in, those first that others refer to."""
    for name in ("inventory", "users", "orders", "supply_chain"):
        stream = Stream(name, config, window, 0, 0)
        while stream.next_batch(final=True).changes:
            pass
        stream.close()


def warmed(state: PipelineState, window: HotWindow) -> dict[str, set[int]]:
    """Fill the window from the processed logs."""
    with window.cursor() as cursor:
        return warm(window, cursor, published(state), dict.fromkeys(DATABASE_NAMES, 0))


@pytest.mark.parametrize("seed", range(3))
def test_warming_yields_what_absorbing_yields(
    tmp_path: Path, open_window: Callable[[timedelta], HotWindow], seed: int
) -> None:
    """The same rows in every table once what is superseded is gone, and the same edges."""
    config = DataConfig(data_dir=tmp_path)
    append_changes(config, complete_log(seed))
    window = open_window(FOREVER)
    absorbed(config, window)
    batch = BatchConfig(data_dir=tmp_path, retention_days=100 * 365)
    processor = BatchProcessor(batch, config, clock=lambda: datetime(2024, 4, 1))
    processor.run_cycle(update=False)
    other = open_window(FOREVER)
    affected = warmed(processor.state, other)
    for each in (window, other):
        with each.cursor() as cursor:
            each.evict(cursor)
    ours, theirs = rows_of(window), rows_of(other)
    assert ours == theirs
    assert any(ours.values())
    for view in VIEWS:
        assert window.watermarks.of(view) == other.watermarks.of(view)
        hashes = {row[0] for log in [s.log for s in view.sources] for row in ours[view.name, log]}
        assert affected.get(view.name, set()) == hashes


@pytest.mark.parametrize("days", [0, 1, 9])
def test_warming_and_evicting_keep_the_same(
    tmp_path: Path, open_window: Callable[[timedelta], HotWindow], days: int
) -> None:
    """What warming leaves out is what eviction would remove."""
    config = DataConfig(data_dir=tmp_path)
    append_changes(config, complete_log(7, size=120))
    batch = BatchConfig(data_dir=tmp_path, retention_days=100 * 365)
    processor = BatchProcessor(batch, config, clock=lambda: datetime(2024, 4, 1))
    processor.run_cycle(update=False)
    small, large = open_window(timedelta(days=days)), open_window(timedelta(days=days))
    warmed(processor.state, small)
    absorbed(config, large)
    with small.cursor() as cursor:
        small.evict(cursor)
    with large.cursor() as cursor:
        assert large.evict(cursor) > 0
    assert rows_of(small) == rows_of(large)
    assert small.rows() == large.rows() > 0


def test_an_empty_window_has_no_edge(open_window: Callable[[timedelta], HotWindow]) -> None:
    """Nothing is too old for it; and a watermark does not lie before the first time stamp."""
    window = open_window(FOREVER)
    (view,) = (v for v in VIEWS if v.name == NAMES[0])
    assert window.watermarks.of(view) == datetime(1970, 1, 1)
    window.watermarks.see("sessions", datetime(2024, 1, 1))
    window.watermarks.advance()
    assert window.watermarks.of(view) == datetime(1970, 1, 1)


def test_the_edge_only_advances(open_window: Callable[[timedelta], HotWindow]) -> None:
    """A late event does not bring back what was forgotten."""
    window = open_window(timedelta(days=1))
    (view,) = (v for v in VIEWS if v.name == "user_intent")
    window.watermarks.see("sessions", datetime(2024, 1, 10))
    window.watermarks.see("sessions", datetime(2024, 1, 2))
    window.watermarks.see("clickstream", datetime(2024, 1, 5))
    window.watermarks.see("clickstream", None)
    window.watermarks.advance()
    assert window.watermarks.of(view) == datetime(2024, 1, 9)
