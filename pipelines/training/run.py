"""Train: data set, model and baselines, tracked run, registered versions, the gate's verdict."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.errors import SynchroChainError, UsageError
from pipelines.registry.gate import Verdict
from pipelines.registry.store import ModelRegistry, ModelVersion
from pipelines.settings import BatchConfig
from pipelines.stopping import interruptible
from pipelines.training.source import TrainingSource
from pipelines.training.task import (
    QUICK_SEEDS,
    SEEDS,
    Candidate,
    Claim,
    Dataset,
    Task,
    Trained,
)
from pipelines.training.tracking import TrackedRun, flat, tracked_run

logger = logging.getLogger(__name__)
TaskProgress = Callable[[str, str, float], None]
"""Callback: the task, what is being done, the fraction of the task that is done."""
Tasks = Mapping[str, Callable[[ModelRegistry], Task]]
"""By name what makes a task, in the order of training."""


Consider = Callable[..., Verdict]
"""Puts a version before the gate, see `pipelines.monitoring.champions.consider`."""
Gate = Callable[[BatchConfig], Consider]
"""What considers the versions of one task; it looks at the features' health once."""


@dataclass(frozen=True)
class TaskReport:
    """What a training came to.

    Attributes:
        rows: rows of the data set.
        candidates: the model first, then its baselines: name, kind, metrics with intervals.
        claims: what the model must achieve, and whether it does.
        chance: what must hold instead in a world without signal.
        version: the registered version of the model, `baseline` that of its best baseline.
        champion: the version that serves now.
        accepted: whether the gate made the model champion; `reasons` are its checks.
        notes: what was left out or thinned out, and features that no model could learn from.
    """

    task: str
    model: str
    run_id: str
    rows: int
    seeds: int
    seconds: float
    candidates: list[dict[str, Any]]
    claims: list[Claim]
    chance: list[Claim]
    version: int
    baseline: int | None
    champion: int | None
    accepted: bool
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class TrainingFailedError(SynchroChainError):
    """Some of several models were not trained.

    Attributes:
        reports: of the others, which are trained and registered.
        failures: by task, what stopped it.
    """

    def __init__(self, reports: list[TaskReport], failures: dict[str, Exception]) -> None:
        self.reports, self.failures = reports, failures
        lines = [f"{name} was not trained: {why}" for name, why in self.lines.items()]
        super().__init__("\n".join(lines))

    @property
    def lines(self) -> dict[str, str]:
        """By task the line that says why not."""
        return {
            name: str(why) if isinstance(why, SynchroChainError) else f"{type(why).__name__}: {why}"
            for name, why in self.failures.items()
        }


def train(
    config: BatchConfig,
    names: Sequence[str] | None = None,
    *,
    tasks: Tasks,
    gate: Gate,
    quick: bool = False,
    progress: TaskProgress = lambda *_: None,
) -> list[TaskReport]:
    """Train the named tasks one after another and let the gate decide on each.

    Args:
        config: the data directory; its batch flow has run.
        names: of `tasks`; all of them by default.
        tasks: what makes each task, `pipelines.models.tasks.TASKS`.
        gate: decides on what was trained, `pipelines.monitoring.champions.gate`.
        quick: one seed and less data instead of five seeds.
        progress: see `TaskProgress`.

    Raises:
        UsageError: a name is not a task.
        TrainingDataError: there is too little data, or more than memory holds.
        RegistryUnavailableError: MLflow's store is locked, gone or damaged.
        TrainingFailedError: several were named and some failed, for these or other reasons.
    """
    check_names(names or (), tasks)
    registry = ModelRegistry(config)
    wanted = [name for name in tasks if names is None or name in names]
    if len(wanted) == 1:
        return [_train(config, registry, tasks[wanted[0]](registry), gate, quick, progress)]
    reports: list[TaskReport] = []
    failures: dict[str, Exception] = {}
    for name in wanted:
        try:
            with interruptible():
                found = _train(config, registry, tasks[name](registry), gate, quick, progress)
            reports.append(found)
        except SynchroChainError as error:
            failures[name] = error
        except ModuleNotFoundError:  # it is missing for all of them
            raise
        except Exception as error:  # a defect of ours; the other models are not to suffer for it
            logger.exception("training %s failed", name)
            failures[name] = error
    if failures:
        raise TrainingFailedError(reports, failures)
    return reports


