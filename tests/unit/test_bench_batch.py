"""The benchmark of the batch flow works and finds both sides equal; how fast is not tested."""

from __future__ import annotations

import tempfile
from pathlib import Path

import bench_batch
import pytest

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


def test_a_tiny_run_gives_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides agree, every promised figure is there, and nothing is left behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said: list[str] = []
    found = bench_batch.measure(2000, said.append, days=3, rounds=1, cycles=1)
    assert found.keys() >= FIGURES
    assert found["equal"]
    assert found["changes"] > found["clickstream_events"] > 1000
    assert said
    assert not list(tmp_path.iterdir())
