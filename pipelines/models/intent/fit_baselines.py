"""Baselines of the Intent Transformer, fitted on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression as ScikitLogisticRegression

from pipelines.models.intent.baselines import (
    BaseRate,
    GradientBoosting,
    LogisticRegression,
    linear_features,
)
from pipelines.models.intent.features import ACTIONS, PADDING, Sequences, read_sequences
from pipelines.models.intent.outputs import Calibration, logit, outputs, sigmoid
from pipelines.models.intent.training import calibrate, weighted_log_loss
from pipelines.registry.unknown_features import no_column_of_nulls

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Columns = Mapping[str, Any]

_TREES: Final = (
    {"max_leaf_nodes": 2, "max_iter": 250, "max_features": 0.5, "min_samples_leaf": 80},
    {"max_leaf_nodes": 4, "max_iter": 150, "max_features": 0.2, "min_samples_leaf": 80},
    {"max_leaf_nodes": 8, "max_iter": 100, "max_features": 0.2, "min_samples_leaf": 150},
)
"""Settings to choose from by log loss in validation. Without drawing features for each split the
trees learn sessions by heart from values that stay the same within one, as intent_score does;
more leaves did worse."""
_LEAST_SPREAD: Final = 1e-6  # below it an aggregate is constant, and weighs nothing
_PRIOR: Final = 20.0  # sessions' worth of the base rate in a rare action's frequency


@dataclass(frozen=True)
class Rows:
    """Rows for the baselines.

    Attributes:
        features: (rows, aggregates).
        purchase, soon: (rows,) labels.
        weight: (rows,) as the network weighs its positions.
    """

    features: Floats
    purchase: Bools
    soon: Bools
    weight: Floats

    def where(self, mask: Bools) -> Rows:
        """Some of the rows."""
        return Rows(self.features[mask], self.purchase[mask], self.soon[mask], self.weight[mask])


def base_rate(train: Rows) -> BaseRate:
    """Purchases per row, and how many of them are soon."""
    rate = float(np.average(train.purchase, weights=train.weight))
    return BaseRate(rate, float(train.soon.sum() / max(train.purchase.sum(), 1)))


def gradient_boosting(train: Rows, validation: Rows, seed: int) -> GradientBoosting:
    """The best of a few settings in validation, calibrated there.

    Args:
        train, validation: rows with labels.
        seed: of the trees.
    """
    label, weight = validation.purchase.astype(float), validation.weight
    seen = no_column_of_nulls(train.features)
    tried = []
    for setting in _TREES:
        trees = _trees(setting, seed)
        trees.fit(seen, _both(train.purchase), sample_weight=train.weight)
        found = logit(trees.predict_proba(validation.features)[:, 1])
        tried.append((weighted_log_loss(sigmoid(found), label, weight), trees, found))
    _, trees, found = min(tried, key=lambda one: one[0])
    buyers = train.where(_buyers(train))
    small = {**_TREES[1], "max_iter": 60}
    soon = _trees(small, seed).fit(
        no_column_of_nulls(buyers.features), _both(buyers.soon), sample_weight=buyers.weight
    )
    return GradientBoosting(trees, soon, calibrate(found, label, weight))


def _trees(setting: dict[str, Any], seed: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        **setting,
        learning_rate=0.05,
        l2_regularization=10.0,
        early_stopping=False,
        random_state=seed,
    )


def _both(labels: Bools) -> Bools:
    """Labels with both classes in them: a classifier refuses to learn from one."""
    if labels.all() or not labels.any():
        labels = labels.copy()
        labels[0] = not labels[0]
    return labels


def _buyers(train: Rows) -> Bools:
    """Rows before a purchase; all rows if there are fewer than two of them."""
    return train.purchase if train.purchase.sum() > 1 else np.ones(len(train.purchase), dtype=bool)


def logistic_regression(train: Rows, validation: Rows) -> LogisticRegression:
    """On standardised, damped aggregates."""
    values = linear_features(train.features)
    centre, spread = values.mean(0), values.std(0)
    varies = spread > _LEAST_SPREAD
    scale = np.where(varies, spread, 1.0)
    values = (values - centre) / scale * varies
    buyers = _buyers(train)
    models = [
        ScikitLogisticRegression(C=0.1, max_iter=400).fit(part, label, sample_weight=weight)
        for part, label, weight in (
            (values, _both(train.purchase), train.weight),
            (values[buyers], _both(train.soon[buyers]), train.weight[buyers]),
        )
    ]
    weights = np.stack([np.append(model.coef_[0] * varies, model.intercept_) for model in models])
    scaled = (linear_features(validation.features) - centre) / scale
    found = scaled @ weights[0, :-1] + weights[0, -1]
    label = validation.purchase.astype(float)
    return LogisticRegression(centre, scale, weights, calibrate(found, label, validation.weight))


@dataclass
class LastEvent:
    """How often sessions whose last event was this action ended in a purchase: one number each."""

    rates: Floats  # (actions,)
    soon: float

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Outputs by name."""
        last = last_action(read_sequences(columns))
        return outputs(self.rates[last], np.full(len(last), self.soon))