def check_names(names: Sequence[str], tasks: Tasks) -> None:
    """Refuse a name that is not a task's.

    Raises:
        UsageError: there is no such task.
    """
    for name in names:
        if name not in tasks:
            raise UsageError(f"there is nothing to train called {name!r}: {', '.join(tasks)}, all")


def _train(
    config: BatchConfig,
    registry: ModelRegistry,
    task: Task,
    gate: Gate,
    quick: bool,
    progress: TaskProgress,
) -> TaskReport:
    started = time.perf_counter()
    seeds = QUICK_SEEDS if quick else SEEDS
    source = TrainingSource(config)

    def report_step(what: str, fraction: float) -> None:
        progress(task.name, what, 0.1 + 0.8 * fraction)

    progress(task.name, "data set", 0.0)
    with tracked_run(config, task) as run:
        data = task.dataset(source, quick=quick)
        run.log_data(source, task, quick=quick)
        trained = task.train(data, seeds=seeds, quick=quick, progress=report_step)
        progress(task.name, "registering", 0.9)
        run.log_outcome(trained)
        version, baseline, verdict = _register(registry, task, data, trained, run, gate(config))
        champion = registry.with_alias(task.model, "champion")
        report = TaskReport(
            task=task.name,
            model=task.model,
            run_id=run.run_id,
            rows=len(data),
            seeds=len(seeds),
            seconds=round(time.perf_counter() - started, 1),
            candidates=[_described(one) for one in (trained.model, *trained.baselines)],
            claims=trained.claims,
            chance=trained.chance,
            version=version.version,
            baseline=None if baseline is None else baseline.version,
            champion=None if champion is None else champion.version,
            accepted=verdict.accepted,
            reasons=[str(reason) for reason in verdict.reasons],
            notes=[*source.notes, *_unknown(trained)],
        )
        run.log_report(report.as_dict())
    progress(task.name, "done", 1.0)
    return report


def _register(
    registry: ModelRegistry,
    task: Task,
    data: Dataset,
    trained: Trained,
    run: TrackedRun,
    consider: Consider,
) -> tuple[ModelVersion, ModelVersion | None, Verdict]:
    """Register the best baseline that can be served, then the model; the gate decides on both."""

    def register(one: Candidate) -> ModelVersion:
        if one.predictor is None or one.kind is None:
            raise UsageError(f"{one.name} cannot be served, so it cannot be registered")
        return registry.register(
            model=task.model,
            predictor=one.predictor,
            kind=one.kind,
            run_id=run.run_id,
            example=trained.example,
            outcome=one.predictor.predict(trained.example),
            service=task.service,
            metrics=flat(one.metrics),
            is_baseline=one.is_baseline,
        )

    servable = [one for one in trained.baselines if one.predictor is not None and one.kind]
    baseline = None
    if servable:
        best = min(servable, key=lambda one: _loss(task, one, data))
        baseline = register(best)
        consider(registry, task, data, baseline, reference=trained.reference)
    version = register(trained.model)
    verdict = consider(registry, task, data, version, reference=trained.reference)
    return version, baseline, verdict


def _unknown(trained: Trained) -> list[str]:
    if not trained.unknown:
        return []
    names = ", ".join(trained.unknown)
    return [f"null in every training row, so the models do without: {names}"]


def _loss(task: Task, one: Candidate, data: Dataset) -> float:
    assert one.predictor is not None  # chosen so
    return float(task.evaluate(one.predictor, data).losses.mean())


def _described(one: Candidate) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "is_baseline": one.is_baseline,
        "metrics": {
            name: {"mean": i.mean, "low": i.low, "high": i.high, "values": list(i.values)}
            for name, i in one.metrics.items()
        },
    }
