"""The whole network at a glance: every route's conditions and the stock at its end.

The delay model looks at all routes at once, and reading them takes as long as a decision may. So a
snapshot is kept and renewed piece by piece behind the decisions' back; each decision puts the
routes that it has just read over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from pipelines.lake.clock import unix_now
from pipelines.models.delay.features import ROUTE_FEATURES, STOCK, keys_of, network_columns
from pipelines.registry.columns import Columns, as_column
from pipelines.serving.online import SERVICES, OnlineFeatures, OnlineRows
from pipelines.serving.reference import Network, Reference

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


class NetworkSnapshots:
    """Keeps the snapshot; `renew` reads a new one, a decision takes the last one.

    Args:
        features: where routes are read.
        reference: the network.
        lock: held while a piece is read, for Feast's store is not for two threads at once.
    """

    def __init__(
        self,
        features: OnlineFeatures,
        reference: Reference,
        lock: AbstractContextManager[Any],
    ) -> None:
        self._features = features
        self._reference = reference
        self._store_lock = lock
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
        keys = keys_of(network.constants, self._reference.probes())
        rows = [dict(zip(keys, row, strict=True)) for row in zip(*keys.values(), strict=True)]
        reads = []
        for first in range(0, len(rows), PIECE):
            with self._store_lock:
                piece = rows[first : first + PIECE]
                reads.append(self._features.read(SERVICES["supply_gnn"], piece))
        self.snapshot = _snapshot(network, keys["warehouse_id"], reads, taken)
        return self.snapshot


def _snapshot(
    network: Network, warehouses: Sequence[str], reads: Sequence[OnlineRows], taken: float
) -> Snapshot:
    read = {
        name: [value for piece in reads for value in piece.columns[name]]
        for name in (*ROUTE_FEATURES, *STOCK.values())
    }
    states = [s for piece in reads for s in piece.views["route_conditions"].states]
    stamps = [s for piece in reads for s in piece.views["route_conditions"].stamps]
    modes = {piece.read_mode for piece in reads}
    return Snapshot(
        number=next(_numbers),
        network=network,
        columns=network_columns(network.constants, warehouses, read),
        taken=taken,
        newest=max(stamps, default=0.0),
        missing=sum(state != "present" for state in states),
        read_mode=next((mode for mode in modes if mode != "redis"), "redis"),
    )
