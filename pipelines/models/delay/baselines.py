"""Delay forecasts without torch that can be served: gradient boosting, and persistence.

All take the columns of one snapshot (or of several, numbered by `snapshot`), one row per route,
and give, per row, for the shipments that leave in the next 24 hours:

- expected_delay_hours: mean hours past the promise;
- late_probability: of such a shipment;
- expected_carbon_kg: per shipment;
- delay_index: mean of min(hours past the promise / base_hours, 1), the metric of delays;
- expected_risk: mean of the delay_risk that carriers will publish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.models.delay.features import MORE_CONDITIONS, inputs, neighbour_means
from pipelines.models.files import read_settings, write_settings
from pipelines.registry.columns import floats

Floats = NDArray[np.float64]
Columns = Mapping[str, Any]

OUTPUTS: Final = ("late", "index", "risk", "carbon")
_TREE_TYPE: Final = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"
_RECENT: Final = 4.0
"""Deliveries that weigh as much as what is usual of the mode."""


@dataclass(frozen=True)
class Usual:
    """What is usual by mode, "" for a mode that is not known.

    Attributes:
        late, index, carbon: means of the training shipments.
        tails: hours past the promise per unit of delay index and base hour.
        base_hours: where a route's own is not known.
    """

    late: dict[str, float]
    index: dict[str, float]
    carbon: dict[str, float]
    tails: dict[str, float]
    base_hours: float

    def of(self, values: Mapping[str, float], columns: Columns) -> Floats:
        """(N,) the value of each row's mode."""
        modes = np.asarray(columns["mode"], dtype=object)
        found = np.full(len(modes), values[""])
        for mode, value in values.items():
            found[np.asarray(modes == mode, dtype=bool)] = value
        return found

    def outputs(
        self, columns: Columns, *, late: Floats, index: Floats, risk: Floats, carbon: Floats
    ) -> dict[str, NDArray[Any]]:
        """The signature's outputs, each (N,).

        Args:
            columns: the routes, with `base_hours` and `mode`.
            late: (N,) probability, 0–1.
            index: (N,) delay index, 0–1.
            risk: (N,) expected delay_risk, 0–1.
            carbon: (N,) kg CO2e per shipment.
        """
        index = np.clip(index, 0.0, 1.0)
        base = floats(columns["base_hours"])
        base = np.where(base > 0, base, self.base_hours)
        return {
            "expected_delay_hours": index * base * self.of(self.tails, columns),
            "late_probability": np.clip(late, 0.0, 1.0),
            "expected_carbon_kg": np.maximum(carbon, 0.0),
            "delay_index": index,
            "expected_risk": np.clip(risk, 0.0, 1.0),
        }


class GradientBoosting:
    """One boosted ensemble of trees per output, with or without the neighbours' means.

    Args:
        trees: a fitted ensemble per output.
        usual: by mode, for what the trees do not answer.
        neighbours: whether they see the neighbours' means.
        more: the conditions that they see beside those known by name.
    """

    def __init__(
        self,
        trees: Mapping[str, Any],
        usual: Usual,
        *,
        neighbours: bool,
        more: Sequence[str] = MORE_CONDITIONS,
    ) -> None:
        self.trees = dict(trees)
        self.usual = usual
        self.neighbours = neighbours
        self.more = tuple(more)

    @staticmethod
    def inputs(
        columns: Columns, *, neighbours: bool, more: Sequence[str] = MORE_CONDITIONS
    ) -> Floats:
        """(N, K) of what the trees see."""
        own = inputs(columns, more)
        return np.hstack([own, neighbour_means(columns)]) if neighbours else own

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Outputs of the module's description."""
        seen = self.inputs(columns, neighbours=self.neighbours, more=self.more)
        if not len(seen):
            none = np.zeros(0)
            return self.usual.outputs(columns, late=none, index=none, risk=none, carbon=none)
        found = {name: floats(self.trees[name].predict(seen)) for name in OUTPUTS}
        return self.usual.outputs(columns, **found)

    def save(self, folder: Path) -> None:
        """The trees by skops, usual values as JSON."""
        from skops.io import dump

        for name in OUTPUTS:
            dump(self.trees[name], folder / f"{name}.skops")
        write_usual(folder, self.usual, {"neighbours": self.neighbours, "more": self.more})

    @classmethod
    def load(cls, folder: Path) -> GradientBoosting:
        """What `save` wrote.

        Raises:
            ValueError, KeyError, TypeError: it is of another make.
        """
        from skops.io import load

        settings, usual = read_usual(folder)
        trees = {name: load(folder / f"{name}.skops", trusted=[_TREE_TYPE]) for name in OUTPUTS}
        more = settings.get("more", ())
        return cls(trees, usual, neighbours=bool(settings["neighbours"]), more=more)


class Persistence:
    """As it was of late: the route's last 24 hours, drawn towards its mode's usual values."""

    def __init__(self, usual: Usual) -> None:
        self.usual = usual

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Outputs of the module's description."""
        usual = self.usual
        base = floats(columns["base_hours"])
        recent = np.nan_to_num(floats(columns["deliveries_24h"])).clip(min=0.0)
        share = recent / (recent + _RECENT)
        late = _or_else(columns["late_rate_24h"], usual.of(usual.late, columns))
        index = usual.of(usual.index, columns)
        with np.errstate(divide="ignore", invalid="ignore"):
            last = np.minimum(floats(columns["mean_delay_hours_24h"]) / base, 1.0)
        return usual.outputs(
            columns,
            late=share * late + (1 - share) * usual.of(usual.late, columns),
            index=share * _or_else(last, index) + (1 - share) * index,
            risk=_or_else(columns["delay_risk"], usual.of(usual.late, columns)),
            carbon=usual.of(usual.carbon, columns),
        )

    def save(self, folder: Path) -> None:
        """Usual values as JSON."""
        write_usual(folder, self.usual, {})

    @classmethod
    def load(cls, folder: Path) -> Persistence:
        """What `save` wrote.

        Raises:
            ValueError, KeyError: it is of another make.
        """
        return cls(read_usual(folder)[1])


def _or_else(values: Any, other: Floats) -> Floats:
    found = floats(values)
    return np.where(np.isfinite(found), found, other)


def write_usual(folder: Path, usual: Usual, settings: Mapping[str, Any]) -> None:
    """Write a model's settings with its usual values.

    Args:
        folder: of the model.
        usual: its usual values.
        settings: whatever else it was made with.
    """
    write_settings(folder, {**settings, "usual": asdict(usual)})


def read_usual(folder: Path) -> tuple[dict[str, Any], Usual]:
    """Read what `write_usual` wrote: settings and usual values."""
    settings = read_settings(folder)
    return settings, Usual(**settings.pop("usual"))
