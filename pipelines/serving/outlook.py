"""The whole network at a glance: every route's conditions and the stock at its end.

The delay model looks at all routes at once, and reading them takes as long as a decision may. So a
snapshot is kept and renewed piece by piece behind the decisions' back; each decision puts the
routes that it has just read over it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.features.views import VIEWS_BY_NAME
from pipelines.lake.clock import unix_now
from pipelines.registry.columns import Columns, as_column
from pipelines.serving.online import SERVICES, OnlineFeatures, OnlineRows
from pipelines.serving.reference import Network, Reference

ROUTE_FEATURES: Final = VIEWS_BY_NAME["route_conditions"].features
_PLACES: Final = ("route_id", "origin_id", "destination_id", "mode")
_MEASURES: Final = ("distance_km", "base_hours", "base_cost")
STOCK_COLUMNS: Final[Mapping[str, str]] = {
    "warehouse_stock_ratio": "stock_ratio",
    "warehouse_low_stock_share": "is_low_stock",
    "warehouse_days_of_cover": "days_of_cover",
}
"""What each is the mean of, over the warehouse's probe products."""
PIECE: Final = 32
"""Routes that are read at a time: about 2 ms, which is what a decision may have to wait."""

_numbers = count(1)


@dataclass(frozen=True)
class Snapshot:
    """All routes as they were read last.

    Attributes:
        number: names it within this process.
        network: whose routes the rows are.
        columns: (routes,) input of the delay model.
        taken: seconds since 1970, when its reading began.
        newest: seconds since 1970, the newest event time of a route; 0 if there is none.
        missing: routes of which nothing is known or all has expired.
        read_mode: the worst of its reads.
    """

    number: int
    network: Network
    columns: Columns
    taken: float
    newest: float
    missing: int
    read_mode: str

    def age(self, now: float) -> float:
        """Seconds since its reading began."""
        return max(0.0, now - self.taken)

    def overlaid(self, route_ids: Sequence[str], read: Mapping[str, Sequence[Any]]) -> Columns:
        """Its columns with the conditions of some routes as they have just been read."""
        position = self.network.position
        rows = {position[name]: n for n, name in enumerate(route_ids) if name in position}
        at, of = list(rows), list(rows.values())
        columns = dict(self.columns)
        for name in ROUTE_FEATURES:
            fresh = as_column(name, [read[name][n] for n in of])
            columns[name] = columns[name].copy()
            columns[name][at] = fresh
        return columns


class NetworkOutlook:
    """Keeps the snapshot; `renew` reads a new one, a decision takes the last one.

    Args:
        turn: held while a piece is read, for Feast's store is not for two threads at once.
    """

    def __init__(
        self,
        features: OnlineFeatures,
        reference: Reference,
        turn: AbstractContextManager[Any],
    ) -> None:
        self._features = features
        self._reference = reference
        self._turn = turn
        self.snapshot: Snapshot | None = None

    def is_due(self, age: float, now: float) -> bool:
        """Whether the snapshot is older than `age` seconds, or of another network."""
        last = self.snapshot
        return last is None or last.age(now) > age or last.network is not self._reference.network

    def renew(self) -> Snapshot:
        """Read all routes, piece by piece, and replace the snapshot.

        Raises:
            NotReadyError, RedisUnavailableError, LiveDatabaseError: the old one stays.
        """
        taken = unix_now()
        network = self._reference.network
        rows = list(_probes(network, self._reference.probes()))
        reads = []
        for first in range(0, len(rows), PIECE):
            with self._turn:
                piece = rows[first : first + PIECE]
                reads.append(self._features.read(SERVICES["supply_gnn"], piece))
        self.snapshot = _snapshot(network, rows, reads, taken)
        return self.snapshot


def _probes(network: Network, products: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    """A row per route, with its warehouse and another product of it for each of its routes."""
    turn: dict[str, int] = {}
    for route, warehouse in zip(network.routes, network.warehouse_of, strict=True):
        number = turn[warehouse or ""] = turn.get(warehouse or "", -1) + 1
        carried = products.get(warehouse or "", ())
        product = carried[number % len(carried)] if carried else ""
        yield {
            "route_id": route.route_id,
            "warehouse_id": warehouse or "",
            "product_id": product,
        }


def _snapshot(
    network: Network,
    rows: Sequence[Mapping[str, str]],
    reads: Sequence[OnlineRows],
    taken: float,
) -> Snapshot:
    columns: Columns = {
        name: as_column(name, [getattr(route, name) for route in network.routes])
        for name in (*_PLACES, *_MEASURES)
    }
    read = {
        name: [value for piece in reads for value in piece.columns[name]]
        for name in (*ROUTE_FEATURES, *STOCK_COLUMNS.values())
    }
    columns |= {name: as_column(name, read[name]) for name in ROUTE_FEATURES}
    places = np.array([row["warehouse_id"] for row in rows], dtype=object)
    for name, feature in STOCK_COLUMNS.items():
        columns[name] = _means(places, as_column(feature, read[feature]))
    states = [s for piece in reads for s in piece.views["route_conditions"].states]
    stamps = [s for piece in reads for s in piece.views["route_conditions"].stamps]
    modes = {piece.read_mode for piece in reads}
    return Snapshot(
        number=next(_numbers),
        network=network,
        columns=columns,
        taken=taken,
        newest=max(stamps, default=0.0),
        missing=sum(state != "present" for state in states),
        read_mode=next((mode for mode in modes if mode != "redis"), "redis"),
    )


def _means(groups: NDArray[Any], values: NDArray[Any]) -> NDArray[np.float64]:
    """(N,) by row the mean of its group's values, those that there are; NaN where none is."""
    _, group = np.unique(groups.astype(str), return_inverse=True)
    there = ~np.isnan(values)
    sums = np.bincount(group[there], values[there], minlength=group.max(initial=0) + 1)
    counts = np.bincount(group[there], minlength=len(sums))
    with np.errstate(invalid="ignore"):
        return np.asarray((sums / counts)[group], dtype=np.float64)
