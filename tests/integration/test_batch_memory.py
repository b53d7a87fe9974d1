"""A batch cycle holds no more memory than it is told to: the rest is spilled to disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from datetime import datetime
from pathlib import Path

import duckdb
import pytest
from live_logs import append_changes, complete_log, offline_rows

from pipelines.batch import BatchConfig, BatchProcessor, cycle, transform
from pipelines.batch.update import open_bounded
from pipelines.errors import MemoryFullError
from pipelines.feast_plugins.parquet_source import connect
from pipelines.features.views import VIEWS
from pipelines.lake import workspace as workspaces
from pipelines.lake.workspace import STAGING, workspace
from pipelines.settings import DataConfig

CLICKS = 60_000
LONG = 3_500
"""Bytes of what the shop notes of a click beside the columns that we know."""
PART = 8
MANY = f"""
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {CLICKS}),
known AS (SELECT row, committed_at, row_number() OVER (ORDER BY seq) AS place
FROM change_log WHERE table_name = 'clickstream' AND op = 'I' LIMIT 40)
INSERT INTO change_log (table_name, op, key, row, committed_at)
SELECT 'clickstream', 'I', json_array(1000000 + n), json_set(row, '$.event_id', 1000000 + n,
'$.time_on_page', n / 7.0, '$.note', printf('%.*c', {LONG}, 'x')), committed_at
FROM numbers JOIN known ON place = n % 40 + 1
"""


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """Live databases with some of everything, and very many clicks."""
    data = DataConfig(data_dir=tmp_path)
    append_changes(data, complete_log(1))
    with closing(sqlite3.connect(data.db_path / "users.db")) as live, live:
        live.execute(MANY)
    return data


def test_the_setting_reaches_duckdb(tmp_path: Path) -> None:
    """A part of it: libraries, record batches and files being written need the rest."""
    with workspace(tmp_path / "w", 1_000_000_000) as connection:
        (limit,) = connection.execute("SELECT current_setting('memory_limit')").fetchone() or ("",)
    share = workspaces.DUCKDB_SHARE
    assert 0 < share < 1
    number, unit = limit.split()
    assert unit == "MiB"
    assert int(float(number)) == int(1_000_000_000 * share / 2**20)


def test_what_does_not_fit_is_spilled_and_gives_the_same_features(
    data: DataConfig, clock: Callable[[], datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a cycle that is given a small part of what it is given by default."""
    config = BatchConfig(data_dir=data.data_dir, retention_days=30 * 365, batch_size=1_000)
    free = BatchProcessor(config, data, clock=clock)
    free.run_cycle(update=False)
    expected = {view.name: offline_rows(free, view.name) for view in VIEWS}
    free.rebuild()

    looking = workspaces.workspace

    def smaller(folder: Path, memory: int) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        return looking(folder, memory // PART)

    monkeypatch.setattr(cycle, "workspace", smaller)
    monkeypatch.setattr(transform, "BYTES_PER_ROW", config.memory // 20_000)
    spilled: set[Path] = set()

    def look(_step: str, _rows: int) -> None:
        spilled.update((config.data_dir / STAGING).glob("*/*.tmp"))

    bounded = BatchProcessor(config, data, clock=clock, progress=look)
    bounded.run_cycle(update=False)
    assert spilled
    assert {view.name: offline_rows(bounded, view.name) for view in VIEWS} == expected


def test_too_little_memory_for_a_cycle_is_one_line(
    data: DataConfig, clock: Callable[[], datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the setting, and nothing is published."""
    monkeypatch.setattr(workspaces, "DUCKDB_SHARE", 0.0005)
    processor = BatchProcessor(BatchConfig(data_dir=data.data_dir), data, clock=clock)
    with pytest.raises(MemoryFullError, match=r"^[^\n]*SYNCHROCHAIN_BATCH_MEMORY[^\n]*$"):
        processor.run_cycle(update=False)
    assert not processor.state.files("view")


def test_materialization_has_the_same_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Feast's own connection to DuckDB, too."""
    monkeypatch.setenv("SYNCHROCHAIN_DATA_DIR", str(tmp_path))
    store = open_bounded(BatchConfig(memory=1_000_000_000))
    with connect(store.config) as connection:
        (limit,) = connection.execute("SELECT current_setting('memory_limit')").fetchone() or ("",)
    assert int(float(limit.removesuffix(" MiB"))) == int(
        1_000_000_000 * workspaces.DUCKDB_SHARE / 2**20
    )
