"""The served fulfilment models: what they answer, and that saving and loading changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fulfilment_shop import little_game

from pipelines.models.fulfilment.network import OptionScorer
from pipelines.models.fulfilment.predictors import Greedy, Ppo
from pipelines.models.fulfilment.training_observation import Observer
from pipelines.models.fulfilment.world import FulfilmentConfig
from pipelines.registry.packaging import BrokenModelError, read_package, write_package

WEIGHTS = [1.0, 1.4, 0.2, 1.0, 2.0, 0.0]
REGIONS = ["R0", "R1", "R2"]


@pytest.fixture(scope="module")
def columns() -> dict[str, Any]:
    """Three orders' options, as the environment gives them to a served model."""
    game = little_game(episodes=3)
    flat = {name: np.ravel(column) for name, column in game.columns().items()}
    return {**flat, "order": np.repeat(np.arange(3), game.options)}


def scorer() -> OptionScorer:
    """A network whose output is not zero."""
    torch.manual_seed(0)
    observer = Observer(little_game(), np.array(WEIGHTS), REGIONS)
    network = OptionScorer(observer.layout.features)
    torch.nn.init.normal_(network.out.weight)
    return network


def ppo() -> Ppo:
    """An agent with that network."""
    state = {name: value.numpy() for name, value in scorer().state_dict().items()}
    return Ppo(FulfilmentConfig(), WEIGHTS, REGIONS, state)


def test_the_served_scores_are_those_of_the_trained_network(columns: dict[str, Any]) -> None:
    """Numpy and torch, columns and observations, training and serving agree."""
    observer = Observer(little_game(episodes=3), np.array(WEIGHTS), REGIONS)
    options, feasible, greedy = observer.look()
    with torch.inference_mode():
        wanted = scorer()(
            torch.from_numpy(options),
            torch.from_numpy(feasible).float(),
            torch.from_numpy(greedy).float(),
        )
    agent = Ppo(little_game().config, WEIGHTS, REGIONS, ppo().network)
    found = agent.predict(columns)["score"].reshape(wanted.shape)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-3)


def test_an_untrained_network_is_the_greedy_rule(columns: dict[str, Any]) -> None:
    """Its output layer starts at zero, so learning starts from there."""
    network = OptionScorer(ppo().network["own.weight"].shape[1] - 1)
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    agent = Ppo(FulfilmentConfig(), WEIGHTS, REGIONS, state)
    greedy = Greedy(FulfilmentConfig(), WEIGHTS).predict(columns)["score"]
    np.testing.assert_allclose(agent.predict(columns)["score"], greedy)


def test_orders_are_scored_apart_whatever_the_order_of_rows(columns: dict[str, Any]) -> None:
    """Rows may come mixed; an order's scores do not hang on what else is asked."""
    agent = ppo()
    together = agent.predict(columns)["score"]
    mixed = np.random.default_rng(0).permutation(len(together))
    shuffled = {name: np.asarray(values)[mixed] for name, values in columns.items()}
    np.testing.assert_allclose(agent.predict(shuffled)["score"], together[mixed], atol=1e-5)
    alone = columns["order"] == 1
    one = {name: np.asarray(values)[alone] for name, values in columns.items()}
    np.testing.assert_allclose(agent.predict(one)["score"], together[alone], atol=1e-5)


@pytest.mark.parametrize("model", [ppo(), Greedy(FulfilmentConfig(), WEIGHTS)])
def test_lists_with_gaps_are_answered(model: Greedy, columns: dict[str, Any]) -> None:
    """An unknown user or route has no features: None, NaN and missing optional columns are fine."""
    rows = len(columns["feasible"])
    known = ("quantity", "price", "weight_kg", "ship_cost", "promised_hours", "wanted_hours")
    bare: dict[str, Any] = {name: [None] * rows for name in columns}
    bare |= {name: list(columns[name]) for name in known}
    del bare["order"], bare["capacity_left"]
    scores = model.predict(bare)["score"]
    assert scores.shape == (rows,)
    assert np.isfinite(scores).all()


def test_an_order_that_nobody_can_serve_has_scores_all_the_same(columns: dict[str, Any]) -> None:
    """Nothing is divided by zero options."""
    nothing = {**columns, "feasible": np.zeros(len(columns["feasible"]))}
    assert np.isfinite(ppo().predict(nothing)["score"]).all()


def test_the_hour_of_the_decision_counts_if_it_is_given(columns: dict[str, Any]) -> None:
    """`decision_hour` stands for the customer's last hour_of_day."""
    rows = len(columns["feasible"])
    late = ppo().predict({**columns, "decision_hour": np.full(rows, 23.0)})["score"]
    without = {name: column for name, column in columns.items() if name != "decision_hour"}
    same = ppo().predict({**without, "hour_of_day": np.full(rows, 23.0)})["score"]
    np.testing.assert_allclose(late, same)


@pytest.mark.parametrize(
    ("model", "kind"),
    [(ppo(), "fulfilment/ppo"), (Greedy(FulfilmentConfig(), WEIGHTS), "fulfilment/greedy")],
)
def test_a_saved_model_answers_as_before(
    model: Greedy, kind: str, columns: dict[str, Any], tmp_path: Path
) -> None:
    """Through the package that the registry keeps."""
    write_package(model, kind, tmp_path / "model")
    again = read_package(tmp_path / "model")
    assert type(again) is type(model)
    np.testing.assert_array_equal(again.predict(columns)["score"], model.predict(columns)["score"])


def test_a_truncated_network_is_refused(tmp_path: Path) -> None:
    """By the package, before anything is answered."""
    write_package(ppo(), "fulfilment/ppo", tmp_path / "model")
    file = tmp_path / "model" / "network.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BrokenModelError, match="truncated"):
        read_package(tmp_path / "model")
