"""What a policy sees of a game in training, as flat arrays.

Observation: for each option its encoded numbers, then feasibility and the greedy rule's $ of all
options, then an overview of the day, which only the value estimate reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.models.fulfilment.features import (
    encode_fixed,
    encode_stock,
    fixed_parts,
    stock_parts,
)
from pipelines.models.fulfilment.game import FulfilmentGame

Floats32 = NDArray[np.float32]


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
        weights: (6,) of the greedy rule, see `features.WEIGHED`.
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
        columns, now = self.game.stock_columns(), self.game.decided
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
