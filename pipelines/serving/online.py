"""Online features: one read of Feast per service, with the ages of its rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from pipelines.errors import SynchroChainError, first_line
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.lake.clock import unix_now
from pipelines.registry.signatures import CONTRACTS, not_applied
from pipelines.serving.orders import NotReadyError

if TYPE_CHECKING:
    from feast import FeatureStore

logger = logging.getLogger(__name__)

SERVICES: Final[Mapping[str, str]] = {name: c.service for name, c in CONTRACTS.items()}
"""The feature service of each model."""
State = Literal["present", "missing", "stale"]
# Of Feast's FieldStatus, which would take seconds to import.
_PRESENT, _NOT_FOUND, _OUTSIDE_MAX_AGE = 1, 3, 4


@dataclass(frozen=True)
class RowStates:
    """The rows of one view.

    `stamps` are event times in seconds since 1970 (0 if missing), `states` whether a row counts. A
    row past its time to live is null in the columns. A row without any value is missing: it is the
    tombstone of a deleted key.
    """

    stamps: list[float]
    states: list[State]


@dataclass(frozen=True)
class OnlineRows:
    """The result of one read: equally long columns, keys included, and the rows of each view.

    `read_mode` is "redis", or "stale_fallback" while Redis is unavailable; `mode_age` is for how
    many seconds. `read_at` is in seconds since 1970.
    """

    columns: dict[str, list[Any]]
    views: dict[str, RowStates]
    read_mode: str = "redis"
    mode_age: float = 0.0
    read_at: float = field(default_factory=unix_now)

    def states(
        self, view: str, max_age: float | None, rows: Sequence[int] | None = None
    ) -> list[State]:
        """Whether rows of a view count.

        Args:
            view: the view.
            max_age: seconds beyond which a row is stale; None for the time to live only.
            rows: indices; None for all.
        """
        states, stamps = self.views[view].states, self.views[view].stamps
        oldest = 0.0 if max_age is None else self.read_at - max_age
        return [
            "stale" if states[n] == "present" and stamps[n] < oldest else states[n]
            for n in (range(len(states)) if rows is None else rows)
        ]


class OnlineFeatures:
    """Feast's online side; not to be shared between threads without a lock.

    Args:
        open_store: opens the store; takes seconds, so it is called by `start`.
    """

    def __init__(self, open_store: Callable[[], FeatureStore]) -> None:
        self._open = open_store
        self._store: Any = None
        self._services: dict[str, Any] = {}
        self._view_of: dict[str, dict[str, str]] = {}

    def start(self) -> None:
        """Open the store and look up the services.

        Raises:
            NotReadyError: the feature repository was never applied here.
        """
        from feast.errors import FeatureServiceNotFoundException

        store = self._open()
        for name in SERVICES.values():
            try:
                service = store.get_feature_service(name)
            except FeatureServiceNotFoundException:
                raise NotReadyError(
                    f"Feast does not know {name}: apply the feature repository with "
                    "`synchrochain batch --once`"
                ) from None
            if unknown := not_applied(service):
                raise NotReadyError(
                    f"Feast does not know {', '.join(unknown)} yet: apply the declarations with "
                    "`synchrochain batch --once`"
                )
            self._services[name] = service
            self._view_of[name] = {
                feature.name: projection.name
                for projection in service.feature_view_projections
                for feature in projection.features
            }
        self._store = store

    def read(self, service: str, rows: Sequence[Mapping[str, Any]]) -> OnlineRows:
        """A service's features, one row per row of keys.

        Raises:
            NotReadyError: `start` has not been through.
            RedisUnavailableError: Redis is unavailable and no last known values are here.
        """
        if self._store is None:
            raise NotReadyError("Feast's store is not open yet")
        return self._read(self._services[service], rows, self._view_of[service])

    def missing(self, service: str, rows: Sequence[Mapping[str, Any]]) -> OnlineRows:
        """What `read` would return if no key had features."""
        view_of = self._view_of[service]
        columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
        columns |= {name: [None] * len(rows) for name in view_of}
        views = {
            view: RowStates([0.0] * len(rows), ["missing"] * len(rows))
            for view in set(view_of.values())
            if view in VIEWS_BY_NAME
        }
        return OnlineRows(columns, views, read_mode="unavailable")

    def of_view(self, view: str, keys: Mapping[str, Any]) -> OnlineRows:
        """The features of one key of one view.

        Raises:
            NotReadyError, RedisUnavailableError: as for `read`.
        """
        if self._store is None:
            raise NotReadyError("Feast's store is not open yet")
        names = VIEWS_BY_NAME[view].features
        references = [f"{view}:{name}" for name in names]
        return self._read(references, [keys], dict.fromkeys(names, view))

    def _read(
        self, wanted: Any, rows: Sequence[Mapping[str, Any]], view_of: Mapping[str, str]
    ) -> OnlineRows:
        # By column: Feast converts rows to columns one value at a time.
        keys = {name: [row[name] for row in rows] for name in rows[0]}
        read_at = unix_now()
        try:
            response = self._store.get_online_features(features=wanted, entity_rows=keys)
        except SynchroChainError:
            raise
        except Exception as error:  # whatever fails in Feast becomes one clear error
            logger.warning("Feast could not read online features", exc_info=True)
            raise NotReadyError(
                f"Feast could not read online features: {first_line(error)}"
            ) from None
        mode, age = _mode_of(response)
        columns = response.to_dict()
        views = {
            view: _without_tombstones(
                found, [columns[name] for name, of in view_of.items() if of == view]
            )
            for view, found in _views(response, view_of).items()
        }
        return OnlineRows(columns, views, mode, age, read_at)


def _views(response: Any, view_of: Mapping[str, str]) -> dict[str, RowStates]:
    if hasattr(response, "view_rows"):
        rows = response.view_rows().items()
        return {name: _view(*read) for name, read in rows if name in VIEWS_BY_NAME}
    # A store other than ours: read Feast's own message.
    views: dict[str, RowStates] = {}
    message = response.proto
    for name, vector in zip(message.metadata.feature_names.val, message.results, strict=True):
        view = view_of.get(name, "")
        if view in VIEWS_BY_NAME and view not in views:
            stamps = [s.seconds + s.nanos / 1e9 for s in vector.event_timestamps]
            # Stock Feast reports a missing row as present, with nulls.
            statuses = [
                status if stamp else _NOT_FOUND
                for status, stamp in zip(vector.statuses, stamps, strict=True)
            ]
            views[view] = _view(stamps, statuses)
    return views


def _without_tombstones(read: RowStates, features: Sequence[list[Any]]) -> RowStates:
    gone = [
        row
        for row, state in enumerate(read.states)
        if state == "present" and all(column[row] is None for column in features)
    ]
    if not gone:
        return read
    stamps, states = list(read.stamps), list(read.states)
    for row in gone:
        stamps[row], states[row] = 0.0, "missing"
    return RowStates(stamps, states)


def _view(stamps: list[float], statuses: Sequence[int]) -> RowStates:
    return RowStates(stamps, list(map(_state, statuses)))


def _mode_of(response: Any) -> tuple[str, float]:
    mode = getattr(response, "read_mode", None)  # only our store's answers have one
    return (mode.mode, mode.age_seconds) if mode is not None else ("redis", 0.0)


def _state(status: int) -> State:
    if status == _OUTSIDE_MAX_AGE:
        return "stale"
    return "present" if status == _PRESENT else "missing"
