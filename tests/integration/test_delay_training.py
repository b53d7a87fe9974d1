"""The delay task from a shop's logs and Feast to a model that can be served."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.models.delay.features import STOCK
from pipelines.models.delay.task import GnnTask
from pipelines.models.delay.training import FitConfig
from pipelines.registry.packaging import read_package, write_package
from pipelines.settings import BatchConfig
from pipelines.training.source import TrainingDataError, TrainingSource
from pipelines.training.task import Dataset


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing by more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same(one: Dataset, two: Dataset) -> bool:
    return all(
        np.array_equal(values, two.columns[name], equal_nan=values.dtype.kind == "f")
        for name, values in one.columns.items()
    )


def test_a_shop_becomes_a_served_delay_model(
    in_small_shop: Path, tmp_path: Path, one_thread: None
) -> None:
    """Data set, models and baselines, claims, package: the whole task on a small shop."""
    source = TrainingSource(BatchConfig(data_dir=in_small_shop))
    task = GnnTask()
    data = task.dataset(source, quick=True)
    assert same(data, task.dataset(TrainingSource(source.config), quick=True))
    assert [r.service for r in source.retrievals] == ["supply_gnn_v1"]
    size = int((data.timestamps == data.timestamps[0]).sum())
    assert data.columns["route_id"][:size].tolist() == data.columns["route_id"][-size:].tolist()
    for name in ("congestion", "delay_risk", *list(STOCK)[:2]):
        assert np.isfinite(data.columns[name]).mean() > 0.9, name

    done: list[float] = []
    trained = task.train(
        data,
        seeds=(0,),
        quick=True,
        progress=lambda _, fraction: done.append(fraction),
        config=FitConfig(epochs=1),
    )
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert len(trained.baselines) == 7
    assert {claim.holds for claim in trained.claims} == {False}, "one seed has no interval"
    for draw in trained.figures.values():
        assert draw().axes
    assert trained.model.kind is not None
    assert trained.model.predictor is not None
    write_package(trained.model.predictor, trained.model.kind, tmp_path / "model")
    again = read_package(tmp_path / "model")
    for name, values in trained.outcome.items():
        assert again.predict(trained.example)[name] == pytest.approx(values)
    found = task.evaluate(again, data)
    assert found.metrics["r2"] == pytest.approx(trained.model.metrics["r2"].mean, abs=1e-6)

    known = np.sort(data.extra["known_at"][data.labels["shipments"] > 0])
    since = known[-1] - np.timedelta64(6, "h")
    late = task.dataset(TrainingSource(source.config), quick=True, since=since.astype(object))
    used = late.labels["shipments"] > 0
    assert (late.extra["known_at"][used] > since).all()
    assert np.isfinite(task.evaluate(again, late).metrics["late_brier"])
    after = known[-1].astype(object) + timedelta(days=30)
    with pytest.raises(TrainingDataError, match="too few"):
        task.dataset(TrainingSource(source.config), quick=True, since=after)
