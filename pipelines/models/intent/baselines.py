"""Baselines of the intent model that can be served, without torch: columns in, outputs out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.models.files import read_settings, write_settings
from pipelines.models.intent.features import USER_FEATURES, WINDOW, aggregates, recorded_features
from pipelines.models.intent.outputs import BUYS, IS_SOON, Calibration, logit, outputs, sigmoid

Floats = NDArray[np.float64]
Columns = Mapping[str, Any]


class Classifier(Protocol):
    """What scikit-learn offers of a classifier with two classes."""

    def predict_proba(self, features: Floats) -> Floats:
        """(N, 2)."""


@dataclass
class GradientBoosting:
    """Boosted trees on aggregates: one for the purchase, one for its being soon."""

    buys: Classifier
    is_soon: Classifier
    calibration: Calibration
    user_features: tuple[str, ...] = USER_FEATURES

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Outputs by name, one value a row."""
        features = aggregates(columns, self.user_features)
        purchase = self.buys.predict_proba(features)[:, 1]
        soon = self.is_soon.predict_proba(features)[:, 1]
        return outputs(self.calibration.probability(logit(purchase)), soon)

    def save(self, folder: Path) -> None:
        """Trees as skops files, without pickle."""
        import skops.io

        skops.io.dump(self.buys, folder / "buys.skops")
        skops.io.dump(self.is_soon, folder / "is_soon.skops")
        settings = {
            "calibration": asdict(self.calibration),
            "user_features": self.user_features,
        }
        write_settings(folder, settings)

    @classmethod
    def load(cls, folder: Path) -> GradientBoosting:
        """From the files that `save` wrote; any type but those of boosted trees is refused."""
        import skops.io

        buys, is_soon = (
            skops.io.load(folder / name, trusted=list(_TREE_TYPES))
            for name in ("buys.skops", "is_soon.skops")
        )
        settings = read_settings(folder)
        names = recorded_features(settings)
        return cls(buys, is_soon, Calibration(**settings["calibration"]), names)


_TREE_TYPES: Final = (
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn._loss._loss.CyHalfBinomialLoss",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)


@dataclass
class LogisticRegression:
    """Linear in standardised aggregates.

    Attributes:
        centre: (features,).
        scale: (features,).
        weights: (2, features + 1), the intercept last: purchase, soon.
        calibration: of the purchase.
        user_features: the last of the aggregates.
    """

    centre: Floats
    scale: Floats
    weights: Floats
    calibration: Calibration
    user_features: tuple[str, ...] = USER_FEATURES

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Outputs by name, one value a row."""
        features = (self._aggregates(columns) - self.centre) / self.scale
        logits = features @ self.weights[:, :-1].T + self.weights[:, -1]  # (N, 2)
        return outputs(self.calibration.probability(logits[:, BUYS]), sigmoid(logits[:, IS_SOON]))

    def _aggregates(self, columns: Columns) -> Floats:
        return linear_features(aggregates(columns, self.user_features))

    def save(self, folder: Path) -> None:
        """One JSON file."""
        settings = {n: getattr(self, n).tolist() for n in ("centre", "scale", "weights")}
        settings |= {"calibration": asdict(self.calibration), "user_features": self.user_features}
        write_settings(folder, settings)

    @classmethod
    def load(cls, folder: Path) -> LogisticRegression:
        """From the file that `save` wrote."""
        settings = read_settings(folder)
        centre, scale, weights = (np.array(settings[n]) for n in ("centre", "scale", "weights"))
        calibration = Calibration(**settings["calibration"])
        return cls(centre, scale, weights, calibration, recorded_features(settings))


@dataclass
class BaseRate:
    """The training set's rates, whatever the input."""

    purchase: float
    soon: float

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Outputs by name, one value a row."""
        rows = len(columns["actions"])
        return outputs(np.full(rows, self.purchase), np.full(rows, self.soon))

    def save(self, folder: Path) -> None:
        """One JSON file."""
        write_settings(folder, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> BaseRate:
        """From the file that `save` wrote."""
        return cls(**read_settings(folder))


def linear_features(values: Floats) -> Floats:
    """Aggregates for a linear model: nothing there is far away, large counts are damped."""
    found = np.where(np.isfinite(values), values, WINDOW + 1)
    return np.asarray(np.sign(found) * np.log1p(np.abs(found)))
