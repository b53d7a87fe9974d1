"""The fulfilment task from a shop's logs and Feast to a model that can be served."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.models.fulfilment.episodes import deal, everything, split
from pipelines.models.fulfilment.game import FulfilmentGame
from pipelines.models.fulfilment.predictors import Greedy
from pipelines.models.fulfilment.task import PpoTask
from pipelines.models.fulfilment.training import PpoConfig
from pipelines.models.fulfilment.world import FulfilmentConfig
from pipelines.registry.packaging import read_package, write_package
from pipelines.settings import BatchConfig
from pipelines.training.source import TrainingDataError, TrainingSource
from pipelines.training.task import Columns

TINY = PpoTask(
    config=FulfilmentConfig(orders=60, days=2),
    quick_settings=PpoConfig(priced=4, desks=2, steps=120, rollout=60, batch=60),
    quick_episodes=2,
)


class Forecaster:
    """Says one thing of everything, and remembers what it was asked."""

    def __init__(self, **says: float) -> None:
        self.says, self.asked = says, set[str]()

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """The same number in every row."""
        self.asked |= set(columns)
        rows = len(next(iter(columns.values())))
        return {name: np.full(rows, value) for name, value in self.says.items()}

    def save(self, folder: Path) -> None:
        """Nothing to keep."""


def test_a_shop_becomes_a_served_agent(in_small_shop: Path, tmp_path: Path) -> None:
    """Data set, agent and baselines, claims, figures, package, evaluation."""
    source = TrainingSource(BatchConfig(data_dir=in_small_shop))
    data = TINY.dataset(source, quick=True)
    assert [r.service for r in source.retrievals] == ["ppo_agent_v1", "supply_gnn_v1"]
    train, test = split(data.extra["history"], 0)
    assert train.lines.day.max() < test.lines.day.min()

    done: list[float] = []
    trained = TINY.train(
        data, seeds=(0,), quick=True, progress=lambda _, fraction: done.append(fraction)
    )
    assert done == sorted(done)
    assert done[-1] == 1.0
    names = {candidate.name for candidate in trained.baselines}
    assert names >= {"greedy", "cheapest", "fastest", "greenest", "random feasible"}
    assert names >= {"rolling programme"}
    assert len(trained.claims) == 3
    for draw in trained.figures.values():
        assert draw().axes
    assert trained.model.predictor is not None
    write_package(trained.model.predictor, "fulfilment/ppo", tmp_path / "model")
    again = read_package(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(trained.example)["score"], trained.outcome["score"])
    found = TINY.evaluate(again, data)
    assert found.metrics["return_per_order"] == pytest.approx(
        trained.model.metrics["return_per_order"].mean
    )
    assert found.losses.mean() == pytest.approx(-found.metrics["return_per_order"])


def test_forecasts_come_from_the_models_that_are_served(in_small_shop: Path) -> None:
    """The intent model's urgency and the delay model's forecasts are what policies see."""
    intent = Forecaster(urgency=0.75)
    delay = Forecaster(expected_delay_hours=5.0, late_probability=0.25)
    task = replace(TINY, intent=intent, delay=delay)
    source = TrainingSource(BatchConfig(data_dir=in_small_shop))
    history = task.dataset(source, quick=True).extra["history"]
    assert (history.lines.urgency == 0.75).mean() > 0.9
    assert (history.shop.forecast_delay == 5.0).all()
    assert (history.shop.forecast_late == 0.25).all()
    assert {"actions", "gaps", "intent_score"} <= intent.asked
    assert {"route_id", "origin_id", "snapshot", "congestion"} <= delay.asked


def test_the_environment_gives_the_columns_of_the_feature_service(in_small_shop: Path) -> None:
    """What the agent learns from has the names that ppo_agent_v1 serves."""
    source = TrainingSource(BatchConfig(data_dir=in_small_shop))
    history = TINY.dataset(source, quick=True).extra["history"]
    game: FulfilmentGame = deal(history, everything(history), TINY.config, (0,), 1)
    service = source.store.get_feature_service("ppo_agent_v1")
    wanted = {f.name for view in service.feature_view_projections for f in view.features}
    assert wanted <= set(game.columns())
    Greedy(TINY.config, [1, 1, 0, 1, 0, 0]).predict(
        {name: column.ravel() for name, column in game.columns().items()}
    )


def test_too_few_orders_are_told(in_small_shop: Path) -> None:
    """With what to do about it."""
    source = TrainingSource(BatchConfig(data_dir=in_small_shop))
    with pytest.raises(TrainingDataError, match="let the shop run for longer"):
        TINY.dataset(source, quick=True, since=datetime(2999, 1, 1))
