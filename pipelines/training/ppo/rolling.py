"""A rolling linear programme: every midnight, prices for the day from demand that is imagined.

It is played by the greedy rule's forecasts plus these prices, and knows no more than any policy:
imagined demand comes from training orders, stock is what stands on the shelves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.models.fulfilment_game import FulfilmentGame
from pipelines.training.ppo.clairvoyant import best_plan
from pipelines.training.ppo.policies import weighed

Floats = NDArray[np.float64]

_SCENARIOS: Final = 2


class RollingProgramme:
    """A policy with a memory: the prices of today, by episode.

    Args:
        imagine: a game of so many one-day episodes, drawn from training orders.
        weights: of the greedy rule that compares options besides the prices.
    """

    def __init__(self, imagine: Callable[[int], FulfilmentGame], weights: Floats) -> None:
        self._imagine, self._rule = imagine, weighed(weights)
        self._days: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._packing: Floats = np.zeros(0)
        self._stock: Floats = np.zeros(0)

    def __call__(self, game: FulfilmentGame) -> Floats:
        """(B, O) scores."""
        batch, now = len(game.episodes), game.turn
        if now == 0:
            self._days = np.full(batch, -1)
            self._packing = np.zeros((batch, game.shop.demand.shape[0]))
            self._stock = np.zeros((batch, *game.shop.demand.shape))
        today = game.episodes.day[:, now]
        late = np.flatnonzero(self._days < today)
        if late.size:
            self._days[late] = today[late]
            self._solve(game, late)
        rows, place = np.arange(batch)[:, None], np.maximum(game.candidates[:, now], 0)
        product = game.episodes.product[:, now, None]
        held = self._stock[rows, place, product] * game.quantity[:, now, None]
        prices = self._packing[rows, place] + held
        return self._rule(game) - np.repeat(prices, len(game.shop.methods), axis=1)

    def _solve(self, game: FulfilmentGame, which: NDArray[np.int64]) -> None:
        imagined = self._imagine(_SCENARIOS * len(which))
        stock = np.repeat(game.stock[which], _SCENARIOS, axis=0)
        nothing = np.zeros_like(imagined.episodes.arriving)
        episodes = replace(imagined.episodes, stock=stock, arriving=nothing)
        day = FulfilmentGame(game.shop, imagined.config, episodes)
        plans = [best_plan(day, e) for e in range(len(episodes))]
        for place, episode in enumerate(which.tolist()):
            mine = plans[_SCENARIOS * place : _SCENARIOS * (place + 1)]
            self._packing[episode] = np.mean([plan.packing[0] for plan in mine], axis=0)
            self._stock[episode] = np.mean([plan.stock[0] for plan in mine], axis=0)
