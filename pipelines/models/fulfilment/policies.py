"""Playing a game by a policy, and the simple policies that any honest evaluation includes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.models.fulfilment.features import LONGEST_DELAY, fixed_parts, stock_parts
from pipelines.models.fulfilment.game import FulfilmentGame
from pipelines.models.fulfilment.training_observation import masks
from pipelines.models.fulfilment.world import NONE
from pipelines.registry.packaging import Predictor

Floats = NDArray[np.float64]
Policy = Callable[[FulfilmentGame], Floats]
"""Scores (B, O) of the options of the order at hand, higher is better."""


@dataclass(frozen=True)
class Outcome:
    """What playing came to, (B,) per episode.

    `value` is the return per order in $; `lost` a share; `late_hours`, `carbon_kg` and `ship_cost`
    ($) are means over the orders served.
    """

    value: Floats
    lost: Floats
    late_hours: Floats
    carbon_kg: Floats
    ship_cost: Floats


def play(game: FulfilmentGame, policy: Policy) -> Outcome:
    """Play all episodes from the start by the best-scored feasible option."""
    game.reset()
    total = np.zeros(len(game.episodes))
    while not game.done:
        scores = np.where(masks(game.feasible()), policy(game), -np.inf)
        total += game.step(scores.argmax(axis=1))
    served = game.taken != NONE
    count = np.maximum(served.sum(axis=1), 1)

    def mean(values: Floats) -> Floats:
        chosen = np.take_along_axis(values, np.maximum(game.taken, 0)[..., None], axis=2)[..., 0]
        return np.asarray((chosen * served).sum(axis=1) / count)

    return Outcome(
        value=total / game.length,
        lost=1 - served.mean(axis=1),
        late_hours=mean(game.late_hours),
        carbon_kg=mean(game.carbon_kg),
        ship_cost=mean(game.ship_cost),
    )


def weighed(weights: Floats) -> Policy:
    """The greedy rule with these weights, see `features.WEIGHED`.

    Args:
        weights: (6,), or (B, 6) for a rule of its own in each episode.
    """
    each = np.atleast_2d(weights)[:, None]  # (1 or B, 1, 6)

    def score(game: FulfilmentGame) -> Floats:
        fixed = {name: column[:, game.decided] for name, column in game.fixed.items()}
        dollars = (fixed_parts(game.config, fixed) * each[..., :4]).sum(axis=-1)
        taken = (stock_parts(game.stock_columns()) * each[..., 4:]).sum(axis=-1)
        return np.asarray(-dollars - taken)

    return score


def served(model: Predictor) -> Policy:
    """A served model, asked as in serving: by columns, a row per option."""

    def score(game: FulfilmentGame) -> Floats:
        columns = game.columns()
        shape = columns["feasible"].shape
        flat = {name: np.ravel(column) for name, column in columns.items()}
        flat["order"] = np.repeat(np.arange(shape[0]), shape[1])
        return np.asarray(model.predict(flat)["score"]).reshape(shape)

    return score


def random_feasible(seed: int) -> Policy:
    """Any option that can be carried out."""
    rng = np.random.default_rng(seed)
    return lambda game: rng.random((len(game.episodes), game.options))


def cheapest(game: FulfilmentGame) -> Floats:
    """Least $ for shipping."""
    return np.asarray(-game.fixed["ship_cost"][:, game.decided])


def fastest(game: FulfilmentGame) -> Floats:
    """Fewest hours to the door, the delay expected included."""
    now = game.decided
    delay = np.clip(game.fixed["expected_delay_hours"][:, now], 0, LONGEST_DELAY)
    return np.asarray(-game.fixed["promised_hours"][:, now] - delay)


def greenest(game: FulfilmentGame) -> Floats:
    """Least carbon."""
    return np.asarray(-np.nan_to_num(game.fixed["order_carbon_kg"][:, game.decided]))


SIMPLE: Final = {"cheapest": cheapest, "fastest": fastest, "greenest": greenest}
