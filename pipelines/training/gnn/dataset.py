"""The data set of delays: snapshots of the whole network, with features from one retrieval."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.features.views import VIEWS_BY_NAME
from pipelines.models.supply_gnn import STOCK, aggregate_stock, probe_of_each
from pipelines.training.gnn.labels import HORIZON, Logs, labels, tails
from pipelines.training.memory import too_large
from pipelines.training.source import EVENT_TIMESTAMP, TrainingDataError, TrainingSource
from pipelines.training.task import Dataset

SERVICE: Final = "supply_gnn_v1"
_STATIC: Final = ("origin_id", "destination_id", "mode", "distance_km", "base_hours", "base_cost")
_EVERY: Final = (2, 3, 4, 6, 8, 12, 24)  # hours between snapshots, as memory allows
_EVERY_QUICK: Final = 3
_A_ROW: Final = 4500  # bytes of a route in a snapshot, see `memory`
_WARM_UP: Final = np.timedelta64(24, "h")
GAP: Final = HORIZON + np.timedelta64(24, "h")
"""Between training and test: their labels share no shipment, nor do their 24-hour features tell
of what the other side is asked about."""
_TEST_SHARE: Final = 0.35
_FEWEST_MOMENTS: Final = 12


@dataclass(frozen=True)
class Split:
    """Which rows are learned from and which are judged on."""

    train: NDArray[np.bool_]
    test: NDArray[np.bool_]


def build(source: TrainingSource, *, quick: bool = False, since: datetime | None = None) -> Dataset:
    """Snapshots every few hours, one row per route in each, moment by moment.

    A row without known shipments is kept: it is part of the picture that its neighbours' forecasts
    are made from. Its label `shipments` is 0.

    Args:
        source: of logs and features.
        quick: fewer snapshots.
        since: only labels that became known after this moment; all of them are hold-out then.

    Raises:
        TrainingDataError: there are too few labels.
    """
    logs = Logs.read(source)
    # Routes that came later have no features until then, and no shipments.
    first = max(logs.routes["first_known"].min(), logs.shipments["shipped_at"].min())
    start = first.to_datetime64().astype("datetime64[h]") + np.timedelta64(1, "h") + _WARM_UP
    size = len(logs.routes)
    least = _EVERY_QUICK if quick or since is not None else _EVERY[0]
    moments = _what_fits(source, start, logs.end - HORIZON, size, least)
    found, known_at = labels(logs, moments)
    if since is not None:
        new = known_at > np.datetime64(since, "us")
        found["shipments"] = np.where(new, found["shipments"], 0.0)
        keep = found["shipments"].reshape(-1, size).sum(axis=1) > 0
        moments = moments[keep]
        rows = np.repeat(keep, size)
        found, known_at = {name: v[rows] for name, v in found.items()}, known_at[rows]
    needed = 1 if since is not None else _FEWEST_MOMENTS
    if len(moments) < needed or found["shipments"].sum() <= 0:
        raise TrainingDataError(
            f"{len(moments)} snapshots with known delays are too few, {needed} are needed: let the "
            "shop run for longer, e.g. `synchrochain run --days 30`"
        )
    columns = _columns(source, logs, moments)
    at = np.repeat(moments, size)
    if since is None:
        cut = _cut(at, found["shipments"])
        tail = tails(logs, cut)
    else:
        cut, tail = moments[0], tails(logs, moments[0])
    extra: dict[str, Any] = {"cut": cut, "all_test": since is not None, "tails": tail}
    extra |= {"known_at": known_at, "until": logs.end}
    return Dataset(columns, dict(found), at, columns["route_id"], extra)


def _what_fits(
    source: TrainingSource, start: np.datetime64, end: np.datetime64, routes: int, least: int
) -> NDArray[np.datetime64]:
    """Moments of the snapshots: every `least` hours, or fewer and newer ones if memory is short.

    Raises:
        TrainingDataError: not even the fewest that are needed fit.
    """
    most = source.memory // (routes * _A_ROW)
    for hours in (h for h in _EVERY if h >= least):
        moments = np.arange(start, end, np.timedelta64(hours, "h")).astype("datetime64[us]")
        if len(moments) <= most:
            break
    if most < min(len(moments), _FEWEST_MOMENTS):
        what = f"{_FEWEST_MOMENTS} snapshots of {routes:,} routes"
        needed = _FEWEST_MOMENTS * routes * _A_ROW
        raise TrainingDataError(too_large(what, needed, source.memory))
    if hours > least or len(moments) > most:
        source.notes.append(
            f"snapshots of {routes:,} routes every {least} hours would take more memory than there "
            f"is: the newest {min(len(moments), most):,} are taken, {hours} hours apart"
        )
    return moments[-most:]


def split(data: Dataset) -> Split:
    """Rows with known labels before and after the data set's cut, a gap apart."""
    labelled = data.labels["shipments"] > 0
    if data.extra["all_test"]:
        return Split(np.zeros(len(data), dtype=bool), labelled)
    cut = data.extra["cut"]
    return Split(labelled & (data.moments <= cut - GAP), labelled & (data.moments >= cut))


def rows_of(data: Dataset, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """All rows of the snapshots in which there is a chosen row."""
    return np.isin(data.moments, np.unique(data.moments[chosen]))


def take(columns: dict[str, Any], rows: NDArray[np.bool_]) -> dict[str, Any]:
    """The columns at some rows."""
    return {name: values[rows] for name, values in columns.items()}


def _cut(at: NDArray[np.datetime64], shipments: NDArray[np.float64]) -> np.datetime64:
    """The moment after which the test's share of known shipments left."""
    moments, number = np.unique(at, return_inverse=True)
    share = np.cumsum(np.bincount(number, shipments)) / shipments.sum()
    return np.datetime64(moments[int(np.searchsorted(share, 1 - _TEST_SHARE))])


def _columns(source: TrainingSource, logs: Logs, moments: NDArray[np.datetime64]) -> dict[str, Any]:
    """The model's input for every route at every moment, from one retrieval."""
    routes, size = logs.routes, len(logs.routes)
    chosen = logs.probes
    at_origin = routes["origin_id"].isin(list(chosen))
    warehouse = routes["origin_id"].where(at_origin, routes["destination_id"])
    asked = probe_of_each(warehouse.tolist(), chosen)
    snapshot = np.repeat(np.arange(len(moments)), size)
    entities = pd.DataFrame(
        {
            "route_id": np.tile(routes["route_id"].to_numpy(dtype=object), len(moments)),
            "warehouse_id": np.tile(np.array([w for w, _ in asked], dtype=object), len(moments)),
            "product_id": np.tile(np.array([p for _, p in asked], dtype=object), len(moments)),
            EVENT_TIMESTAMP: np.repeat(moments, size),
        }
    )
    table = source.historical(entities, SERVICE)
    columns: dict[str, Any] = {
        "snapshot": snapshot,
        "route_id": entities["route_id"].to_numpy(),
    }
    for name in _STATIC:
        columns[name] = np.tile(routes[name].to_numpy(), len(moments))
    for name in VIEWS_BY_NAME["route_conditions"].features:
        columns[name] = _values(table[name])
    _, shelf = np.unique(entities["warehouse_id"].to_numpy(dtype=str), return_inverse=True)
    groups = snapshot * (int(shelf.max()) + 1) + shelf
    stock = {name: _values(table[name]) for name in STOCK.values()}
    return columns | aggregate_stock(groups, stock)


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    """Objects for text, else floats with NaN where there is nothing."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
