"""From an order to a decision: online features, three models, an answer, a log."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Self

from pipelines.errors import (
    LiveDatabaseError,
    RedisRefusedError,
    RedisUnavailableError,
    SynchroChainError,
    TriggersError,
    said,
)
from pipelines.lake.clock import unix_now
from pipelines.live_databases import LiveDatabases
from pipelines.serving.answers import decisions_of, record_of
from pipelines.serving.deciding import Case, Round, case_of
from pipelines.serving.decision_log import FILE, DecisionLog, DecisionLogError
from pipelines.serving.decisions import Decision, Fallback
from pipelines.serving.fair_lock import FairLock
from pipelines.serving.loading import MODELS, Absent, ChampionModels, ModelSource, Registry
from pipelines.serving.online import OnlineFeatures, OnlineRows
from pipelines.serving.options import ServingOptions
from pipelines.serving.orders import NotReadyError, Order, OrderError
from pipelines.serving.outlook import NetworkOutlook
from pipelines.serving.reference import Reference
from pipelines.settings import BatchConfig, DataConfig

logger = logging.getLogger(__name__)

TOGETHER: Final = 50
"""Orders that are decided in one go; others wait for so long."""
FEW: Final = 4
"""Orders whose fresh routes are logged with each of them; for more, the network is logged anew."""
LOOK_SECONDS: Final = 0.25
RETRY_SECONDS: Final = 3.0
STOP_SECONDS: Final = 1.0

Stopwatch = Callable[[str], None]


@dataclass(frozen=True)
class Readiness:
    """Whether decisions can be made, and everything that stands in the way or is not as it should
    be."""

    ready: bool
    reasons: list[str]
    warnings: list[str]


class ModelOrchestrator:
    """Decides on orders. Use it in a `with` statement, or call `start` and `stop`.

    Safe to share between threads: one decides at a time, for Feast's store is not made for two and
    the work is Python's, which does not run twice at once.

    Args:
        databases: the live databases.
        features: the online store.
        models: where the models come from.
        log: where decisions are kept.
        options: how decisions are made.
    """

    def __init__(
        self,
        databases: LiveDatabases,
        features: OnlineFeatures,
        models: ModelSource,
        log: DecisionLog,
        options: ServingOptions | None = None,
    ) -> None:
        self.options = options or ServingOptions()
        self.databases = databases
        self.reference = Reference(databases)
        self.features = features
        self.models = models
        self.log = log
        self._turn = FairLock()
        self.outlook = NetworkOutlook(features, self.reference, self._turn)
        self._network: tuple[int, int] | None = None
        self._problems: dict[str, str] = {"start": "it is starting"}
        self._not_logged: tuple[str, int] | None = None  # why, and how many decisions
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    @classmethod
    def open(
        cls, data: DataConfig, batch: BatchConfig, options: ServingOptions | None = None
    ) -> Self:
        """Create it for a data directory; nothing is read before `start`.

        Args:
            data: the live databases and Redis.
            batch: the data directory.
            options: of serving; None for the defaults.
        """
        options = options or ServingOptions()
        return cls(
            LiveDatabases.open(data),
            OnlineFeatures(partial(_open_store, batch)),
            ChampionModels(partial(open_registry, batch), batch.mlflow_path / "mlflow.db"),
            DecisionLog(data.data_dir / FILE, options.keep_decisions, options.log_busy),
            options,
        )

    def start(self) -> None:
        """Open the store, read the network, load the models, and keep all of it up to date.

        Takes seconds. An unavailable Redis or registry is retried later.

        Raises:
            NotReadyError: the feature repository was never applied here.
            LiveDatabaseError: the live databases cannot be read, or have lost triggers.
        """
        try:
            self.databases.check_triggers()
            self.reference.refresh()
            self.features.start()
        except Exception as error:
            self._problems["start"] = said(error)
            raise
        self._renew()
        if isinstance(self.models, ChampionModels):
            self.models.poll()
            self._keep_up("models", self.models.poll, self.options.poll)
        del self._problems["start"]
        self._keep_up("outlook", self._renew_if_due, LOOK_SECONDS)
        self._keep_up("reference", self._refresh, self.options.reference_age)

    def refuse_lost_triggers(self) -> None:
        """Look at the triggers before a start; what else is wrong may mend itself.

        Raises:
            TriggersError: a live database has lost some.
        """
        try:
            self.databases.check_triggers()
        except TriggersError:
            self.stop()
            raise
        except LiveDatabaseError as error:
            logger.info("not ready yet: %s", said(error))

    def start_beside(self) -> None:
        """Start in a thread, again and again until it succeeds: what is missing may come."""

        def start() -> None:
            while not self._stopping.is_set():
                try:
                    self.start()
                except SynchroChainError as error:
                    logger.warning("not ready: %s", said(error))
                except Exception:
                    logger.exception("not ready")
                else:
                    freeze_garbage()
                    return
                self._stopping.wait(RETRY_SECONDS)

        self._in_thread("start", start)

    def stop(self) -> None:
        """Stop all threads; may be called twice.

        A thread that cannot be interrupted, for example in an import, gets a second; see
        `has_ended`."""
        self._stopping.set()
        until = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self.log.close()
        self.databases.dispose()

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return not any(thread.is_alive() for thread in self._threads)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def decide(self, order: Order) -> Decision:
        """Decide on one order; see `decide_many`."""
        return self.decide_many([order])[0]

    def decide_many(
        self, orders: Sequence[Order], stopwatch: Stopwatch = lambda _stage: None
    ) -> list[Decision]:
        """Decide on orders independently: one does not reserve stock from another.

        Args:
            orders: any number of them.
            stopwatch: callback at the beginning of each stage, for measurements.

        Raises:
            OrderError: an order (`position`) cannot be decided; then none is.
            NotReadyError: `start` has not been through.
            LiveDatabaseError: a live database that must be asked cannot be read.
        """
        self.require_start()
        stopwatch("reference")
        began = time.perf_counter()
        cases = self._cases(orders)
        spent = time.perf_counter() - began
        decided: list[Decision] = []
        for first in range(0, len(cases), TOGETHER):
            some = cases[first : first + TOGETHER]
            decided += self._round(some, stopwatch, spent * len(some) / len(cases))
        return decided

    def check(self, orders: Sequence[Order]) -> None:
        """Check whether orders can be decided, without deciding.

        Raises:
            OrderError, NotReadyError, LiveDatabaseError: as `decide_many` would.
        """
        self.require_start()
        self._cases(orders)

    def require_start(self) -> None:
        """Do nothing, if `start` has been through.

        Raises:
            NotReadyError: it has not; the message says what is in the way.
        """
        if "start" in self._problems:
            raise NotReadyError(f"decisions cannot be made yet: {self._problems['start']}")

    def features_of(self, view: str, keys: Mapping[str, Any]) -> OnlineRows:
        """The online features of one key.

        Raises:
            NotReadyError: `start` has not been through.
            RedisUnavailableError: Redis is away and nothing was ever read here.
        """
        with self._turn:
            return self.features.of_view(view, keys)

    def readiness(self) -> Readiness:
        """Whether decisions can be made just now."""
        reasons = list(self._problems.values())
        warnings = []
        for model in MODELS:
            found = self.models.get(model)
            problem = found.why if isinstance(found, Absent) else found.problem
            if problem is not None:
                warnings.append(f"{model}: {problem}")
        if self._not_logged is not None:
            warnings.append(f"decision log: {self._not_logged[0]}")
        snapshot = self.outlook.snapshot
        if not reasons and snapshot is not None:
            if snapshot.read_mode != "redis":
                reasons.append("Redis is away: decisions are made from last known values")
            age = snapshot.age(unix_now())
            if age > self.options.stale_after:
                reasons.append(f"the network has not been read for {age:.0f} s")
        return Readiness(not reasons, reasons, warnings)

    def _cases(self, orders: Sequence[Order]) -> list[Case]:
        self.reference.learn(
            {order.user_id for order in orders}, {order.product_id for order in orders}
        )
        cases = []
        for number, order in enumerate(orders):
            try:
                cases.append(case_of(order, self.reference, self.options.max_warehouses))
            except OrderError as error:
                error.position = number
                raise
        return cases

    def _round(self, cases: list[Case], stopwatch: Stopwatch, spent: float) -> list[Decision]:
        stopwatch("wait")
        with self._turn:
            began = time.perf_counter()
            reader = _Reader(self.features)

            def read(service: str, rows: Sequence[Mapping[str, Any]]) -> OnlineRows:
                stopwatch("features")
                found = reader.read(service, rows)
                stopwatch(service)
                return found

            done = Round(cases, self.reference, self.models, self.options, read)
            done.want()
            done.expect(self.outlook.snapshot)
            done.choose()
            if reader.problem is not None:
                done.troubles.append(Fallback("Redis", reader.problem))
            elif done.places.read_mode != "redis":
                age = done.places.mode_age
                done.troubles.append(
                    Fallback("Redis", f"it is away: features are those seen {age:.0f} s ago")
                )
            stopwatch("answer")
            decisions = decisions_of(done)
            took = (spent + time.perf_counter() - began) * 1000 / len(cases)
            stopwatch("log")
            decisions = [replace(d, logged=True, took_ms=round(took, 3)) for d in decisions]
            try:
                self._log(done, decisions)
            except DecisionLogError as error:
                self._note_not_logged(str(error), len(decisions))
                note = Fallback("decision log", f"it cannot be written: {error}")
                decisions = [
                    replace(d, logged=False, fallbacks=[*d.fallbacks, note]) for d in decisions
                ]
            else:
                self._note_logged()
            stopwatch("done")
        return decisions

    def _log(self, done: Round, decisions: Sequence[Decision]) -> None:
        network = None
        if done.route_at is not None and done.snapshot is not None:
            if len(decisions) > FEW:
                network = self.log.add_network(done.network_columns)
                done.overlaid = []
            else:
                if self._network is None or self._network[0] != done.snapshot.number:
                    number = self.log.add_network(done.snapshot.columns)
                    self._network = (done.snapshot.number, number)
                network = self._network[1]
        self.log.add([record_of(done, n, d, network) for n, d in enumerate(decisions)])

    def _note_not_logged(self, why: str, count: int) -> None:
        """Say it once, not with each decision: what is full may be the disk of the log, too."""
        before = self._not_logged
        if before is None or before[0] != why:
            logger.warning("decisions are not logged: %s", why)
        self._not_logged = why, count + (before[1] if before else 0)

    def _note_logged(self) -> None:
        if self._not_logged is not None:
            logger.warning("decisions are logged again; %d were not", self._not_logged[1])
            self._not_logged = None

    def _renew_if_due(self) -> None:
        if self.outlook.is_due(self.options.outlook_age, unix_now()):
            self._renew()

    def _renew(self) -> None:
        try:
            self.outlook.renew()
        except (
            RedisUnavailableError,
            RedisRefusedError,
            NotReadyError,
            LiveDatabaseError,
        ) as error:
            self._problems["outlook"] = str(error)
        else:
            self._problems.pop("outlook", None)

    def _refresh(self) -> None:
        try:
            self.databases.check_triggers()
            self.reference.refresh()
        except LiveDatabaseError as error:
            self._problems["reference"] = str(error)
        else:
            self._problems.pop("reference", None)

    def _keep_up(self, name: str, work: Callable[[], None], seconds: float) -> None:
        def repeat() -> None:
            while not self._stopping.wait(seconds):
                try:
                    work()
                except Exception:  # the next time may do better
                    logger.exception("keeping the %s up to date failed", name)

        self._in_thread(name, repeat)

    def _in_thread(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=f"serving {name}", daemon=True)
        self._threads.append(thread)
        thread.start()


class _Reader:
    """Reads for one round; after Redis has failed once it is not asked again."""

    def __init__(self, features: OnlineFeatures) -> None:
        self._features = features
        self.problem: str | None = None

    def read(self, service: str, rows: Sequence[Mapping[str, Any]]) -> OnlineRows:
        if self.problem is None:
            try:
                return self._features.read(service, rows)
            except SynchroChainError as error:
                self.problem = said(error)
        return self._features.nothing(service, rows)


def freeze_garbage() -> None:
    """Take what is there for good: collecting it again and again would hold up decisions."""
    gc.collect()
    gc.freeze()


def _open_store(batch: BatchConfig) -> Any:
    from pipelines.feast_plugins.repository import open_store

    return open_store(batch)


def open_registry(batch: BatchConfig) -> Registry:
    """The model registry of a data directory."""
    from pipelines.registry.store import ModelRegistry

    registry: Registry = ModelRegistry(batch)
    return registry
