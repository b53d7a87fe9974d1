"""What the delay models see of the network's routes; the same code in training and in serving.

Without torch, so that a baseline can be served where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MODES: Final = ("air", "road", "rail", "sea")
MEASURES: Final = (
    "risk",
    "congestion",
    "late_rate",
    "deliveries",
    "delay_24h",
    "delay_7d",
    "distance",
    "hours",
    "cost",
    "carbon",
    "stock_ratio",
    "low_stock",
    "days_of_cover",
)
INPUTS: Final = len(MEASURES) + len(MODES)
CONDITIONS: Final = MEASURES[:6]
"""Measures of a route's current conditions, not its constants: informative on its places."""
STOCK: Final[Mapping[str, str]] = {
    "warehouse_stock_ratio": "stock_ratio",
    "warehouse_low_stock_share": "is_low_stock",
    "warehouse_days_of_cover": "days_of_cover",
}
"""Column of the model → the feature that it is the mean of, over the warehouse's probes."""
PROBES: Final = 12
"""Products of a warehouse, spread evenly over the ids of those that it carries, whose mean stands
for its stock. The choice needs no sales figures, so it is the same in training and serving."""
USUAL_LATE_RATE: Final = 0.12
_PRIOR_DELIVERIES: Final = 4.0
_SMALL_DELAY: Final = 0.05  # of base_hours; keeps the logarithm of no delay finite
_SQUEEZE: Final = 1e-3  # shares are kept so far from 0 and 1 before taking log-odds


def probe_of_each(
    warehouses: Sequence[str], chosen: Mapping[str, Sequence[str]]
) -> list[tuple[str, str]]:
    """A (warehouse, product) to ask for beside each route: its warehouse's probes in turn.

    Args:
        warehouses: the warehouse at each route's end, "" where there is none.
        chosen: the probes of each warehouse.
    """
    turn: dict[str, int] = {}
    pairs = []
    for warehouse in warehouses:
        number = turn[warehouse] = turn.get(warehouse, -1) + 1
        products = chosen.get(warehouse, ())
        pairs.append((warehouse, products[number % len(products)] if products else ""))
    return pairs


def aggregate_stock(groups: NDArray[Any], columns: Mapping[str, Any]) -> dict[str, Floats]:
    """The stock of each row's warehouse: means over the probes, nulls left out.

    Args:
        groups: (N,) which rows are of one warehouse (and snapshot).
        columns: the probes' stock_ratio, is_low_stock and days_of_cover, (N,) with NaN or None.

    Returns:
        The columns of `STOCK`, (N,), NaN where no probe has a value.
    """
    _, group = np.unique(groups, return_inverse=True)
    size = int(group.max(initial=-1)) + 1
    found = {}
    for name, feature in STOCK.items():
        values = floats(columns[feature])
        there = ~np.isnan(values)
        sums = np.bincount(group[there], values[there], minlength=size)
        with np.errstate(invalid="ignore"):
            means = sums / np.bincount(group[there], minlength=size)
        found[name] = np.asarray(means[group], dtype=np.float64)
    return found


def floats(values: Any) -> Floats:
    """A column as numbers, None as NaN."""
    return np.asarray(values, dtype=np.float64)


def inputs(columns: Mapping[str, Any]) -> Floats:
    """(N, INPUTS) of the model's columns; NaN where something is not known.

    Delays are in units of the route's base hours, so that a ship and a plane compare; a recent
    late rate is drawn towards the usual one the more, the fewer deliveries it rests on.
    """
    risk, congestion = floats(columns["delay_risk"]), floats(columns["congestion"])
    base = _positive(columns["base_hours"])
    deliveries = np.nan_to_num(_positive(columns["deliveries_24h"]))
    rate = np.nan_to_num(floats(columns["late_rate_24h"]), nan=USUAL_LATE_RATE)
    late = rate * deliveries + USUAL_LATE_RATE * _PRIOR_DELIVERIES
    # in the order of MEASURES
    measures = [
        _log_odds(risk),
        _log_odds(congestion),
        _log_odds(late / (deliveries + _PRIOR_DELIVERIES)),
        np.log1p(deliveries),
        np.log(_positive(columns["mean_delay_hours_24h"]) / base + _SMALL_DELAY),
        np.log(_positive(columns["mean_delay_hours_7d"]) / base + _SMALL_DELAY),
        np.log1p(_positive(columns["distance_km"])),
        np.log(base),
        np.log1p(_positive(columns["base_cost"])),
        np.log1p(_positive(columns["carbon_cost"])),
        np.log1p(_positive(columns["warehouse_stock_ratio"])),
        floats(columns["warehouse_low_stock_share"]),
        np.log1p(_positive(columns["warehouse_days_of_cover"])),
    ]
    mode = np.asarray(columns["mode"], dtype=object)
    return np.stack([*measures, *(np.asarray(mode == m, dtype=np.float64) for m in MODES)], axis=1)


def place_numbers(
    columns: Mapping[str, Any],
) -> tuple[NDArray[np.int64], int, NDArray[np.int64], int]:
    """The places at the routes' ends, numbered; the same place in two snapshots has two numbers.

    Args:
        columns: origin_id, destination_id and, if there are several graphs, `snapshot`.

    Returns:
        (N, 2) the places at each route's origin and destination, the number of places, (N,) the
        snapshot of each route, and the number of snapshots.
    """
    names, place = np.unique(
        [np.asarray(columns[name], dtype=str) for name in ("origin_id", "destination_id")],
        return_inverse=True,
    )
    place = place.reshape(2, -1).T
    snapshot, snapshots = np.zeros(len(place), dtype=np.int64), 1
    if columns.get("snapshot") is not None and len(place):
        found, number = np.unique(np.asarray(columns["snapshot"]), return_inverse=True)
        snapshot, snapshots = number.astype(np.int64), len(found)
    place = np.ascontiguousarray(place.astype(np.int64) + (snapshot * len(names))[:, None])
    return place, len(names) * snapshots, snapshot, snapshots


def neighbour_means(columns: Mapping[str, Any]) -> Floats:
    """(N, 2 x CONDITIONS) means of the conditions over the routes at each of a route's two ends.

    Inputs for a model without edges that shall use its neighbours' conditions.
    """
    place, size, _, _ = place_numbers(columns)
    conditions = inputs(columns)[:, : len(CONDITIONS)]
    means = []
    for values in conditions.T:
        there = ~np.isnan(values)
        sums, counts = np.zeros((2, size))
        for end in place.T:
            sums += np.bincount(end[there], values[there], minlength=size)
            counts += np.bincount(end[there], minlength=size)
        with np.errstate(invalid="ignore"):
            means.append((sums / counts)[place])
    return np.concatenate(means, axis=1)


def _positive(values: Any) -> Floats:
    """Numbers from 0 up; negative ones, which are invalid, become NaN."""
    found = floats(values)
    return np.where(found >= 0, found, np.nan)


def _log_odds(share: Floats) -> Floats:
    kept = np.clip(share, _SQUEEZE, 1 - _SQUEEZE)
    return np.asarray(np.log(kept / (1 - kept)), dtype=np.float64)
