"""How good delay forecasts are, per route and snapshot, each weighing as many as its shipments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.models.delay.dataset import rows_of, split
from pipelines.registry.packaging import Predictor
from pipelines.training.source import TrainingDataError
from pipelines.training.task import Dataset, Evaluation, take

Floats = NDArray[np.float64]
Outputs = Mapping[str, NDArray[Any]]
_BINS: Final = 10
_DRAWS: Final = 1000
_DAY: Final = np.timedelta64(24, "h")


@dataclass(frozen=True)
class Judged:
    """The forecasts of a hold-out beside what came, each (rows with known labels,)."""

    outputs: dict[str, Floats]
    labels: dict[str, Floats]
    modes: NDArray[Any]
    days: NDArray[np.int64]
    routes: NDArray[Any]

    def __len__(self) -> int:
        return len(self.days)


def judge(forecast: Callable[[dict[str, Any]], Outputs], data: Dataset) -> Judged:
    """Forecast the hold-out's snapshots, whole; keep the rows whose labels are known.

    Raises:
        TrainingDataError: there is no hold-out.
    """
    test = split(data).hold_out
    if not test.any():
        raise TrainingDataError(
            "no delays are known yet to judge forecasts by: wait for deliveries"
        )
    rows = rows_of(data, test)
    outputs, kept = forecast(take(data.columns, rows)), test[rows]
    days = (data.timestamps[test] - data.timestamps.min()) // _DAY
    return Judged(
        outputs={name: np.asarray(v, dtype=np.float64)[kept] for name, v in outputs.items()},
        labels={name: values[test] for name, values in data.labels.items()},
        modes=np.asarray(data.columns["mode"], dtype=object)[test],
        days=days.astype(np.int64),
        routes=np.asarray(data.columns["route_id"], dtype=str)[test],
    )


def metrics(judged: Judged) -> dict[str, float]:
    """Of one model on one hold-out.

    Returns:
        r2 of the delay index; r2_risk of the mean risk that carriers went on to publish, over
        routes and snapshots alike (NaN when that is not forecast); mae_hours of hours past the
        promise (of shipments under way: so far); r2_hours; late_auc, late_auc_within_mode,
        late_brier and ece of the late probability; carbon_error, the mean relative error of the
        total kg CO2e per day.
    """
    found, labels = judged.outputs, judged.labels
    weight = labels["shipments"]
    late = found["late_probability"]
    hours = found["expected_delay_hours"]
    published = labels["published"]
    risk = found.get("expected_risk")
    index = found.get("delay_index")
    mean_late = labels["late"]
    brier = mean_late * (1 - late) ** 2 + (1 - mean_late) * late**2
    within = [
        (auc(late[rows], mean_late[rows], weight[rows]), float(weight[rows].sum()))
        for rows in (judged.modes == mode for mode in np.unique(judged.modes.astype(str)))
    ]
    scored = [(value, size) for value, size in within if np.isfinite(value)]
    kg = np.bincount(judged.days, weight * labels["carbon"])
    expected = np.bincount(judged.days, weight * found["expected_carbon_kg"])
    return {
        "r2": float("nan") if index is None else r2(labels["index"], index, weight),
        "r2_risk": float("nan") if risk is None else r2(labels["risk"], risk, published),
        "r2_hours": r2(labels["hours"], hours, weight),
        "mae_hours": float(np.average(np.abs(labels["hours"] - hours), weights=weight)),
        "late_auc": auc(late, mean_late, weight),
        "late_auc_within_mode": (
            float(np.average([v for v, _ in scored], weights=[size for _, size in scored]))
            if scored
            else float("nan")
        ),
        "late_brier": float(np.average(brier, weights=weight)),
        "ece": calibration_error(late, mean_late, weight),
        "carbon_error": (
            float(np.average(np.abs(expected - kg)[kg > 0] / kg[kg > 0]))
            if (kg > 0).any()
            else float("nan")
        ),
    }


def evaluation(judged: Judged) -> Evaluation:
    """With a loss per route and day: the mean squared error of the delay index (of the late
    probability for a model that has no such output); its unit is the day, whose weather all share.
    """
    found, labels = judged.outputs, judged.labels
    forecast, truth = found.get("delay_index"), labels["index"]
    if forecast is None:
        forecast, truth = found["late_probability"], labels["late"]
    names, route = np.unique(judged.routes, return_inverse=True)
    cluster = judged.days * len(names) + route
    keys, number = np.unique(cluster, return_inverse=True)
    weight = labels["shipments"]
    losses = np.bincount(number, weight * (truth - forecast) ** 2) / np.bincount(number, weight)
    measured = metrics(judged)
    return Evaluation(measured, losses, measured["ece"], keys // len(names))


def of_predictor(predictor: Predictor, data: Dataset) -> Evaluation:
    """Any served model of this task on a data set's hold-out."""
    return evaluation(judge(predictor.predict, data))


