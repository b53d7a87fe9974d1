"""Champions and challengers: the evidence for the gate, and champions scored on new labels.

`consider` puts a version before the gate. The batch cycle's update step calls `score_champions`,
which only reads the pipeline's state as long as few labels are new.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pipelines.errors import SynchroChainError, UsageError
from pipelines.features.views import VIEWS
from pipelines.lake.clock import utc_now
from pipelines.lake.state import PipelineState
from pipelines.monitoring.audit import audit
from pipelines.registry.drift import psi
from pipelines.registry.gate import Check, GateEvidence, GatePolicy, Verdict, decide
from pipelines.registry.packaging import BrokenModelError
from pipelines.registry.signatures import contract_of
from pipelines.registry.store import CHAMPION, ModelRegistry, ModelVersion
from pipelines.settings import BatchConfig, DataConfig
from pipelines.training.run import Consider
from pipelines.training.source import TrainingDataError, TrainingSource
from pipelines.training.task import Dataset, Evaluation, Task

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

AUDITED_KEYS: Final = 100
"""Keys per view: enough to find a disagreement in a few percent of them."""
WEEK: Final = np.timedelta64(7, "D")
"""The newest week is compared with the training set for drift, since days of the week differ."""
MIN_NEW_LABELS: Final = 200
"""With fewer, the mean is mostly noise, and nothing is read from Feast."""
SCORED_KEY: Final = "champion_scored:"


@dataclass(frozen=True)
class Health:
    """How fresh and how consistent the features are.

    Attributes:
        ages: seconds since the newest published row, by view; None where there is none.
        agreement: share of values that are equal online and offline, by view.
        unknown: why the agreement is not known, if so.
    """

    ages: dict[str, float | None]
    agreement: dict[str, float | None]
    unknown: str = ""


def collect(
    config: BatchConfig,
    data: DataConfig | None = None,
    *,
    now: Callable[[], datetime] = utc_now,
    sample: int = AUDITED_KEYS,
) -> Health:
    """The health of all features: ages from the published files, agreement from an audit.

    If the audit fails, for example because Redis is unavailable, the agreement is not known.

    Args:
        config: the data directory.
        data: the live databases and Redis.
        now: returns the current time, UTC and naive.
        sample: keys per view to audit.
    """
    state = PipelineState(config.state_path)
    at = now()
    ages: dict[str, float | None] = {}
    for view in VIEWS:
        newest = [file.max_time for file in state.files("view", view.name) if file.max_time]
        ages[view.name] = (at - max(newest)).total_seconds() if newest else None
    try:
        report = audit(data or DataConfig(data_dir=config.data_dir), config, sample=sample, now=now)
    except SynchroChainError as error:
        return Health(ages, {}, str(error))
    return Health(ages, {name: view.consistency for name, view in report.views.items()})


def gate(config: BatchConfig) -> Consider:
    """`consider` for the versions of one training: the audit, which takes seconds, is made once."""
    return partial(consider, health=cache(partial(collect, config)))


def consider(
    registry: ModelRegistry,
    task: Task,
    data: Dataset,
    challenger: ModelVersion,
    *,
    reference: Mapping[str, ArrayLike] | None = None,
    policy: GatePolicy | None = None,
    health: Callable[[], Health] | None = None,
    now: Callable[[], datetime] = utc_now,
) -> Verdict:
    """Put a version before the gate; it becomes champion, or stays challenger.

    A baseline becomes champion without the gate where none is, or where the champion does not load:
    rules would decide on. A challenger has to beat the champion, or the newest baseline if the
    champion does not load.

    Args:
        registry: the model registry.
        task: the model's task, which evaluates both.
        data: the data set on whose hold-out both are evaluated.
        challenger: the version to evaluate.
        reference: by feature, values of the training set; compared with the last week of `data`.
        policy: the bounds.
        health: returns the health of the features; by default `collect` (takes seconds).
        now: returns the current time, UTC and naive.

    Raises:
        UsageError: the version is the champion already.
        BrokenModelError: the challenger does not load.
    """
    model = challenger.model
    champion = registry.with_alias(model, CHAMPION)
    if champion is not None and champion.version == challenger.version:
        raise UsageError(f"{challenger.name} is the champion already")
    if challenger.is_baseline and not _serves(registry, champion):
        first = Verdict(True, (), first=True)
        registry.promote(model, challenger.version, first.tags(now()))
        return first
    registry.challenge(challenger)
    found = task.evaluate(registry.load(challenger), data)
    rival, before, note = _rival(registry, task, data, champion, challenger)
    seen = health() if health is not None else collect(registry.config, now=now)
    views = contract_of(model).views
    drift = _drift(data, reference or {}, policy or GatePolicy())
    verdict = decide(
        GateEvidence(
            challenger=found.losses,
            champion=None if before is None else before.losses,
            units=found.units,
            rival=note,
            calibration_error=found.calibration_error,
            champion_calibration_error=None if before is None else before.calibration_error,
            ages={view: seen.ages.get(view) for view in views},
            agreement={view: seen.agreement.get(view) for view in views},
            unknown=seen.unknown,
            drift=drift.found,
            usual_drift=drift.usual,
            undrifted=tuple(drift.few),
        ),
        policy,
    )
    tags = verdict.tags(now(), against="" if rival is None else str(rival.version))
    if verdict.accepted:
        registry.promote(model, challenger.version, tags)
    else:
        registry.tag(challenger, tags)
    return verdict


def score_champions(
    config: BatchConfig, tasks: Mapping[str, Callable[[ModelRegistry], Task]], now: datetime
) -> dict[str, dict[str, Any]]:
    """Score every champion on the labels that became known since it was scored last.

    Metrics are logged to the champion's run and, with their time, to its tags. A champion is first
    scored on labels that became known after it was registered. A failure of one model is returned
    in its place; the others are scored.

    Args:
        config: the data directory.
        tasks: by model, what makes its task; called once there is something to score.
        now: the current time, UTC and naive, at which the metrics are logged.

    Returns:
        By model: `version`, `labels` and the metrics, or `error`; nothing for a model that has no
        champion or too few new labels.
    """
    if not os.path.lexists(config.mlflow_path / "mlflow.db"):
        return {}
    state = PipelineState(config.state_path)
    found: dict[str, dict[str, Any]] = {}
    for model, make_task in tasks.items():
        try:
            scored = _score(config, state, model, make_task, now)
        except SynchroChainError as error:
            found[model] = {"error": str(error)}
        else:
            if scored:
                found[model] = scored
    return found


def _score(
    config: BatchConfig,
    state: PipelineState,
    model: str,
    make_task: Callable[[ModelRegistry], Task],
    now: datetime,
) -> dict[str, Any] | None:
    noted = _Noted.read(state, model)
    source = TrainingSource(config)
    upto, rows = _new_rows(source, contract_of(model).labels, noted.looked)
    if upto is None or rows < MIN_NEW_LABELS:
        return None
    registry = ModelRegistry(config)
    champion = registry.with_alias(model, CHAMPION)
    if champion is None:
        _Noted(noted.scored, upto).write(state, model)
        return None
    since = max(noted.scored or champion.created, champion.created)
    task = make_task(registry)
    try:
        data = task.dataset(source, quick=True, since=since)
    except TrainingDataError:  # no new row is a label yet
        data = None
    if data is None or len(data) < MIN_NEW_LABELS:
        _Noted(noted.scored, upto).write(state, model)
        return None
    evaluation = task.evaluate(registry.load(champion), data)
    metrics = _finite(evaluation)
    registry.log_history(champion, metrics, now)
    registry.tag(
        champion,
        {
            "champion.scored_at": now.strftime("%Y-%m-%d %H:%M:%S"),
            "champion.labels": str(len(data)),
            **{f"champion.{name}": f"{value:.6g}" for name, value in metrics.items()},
        },
    )
    # Rows whose outcome was still open at the end of the log are scored once it is known.
    until = data.extra.get("until")
    ended = upto if until is None else min(upto, until.astype("datetime64[us]").astype(object))
    _Noted(ended, upto).write(state, model)
    return {"version": champion.version, "labels": len(data), **metrics}


@dataclass(frozen=True)
class _Noted:
    """Up to which commit time a model's champion was scored, and the log was read."""

    scored: datetime | None = None
    looked: datetime | None = None

    @classmethod
    def read(cls, state: PipelineState, model: str) -> _Noted:
        try:
            noted = json.loads(state.metadata(f"{SCORED_KEY}{model}") or "{}")
            return cls(*(_time(noted.get(name)) for name in ("scored", "looked")))
        except (ValueError, TypeError, AttributeError):
            return cls()  # not worth failing for: start again from the champion's registration

    def write(self, state: PipelineState, model: str) -> None:
        values = {"scored": self.scored, "looked": self.looked}
        text = {name: time and time.isoformat() for name, time in values.items()}
        state.set_metadata(f"{SCORED_KEY}{model}", json.dumps(text))


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _new_rows(
    source: TrainingSource, log: str, after: datetime | None
) -> tuple[datetime | None, int]:
    """The newest commit time of a log, and how many rows were committed after `after`."""
    ends = [file.max_time for file in source.files("log", log) if file.max_time]
    upto = max(ends, default=None)
    if upto is None or (after is not None and upto <= after):
        return upto, 0
    with source.logs(log) as connection:
        row = connection.execute(
            f"SELECT count(*) FROM {log} WHERE committed_at > ?", [after or datetime.min]
        ).fetchone()
    return upto, int(row[0]) if row else 0


