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
from pipelines.models.delay.features import STOCK, aggregate_stock, probe_of_each
from pipelines.models.delay.labels import HORIZON, Logs, labels, tails
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
"""The gap between training and test: their labels share no shipment, and the 24-hour features of
the test contain no labels of the training."""
_TEST_SHARE: Final = 0.35
_FEWEST_SNAPSHOTS: Final = 12


@dataclass(frozen=True)
class Split:
    """Masks of the rows to train on and to evaluate on."""

    train: NDArray[np.bool_]
    test: NDArray[np.bool_]


def build(source: TrainingSource, *, quick: bool = False, since: datetime | None = None) -> Dataset:
    """Snapshots every few hours, one row per route in each, in order of time.

    A row without known shipments is kept, since its neighbours' forecasts use it. Its label
    `shipments` is 0.

    Args:
        source: of logs and features.
        quick: fewer snapshots.
        since: only labels that became known after this time (UTC, naive); then all are hold-out.

    Raises:
        TrainingDataError: there are too few labels.
    """
    logs = Logs.read(source)
    # Routes that came later have no features until then, and no shipments.
    first = max(logs.routes["first_known"].min(), logs.shipments["shipped_at"].min())
    start = first.to_datetime64().astype("datetime64[h]") + np.timedelta64(1, "h") + _WARM_UP
    size = len(logs.routes)
    least = _EVERY_QUICK if quick or since is not None else _EVERY[0]
    times = _what_fits(source, start, logs.end - HORIZON, size, least)
    found, known_at = labels(logs, times)
    if since is not None:
        new = known_at > np.datetime64(since, "us")
        found["shipments"] = np.where(new, found["shipments"], 0.0)
        keep = found["shipments"].reshape(-1, size).sum(axis=1) > 0
        times = times[keep]
        rows = np.repeat(keep, size)
        found, known_at = {name: v[rows] for name, v in found.items()}, known_at[rows]
    needed = 1 if since is not None else _FEWEST_SNAPSHOTS
    if len(times) < needed or found["shipments"].sum() <= 0:
        raise TrainingDataError(
            f"{len(times)} snapshots with known delays are too few, {needed} are needed: let the "
            "shop run for longer, e.g. `synchrochain run --days 30`"
        )
    columns = _columns(source, logs, times)
    at = np.repeat(times, size)
    if since is None:
        cut = _cut(at, found["shipments"])
        tail = tails(logs, cut)
    else:
        cut, tail = times[0], tails(logs, times[0])
    extra: dict[str, Any] = {"cut": cut, "all_test": since is not None, "tails": tail}
    extra |= {"known_at": known_at, "until": logs.end}
    return Dataset(columns, dict(found), at, columns["route_id"], extra)


def _what_fits(
    source: TrainingSource, start: np.datetime64, end: np.datetime64, routes: int, least: int
) -> NDArray[np.datetime64]:
    """Times of the snapshots: every `least` hours, or fewer and newer ones if memory is short.

    Raises:
        TrainingDataError: not even `_FEWEST_SNAPSHOTS` fit.
    """
    most = source.memory // (routes * _A_ROW)
    for hours in (h for h in _EVERY if h >= least):
        times = np.arange(start, end, np.timedelta64(hours, "h")).astype("datetime64[us]")
        if len(times) <= most:
            break
    if most < min(len(times), _FEWEST_SNAPSHOTS):
        what = f"{_FEWEST_SNAPSHOTS} snapshots of {routes:,} routes"
        needed = _FEWEST_SNAPSHOTS * routes * _A_ROW
        raise TrainingDataError(too_large(what, needed, source.memory))
    if hours > least or len(times) > most:
        source.notes.append(
            f"snapshots of {routes:,} routes every {least} hours would take more memory than there "
            f"is: the newest {min(len(times), most):,} are taken, {hours} hours apart"
        )
    return times[-most:]


def split(data: Dataset) -> Split:
    """Rows with known labels before and after the data set's cut, a gap apart."""
    labelled = data.labels["shipments"] > 0
    if data.extra["all_test"]:
        return Split(np.zeros(len(data), dtype=bool), labelled)
    cut = data.extra["cut"]
    return Split(labelled & (data.timestamps <= cut - GAP), labelled & (data.timestamps >= cut))


def rows_of(data: Dataset, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """All rows of the snapshots in which there is a chosen row."""
    return np.isin(data.timestamps, np.unique(data.timestamps[chosen]))


def _cut(at: NDArray[np.datetime64], shipments: NDArray[np.float64]) -> np.datetime64:
    """The time after which the test's share of known shipments left."""
    times, number = np.unique(at, return_inverse=True)
    share = np.cumsum(np.bincount(number, shipments)) / shipments.sum()
    return np.datetime64(times[int(np.searchsorted(share, 1 - _TEST_SHARE))])


def _columns(source: TrainingSource, logs: Logs, times: NDArray[np.datetime64]) -> dict[str, Any]:
    """The model's input for every route at every time, from one retrieval."""
    routes, size = logs.routes, len(logs.routes)
    chosen = logs.probes
    at_origin = routes["origin_id"].isin(list(chosen))
    warehouse = routes["origin_id"].where(at_origin, routes["destination_id"])
    asked = probe_of_each(warehouse.tolist(), chosen)
    snapshot = np.repeat(np.arange(len(times)), size)
    entities = pd.DataFrame(
        {
            "route_id": np.tile(routes["route_id"].to_numpy(dtype=object), len(times)),
            "warehouse_id": np.tile(np.array([w for w, _ in asked], dtype=object), len(times)),
            "product_id": np.tile(np.array([p for _, p in asked], dtype=object), len(times)),
            EVENT_TIMESTAMP: np.repeat(times, size),
        }
    )
    table = source.historical(entities, SERVICE)
    columns: dict[str, Any] = {
        "snapshot": snapshot,
        "route_id": entities["route_id"].to_numpy(),
    }
    for name in _STATIC:
        columns[name] = np.tile(routes[name].to_numpy(), len(times))
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
