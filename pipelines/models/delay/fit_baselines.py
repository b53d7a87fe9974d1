"""What the network is compared with, fitted on the same rows and weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.models.delay.baselines import OUTPUTS, GradientBoosting, Usual
from pipelines.models.delay.features import MODES, place_numbers
from pipelines.registry.columns import floats
from pipelines.registry.unknown_features import no_column_of_nulls
from pipelines.training.task import Dataset

Floats = NDArray[np.float64]
_TREES: Final[Mapping[str, Any]] = {
    "max_iter": 120,
    "learning_rate": 0.05,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 200,
    "l2_regularization": 5.0,
}
_LEAST_KG: Final = 1e-6


def usual(data: Dataset, train: NDArray[np.bool_], weights: Floats) -> Usual:
    """Means by mode over the training shipments.

    Args:
        data: of snapshots.
        train: (N,) rows to learn from.
        weights: (N,) factors of the rows' shipments.
    """
    shipments = data.labels["shipments"] * np.where(train, weights, 0.0)
    mode = np.asarray(data.columns["mode"], dtype=object)

    def means(name: str) -> dict[str, float]:
        values = data.labels[name]
        found = {"": float(np.average(values, weights=shipments))}
        for known in MODES:
            of_mode = np.where(mode == known, shipments, 0.0)
            if of_mode.sum() > 0:
                found[known] = float(np.average(values, weights=of_mode))
        return found

    return Usual(
        late=means("late"),
        index=means("index"),
        carbon=means("carbon"),
        tails=dict(data.extra["tails"]),
        base_hours=float(np.median(floats(data.columns["base_hours"]))),
    )


def boosting(
    data: Dataset,
    train: NDArray[np.bool_],
    weights: Floats,
    habits: Usual,
    *,
    neighbours: bool,
    seed: int,
) -> GradientBoosting:
    """Trees for each output; squared error, whose minimum is the mean, and gamma for carbon.

    Args:
        data: of snapshots.
        train: (N,) rows to learn from.
        weights: (N,) factors of the rows' shipments.
        habits: means by mode, see `usual`.
        neighbours: whether inputs include the neighbours' conditions.
        seed: of the trees.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    seen = GradientBoosting.inputs(data.columns, neighbours=neighbours)
    rows = train & (weights > 0)
    inputs = no_column_of_nulls(seen[rows])
    trees = {}
    for name in OUTPUTS:
        weight = weights[rows]
        if name != "risk":
            weight = weight * data.labels["shipments"][rows]
        trees[name] = HistGradientBoostingRegressor(
            **{**_TREES, "min_samples_leaf": max(5, min(200, int(rows.sum()) // 50))},
            loss="gamma" if name == "carbon" else "squared_error",
            random_state=seed,
        ).fit(inputs, np.maximum(data.labels[name][rows], _LEAST_KG), sample_weight=weight)
    return GradientBoosting(trees, habits, neighbours=neighbours)


class GlobalLag:
    """Every route as all routes did of late, in proportion to what is usual of its mode."""

    def __init__(self, habits: Usual) -> None:
        self.usual = habits

    def predict(self, columns: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """The outputs of a served model."""
        habits = self.usual
        _, _, snapshot, _ = place_numbers(columns)
        recent = np.nan_to_num(floats(columns["deliveries_24h"]))
        late = recent * np.nan_to_num(floats(columns["late_rate_24h"]))
        usual_late = habits.of(habits.late, columns)
        with np.errstate(invalid="ignore", divide="ignore"):
            level = np.bincount(snapshot, late) / np.bincount(snapshot, recent * usual_late)
        level = np.nan_to_num(level, nan=1.0, posinf=1.0)[snapshot]
        return habits.outputs(
            columns,
            late=level * usual_late,
            index=level * habits.of(habits.index, columns),
            risk=level * usual_late,
            carbon=habits.of(habits.carbon, columns),
        )


class RouteMean:
    """Each route as in training, drawn to its mode's mean: all that a world without signal has.

    Args:
        data: rows with labels.
        train: (N,) which of them to learn from.
        weights: (N,) how much each counts.
        habits: what is usual of the modes.
    """

    # Shipments, of which each counts in up to a dozen overlapping rows. Large: in a world without
    # signal the routes of a mode do not differ, and what seems a difference is noise.
    _PRIOR: Final = 10_000.0

    def __init__(
        self, data: Dataset, train: NDArray[np.bool_], weights: Floats, habits: Usual
    ) -> None:
        self.usual = habits
        self._means: dict[str, dict[str, float]] = {"late": {}, "index": {}}
        shipments = data.labels["shipments"] * np.where(train, weights, 0.0)
        names, route = np.unique(data.columns["route_id"].astype(str), return_inverse=True)
        rows, sizes = np.bincount(route), np.bincount(route, shipments)
        for name, values in self._means.items():
            prior = np.bincount(route, habits.of(getattr(habits, name), data.columns)) / rows
            total = np.bincount(route, shipments * data.labels[name])
            mean = (total + self._PRIOR * prior) / (sizes + self._PRIOR)
            values.update(zip(names.tolist(), mean.tolist(), strict=True))

    def predict(self, columns: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """The outputs of a served model."""
        habits = self.usual
        found = {}
        for name, means in self._means.items():
            usual_values = habits.of(getattr(habits, name), columns)
            routes = np.asarray(columns["route_id"], dtype=str).tolist()
            found[name] = np.array(
                [means.get(r, u) for r, u in zip(routes, usual_values.tolist(), strict=True)]
            )
        carbon = habits.of(habits.carbon, columns)
        return habits.outputs(
            columns, late=found["late"], index=found["index"], risk=found["late"], carbon=carbon
        )
