"""What training asks of a task: a data set, models fitted on it, and how good they are.

A task knows its labels, baselines and metrics. Tracking, registration and the report are the same
for all of them and live in `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipelines.training.source import TrainingSource

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Columns = Mapping[str, Any]
"""Equally long columns: numpy arrays or lists."""
Progress = Callable[[str, float], None]
"""Told what is being done and the fraction of the task that is done, 0 to 1."""
SEEDS: Final = (0, 1, 2, 3, 4)
QUICK_SEEDS: Final = (0,)


class Predictor(Protocol):
    """Columns in, columns of the same length out; what is served is also packaged, by its kind."""

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """The outputs of the model's signature."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its two-sided Student-t interval; one seed has no width to tell.

    `values` are the seeds' own.
    """

    mean: float
    low: float
    high: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float], confidence: float = 0.95) -> Interval:
        """From one value per seed."""
        found = tuple(float(value) for value in values)
        mean = float(np.mean(found))
        if len(found) < 2:
            return cls(mean, float("-inf"), float("inf"), found)
        half = float(stats.t.ppf((1 + confidence) / 2, len(found) - 1) * stats.sem(found))
        return cls(mean, mean - half, mean + half, found)


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on a data set's hold-out.

    Attributes:
        metrics: by name; higher or lower is better as each name says.
        losses: one per independent unit (session, route-day, episode), lower is better, in the same
            order for every model on the same data: what a paired test compares.
        calibration_error: expected calibration error of the model's probabilities; None if it
            gives none.
        units: the identity of each loss, for clustering; None when each is its own.
    """

    metrics: dict[str, float]
    losses: Floats
    calibration_error: float | None = None
    units: NDArray[Any] | None = None


@dataclass(frozen=True)
class Claim:
    """One line of the report: what must be true, what was measured, and whether it holds."""

    name: str
    target: str
    measured: Interval
    holds: bool
    note: str = ""


@dataclass(frozen=True)
class Candidate:
    """One fitted model or baseline: what can be registered, and its metrics over the seeds.

    `kind` is the packaging kind, None for a baseline that is only compared against.
    """

    name: str
    kind: str | None
    predictor: Predictor | None
    metrics: dict[str, Interval]
    is_baseline: bool = True


@dataclass(frozen=True)
class Trained:
    """The outcome of a task.

    Attributes:
        model: the candidate that the task is about.
        baselines: the others, fitted on the same data.
        claims: for the report.
        settings: the configuration, flat, to be logged.
        curves: training history, metric → values by epoch, to be logged with steps.
        figures: file stem → a function that draws it.
        example: a few input columns for the signature.
        outcome: the outputs that belong to `example`.
        reference: by feature name, values of the training set for the drift check.
        chance: for the report of a world without signal, in place of the claims.
        unknown: features that were null throughout training, and that no model is shown.
    """

    model: Candidate
    baselines: list[Candidate]
    claims: list[Claim]
    settings: dict[str, Any]
    curves: dict[str, list[float]]
    figures: dict[str, Callable[[], Figure]]
    example: Columns
    outcome: Mapping[str, NDArray[Any]]
    reference: dict[str, Floats] = field(default_factory=dict)
    chance: list[Claim] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Dataset:
    """Point-in-time rows with their labels, split by time and by user.

    Attributes:
        columns: features and what else the signature's input has, equally long.
        labels: equally long too; what happened after each row's moment.
        moments: (rows,) datetime64[us], each row's moment.
        groups: (rows,) what must not be on both sides of a split: the user, the session, ….
        extra: what else the task keeps for itself.
    """

    columns: dict[str, Any]
    labels: dict[str, NDArray[Any]]
    moments: NDArray[np.datetime64]
    groups: NDArray[Any]
    extra: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.moments)


class Task(Protocol):
    """One of the three models, as training sees it."""

    @property
    def name(self) -> str:
        """What the command line calls it: intent, gnn, ppo."""

    @property
    def model(self) -> str:
        """The registered model's name."""

    @property
    def service(self) -> str:
        """The feature service that it reads."""

    def dataset(
        self, source: TrainingSource, *, quick: bool, since: datetime | None = None
    ) -> Dataset:
        """Entity rows and labels from the logs, features from Feast.

        Args:
            source: where both come from.
            quick: a smaller data set.
            since: only rows whose labels became known after this moment (UTC, naive): what a
                champion is scored on as labels arrive.

        Raises:
            TrainingDataError: there are too few rows, or more than memory holds.
        """

    def train(
        self, data: Dataset, *, seeds: Sequence[int], quick: bool, progress: Progress
    ) -> Trained:
        """Fit the model and its baselines once per seed; what is registered is the first seed's."""

    def evaluate(self, predictor: Predictor, data: Dataset) -> Evaluation:
        """Score any served model of this task on the data's hold-out (seed 0's split).

        A data set made with `since` is hold-out as a whole.
        """
