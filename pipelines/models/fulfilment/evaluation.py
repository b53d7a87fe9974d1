"""Every policy on the same hold-out episodes, measured against greedy and clairvoyant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.models.fulfilment.clairvoyant import best_plan
from pipelines.models.fulfilment.episodes import Period, deal
from pipelines.models.fulfilment.game import FulfilmentGame
from pipelines.models.fulfilment.policies import (
    SIMPLE,
    Outcome,
    Policy,
    play,
    random_feasible,
    weighed,
)
from pipelines.models.fulfilment.rolling import RollingProgramme
from pipelines.models.fulfilment.shop import ShopHistory
from pipelines.training.task import Evaluation

Floats = NDArray[np.float64]

CLAIRVOYANT: Final = "clairvoyant"
GREEDY: Final = "greedy"
PACED: Final = "greedy with packing weight"
ROLLING: Final = "rolling programme"
AGENT: Final = "ppo"
_ROLLING_EPISODES: Final = 8


@dataclass(frozen=True)
class Comparison:
    """One seed's hold-out: outcomes by policy and the clairvoyant's value, (B,) per episode."""

    outcomes: dict[str, Outcome]
    clairvoyant: Floats

    def gap(self, name: str, below: str = GREEDY) -> float:
        """(policy − greedy) / (clairvoyant − greedy), means over the policy's episodes."""
        value = self.outcomes[name].value
        greedy = self.outcomes[below].value[: len(value)]
        return float((value - greedy).mean() / (self.clairvoyant[: len(value)] - greedy).mean())

    def noise(self, name: str) -> float:
        """Standard error of that gap over episodes."""
        value = self.outcomes[name].value
        greedy = self.outcomes[GREEDY].value[: len(value)]
        gain, room = value - greedy, self.clairvoyant[: len(value)] - greedy
        rest = gain - room * gain.mean() / room.mean()
        return float(rest.std(ddof=1) / np.sqrt(len(rest)) / room.mean())

    def distance(self, name: str) -> float:
        """How far below the clairvoyant plan, as a share of it."""
        best = self.clairvoyant.mean()
        return float((best - self.outcomes[name].value.mean()) / abs(best))

    def metrics(self, name: str) -> dict[str, float]:
        """What is logged of a policy."""
        outcome = self.outcomes[name]
        return {
            "return_per_order": float(outcome.value.mean()),
            "gap_fraction": self.gap(name),
            "below_clairvoyant": self.distance(name),
            **means(outcome),
        }


def means(outcome: Outcome) -> dict[str, float]:
    """Share lost, and hours late, kgCO2e and $ for shipping per order served."""
    return {
        "lost_share": float(outcome.lost.mean()),
        "late_hours": float(outcome.late_hours.mean()),
        "carbon_kg": float(outcome.carbon_kg.mean()),
        "ship_cost": float(outcome.ship_cost.mean()),
    }


def compare(
    history: ShopHistory,
    train: Period,
    game: FulfilmentGame,
    policies: Mapping[str, Policy],
    weights: Floats,
    seed: int,
) -> Comparison:
    """Play the hold-out by the given policies and by the simple ones.

    The rolling programme plays the first few episodes only: it solves hundreds of programmes.

    Args:
        history: the shop with its recorded orders.
        train: the period from which the rolling programme draws demand.
        game: the hold-out's episodes.
        policies: by name.
        weights: of the greedy rule.
        seed: of random policies and draws.
    """
    outcomes = {name: play(game, policy) for name, policy in policies.items()}
    outcomes |= {name: play(game, policy) for name, policy in SIMPLE.items()}
    outcomes["random feasible"] = play(game, random_feasible(seed))
    config = game.config
    one_day = replace(config, days=1, orders=max(1, config.orders // config.days))
    number = iter(range(10_000))

    def imagine(count: int) -> FulfilmentGame:
        return deal(history, train, one_day, (seed, 3, next(number)), count)

    few = FulfilmentGame(
        game.shop, config, game.episodes.take(np.arange(min(_ROLLING_EPISODES, len(game.episodes))))
    )
    outcomes[ROLLING] = play(few, RollingProgramme(imagine, weights))
    best = [best_plan(game, episode).value for episode in range(len(game.episodes))]
    return Comparison(outcomes, np.array(best) / game.length)


def judge(game: FulfilmentGame, policy: Policy, weights: Floats, clairvoyant: Floats) -> Evaluation:
    """One policy on a hold-out: losses are minus the return per order of each episode.

    Args:
        game, policy: what is played, and how.
        weights: of the greedy rule that it is measured against.
        clairvoyant: (B,) the upper bound.
    """
    outcome, below = play(game, policy), play(game, weighed(weights))
    metrics = Comparison({GREEDY: below, AGENT: outcome}, clairvoyant).metrics(AGENT)
    return Evaluation(metrics, -outcome.value)
