"""The served forms of the intent model and its baselines: columns in, purchase and urgency out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.models.intent_sequences import (
    WINDOW,
    aggregates,
    event_inputs,
    read_sequences,
    user_context,
)
from pipelines.models.intent_transformer import (
    BUYS,
    IS_SOON,
    URGENCY_CLASSES,
    IntentConfig,
    IntentTransformer,
    member_mean,
)

Floats = NDArray[np.float64]
Columns = Mapping[str, Any]

_SETTINGS: Final = "settings.json"
_WEIGHTS: Final = "weights.pt"
_BATCH_ROWS: Final = 1024


@dataclass(frozen=True)
class Calibration:
    """Platt's scaling of a logit (Platt 1999), fitted on validation users."""

    slope: float = 1.0
    offset: float = 0.0

    def probability(self, logit: Floats) -> Floats:
        """The calibrated probability."""
        found: Floats = sigmoid(self.slope * logit + self.offset)
        return found


def sigmoid(logit: Floats) -> Floats:
    """1 / (1 + e^−x), without overflow."""
    found: Floats = 0.5 * (1 + np.tanh(0.5 * np.asarray(logit, dtype=np.float64)))
    return found


def outputs(purchase: Floats, soon: Floats) -> dict[str, NDArray[Any]]:
    """The signature's outputs.

    Args:
        purchase: (N,) probability of a purchase later in the session.
        soon: (N,) probability that it comes within 10 minutes, if it comes.
    """
    high, low = purchase * soon, 1 - purchase
    medium = purchase - high
    likeliest = np.argmax(np.stack([low, medium, high], 1), 1)
    return {
        "purchase_probability": purchase,
        "urgency_class": np.array(URGENCY_CLASSES, dtype=object)[likeliest],
        "urgency": high + 0.5 * medium,
    }


@dataclass
class Transformer:
    """The Intent Transformer with its calibration."""

    network: IntentTransformer
    calibration: Calibration

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Outputs by name, one value a row."""
        logits = self.logits(columns)
        return outputs(self.calibration.probability(logits[:, BUYS]), sigmoid(logits[:, IS_SOON]))

    def logits(self, columns: Columns) -> Floats:
        """(N, 2) before calibration."""
        sequences = read_sequences(columns)
        events, user = event_inputs(sequences), user_context(columns)
        last = np.maximum(sequences.length - 1, 0)
        found = np.empty((len(last), 2))
        self.network.eval()
        with torch.inference_mode():
            for start in range(0, len(last), _BATCH_ROWS):
                part = slice(start, start + _BATCH_ROWS)
                found[part] = self._last(events[part], user[part], last[part])
        return found

    def _last(
        self, events: NDArray[np.float32], user: NDArray[np.float32], last: NDArray[np.int64]
    ) -> Floats:
        width = int(last.max()) + 1
        rows = torch.arange(len(last))
        seen = torch.from_numpy(np.ascontiguousarray(events[:, :width]))  # (B, T, inputs)
        everywhere = torch.from_numpy(user)[:, None].expand(-1, width, -1)  # (B, T, features)
        logits, _ = self.network(seen, everywhere)  # (M, B, T, 2)
        at_last = logits[:, rows, torch.from_numpy(last)]  # (M, B, 2)
        return member_mean(at_last).double().numpy()

    def save(self, folder: Path) -> None:
        """Weights and settings."""
        torch.save(self.network.state_dict(), folder / _WEIGHTS)
        _write(
            folder, {"config": asdict(self.network.config), "calibration": asdict(self.calibration)}
        )

    @classmethod
    def load(cls, folder: Path) -> Transformer:
        """From the files that `save` wrote."""
        settings = _read(folder)
        network = IntentTransformer(IntentConfig(**settings["config"]))
        network.load_state_dict(torch.load(folder / _WEIGHTS, weights_only=True))
        return cls(network.eval(), Calibration(**settings["calibration"]))


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

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Outputs by name, one value a row."""
        features = aggregates(columns)
        purchase = self.buys.predict_proba(features)[:, 1]
        soon = self.is_soon.predict_proba(features)[:, 1]
        return outputs(self.calibration.probability(logit(purchase)), soon)

    def save(self, folder: Path) -> None:
        """Trees as skops files, without pickle."""
        import skops.io

        skops.io.dump(self.buys, folder / "buys.skops")
        skops.io.dump(self.is_soon, folder / "is_soon.skops")
        _write(folder, {"calibration": asdict(self.calibration)})

    @classmethod
    def load(cls, folder: Path) -> GradientBoosting:
        """From the files that `save` wrote; any type but those of boosted trees is refused."""
        import skops.io

        buys, is_soon = (
            skops.io.load(folder / name, trusted=list(_TREE_TYPES))
            for name in ("buys.skops", "is_soon.skops")
        )
        return cls(buys, is_soon, Calibration(**_read(folder)["calibration"]))


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
    """

    centre: Floats
    scale: Floats
    weights: Floats
    calibration: Calibration

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Outputs by name, one value a row."""
        features = (linear_features(aggregates(columns)) - self.centre) / self.scale
        logits = features @ self.weights[:, :-1].T + self.weights[:, -1]  # (N, 2)
        return outputs(self.calibration.probability(logits[:, BUYS]), sigmoid(logits[:, IS_SOON]))

    def save(self, folder: Path) -> None:
        """One JSON file."""
        arrays = {n: getattr(self, n).tolist() for n in ("centre", "scale", "weights")}
        _write(folder, arrays | {"calibration": asdict(self.calibration)})

    @classmethod
    def load(cls, folder: Path) -> LogisticRegression:
        """From the file that `save` wrote."""
        settings = _read(folder)
        centre, scale, weights = (np.array(settings[n]) for n in ("centre", "scale", "weights"))
        return cls(centre, scale, weights, Calibration(**settings["calibration"]))


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
        _write(folder, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> BaseRate:
        """From the file that `save` wrote."""
        return cls(**_read(folder))


def linear_features(values: Floats) -> Floats:
    """Aggregates for a linear model: nothing there is far away, large counts are damped."""
    found = np.where(np.isfinite(values), values, WINDOW + 1)
    return np.asarray(np.sign(found) * np.log1p(np.abs(found)))


def logit(probability: Floats) -> Floats:
    """log(p / (1 − p)), kept finite."""
    kept = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(kept / (1 - kept)))


def _write(folder: Path, settings: dict[str, Any]) -> None:
    (folder / _SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _read(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    return settings
