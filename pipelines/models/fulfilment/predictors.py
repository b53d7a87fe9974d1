"""Served models that choose warehouse and shipping method: the greedy rule and the PPO agent.

Both give `score` in $ for every option, higher is better; the best feasible option of an order is
the decision. They need numpy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pipelines.models.delay.features import MORE_CONDITIONS
from pipelines.models.files import read_settings, write_settings
from pipelines.models.fulfilment.features import (
    HOUR,
    WEIGHED,
    encode_fixed,
    encode_stock,
    fixed_parts,
    stock_parts,
)
from pipelines.models.fulfilment.scoring import score_options
from pipelines.models.fulfilment.world import FulfilmentConfig
from pipelines.registry.columns import require

Floats = NDArray[np.float64]
Columns = Mapping[str, Any]

TEXTS: Final = ("warehouse_region",)
NUMBERS: Final = (
    *("stock_level", "stock_ratio", "demand_24h", "days_of_cover", "delay_risk", "congestion"),
    *("deliveries_24h", "late_rate_24h", "mean_delay_hours_7d", "efficiency_score"),
    *("carbon_per_tonne_km", "order_carbon_kg", "value_at_risk", "urgency_score"),
    *("express_share_30d", "is_weekend", "hour_of_day", "quantity", "price", "weight_kg"),
    *("ship_cost", "promised_hours", "wanted_hours", "expected_delay_hours"),
    *("late_probability", "urgency", "feasible"),
)
"""Columns that are read; `order`, `capacity_left` and `decision_hour` may be left out."""
require("ppo_agent", NUMBERS)
require("ppo_agent", TEXTS, objects=True)
CAPACITY: Final = "capacity_left"
"""Share of the warehouse's packing of the day that is left, 0–1; 1 when it is not given."""
_UNKNOWN: Final = {
    "stock_level": 0.0,
    "expected_delay_hours": 0.0,
    "late_probability": 0.15,
    "urgency": 0.5,
    "feasible": 1.0,
}


def read_columns(columns: Columns, more: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Columns of numbers (NaN for none) and texts ("" for none), as the encoding wants them.

    Args:
        columns: of the options, (N,) each.
        more: numbers that are read beside those known by name.

    Raises:
        KeyError: a column is missing.
    """
    read: dict[str, NDArray[Any]] = {}
    for name in (*NUMBERS, *more):
        values = np.array(columns[name], dtype=np.float64)  # None becomes NaN
        if name in _UNKNOWN:
            values = np.where(np.isnan(values), _UNKNOWN[name], values)
        read[name] = values
    for name in TEXTS:
        texts = ["" if text is None else str(text) for text in columns[name]]
        read[name] = np.array(texts, dtype=np.str_)
    rows = len(read["feasible"])
    left = np.array(columns.get(CAPACITY, np.ones(rows)), dtype=np.float64)
    read[CAPACITY] = np.clip(np.where(np.isnan(left), 1.0, left), 0, 1)
    hour = np.array(columns.get(HOUR, np.full(rows, np.nan)), dtype=np.float64)
    read[HOUR] = np.where(np.isnan(hour), read["hour_of_day"], hour)
    order = columns.get("order")
    read["order"] = np.zeros(rows, dtype=np.int64) if order is None else np.asarray(order)
    return read


class Greedy:
    """The best option now, by weighed costs: cost, lateness, delay, carbon, stock, capacity.

    Args:
        config: the prices.
        weights: (6,), see `features.WEIGHED`.
    """

    def __init__(self, config: FulfilmentConfig, weights: Sequence[float]) -> None:
        self.config = config
        self.weights: Floats = np.asarray(weights, dtype=np.float64)

    def dollars(self, read: Mapping[str, NDArray[Any]]) -> Floats:
        """(N,) weighed cost of each option."""
        fixed = fixed_parts(self.config, read) @ self.weights[:4]
        return np.asarray(fixed + stock_parts(read) @ self.weights[4:])

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """`score` of each option."""
        return {"score": -self.dollars(read_columns(columns))}

    def save(self, folder: Path) -> None:
        """Write the settings."""
        write_settings(folder, self._settings())

    def _settings(self) -> dict[str, Any]:
        weights = dict(zip(WEIGHED, self.weights.tolist(), strict=True))
        return {"config": asdict(self.config), "weights": weights}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls(*_greedy_of(read_settings(folder)))


class Ppo(Greedy):
    """The greedy rule with the correction that the agent has learnt.

    Args:
        config, weights: of the greedy rule.
        regions: warehouse regions that the agent distinguishes.
        network: names and values of the scorer's weights.
        more: conditions of a route that it sees beside those known by name.
    """

    def __init__(
        self,
        config: FulfilmentConfig,
        weights: Sequence[float],
        regions: Sequence[str],
        network: Mapping[str, NDArray[np.float32]],
        more: Sequence[str] = MORE_CONDITIONS,
    ) -> None:
        super().__init__(config, weights)
        self.regions = list(regions)
        self.more = list(more)
        self.network = dict(network)

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """`score` of each option; rows of an order need not stand together."""
        read = read_columns(columns, self.more)
        fixed = encode_fixed(self.config, read, self.regions, self.more)
        options = np.concatenate([fixed, encode_stock(read)], axis=1)
        feasible = read["feasible"] > 0
        score = score_options(self.network, options, feasible, self.dollars(read), read["order"])
        return {"score": score}

    def save(self, folder: Path) -> None:
        """Write the settings and the network."""
        super().save(folder)
        np.savez(folder / "network.npz", **self.network)  # type: ignore[arg-type]  # the stubs take a flag for names

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "regions": self.regions, "more": self.more}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        settings = read_settings(folder)
        with np.load(folder / "network.npz", allow_pickle=False) as stored:
            network = {name: stored[name] for name in stored.files}
        more = settings.get("more", ())
        return cls(*_greedy_of(settings), settings["regions"], network, more)


def _greedy_of(settings: Mapping[str, Any]) -> tuple[FulfilmentConfig, list[float]]:
    weights = [float(settings["weights"][name]) for name in WEIGHED]
    return FulfilmentConfig(**settings["config"]), weights