def _serves(registry: ModelRegistry, champion: ModelVersion | None) -> bool:
    if champion is None:
        return False
    try:
        registry.load(champion)
    except BrokenModelError:
        return False
    return True


def _rival(
    registry: ModelRegistry,
    task: Task,
    data: Dataset,
    champion: ModelVersion | None,
    challenger: ModelVersion,
) -> tuple[ModelVersion | None, Evaluation | None, str]:
    """The version to beat, its evaluation, and its name in messages."""
    trouble = ""
    if champion is not None:
        try:
            return (
                champion,
                task.evaluate(registry.load(champion), data),
                f"champion {champion.version}",
            )
        except BrokenModelError:
            trouble = f", for champion {champion.version} does not load"
    for version in registry.versions(challenger.model):
        if version.is_baseline and version.version != challenger.version:
            try:
                evaluation = task.evaluate(registry.load(version), data)
            except BrokenModelError:
                continue
            return version, evaluation, f"baseline {version.version}{trouble}"
    return None, None, "nothing"


@dataclass(frozen=True)
class _Drift:
    found: dict[str, float] = field(default_factory=dict)
    usual: dict[str, float] = field(default_factory=dict)
    few: list[str] = field(default_factory=list)


def _drift(data: Dataset, reference: Mapping[str, ArrayLike], policy: GatePolicy) -> _Drift:
    drift = _Drift()
    if not len(data):
        drift.few.extend(reference)
        return drift
    ages = data.timestamps.max() - data.timestamps
    weeks: NDArray[np.int64] = ages // WEEK
    whole = int(ages.max() // WEEK)
    earlier = [(weeks == week, (weeks > 0) & (weeks != week)) for week in range(1, whole)]
    for name, values in reference.items():
        column = np.asarray(data.columns.get(name, np.full(len(data), np.nan)), np.float64)
        before, today = np.asarray(values, np.float64), column[weeks == 0]
        if name not in data.columns or min(len(before), len(today)) < policy.min_drift_rows:
            drift.few.append(name)
            continue
        drift.found[name] = psi(before, today)
        moved = [
            psi(column[others], column[one])
            for one, others in earlier
            if min(one.sum(), others.sum()) >= policy.min_drift_rows
        ]
        drift.usual[name] = max(moved, default=0.0)
    return drift


def _finite(evaluation: Evaluation) -> dict[str, float]:
    metrics = {**evaluation.metrics, "loss": float(np.mean(evaluation.losses))}
    if evaluation.calibration_error is not None:
        metrics["calibration_error"] = evaluation.calibration_error
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


__all__ = [
    "Check",
    "GatePolicy",
    "Health",
    "Verdict",
    "collect",
    "consider",
    "score_champions",
]
