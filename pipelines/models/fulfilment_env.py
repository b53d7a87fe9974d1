"""The order desk for Gymnasium, and the flat observation that single and vectorised games share.

Observation: for each option its encoded numbers, then feasibility and the greedy rule's $ of all
options, then an overview of the day, which only the value estimate reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from pipelines.models.fulfilment_game import FulfilmentGame
from pipelines.models.fulfilment_options import (
    encode_fixed,
    encode_stock,
    fixed_parts,
    stock_parts,
)

Floats32 = NDArray[np.float32]
_FAR: Final = 1e5  # no number of an observation is
Draw = Callable[[np.random.Generator], FulfilmentGame]
"""Makes a new game of a fixed number of episodes."""


@dataclass(frozen=True)
class Layout:
    """Sizes within a flat observation: options, numbers per option, numbers of the overview."""

    options: int
    features: int
    overview: int

    @property
    def size(self) -> int:
        """Length of an observation."""
        return self.options * (self.features + 2) + self.overview


class Observer:
    """Encodes a game's state for a policy; constant features are encoded once.

    Args:
        game: one or many episodes.
        weights: (6,) of the greedy rule, see `fulfilment_options.WEIGHED`.
        regions: names of the warehouse regions that the policy distinguishes.
    """

    def __init__(
        self, game: FulfilmentGame, weights: NDArray[np.float64], regions: Sequence[str]
    ) -> None:
        self.game, self._weights = game, weights
        fixed = {**game.fixed, "warehouse_region": game.warehouse_region()}
        self._encoded = encode_fixed(game.config, fixed, regions)
        self._dollars = fixed_parts(game.config, game.fixed) @ weights[:4]
        features = self._encoded.shape[-1] + encode_stock(game.stock_columns()).shape[-1]
        self.layout = Layout(game.options, features, game.overview().shape[1])

    def look(self) -> tuple[Floats32, NDArray[np.bool_], NDArray[np.float64]]:
        """(B, O, F) numbers, (B, O) feasible, (B, O) greedy $, of the order at hand."""
        columns, now = self.game.stock_columns(), self.game.turn
        options = np.concatenate([self._encoded[:, now], encode_stock(columns)], axis=-1)
        greedy = self._dollars[:, now] + stock_parts(columns) @ self._weights[4:]
        return options, columns["feasible"], greedy

    def flat(self) -> Floats32:
        """(B, size) observations; all zero when the game is over."""
        if self.game.done:
            return np.zeros((len(self.game.episodes), self.layout.size), np.float32)
        options, feasible, greedy = self.look()
        rows = len(options)
        parts = (options.reshape(rows, -1), feasible, greedy, self.game.overview())
        return np.concatenate(parts, axis=1, dtype=np.float32)


def masks(feasible: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(B, O) actions on offer; where nothing is feasible, the first, by which the order is lost."""
    offered = feasible.copy()
    offered[~feasible.any(axis=1), 0] = True
    return offered


class FulfilmentEnv(gymnasium.Env[Floats32, np.int64]):
    """One episode at a time; the reward is minus what an order costs, in $.

    Args:
        draw: makes a game of one episode from a random generator.
        weights, regions: as for `Observer`.
    """

    def __init__(self, draw: Draw, weights: NDArray[np.float64], regions: Sequence[str]) -> None:
        self._draw, self._weights, self._regions = draw, weights, regions
        self._observer = Observer(draw(np.random.default_rng(0)), weights, regions)
        size = self._observer.layout.size
        self.observation_space = spaces.Box(-_FAR, _FAR, (size,), np.float32)
        self.action_space = spaces.Discrete(self._observer.layout.options)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats32, dict[str, Any]]:
        """Draw a new episode; there are no options."""
        del options
        super().reset(seed=seed)
        self._observer = Observer(self._draw(self.np_random), self._weights, self._regions)
        return self._observer.flat()[0], {}

    def step(self, action: np.int64) -> tuple[Floats32, float, bool, bool, dict[str, Any]]:
        """Decide one order; an infeasible option loses it."""
        game = self._observer.game
        reward = float(game.step(np.array([action]))[0])
        return self._observer.flat()[0], reward, game.done, False, {}

    def action_masks(self) -> NDArray[np.bool_]:
        """(O,) options that can be carried out now."""
        return np.asarray(masks(self._observer.game.feasible())[0])
