"""The greedy rule's weights, tuned one after another on training episodes."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.models.fulfilment.game import FulfilmentGame
from pipelines.models.fulfilment.policies import play, weighed

Floats = NDArray[np.float64]

# In the order of WEIGHED. Shipping is the unit; the last two are $ for a whole shelf and for a
# whole day's packing.
_START: Final = (1.0, 1.0, 0.1, 1.0, 0.0, 0.0)
_ONE_STEP: Final = (
    (2, (0.0, 0.25, 0.5)),
    (1, (0.7, 1.4, 2.0)),
    (4, (0.5, 2.0, 6.0)),
    (3, (0.0, 2.0)),
    (2, (0.0, 0.05, 0.2)),
)
_PACKING: Final = ((5, (5.0, 10.0, 15.0, 20.0, 25.0, 35.0)), (1, (0.7, 1.4)), (2, (0.0, 0.2)))


def tune(game: FulfilmentGame) -> tuple[Floats, Floats]:
    """Weights (6,) with the best return on the game's episodes, by coordinate search.

    Returns:
        The greedy rule: what an order costs, and a weight for the cover of the shelf. And a rule
        that also shies away from warehouses whose day is filling up, which is no longer greedy.
    """
    plain = _search(game, np.array(_START), _ONE_STEP)
    return plain, _search(game, plain, _PACKING)


def _search(
    game: FulfilmentGame, start: Floats, tried: tuple[tuple[int, tuple[float, ...]], ...]
) -> Floats:
    best = start
    for place, weights in tried:
        rules = np.tile(best, (1 + len(weights), 1))
        rules[1:, place] = weights
        # All rules of a step play the same episodes side by side.
        count = len(game.episodes)
        which = np.tile(np.arange(count), len(rules))
        together = FulfilmentGame(game.shop, game.config, game.episodes.take(which))
        value = play(together, weighed(np.repeat(rules, count, axis=0))).value
        best = rules[value.reshape(len(rules), count).mean(axis=1).argmax()]
    return np.asarray(best)