def r2(truth: Floats, forecast: Floats, weight: Floats) -> float:
    """1 - weighted squared error over weighted variance about the hold-out's own mean.

    NaN without weight or variance.

    Args:
        truth: (rows,).
        forecast: (rows,).
        weight: (rows,) the rows' shipments.
    """
    if not weight.any():
        return float("nan")
    mean = np.average(truth, weights=weight)
    spread = float((weight * (truth - mean) ** 2).sum())
    left = float((weight * (truth - forecast) ** 2).sum())
    return 1.0 - left / spread if spread > 0 else float("nan")


def auc(score: Floats, late: Floats, weight: Floats) -> float:
    """Chance that a late shipment's score is above an on-time one's, ties counting half.

    Args:
        score: of each row.
        late: share of the row's shipments that were late.
        weight: the row's shipments.
    """
    _, rank = np.unique(score, return_inverse=True)
    bad = np.bincount(rank, weight * late)
    good = np.bincount(rank, weight * (1 - late))
    total = bad.sum() * good.sum()
    wins = (bad * (np.cumsum(good) - good / 2)).sum()
    return float(wins / total) if total > 0 else float("nan")


def reliability(forecast: Floats, late: Floats, weight: Floats) -> list[tuple[float, float, float]]:
    """(mean forecast, share late, shipments) in bins of about equally many shipments.

    Args:
        forecast: (rows,) probability of being late.
        late: (rows,) share of the row's shipments that were late.
        weight: (rows,) the rows' shipments.
    """
    order = np.argsort(forecast, kind="stable")
    place = np.cumsum(weight[order]) / weight.sum()
    number = np.minimum((place * _BINS).astype(np.int64), _BINS - 1)
    size = np.bincount(number, weight[order], minlength=_BINS)
    predicted = np.bincount(number, (weight * forecast)[order], minlength=_BINS)
    came = np.bincount(number, (weight * late)[order], minlength=_BINS)
    return [
        (float(t / s), float(c / s), float(s))
        for t, c, s in zip(predicted, came, size, strict=True)
        if s > 0
    ]


def calibration_error(forecast: Floats, late: Floats, weight: Floats) -> float:
    """Expected calibration error over the bins of `reliability`.

    Args:
        forecast, late, weight: as for `reliability`.
    """
    bins = np.array(reliability(forecast, late, weight))
    return float(np.average(np.abs(bins[:, 0] - bins[:, 1]), weights=bins[:, 2]))


def interval_over_days(judged: Judged, better: Floats, worse: Floats) -> tuple[float, float]:
    """95 % interval of the difference in R2 of two delay indices, days drawn with replacement.

    The uncertainty from the choice of days, which seeds do not cover.

    Args:
        judged: the hold-out.
        better, worse: (rows,) the two delay indices.
    """
    truth, weight = judged.labels["index"], judged.labels["shipments"]
    _, day = np.unique(judged.days, return_inverse=True)
    gain = weight * ((truth - worse) ** 2 - (truth - better) ** 2)
    mean = np.average(truth, weights=weight)
    parts = np.stack([np.bincount(day, v) for v in (gain, weight * (truth - mean) ** 2)])
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, parts.shape[1], (_DRAWS, parts.shape[1]))
    sums = parts[:, drawn].sum(axis=2)
    if not (sums[1] > 0).all():  # days on which all shipments are alike
        return float("nan"), float("nan")
    low, high = np.quantile(sums[0] / sums[1], [0.025, 0.975])
    return float(low), float(high)
