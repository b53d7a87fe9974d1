"""The data set of delays: snapshots of the whole network, with features from one retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.features.columns import EVENT_TIMESTAMP
from pipelines.models.delay.features import keys_of, network_columns
from pipelines.models.delay.labels import HORIZON, Logs, labels, tails
from pipelines.training.memory import too_large
from pipelines.training.source import TrainingDataError, TrainingSource
from pipelines.training.task import Dataset, Split

SERVICE: Final = "supply_gnn_v1"
_EVERY: Final = (2, 3, 4, 6, 8, 12, 24)  # hours between snapshots, as memory allows
_EVERY_QUICK: Final = 3
_A_ROW: Final = 4500  # bytes of a route in a snapshot, see `memory`
_WARM_UP: Final = np.timedelta64(24, "h")
GAP: Final = HORIZON + np.timedelta64(24, "h")
"""The gap between training and test: their labels share no shipment, and the 24-hour features of
the test contain no labels of the training."""
_TEST_SHARE: Final = 0.35
_FEWEST_SNAPSHOTS: Final = 12


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
    columns = columns_at(source, logs, times)
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
    labelled, none = data.labels["shipments"] > 0, np.zeros(len(data), dtype=bool)
    if data.extra["all_test"]:
        return Split(none, labelled, none)
    cut = data.extra["cut"]
    early, late = data.timestamps <= cut - GAP, data.timestamps >= cut
    return Split(labelled & early, labelled & late, none)


def rows_of(data: Dataset, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """All rows of the snapshots in which there is a chosen row."""
    return np.isin(data.timestamps, np.unique(data.timestamps[chosen]))


def _cut(at: NDArray[np.datetime64], shipments: NDArray[np.float64]) -> np.datetime64:
    """The time after which the test's share of known shipments left."""
    times, number = np.unique(at, return_inverse=True)
    share = np.cumsum(np.bincount(number, shipments)) / shipments.sum()
    return np.datetime64(times[int(np.searchsorted(share, 1 - _TEST_SHARE))])


def columns_at(source: TrainingSource, logs: Logs, times: NDArray[np.datetime64]) -> dict[str, Any]:
    """The model's input for every route at every time, from one retrieval.

    Args:
        source: of the features.
        logs: routes, and the probes of their warehouses' stock.
        times: (S,) UTC.
    """
    routes = logs.constants
    asked = keys_of(routes, logs.probes)
    table = retrieve_network(source, asked, times)
    columns: dict[str, Any] = {"snapshot": np.repeat(np.arange(len(times)), len(logs.routes))}
    read = dict(zip(table.column_names, table.columns, strict=True))
    return columns | network_columns(routes, asked["warehouse_id"], read, len(times))


def retrieve_network(
    source: TrainingSource, keys: Mapping[str, Sequence[str]], times: NDArray[np.datetime64]
) -> pa.Table:
    """The delay model's features of all routes at every time, one time after another.

    Args:
        source: of the features.
        keys: (R,) see `keys_of`.
        times: (S,) UTC.
    """
    size = len(keys["route_id"])
    frame = {name: np.tile(np.array(part, dtype=object), len(times)) for name, part in keys.items()}
    entities = pd.DataFrame({**frame, EVENT_TIMESTAMP: np.repeat(times, size)})
    return source.historical(entities, SERVICE)
