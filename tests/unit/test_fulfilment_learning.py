"""Learning to choose options by MaskablePPO on a little shop under stress."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fulfilment_shop import little_game

from pipelines.models.fulfilment.claims import chance_claim, claims_of
from pipelines.models.fulfilment.clairvoyant import best_plan
from pipelines.models.fulfilment.desk import REWARD_DOLLARS, Desk
from pipelines.models.fulfilment.evaluation import AGENT, GREEDY, PACED, Comparison
from pipelines.models.fulfilment.policies import Outcome, play, served, weighed
from pipelines.models.fulfilment.training import PpoConfig, option_prices, train_agent
from pipelines.models.fulfilment.training_observation import masks
from pipelines.models.fulfilment.tuning import tune
from pipelines.training.task import Interval

WEIGHTS = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
REGIONS = ["R0", "R1", "R2"]
TINY = PpoConfig(priced=8, desks=4, steps=480, rollout=60, batch=60, epochs=1)


def test_the_desk_pays_nothing_for_a_perfect_plan_and_less_for_any_other() -> None:
    """Its reward is minus the regret at the plan's prices, never above zero."""
    game = little_game(episodes=3)
    prices = option_prices(game, [best_plan(game, e) for e in range(3)])
    desk = Desk(lambda: (game, prices), WEIGHTS, REGIONS)
    desk.reset()
    rng = np.random.default_rng(0)
    total = np.zeros(3)
    for turn in range(game.length):
        offered = np.stack(desk.env_method("action_masks"))
        actions = np.where(offered, rng.random(offered.shape), -1).argmax(axis=1)
        seen, rewards, over, _ = desk.step(actions)
        assert np.asarray(seen).shape == (3, desk.layout.size)
        assert (over == (turn == game.length - 1)).all()
        total += rewards * REWARD_DOLLARS
        assert (rewards <= 1e-5).all()
    assert (total < 0).all()


def test_the_tuned_rules_are_never_worse_than_where_tuning_started() -> None:
    """On the episodes that they were tuned on; the second may only add to the first."""
    game = little_game(episodes=6)
    greedy, paced = tune(game)
    start = play(game, weighed(np.array([1.0, 1.0, 0.1, 1.0, 0.0, 0.0]))).value.mean()
    tuned = play(game, weighed(greedy)).value.mean()
    assert start <= tuned <= play(game, weighed(paced)).value.mean()
    assert greedy[5] == 0


def test_rules_that_play_side_by_side_play_as_if_alone() -> None:
    """Weights may differ by episode."""
    game = little_game(episodes=2)
    other = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 9.0])
    both = play(game, weighed(np.stack([WEIGHTS, other]))).value
    alone = (play(game, weighed(WEIGHTS)).value[0], play(game, weighed(other)).value[1])
    np.testing.assert_allclose(both, alone)


def test_training_starts_at_a_rule_and_learns_beyond_it() -> None:
    """Before anything is learnt the agent is that rule; after, it does better in training."""
    practice = little_game(episodes=8)
    greedy = play(practice, weighed(WEIGHTS)).value.mean()
    followed: list[float] = []
    agent = train_agent(
        practice,
        WEIGHTS,
        replace(TINY, desks=8, steps=9600, batch=240, epochs=4),
        seed=0,
        follow=lambda agent, _: followed.append(float(play(practice, served(agent)).value.mean())),
    )
    assert followed[0] == pytest.approx(greedy)
    assert followed[-1] > greedy
    assert play(practice, served(agent)).value.mean() == pytest.approx(followed[-1])


def test_the_same_seed_trains_the_same_agent() -> None:
    """Nothing in training hangs on anything else than its seed."""
    first = train_agent(little_game(episodes=8), WEIGHTS, TINY, seed=3)
    again = train_agent(little_game(episodes=8), WEIGHTS, TINY, seed=3)
    for name, values in first.network.items():
        np.testing.assert_array_equal(values, again.network[name])


def test_a_lost_order_counts_as_lost_and_not_as_late() -> None:
    """Shares and means of an outcome are told apart."""
    game = little_game(episodes=2, capacity_slack=0.2)
    outcome = play(game, weighed(WEIGHTS))
    assert (outcome.lost > 0.3).all()
    assert np.isfinite(outcome.late_hours).all()
    assert not masks(game.feasible()).all() if not game.done else True


def _outcome(*values: float) -> Outcome:
    nothing = np.zeros(len(values))
    return Outcome(np.array(values), nothing, nothing, nothing, nothing)


def test_the_gap_is_measured_between_greedy_and_clairvoyant() -> None:
    """0 is the greedy rule, 1 the clairvoyant plan; the distance is a share of the plan."""
    found = Comparison(
        {GREEDY: _outcome(-12, -10), AGENT: _outcome(-11, -9.5)}, np.array([-10.0, -9.0])
    )
    assert found.gap(GREEDY) == 0
    assert found.gap(AGENT) == pytest.approx(0.5)
    assert found.noise(AGENT) == pytest.approx(0.0)
    assert found.distance(GREEDY) == pytest.approx(1.5 / 9.5)


@pytest.mark.parametrize(
    ("gaps", "holds"), [((0.4, 0.5), [True, True]), ((0.5, -0.3), [False, False])]
)
def test_claims_say_whether_they_hold(gaps: tuple[float, ...], holds: list[bool]) -> None:
    """The mean gap against its target, and the worst seed against noise."""
    gap, half = Interval.of(gaps), Interval.of([0.1, 0.1])
    metrics = {
        AGENT: {"gap_fraction": gap, "gap_fraction_of_paced": gap},
        PACED: {"gap_fraction": half},
        GREEDY: {"below_clairvoyant": half},
    }
    claims = claims_of(metrics, [0.05, 0.05])
    assert [claim.holds for claim in claims] == [*holds, True]


def test_chance_means_that_forecasts_are_worth_nothing() -> None:
    """A gain beyond noise in a world without signal is a leak."""
    assert chance_claim({"forecast_gain": Interval.of([0.1, -0.1, 0.02])}).holds
    assert not chance_claim({"forecast_gain": Interval.of([0.11, 0.1, 0.12])}).holds
