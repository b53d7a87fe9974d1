"""The benchmark of the batch flow works and finds both sides equal; how fast is not tested."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pinned_clock import stopped_clock

from pipelines.benchmarks import bench_batch
from pipelines.benchmarks.batch_equality import differing_rows
from pipelines.features.views import VIEWS, View
from pipelines.settings import LEAST_MEMORY

FIGURES = {
    "rows_per_s",
    "pandas_rows_per_s",
    "ratio",
    "cycle_ratio_10x_history",
    "seconds",
    "pandas_seconds",
    "peak_bytes",
    "cores",
}


@pytest.fixture(autouse=True)
def _stopped() -> Iterator[None]:
    """The worlds are the same in every run."""
    with stopped_clock():
        yield


def test_a_tiny_run_gives_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides agree, every promised figure is there, and nothing is left behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said: list[str] = []
    found = bench_batch.measure(2000, said.append, days=3, rounds=1, cycles=1)
    assert found.keys() >= FIGURES
    assert found["equal"]
    assert found["changes"] > found["clickstream_events"] > 1000
    assert found["views_without_rows"] == []
    assert said
    assert not list(tmp_path.iterdir())


def test_a_tiny_run_within_a_bound_publishes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most memory that the process had is said, with the bound and without."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said: list[str] = []
    found = bench_batch.measure_memory(1000, LEAST_MEMORY, said.append, days=3)
    assert found["equal"]
    assert found["memory_bytes"] == LEAST_MEMORY
    assert 0 < found["bounded_peak_bytes"] < 10 * LEAST_MEMORY
    assert found["unbounded_peak_bytes"] > 0
    assert not list(tmp_path.iterdir())


def test_a_world_in_which_nobody_ordered_is_measured_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view without rows is said to have none; the other views are compared as ever."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said: list[str] = []
    found = bench_batch.measure(100, said.append, days=1, rounds=1, cycles=1)
    assert found.keys() >= FIGURES
    assert found["equal"]
    assert found["views_without_rows"] == ["user_orders"]
    assert "nothing to compare in user_orders: this world has no such rows" in said


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_view_without_rows_is_equal_to_none_and_differs_from_one(
    tmp_path: Path, view: View
) -> None:
    """On either side: ours writes no file for it, pandas one with untyped columns."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    theirs.mkdir()
    for other in VIEWS:
        pd.DataFrame(columns=other.schema.names).to_parquet(theirs / f"{other.name}.parquet")
    assert differing_rows(ours, theirs) == {other.name: 0 for other in VIEWS}

    row = {
        field.name: datetime(2026, 1, 31) if pa.types.is_timestamp(field.type) else None
        for field in view.schema
    }
    row |= dict.fromkeys(
        view.keys, 1 if view.schema.field(view.keys[0]).type == pa.int64() else "x"
    )
    one = pa.Table.from_pylist([row], view.schema)
    folder = ours / "feature_store" / "offline" / view.name
    folder.mkdir(parents=True)
    pq.write_table(one, folder / "one.parquet")
    assert differing_rows(ours, theirs) == {other.name: int(other == view) for other in VIEWS}

    shutil.rmtree(ours)
    pq.write_table(one, theirs / f"{view.name}.parquet")
    assert differing_rows(ours, theirs) == {other.name: int(other == view) for other in VIEWS}
