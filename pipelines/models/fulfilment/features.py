"""How the options of an order look to a policy: what they cost by its forecasts, and as numbers.

One encoding for the environment, training and serving: every formula works element by element, on
columns of any shape. `fixed` columns do not change by deciding, `stock` columns do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.models.delay.features import MORE_CONDITIONS, damped
from pipelines.models.fulfilment.world import FulfilmentConfig

Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray[Any]]

WEIGHED: Final = ("cost", "lateness", "delay", "carbon", "stock", "capacity")
"""What the greedy rule weighs: $ for shipping, for hours promised beyond what was wanted, for hours
of delay expected, for carbon; the share of the shelf that the order takes, and the share of the
day's packing that is gone."""
CANDIDATES: Final = 6
"""Nearest warehouses that carry the product, whose options an order has in training and serving."""
HOUR: Final = "decision_hour"
"""Hour of the day (UTC) at which the order is decided; `hour_of_day` is that of the customer's last
order, which says nothing of the day's packing."""
LONGEST_DELAY: Final = 96.0
"""Hours; a forecast beyond says no more."""
_LONGEST_COVER: Final = 10.0  # days of cover beyond which there is plenty
_MOST: Final = 5.0  # encoded numbers are cut there


def fixed_parts(config: FulfilmentConfig, columns: Columns) -> Floats:
    """(…, 4) what speaks against an option whatever the stock, in $, by its forecasts."""
    hourly = config.value_of_hour * config.urgency_weight(columns["urgency"])
    late = np.maximum(columns["promised_hours"] - columns["wanted_hours"], 0)
    delay = np.clip(columns["expected_delay_hours"], 0, LONGEST_DELAY)
    carbon = config.carbon_price * _known(columns, "order_carbon_kg", 0.0)
    return np.stack([columns["ship_cost"], hourly * late, hourly * delay, carbon], axis=-1)


def stock_parts(columns: Columns) -> Floats:
    """(…, 2) how much of the shelf and of the day's packing an option takes."""
    quantity, level = columns["quantity"], columns["stock_level"]
    taken = quantity / np.maximum(np.maximum(level, quantity), 1)
    return np.stack([taken, 1 - columns["capacity_left"]], axis=-1)


def wanted_hours(promised: Floats, asked: NDArray[np.bool_]) -> Floats:
    """(…,) hours that the customer was promised: their method from the nearest warehouse with it.

    Where none has it, the fastest of all options; 0 without any.

    Args:
        promised: (…, O) hours by option, nearest warehouse first, infinite where it has no route.
        asked: (…, O) whether the option is by the customer's method.
    """
    able = asked & np.isfinite(promised)
    first = np.take_along_axis(promised, able.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    wanted = np.where(able.any(axis=-1), first, promised.min(axis=-1))
    return np.where(np.isfinite(wanted), wanted, 0.0)


FIXED: Final = (
    *("cost", "lateness", "delay", "carbon", "late_hours", "delay_hours", "late_probability"),
    *("delay_risk", "congestion", "mean_delay_7d", "late_rate_24h", "deliveries_24h"),
    *("efficiency", "by_air", "promised", "wanted", "urgency", "quantity", "weight", "value"),
    *("hour", "hour_sin", "hour_cos", "weekend", "urgency_score", "express_share", "at_risk"),
)
"""Names of the numbers that come from fixed columns."""
STOCK: Final = (
    *("stock", "after", "taken", "ratio", "demand", "cover", "capacity", "pace", "feasible"),
)
"""Names of those that come from stock columns."""


def encode_fixed(
    config: FulfilmentConfig,
    columns: Columns,
    regions: Sequence[str],
    more: Sequence[str] = MORE_CONDITIONS,
) -> NDArray[np.float32]:
    """(…, FIXED + more + regions) inputs of about unit size; unknown values get a typical one.

    Args:
        config: of the game.
        columns: of the options, by name.
        regions: of warehouses; the last inputs are one-hot over them.
        more: conditions of the route that are taken as they are, 0 where unknown.
    """
    dollars = fixed_parts(config, columns)
    hour = _known(columns, HOUR, 12.0)
    angle = 2 * np.pi * hour / 24
    risk = _known(columns, "delay_risk", 0.15)
    late = np.maximum(columns["promised_hours"] - columns["wanted_hours"], 0)
    delay = np.clip(columns["expected_delay_hours"], 0, LONGEST_DELAY)
    week = np.clip(_known(columns, "mean_delay_hours_7d", 3.0), 0, LONGEST_DELAY)
    there = columns["warehouse_region"]
    numbers = [
        *(dollars[..., part] / 10 for part in range(dollars.shape[-1])),
        late / 24,
        np.log1p(delay),
        columns["late_probability"] * 2,
        risk * 3,
        _known(columns, "congestion", 0.4) * 2,
        np.log1p(week),
        _known(columns, "late_rate_24h", risk) * 2,
        np.log1p(_known(columns, "deliveries_24h", 0.0)),
        _known(columns, "efficiency_score", 0.9),
        _known(columns, "carbon_per_tonne_km", 0.1) > 1.0,
        columns["promised_hours"] / 24,
        columns["wanted_hours"] / 24,
        columns["urgency"] * 2,
        np.log(np.maximum(columns["quantity"], 1)),
        np.log(np.maximum(columns["weight_kg"], 0.01)) / 2,
        np.log1p(np.maximum(columns["quantity"] * columns["price"], 0)) / 4,
        hour / 24,
        np.sin(angle),
        np.cos(angle),
        _known(columns, "is_weekend", 0.3),
        np.clip(_known(columns, "urgency_score", 0.5), 0, 4),
        _known(columns, "express_share_30d", 0.3),
        np.log1p(np.maximum(_known(columns, "value_at_risk", 5.0), 0)) / 4,
        *(damped(_known(columns, name, 0.0)) for name in more),
        *(there == region for region in regions),
    ]
    return _stacked(numbers)


def encode_stock(columns: Columns) -> NDArray[np.float32]:
    """(…, len(STOCK)) likewise."""
    level, quantity = columns["stock_level"], columns["quantity"]
    hour = _known(columns, HOUR, 12.0)
    gone = 1 - columns["capacity_left"]
    cover = np.minimum(_known(columns, "days_of_cover", _LONGEST_COVER), _LONGEST_COVER)
    numbers = [
        np.log1p(np.maximum(level, 0)) / 3,
        np.log1p(np.maximum(level - quantity, 0)) / 3,
        quantity / np.maximum(np.maximum(level, quantity), 1),
        np.minimum(_known(columns, "stock_ratio", 1.0), 8) / 4,
        np.log1p(_known(columns, "demand_24h", 0.0)) / 2,
        cover / _LONGEST_COVER,
        columns["capacity_left"],
        np.minimum(gone / (hour / 24 + 0.1), 3.0),
        columns["feasible"],
    ]
    return _stacked(numbers)


def _known(columns: Columns, name: str, instead: Any) -> Floats:
    values = np.asarray(columns[name], dtype=np.float64)
    return np.where(np.isnan(values), instead, values)


def _stacked(numbers: Sequence[Any]) -> NDArray[np.float32]:
    encoded = np.empty((*np.broadcast_shapes(*map(np.shape, numbers)), len(numbers)), np.float32)
    for place, number in enumerate(numbers):
        encoded[..., place] = number
    return np.clip(encoded, -_MOST, _MOST, out=encoded)
