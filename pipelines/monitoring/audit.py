"""The consistency audit: compares the online store with features computed offline from the logs.

Data keep flowing meanwhile. So it first reads which changes are online for certain, then the online
store, then the ends of the change logs. A key that no change in between affects is at rest: its
online and offline rows cover the same changes. A key in flux is read again in the next round; one
that never comes to rest is counted as in flux.

Keys are sampled from the offline sources. These never expire, so a key that is online but not
offline was not written by us.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from pipelines.change_log.seq_ranges import seqs_of
from pipelines.errors import SynchroChainError
from pipelines.feast_plugins.repository import open_store
from pipelines.features.columns import EVENT_TIMESTAMP
from pipelines.features.views import VIEWS
from pipelines.lake.clock import utc_now
from pipelines.lake.declarations import check_declared
from pipelines.lake.state import STREAM_STATUS, PipelineState
from pipelines.lake.verification import read_again_if_made_anew, verified
from pipelines.lake.workspace import Progress
from pipelines.monitoring.comparison import (
    ROWS_KEPT,
    Comparison,
    FeatureAudit,
    UnequalRow,
    consistency,
)
from pipelines.monitoring.offline_side import offline_side
from pipelines.monitoring.online_side import (
    Contained,
    DeferredChanges,
    OnlineSide,
    contained,
)
from pipelines.settings import DATABASE_NAMES, BatchConfig, DataConfig

ROUNDS: Final = 5
PAUSE_SECONDS: Final = 1.0


class AuditError(SynchroChainError):
    """There is nothing to compare yet."""


class ReadersLagError(AuditError):
    """No key came to rest: no reader has written online what the change logs hold.

    `lag` is the number of changes by database.
    """

    def __init__(self, lag: Mapping[str, int]) -> None:
        self.lag = dict(lag)
        behind = ", ".join(f"{name} {count:,}" for name, count in lag.items() if count)
        super().__init__(
            f"nothing can be compared: changes that are not surely online yet ({behind}) affect "
            "every key; wait for the batch or streaming flow to catch up, or run "
            "`synchrochain batch --once`, then audit again"
        )


@dataclass(frozen=True)
class ViewAudit:
    """One view: the keys compared, the keys that never came to rest, and each feature.

    `event_timestamp` is compared like a feature, so that a stale row with equal values is found.
    `served` keys have a row on either side that has not expired. `consistency` is None if no key
    was compared.
    """

    keys: int
    served: int
    in_flux: int
    consistency: float | None
    features: dict[str, FeatureAudit]


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    `consistency` is 1 − (mismatch + left_null + right_null) / total over all views and features;
    `rows` are the first unequal rows of `unequal_rows`. `online` and `last` are, by database, the
    change up to which everything was online when the last round began, and the log's last one when
    it ended; `rounds` is how often keys were read.
    """

    consistency: float
    views: dict[str, ViewAudit]
    rows: list[UnequalRow]
    unequal_rows: int
    as_of: datetime
    online: dict[str, int]
    last: dict[str, int]
    rounds: int

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dicts and lists."""
        return asdict(self)


def audit(
    data: DataConfig,
    config: BatchConfig,
    *,
    sample: int = 1000,
    now: Callable[[], datetime] = utc_now,
    pause: Callable[[], Any] = lambda: time.sleep(PAUSE_SECONDS),
    progress: Progress = lambda _step, _rows: None,
    deferred: DeferredChanges | None = None,
) -> AuditReport:
    """Compare the online store with what the offline side computes as of the same time.

    Args:
        data: the live databases and Redis.
        config: the data directory.
        sample: keys per view, chosen by a hash that stays the same; 0 for all.
        now: returns the current time, UTC and naive, from which times to live count on both sides.
        pause: callback between rounds, in which the readers can catch up.
        progress: callback with the step and how many more rows it has processed.
        deferred: returns the changes that the streamer deferred to the batch flow; by default
            as recorded in the pipeline's state.

    Raises:
        AuditError: nothing was published or applied yet, or no key comes to rest.
        DeclaredAnewError: what is published was declared otherwise.
        RedisUnavailableError, RedisRefusedError: the online store cannot be read.
        SynchroChainError: a change log or a published file cannot be read.
    """
    if not config.state_path.exists() or not config.registry_path.exists():
        raise AuditError(
            f"nothing was processed and applied in {config.data_dir} yet: run "
            "`synchrochain batch --once` first"
        )
    state = PipelineState(config.state_path)
    check_declared(state)
    if not state.files("view"):
        raise AuditError(
            f"no features are published in {config.offline_path}: run `synchrochain batch --once`"
        )
    deferring = deferred or (lambda: _deferred(state))

    def compared() -> AuditReport:
        found = _Audit(data, config, state, progress, deferring)
        found.choose(sample)
        found.run(now, pause)
        return found.report()

    return read_again_if_made_anew(state, compared)


class _Audit:
    """One audit under way."""

    def __init__(
        self,
        data: DataConfig,
        config: BatchConfig,
        state: PipelineState,
        progress: Progress,
        deferred: DeferredChanges,
    ) -> None:
        self._data = data
        self._config = config
        self._state = state
        self._progress = progress
        self._deferred = deferred
        self._online = _online_side(config)
        self._pending: dict[str, pa.Table] = {}
        self._compared = {
            view.name: Comparison(
                view.name,
                view.keys,
                {name: view.schema.field(name).type for name in (EVENT_TIMESTAMP, *view.features)},
            )
            for view in VIEWS
        }
        self._known: dict[str, dict[str, Contained]] = {}
        self._last: dict[str, int] = {}
        self._compared_at = datetime.min
        self._rounds = 0

    def choose(self, sample: int) -> None:
        """Choose the keys."""
        with offline_side(self._data, self._config, self._state, self._progress) as offline:
            for view in VIEWS:
                folder = self._config.offline_path / view.name
                files = verified(self._state, "view", view.name, folder=folder, afresh=True)
                self._pending[view.name] = offline.sample(view, files, sample)

    def run(self, now: Callable[[], datetime], pause: Callable[[], Any]) -> None:
        """Compare keys until all have come to rest, or for `ROUNDS` rounds."""
        while any(keys.num_rows for keys in self._pending.values()):
            if self._rounds == ROUNDS:
                return
            if self._rounds:
                pause()
            self._round(now())
            self._rounds += 1

    def _round(self, now: datetime) -> None:
        from pipelines.feast_plugins.stale_fallback import errors_instead_of_stale_values

        known = contained(self._state, self._deferred)
        if known == self._known:  # no offset has moved, so no key has come to rest
            return
        self._known, self._compared_at = known, now
        served = {}
        with errors_instead_of_stale_values():
            for view in VIEWS:
                keys = self._pending[view.name]
                served[view.name] = self._online.read(view, keys, now)
                self._progress("read online", keys.num_rows)
        # After the online read, so that these logs contain all changes that were online.
        with offline_side(self._data, self._config, self._state, self._progress) as offline:
            self._last = offline.last
            for view in VIEWS:
                at_rest, in_flux = offline.split(view, self._pending[view.name], known[view.name])
                computed = offline.newest(view, at_rest, self._online.oldest(view, now))
                self._compared[view.name].add(
                    offline.connection, at_rest, served[view.name], computed
                )
                self._progress("compare", at_rest.num_rows)
                self._pending[view.name] = in_flux

    def report(self) -> AuditReport:
        """What was found."""
        views = {}
        for name, compared in self._compared.items():
            features = compared.features
            views[name] = ViewAudit(
                compared.compared,
                compared.compared - features[EVENT_TIMESTAMP].both_null,
                self._pending[name].num_rows,
                consistency(features.values()),
                features,
            )
        online = {
            name: min(of_view[name].upto for of_view in self._known.values())
            for name in DATABASE_NAMES
        }
        overall = consistency(f for view in views.values() for f in view.features.values())
        if overall is None:
            raise ReadersLagError({name: self._last[name] - online[name] for name in online})
        return AuditReport(
            overall,
            views,
            [row for compared in self._compared.values() for row in compared.rows][:ROWS_KEPT],
            sum(compared.unequal_rows for compared in self._compared.values()),
            self._compared_at,
            online,
            self._last,
            self._rounds,
        )


def _deferred(state: PipelineState) -> Mapping[str, Iterable[int]]:
    """By database, the changes deferred by the streamer, which records them before it moves on."""
    found: Mapping[str, Any] = (state.document(STREAM_STATUS) or {}).get("deferred", {})
    return {name: seqs_of(ranges) for name, ranges in found.items()}


def _online_side(config: BatchConfig) -> OnlineSide:
    store = open_store(config)
    from feast.errors import FeatureViewNotFoundException

    try:
        return OnlineSide(store)
    except FeatureViewNotFoundException as error:
        raise AuditError(f"{error}: apply it with `synchrochain batch --once` first") from None
