"""Training the agent: MaskablePPO from the best tuned rule on, on regret at shadow prices.

The clairvoyant programme prices every slot and unit of a training episode; what a decision takes is
charged to it at once, at these prices. Regressing the network on the prices first was tried: it
closed less of the gap than the rule that training starts from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback

from pipelines.models.fulfilment.clairvoyant import Plan, best_plan
from pipelines.models.fulfilment.desk import Desk, DeskPolicy, Judge
from pipelines.models.fulfilment.game import FulfilmentGame
from pipelines.models.fulfilment.predictors import Ppo

Floats = NDArray[np.float64]
Follow = Callable[[Ppo, float], None]
"""Callback: the agent so far, and the share of training that is done."""


@dataclass(frozen=True)
class PpoConfig:
    """Settings of training.

    `priced` episodes are solved for their shadow prices; `steps` orders are decided in `desks`
    episodes at once; `sharpness` is log-odds per $.
    """

    priced: int = 64
    desks: int = 32
    steps: int = 128_000
    rollout: int = 250
    batch: int = 2000
    epochs: int = 3
    rate: float = 3e-3
    gamma: float = 0.97
    gae_lambda: float = 0.9
    clip: float = 0.2
    sharpness: float = 2.0

    def quick(self) -> PpoConfig:
        """The same, smaller."""
        return replace(self, priced=40, steps=64_000)


def train_agent(
    priced: FulfilmentGame,
    weights: Floats,
    config: PpoConfig,
    *,
    seed: int,
    follow: Follow | None = None,
) -> Ppo:
    """Fit an agent.

    Args:
        priced: a game of training episodes.
        weights: of the tuned rule to start from.
        config: settings.
        seed: of initialisation and exploration.
        follow: callback with the agent so far, see `Follow`.
    """
    regions = sorted(set(priced.shop.warehouse_regions.tolist()))
    prices = option_prices(priced, [best_plan(priced, e) for e in range(len(priced.episodes))])
    rng = np.random.default_rng(seed)

    def deal() -> tuple[FulfilmentGame, Floats]:
        which = rng.permutation(len(priced.episodes))[: config.desks]
        episodes = priced.episodes.take(which)
        return FulfilmentGame(priced.shop, priced.config, episodes), prices[which]

    torch.manual_seed(seed)
    desk = Desk(deal, weights, regions)
    learner = MaskablePPO(
        DeskPolicy,
        desk,
        n_steps=config.rollout,
        batch_size=config.batch,
        n_epochs=config.epochs,
        learning_rate=lambda left: config.rate * max(left, 0.1),
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip,
        policy_kwargs={"layout": desk.layout, "sharpness": config.sharpness},
        seed=seed,
        device="cpu",
    )
    judge: Judge = learner.policy.mlp_extractor  # type: ignore[assignment]  # see DeskPolicy

    def agent() -> Ppo:
        state = {name: value.numpy().copy() for name, value in judge.scorer.state_dict().items()}
        return Ppo(priced.config, weights.tolist(), regions, state)

    def report(done: float) -> None:
        if follow is not None:
            follow(agent(), done)

    report(0.0)
    learner.learn(config.steps, callback=_Reporting(report, config.steps))
    report(1.0)
    return agent()


class _Reporting(BaseCallback):
    """Reports after each quarter of the steps but the last."""

    def __init__(self, report: Callable[[float], None], steps: int) -> None:
        super().__init__()
        self._report, self._steps, self._reported = report, steps, 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        quarter = 4 * self.num_timesteps // self._steps
        if quarter > self._reported:
            self._reported = quarter
            self._report(min(self.num_timesteps / self._steps, 1.0))


def option_prices(game: FulfilmentGame, plans: list[Plan]) -> Floats:
    """(B, T, O) $ that the slot and units of each option are worth in its episode's plan."""
    e, days = game.episodes, game.config.days
    b = np.arange(len(e))[:, None, None]
    day, place = e.day[..., None], np.maximum(game.candidates, 0)
    packing = np.stack([plan.packing for plan in plans])[b, day, place]
    stock = np.stack([plan.stock for plan in plans])
    until = np.concatenate([np.zeros_like(stock[:, :1]), np.cumsum(stock, axis=1)], axis=1)
    review = np.minimum(day + 1, days - 1)
    back = np.where(day + 1 < days, day + 1 + e.leads[b, review, e.shelf], days)
    held = until[b, np.minimum(back, days), e.shelf] - until[b, day, e.shelf]
    prices = packing + held * game.quantity[..., None]
    return np.repeat(prices, len(game.shop.methods), axis=2)
