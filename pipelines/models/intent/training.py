"""Fitting the networks: every position of every window, averaged weights, the best epoch kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import nn

from pipelines.models.intent.outputs import BUYS, Calibration, sigmoid
from pipelines.models.intent.transformer import IntentConfig, bootstrapped, intent_loss, member_mean
from pipelines.models.intent.windows import Windows

Floats = NDArray[np.float64]
_WARM_UP = 50  # steps
_SORTED_BY = 2.0  # events by which neighbours in a batch may differ in length


@dataclass(frozen=True)
class LearningCurve:
    """By epoch: weighted loss on the training windows, log loss of a purchase in validation."""

    train: list[float]
    validation: list[float]


def fit_network(
    network: nn.Module,
    train: Windows,
    validation: Windows,
    config: IntentConfig,
    seed: int,
    report: Callable[[float], None],
) -> tuple[Any, LearningCurve]:
    """Train; the returned network has the averaged weights of the best epoch in validation.

    Args:
        network: to train, in place.
        train, validation: windows of events.
        config: sizes and rates.
        seed: of the order of batches.
        report: callback with the fraction that is done.
    """
    rng = np.random.default_rng(seed)
    averaged = copy.deepcopy(network)
    best, best_loss = copy.deepcopy(network.state_dict()), float("inf")
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.99),
    )
    curve = LearningCurve([], [])
    step = 0
    for epoch in range(config.epochs):
        network.train()
        batches = _batches(train.length, config.batch_events, rng)
        steps, total = config.epochs * len(batches), 0.0
        for index in batches:
            pace = min(1.0, (step + 1) / _WARM_UP) * max(0.02, 1 - step / steps)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * pace
            total += _step(network, averaged, optimizer, train, index, config, epoch > 0)
            step += 1
            keep = min(config.averaging, 1 - 1 / (step + 1))
            with torch.no_grad():
                for mean, now in zip(averaged.parameters(), network.parameters(), strict=True):
                    mean.lerp_(now, 1 - keep)
        logit, label, weight = forecasts(averaged, validation)
        loss = weighted_log_loss(sigmoid(logit), label, weight)
        curve.train.append(total / len(batches))
        curve.validation.append(loss)
        if loss < best_loss:
            best, best_loss = copy.deepcopy(averaged.state_dict()), loss
        report((epoch + 1) / config.epochs)
    averaged.load_state_dict(best)
    return averaged.eval(), curve


def _step(
    network: nn.Module,
    averaged: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: Windows,
    index: NDArray[np.int64],
    config: IntentConfig,
    may_bootstrap: bool,
) -> float:
    events, user, there, targets = train.batch(index)
    logits, auxiliary = network(events, user)  # (M, B, T, 2), (M, B, T, auxiliaries)
    purchase = targets.purchase.expand(logits.shape[:3])
    if may_bootstrap and config.bootstrap > 0:
        averaged.eval()
        with torch.no_grad():
            forecast = torch.sigmoid(averaged(events, user)[0][..., BUYS])
        purchase = bootstrapped(targets.purchase, forecast, there, config.bootstrap)
    losses = intent_loss(logits, auxiliary, targets, purchase, config) / config.batch_events
    optimizer.zero_grad()
    losses.sum().backward()  # type: ignore[no-untyped-call]  # torch is untyped here
    nn.utils.clip_grad_norm_(network.parameters(), float(len(losses)))
    optimizer.step()
    return float(losses.mean().detach())


def _batches(
    length: NDArray[np.int64], events: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Windows of about the same length together, about so many events each, in random order."""
    order = np.argsort(length + rng.random(len(length)) * _SORTED_BY, kind="stable")
    bounds = np.flatnonzero(np.diff(np.cumsum(length[order]) // events)) + 1
    batches = np.split(order, bounds)
    return [batches[i] for i in rng.permutation(len(batches))]


def forecasts(network: nn.Module, windows: Windows) -> tuple[Floats, Floats, Floats]:
    """(P,) logit of a purchase, label and weight of every position that has a weight."""
    network.eval()
    logits, labels, weights = [], [], []
    order = np.argsort(windows.length, kind="stable")
    with torch.inference_mode():
        for index in np.array_split(order, max(1, len(order) // 512)):
            events, user, _, targets = windows.batch(index)
            found = member_mean(network(events, user)[0])[..., BUYS]  # (B, T)
            counts = targets.weight > 0
            logits.append(found[counts])
            labels.append(targets.purchase[counts])
            weights.append(targets.weight[counts])
    joined = (torch.cat(part).double().numpy() for part in (logits, labels, weights))
    logit, label, weight = joined
    return logit, label, weight


def weighted_log_loss(probability: Floats, label: Floats, weight: Floats) -> float:
    """Mean log loss of the purchase.

    Args:
        probability: (rows,) forecast, 0–1.
        label: (rows,) 0 or 1.
        weight: (rows,).
    """
    kept = np.clip(probability, 1e-6, 1 - 1e-6)
    losses = -(label * np.log(kept) + (1 - label) * np.log(1 - kept))
    return float((losses * weight).sum() / weight.sum())


def calibrate(logit: Floats, label: Floats, weight: Floats) -> Calibration:
    """Platt scaling by maximum likelihood; the identity if all labels are equal.

    Args:
        logit: (rows,) log-odds.
        label: (rows,) 0 or 1.
        weight: (rows,).
    """
    if not 0 < label.mean() < 1:
        return Calibration()

    def loss(parameters: Floats) -> float:
        slope, offset = parameters
        return weighted_log_loss(sigmoid(slope * logit + offset), label, weight)

    found = minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead")
    slope, offset = found.x
    return Calibration(float(max(slope, 0.05)), float(offset))
