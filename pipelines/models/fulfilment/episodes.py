"""Which recorded orders a policy learns from, and which it is judged on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipelines.models.fulfilment.game import FulfilmentGame
from pipelines.models.fulfilment.shop import ShopHistory
from pipelines.models.fulfilment.world import FulfilmentConfig, Lines, draw_episodes
from pipelines.training.source import TrainingDataError

TRAIN_SHARE_OF_DAYS = 2 / 3
TRAIN_SHARE_OF_USERS = 0.7
FEWEST_A_SIDE = 2
_DRAWS = 50
_FIRST_DAY = 2  # routes have no deliveries to show before


@dataclass(frozen=True)
class Period:
    """Lines to draw episodes from, and the days (last exclusive) on which routes are seen."""

    lines: Lines
    days: tuple[int, int]


def split(history: ShopHistory, seed: int) -> tuple[Period, Period]:
    """Training and hold-out: later days and other users.

    Which users are in which part is drawn by the seed, anew if a part of few customers went without
    orders. Lines are weighed such that every part has
    its period's shares of the regions: some forty customers would otherwise move the map.

    Raises:
        TrainingDataError: too few lines on one side.
    """
    users, rng = np.unique(history.users), np.random.default_rng([seed, 11])
    cut = max(1, round(history.days * TRAIN_SHARE_OF_DAYS))
    early = history.lines.day < cut
    for _ in range(_DRAWS):
        drawn = rng.permutation(users)[: round(len(users) * TRAIN_SHARE_OF_USERS)]
        known = np.isin(history.users, drawn)
        if min((early & known).sum(), (~early & ~known).sum()) >= FEWEST_A_SIDE:
            break
    first = min(_FIRST_DAY, cut - 1)
    train = _period(history, early, known, (first, cut))
    return train, _period(history, ~early, ~known, (cut, history.days))


def everything(history: ShopHistory) -> Period:
    """All lines, as when a champion is scored on orders that came after it."""
    return Period(history.lines, (0, history.days))


def _period(
    history: ShopHistory,
    then: np.ndarray[tuple[int], np.dtype[np.bool_]],
    who: np.ndarray[tuple[int], np.dtype[np.bool_]],
    days: tuple[int, int],
) -> Period:
    lines = history.lines
    chosen = then & who
    if int(chosen.sum()) < FEWEST_A_SIDE:
        raise TrainingDataError(
            f"{int(chosen.sum())} orders on days {days[0]} to {days[1]} by a part of "
            f"{len(np.unique(history.users))} customers are too few, {FEWEST_A_SIDE} are needed: "
            "let the shop run for longer, "
            "e.g. `synchrochain run --days 30`"
        )
    regions = len(history.shop.regions)
    whole = np.bincount(lines.region[then], minlength=regions)
    part = np.bincount(lines.region[chosen], minlength=regions)
    found = lines.where(chosen)
    return Period(replace(found, weight=(whole / np.maximum(part, 1))[found.region]), days)


def deal(
    history: ShopHistory,
    period: Period,
    config: FulfilmentConfig,
    seed: tuple[int, ...],
    count: int,
) -> FulfilmentGame:
    """A game of episodes; the same seed gives the same demand and supply.

    Args:
        history: the shop with its recorded orders.
        period: the days and orders to draw from.
        config: of the game.
        seed: of the draws.
        count: number of episodes.
    """
    rng = np.random.default_rng(seed)
    episodes = draw_episodes(history.shop, period.lines, config, rng, count, period.days)
    return FulfilmentGame(history.shop, config, episodes)
