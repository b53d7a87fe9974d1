"""What the delay models see of the network's routes; the same code in training and in serving.

Without torch, so that a baseline can be served where there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.features.views import VIEWS_BY_NAME
from pipelines.registry.columns import (
    Columns,
    Floats,
    as_column,
    floats,
    numeric_features,
    require,
)

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
ROUTE_FEATURES: Final = VIEWS_BY_NAME["route_conditions"].features
_BY_NAME: Final = (
    *("delay_risk", "congestion", "carbon_cost", "deliveries_24h", "late_rate_24h"),
    *("mean_delay_hours_24h", "mean_delay_hours_7d"),
)
_DERIVED: Final = ("efficiency_score", "carbon_per_tonne_km")  # from the others
MORE_CONDITIONS: Final = tuple(
    name for name in numeric_features("route_conditions") if name not in (*_BY_NAME, *_DERIVED)
)
"""Numbers of a route that are declared beyond those that `inputs` knows by name. New versions of
this model and of the agent take them as they are, and record which they are."""
READ_CONDITIONS: Final = (*_BY_NAME, *MORE_CONDITIONS)
"""The features of a route that this model reads."""
CONSTANTS: Final = (
    *("route_id", "origin_id", "destination_id", "mode"),
    *("distance_km", "base_hours", "base_cost"),
)
"""What the model reads of a route beside its features."""
require("supply_gnn", (*_BY_NAME, *STOCK.values()))
USUAL_LATE_RATE: Final = 0.12
_PRIOR_DELIVERIES: Final = 4.0
_SMALL_DELAY: Final = 0.05  # of base_hours; keeps the logarithm of no delay finite
_SQUEEZE: Final = 1e-3  # shares are kept so far from 0 and 1 before taking log-odds


def probes_query(positions: str) -> str:
    """SQL for the probes, in order of warehouse and product, as (warehouse_id, product_id).

    It means the same to DuckDB, SQLite and PostgreSQL. Run in the database, for a shop may have
    millions of positions.

    Args:
        positions: a table, or a query in parentheses, of the (warehouse_id, product_id) carried.
    """
    return f"""SELECT warehouse_id, product_id FROM (
        SELECT warehouse_id, product_id, number,
            CASE WHEN size < {PROBES} THEN 1 ELSE (size - size % {PROBES}) / {PROBES} END AS step
        FROM (SELECT warehouse_id, product_id,
                row_number() OVER (PARTITION BY warehouse_id ORDER BY product_id) - 1 AS number,
                count(*) OVER (PARTITION BY warehouse_id) AS size
            FROM {positions} AS positions) AS numbered) AS spread
        WHERE number % step = 0 AND number < step * {PROBES} ORDER BY warehouse_id, product_id"""


def by_warehouse(probes: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The rows of `probes_query`: products by warehouse."""
    found: dict[str, list[str]] = {}
    for warehouse, product in probes:
        found.setdefault(warehouse, []).append(product)
    return found


def keys_of(
    routes: Mapping[str, Sequence[str]], probes: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """The keys of the features that are read of each route: its own, and one probe of its stock.

    The warehouse is the end of the route that has probes, the origin first; its routes take its
    probes in turn. Where there is none, warehouse and product are "".

    Args:
        routes: their `CONSTANTS`, in order of route_id.
        probes: products by warehouse, see `probes_query`.
    """
    numbers: dict[str, int] = {}
    warehouses, products = [], []
    for ends in zip(routes["origin_id"], routes["destination_id"], strict=True):
        warehouse = next((end for end in ends if end in probes), "")
        number = numbers[warehouse] = numbers.get(warehouse, -1) + 1
        chosen = probes.get(warehouse, ("",))
        warehouses.append(warehouse)
        products.append(chosen[number % len(chosen)])
    return {
        "route_id": list(routes["route_id"]),
        "warehouse_id": warehouses,
        "product_id": products,
    }


def network_columns(
    routes: Mapping[str, Any],
    warehouses: Sequence[str],
    read: Mapping[str, Any],
    snapshots: int = 1,
) -> Columns:
    """The delay model's input, from what was read of all routes; without `snapshot`.

    Args:
        routes: (R,) their `CONSTANTS`, in order of route_id.
        warehouses: (R,) the warehouse of each, see `keys_of`.
        read: (snapshots * R,) features of the routes and of the probes.
        snapshots: times at which all routes were read, one after another.
    """
    columns = {name: np.tile(as_column(name, routes[name]), snapshots) for name in CONSTANTS}
    columns |= {name: as_column(name, read[name]) for name in ROUTE_FEATURES}
    names, warehouse = np.unique(np.asarray(warehouses, dtype=str), return_inverse=True)
    groups = np.add.outer(np.arange(snapshots) * len(names), warehouse).ravel()
    stock = {feature: as_column(feature, read[feature]) for feature in STOCK.values()}
    return columns | aggregate_stock(groups, stock)


def past_delays(columns: Mapping[str, Any]) -> tuple[Floats, Floats]:
    """Hours of delay and probability of being late as the routes' own past has it, both (N,)."""
    hours = _first(columns["mean_delay_hours_24h"], columns["mean_delay_hours_7d"])
    late = _first(columns["late_rate_24h"], columns["delay_risk"])
    return np.maximum(hours, 0.0), np.clip(late, 0.0, 1.0)


def forecast_or_past(
    hours: Any, late: Any, columns: Mapping[str, Any]
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """A model's forecasts, and the routes' own past where they are no numbers.

    Args:
        hours: (N,) forecast of the delay.
        late: (N,) forecast probability of being late.
        columns: what the model was asked.

    Returns:
        (N,) hours from 0 up, (N,) probability, and (N,) where the model's own were numbers.
    """
    past_hours, past_late = past_delays(columns)
    hours, late = floats(hours), floats(late)
    good = np.isfinite(hours) & np.isfinite(late)
    return (
        np.where(good, np.maximum(hours, 0.0), past_hours),
        np.where(good, np.clip(late, 0.0, 1.0), past_late),
        good,
    )


def _first(*columns: Any) -> Floats:
    """By row the first column's value that there is, else 0."""
    found = np.full(len(columns[0]), np.nan)
    for values in columns:
        found = np.where(np.isnan(found), floats(values), found)
    return np.where(np.isfinite(found), found, 0.0)


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


def inputs(columns: Mapping[str, Any], more: Sequence[str] = MORE_CONDITIONS) -> Floats:
    """(N, INPUTS + more) of the model's columns; NaN where something is not known.

    Delays are in units of the route's base hours, so that a ship and a plane compare; a recent
    late rate is drawn towards the usual one the more, the fewer deliveries it rests on.

    Args:
        columns: of the model, (N,) each.
        more: columns that are taken as they are.
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
    modes = [np.asarray(mode == m, dtype=np.float64) for m in MODES]
    return np.stack([*measures, *modes, *(damped(columns[name]) for name in more)], axis=1)


def damped(values: Any) -> Floats:
    """(N,) any number, far ones nearer: sign(x) · log(1 + |x|), NaN where there is none."""
    found = floats(values)
    return np.asarray(np.sign(found) * np.log1p(np.abs(found)), dtype=np.float64)


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
    conditions = inputs(columns, ())[:, : len(CONDITIONS)]
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
