"""How well purchases are forecast at fixed prefixes of the hold-out's sessions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from pipelines.models.intent.dataset import FIXED_PREFIXES, Events, split
from pipelines.registry.packaging import Predictor
from pipelines.training.source import TrainingDataError
from pipelines.training.task import Claim, Dataset, Evaluation, Interval, take

Floats = NDArray[np.float64]

ECE_BINS: Final = 10
"""Bins of equal mass."""
CHANCE_BAND: Final = 0.03


@dataclass(frozen=True)
class HoldOut:
    """Rows at the fixed prefixes of one seed's hold-out, shuffled by nothing.

    All arrays are (rows,); `columns` are the inputs.
    """

    columns: dict[str, Any]
    purchase: NDArray[np.bool_]
    prefix: NDArray[np.int64]
    session: NDArray[np.int64]
    user: NDArray[np.int64]


def hold_out(data: Dataset, seed: int) -> HoldOut:
    """The rows that a seed's models are compared on.

    Raises:
        TrainingDataError: there is no such row.
    """
    events: Events = data.extra["events"]
    at = data.extra["at"]
    place = events.place[at]
    rows = np.flatnonzero(split(data, seed).hold_out & np.isin(place, FIXED_PREFIXES))
    if not len(rows):
        raise TrainingDataError(
            "no session of the hold-out has 3 events: let the shop run for longer"
        )
    return HoldOut(
        columns=take(data.columns, rows),
        purchase=data.labels["purchase"][rows],
        prefix=place[rows],
        session=events.session[at[rows]],
        user=data.groups[rows],
    )


def forecast(predictor: Predictor, rows: HoldOut) -> Floats:
    """(rows,) the probability of a purchase."""
    return np.asarray(predictor.predict(rows.columns)["purchase_probability"], dtype=np.float64)


def score(probability: Floats, rows: HoldOut) -> Evaluation:
    """Metrics pooled over the fixed prefixes, average precision of each beside; losses by session.

    A metric that needs both outcomes is left out where only one happened.
    """
    truth = rows.purchase
    kept = np.clip(probability, 1e-6, 1 - 1e-6)
    error = expected_calibration_error(probability, truth)
    metrics = {"log_loss": float(log_loss(truth, kept, labels=[False, True])), "ece": error}
    if 0 < truth.sum() < len(truth):
        metrics["average_precision"] = float(average_precision_score(truth, probability))
        metrics["roc_auc"] = float(roc_auc_score(truth, probability))
    for prefix in FIXED_PREFIXES:
        part = rows.prefix == prefix
        if 0 < truth[part].sum() < part.sum():
            metrics[f"average_precision_at_{prefix}"] = float(
                average_precision_score(truth[part], probability[part])
            )
    losses = -np.where(truth, np.log(kept), np.log(1 - kept))
    _, first, index = np.unique(rows.session, return_index=True, return_inverse=True)
    by_session = np.bincount(index, losses) / np.bincount(index)
    return Evaluation(metrics, by_session, error, rows.user[first])


def expected_calibration_error(probability: Floats, truth: NDArray[np.bool_]) -> float:
    """Mean distance of forecast and frequency over bins of equal mass (Naeini et al. 2015)."""
    error = 0.0
    for part in np.array_split(np.argsort(probability, kind="stable"), ECE_BINS):
        if len(part):
            error += len(part) * abs(float(probability[part].mean() - truth[part].mean()))
    return error / max(len(probability), 1)


def chance_claim(name: str, areas: list[float], buying: float, others: float) -> Claim:
    """In a world without signal: the AUC is 0.5 but for the noise of so few sessions.

    Args:
        name: of the model.
        areas: the AUC of each seed.
        buying, others: independent sessions in a hold-out; the spread of a chance AUC follows from
            them (Mann and Whitney 1947).
    """
    area = Interval.of(areas)
    noise = math.sqrt((buying + others + 1) / (12 * max(buying, 1) * max(others, 1)))
    bound = max(CHANCE_BAND, 2 * noise)
    return Claim(
        f"intent: AUC of {name}",
        f"0.5 ± {bound:.3f}: two standard errors, at least {CHANCE_BAND}",
        area,
        abs(area.mean - 0.5) <= bound,
    )
