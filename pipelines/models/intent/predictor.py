"""The Intent Transformer as it is served: columns in, chances of a purchase and urgency out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.models.files import WEIGHTS, read_settings, write_settings
from pipelines.models.intent.features import (
    USER_FEATURES,
    event_inputs,
    read_sequences,
    recorded_features,
    user_context,
)
from pipelines.models.intent.outputs import BUYS, IS_SOON, Calibration, outputs, sigmoid
from pipelines.models.intent.transformer import IntentConfig, IntentTransformer, member_mean
from pipelines.models.weights import read_weights

Floats = NDArray[np.float64]
Columns = Mapping[str, Any]

_BATCH_ROWS: Final = 1024

_RENAMED: Final = {"foretell": "auxiliary", "foretell_bias": "auxiliary_bias"}


@dataclass
class Transformer:
    """The Intent Transformer with its calibration, and what it reads of the user."""

    network: IntentTransformer
    calibration: Calibration
    user_features: tuple[str, ...] = USER_FEATURES

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Outputs by name, one value a row."""
        logits = self.logits(columns)
        return outputs(self.calibration.probability(logits[:, BUYS]), sigmoid(logits[:, IS_SOON]))

    def logits(self, columns: Columns) -> Floats:
        """(N, 2) before calibration."""
        sequences = read_sequences(columns)
        events, user = event_inputs(sequences), user_context(columns, self.user_features)
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
        torch.save(self.network.state_dict(), folder / WEIGHTS)
        settings = {
            "config": asdict(self.network.config),
            "calibration": asdict(self.calibration),
            "user_features": self.user_features,
        }
        write_settings(folder, settings)

    @classmethod
    def load(cls, folder: Path) -> Transformer:
        """From the files that `save` wrote."""
        settings = read_settings(folder)
        names = recorded_features(settings)
        network = IntentTransformer(IntentConfig(**settings["config"]), len(names))
        network.load_state_dict(read_weights(folder, _RENAMED))
        return cls(network.eval(), Calibration(**settings["calibration"]), names)
