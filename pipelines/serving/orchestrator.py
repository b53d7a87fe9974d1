"""Decides on orders, and keeps what decisions need up to date: the network, routes, models."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Self

from pipelines.errors import (
    LiveDatabaseError,
    RedisRefusedError,
    RedisUnavailableError,
    TriggersError,
    said,
)
from pipelines.lake.clock import unix_now
from pipelines.live_databases import LiveDatabases
from pipelines.registry.signatures import MODELS
from pipelines.serving.answers import decisions_of
from pipelines.serving.background import BackgroundTasks
from pipelines.serving.candidates import CompletedOrder, OrderBatch, complete_orders
from pipelines.serving.config import ServingConfig
from pipelines.serving.deciding import Stopwatch, evaluate
from pipelines.serving.decision_log import FILE, DecisionLog
from pipelines.serving.decisions import Decision
from pipelines.serving.fair_lock import FairLock
from pipelines.serving.loading import Absent, ChampionModels, ModelSource, open_registry
from pipelines.serving.network_snapshot import NetworkSnapshots
from pipelines.serving.online import OnlineFeatures, OnlineRows
from pipelines.serving.orders import NotReadyError, Order
from pipelines.serving.recording import DecisionRecorder
from pipelines.serving.reference import Reference
from pipelines.settings import BatchConfig, DataConfig

logger = logging.getLogger(__name__)

BATCH_ORDERS: Final = 50
"""Orders that are decided in one go; others wait for so long."""
CHECK_SECONDS: Final = 0.25
RETRY_SECONDS: Final = 3.0
DECLARED_SECONDS: Final = 5.0
_NOT_THERE: Final = (RedisUnavailableError, RedisRefusedError, NotReadyError, LiveDatabaseError)


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
        config: how decisions are made.
        declared_otherwise: tells the views that are declared otherwise in what is published.
    """

    def __init__(
        self,
        databases: LiveDatabases,
        features: OnlineFeatures,
        models: ModelSource,
        log: DecisionLog,
        config: ServingConfig | None = None,
        declared_otherwise: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self.config = config or ServingConfig()
        self._declared_otherwise = declared_otherwise
        self.databases = databases
        self.reference = Reference(databases)
        self.features = features
        self.models = models
        self.log = log
        self._store_lock = FairLock()
        self.network = NetworkSnapshots(features, self.reference, self._store_lock)
        self._recorder = DecisionRecorder(log)
        self._problems: dict[str, str] = {"start": "it is starting"}
        self._background = BackgroundTasks()

    @classmethod
    def open(cls, data: DataConfig, batch: BatchConfig) -> Self:
        """Create it for a data directory; nothing is read before `start`.

        Args:
            data: the live databases and Redis.
            batch: the data directory.

        Raises:
            LiveDatabaseError: a live database does not exist.
        """
        config = ServingConfig()
        return cls(
            LiveDatabases.existing(data),
            OnlineFeatures(partial(_open_store, batch)),
            ChampionModels(partial(open_registry, batch), batch.mlflow_path / "mlflow.db"),
            DecisionLog(data.data_dir / FILE, config.keep_decisions, config.log_busy),
            config,
            partial(_declared_otherwise, batch),
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
            try:
                self.reference.refresh()
            except LiveDatabaseError:
                self.databases.check()  # if a table is missing, this says what to do
                raise
            self.features.start()
        except Exception as error:
            self._problems["start"] = said(error)
            raise
        self._renew()
        if isinstance(self.models, ChampionModels):
            self.models.poll()
            self._background.repeat("models", self.models.poll, self.config.poll)
        self._look_at_declarations()
        del self._problems["start"]
        self._background.repeat("network", self._renew_if_due, CHECK_SECONDS)
        self._background.repeat("declarations", self._look_at_declarations, DECLARED_SECONDS)
        self._background.repeat("reference", self._refresh, self.config.reference_age)

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
            self.start()
            freeze_garbage()

        self._background.until_done("start", start, RETRY_SECONDS)

    def stop(self) -> None:
        """Stop all threads and close the files; may be called twice."""
        self._background.stop()
        self.log.close()
        self.databases.dispose()

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self._background.have_ended

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
        stopwatch("reference")
        return self.decide_completed(self.complete(orders), stopwatch)

    def complete(self, orders: Sequence[Order]) -> list[CompletedOrder]:
        """Complete orders, which shows whether they can be decided, without deciding.

        Raises:
            OrderError, NotReadyError, LiveDatabaseError: as `decide_many`.
        """
        self.require_start()
        return complete_orders(orders, self.reference, self.config.max_warehouses)

    def decide_completed(
        self, orders: Sequence[CompletedOrder], stopwatch: Stopwatch = lambda _stage: None
    ) -> list[Decision]:
        """Decide on completed orders.

        Args:
            orders: any number of them.
            stopwatch: as for `decide_many`.

        Raises:
            LiveDatabaseError: stock must be read from the live database, and cannot be.
        """
        decided: list[Decision] = []
        for first in range(0, len(orders), BATCH_ORDERS):
            decided += self._decide(OrderBatch.of(orders[first : first + BATCH_ORDERS]), stopwatch)
        return decided

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
        with self._store_lock:
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
        if self._recorder.problem is not None:
            warnings.append(f"decision log: {self._recorder.problem}")
        snapshot = self.network.snapshot
        if not reasons and snapshot is not None:
            if snapshot.read_mode != "redis":
                reasons.append("Redis is away: decisions are made from last known values")
            age = snapshot.age(unix_now())
            if age > self.config.stale_after:
                reasons.append(f"the network has not been read for {age:.0f} s")
        return Readiness(not reasons, reasons, warnings)

    def _decide(self, batch: OrderBatch, stopwatch: Stopwatch) -> list[Decision]:
        stopwatch("wait")
        with self._store_lock:
            began = time.perf_counter()
            evaluation = evaluate(
                batch,
                self.features,
                self.reference,
                self.models,
                self.network.snapshot,
                self.config,
                stopwatch,
            )
            stopwatch("answer")
            decisions = decisions_of(evaluation)
            seconds = sum(one.seconds for one in batch.orders) + time.perf_counter() - began
            took = round(seconds * 1000 / len(decisions), 3)
            stopwatch("log")
            answered = [replace(decision, took_ms=took) for decision in decisions]
            recorded = self._recorder.record(evaluation, answered)
            stopwatch("done")
        return recorded

    def _renew_if_due(self) -> None:
        if self.network.is_due(self.config.network_max_age, unix_now()):
            self._renew()

    def _renew(self) -> None:
        try:
            self.network.renew()
        except _NOT_THERE as error:
            self._problems["network"] = str(error)
        else:
            self._problems.pop("network", None)

    def _look_at_declarations(self) -> None:
        """Say once that the features mean something else by now than when this was started."""
        views = ", ".join(self._declared_otherwise())
        if not views:
            self._problems.pop("declarations", None)
        elif "declarations" not in self._problems:
            self._problems["declarations"] = (
                f"{views}: what is published was declared otherwise than in this process: start it "
                "again"
            )
            logger.error("%s", self._problems["declarations"])

    def _refresh(self) -> None:
        try:
            self.databases.check_triggers()
            self.reference.refresh()
        except LiveDatabaseError as error:
            self._problems["reference"] = str(error)
        else:
            self._problems.pop("reference", None)


def freeze_garbage() -> None:
    """Take what is there for good: collecting it again and again would hold up decisions."""
    gc.collect()
    gc.freeze()


def _declared_otherwise(batch: BatchConfig) -> Sequence[str]:
    if not batch.state_path.exists():
        return ()
    from pipelines.lake.declarations import declared_otherwise
    from pipelines.lake.state import PipelineState

    return declared_otherwise(PipelineState(batch.state_path))


def _open_store(batch: BatchConfig) -> Any:
    from pipelines.feast_plugins.repository import open_store

    return open_store(batch)