@dataclass
class Markov:
    """Log-odds of the actions' transitions in sessions that buy against those that do not.

    `gains` is (actions + 1, actions): from the start or an action to an action.
    """

    gains: Floats
    calibration: Calibration
    soon: float

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Outputs by name."""
        found = self.calibration.probability(markov_score(self.gains, read_sequences(columns)))
        return outputs(found, np.full(len(found), self.soon))


def last_action(sequences: Sequences) -> NDArray[np.int64]:
    """(N,) code of each row's last action."""
    rows = np.arange(len(sequences.length))
    last = sequences.action[rows, np.maximum(sequences.length - 1, 0)]
    return np.where(last == PADDING, len(ACTIONS) - 1, last).astype(np.int64)


def last_event(sequences: Sequences, train: Rows) -> LastEvent:
    """From the training rows; a rare action's rate leans to the base rate."""
    last = last_action(sequences)
    base = base_rate(train)
    bought = np.bincount(last, train.weight * train.purchase, len(ACTIONS))
    seen = np.bincount(last, train.weight, len(ACTIONS))
    return LastEvent((bought + _PRIOR * base.purchase) / (seen + _PRIOR), base.soon)


def markov(sequences: Sequences, train: Rows, columns: Columns, validation: Rows) -> Markov:
    """Log-odds of transitions with add-one smoothing, calibrated in validation.

    Args:
        sequences: of the training rows.
        train: the training rows.
        columns: of the validation rows.
        validation: the validation rows.
    """
    size = len(ACTIONS)
    tables = []
    for outcome in (True, False):
        start, end, row = _transitions(sequences)
        counts = np.ones((size + 1, size))
        mine = train.purchase[row] == outcome
        np.add.at(counts, (start[mine], end[mine]), train.weight[row[mine]])
        tables.append(np.log(counts / counts.sum(1, keepdims=True)))
    gains = tables[0] - tables[1]
    found = markov_score(gains, read_sequences(columns))
    label = validation.purchase.astype(float)
    return Markov(gains, calibrate(found, label, validation.weight), base_rate(train).soon)


def markov_score(gains: Floats, sequences: Sequences) -> Floats:
    """(N,) sum of the gains over each row's transitions."""
    start, end, row = _transitions(sequences)
    found = np.bincount(row, gains[start, end], len(sequences.length))
    return found.astype(np.float64)


def _transitions(
    sequences: Sequences,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """From, to and row of every step, the first from the start (the last code)."""
    action = sequences.action.astype(np.int64)
    before = np.concatenate([np.full((len(action), 1), len(ACTIONS)), action[:, :-1]], 1)
    row, place = np.nonzero(action != PADDING)
    return before[row, place], action[row, place], row
