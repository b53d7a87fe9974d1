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

from pipelines.models.fulfilment.clairvoyant import best_plan
from pipelines.models.fulfilment.game import FulfilmentGame
from pipelines.models.fulfilment.policies import weighed
from pipelines.models.fulfilment.world import NONE

Floats = NDArray[np.float64]

_SCENARIOS: Final = 2
_USUAL_SHARE: Final = 0.6  # of its target that a shelf holds when an episode starts, on average


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
        batch, now = len(game.episodes), game.decided
        if now == 0:
            self._days = np.full(batch, -1)
            self._packing = np.zeros((batch, game.shop.demand.shape[0]))
            self._stock = np.zeros(game.stock.shape)
        today = game.episodes.day[:, now]
        behind = np.flatnonzero(self._days < today)
        if behind.size:
            self._days[behind] = today[behind]
            self._solve(game, behind)
        rows, place = np.arange(batch)[:, None], np.maximum(game.candidates[:, now], 0)
        held = self._stock[rows, game.episodes.shelf[:, now]] * game.quantity[:, now, None]
        prices = self._packing[rows, place] + held
        return self._rule(game) - np.repeat(prices, len(game.shop.methods), axis=1)

    def _solve(self, game: FulfilmentGame, which: NDArray[np.int64]) -> None:
        imagined = self._imagine(_SCENARIOS * len(which))
        places = [
            _places(game.episodes.code[episode], imagined.episodes.code[number])
            for number, episode in enumerate(np.repeat(which, _SCENARIOS).tolist())
        ]
        # What no order of the game can reach is taken to be as full as shelves are at the start.
        stock = np.rint(imagined.episodes.target * _USUAL_SHARE).astype(np.int64)
        for number, (mine, theirs) in enumerate(places):
            stock[number, theirs] = game.stock[which[number // _SCENARIOS], mine]
        nothing = np.zeros_like(imagined.episodes.arriving)
        episodes = replace(imagined.episodes, stock=stock, arriving=nothing)
        day = FulfilmentGame(game.shop, imagined.config, episodes)
        self._packing[which], self._stock[which] = 0.0, 0.0
        for number, (mine, theirs) in enumerate(places):
            plan, episode = best_plan(day, number), which[number // _SCENARIOS]
            self._packing[episode] += plan.packing[0] / _SCENARIOS
            self._stock[episode, mine] += plan.stock[0][theirs] / _SCENARIOS


def _places(
    game: NDArray[np.int64], imagined: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the shelves that both have stand in each."""
    _, mine, theirs = np.intersect1d(
        game[game != NONE], imagined[imagined != NONE], assume_unique=True, return_indices=True
    )
    return mine, theirs
