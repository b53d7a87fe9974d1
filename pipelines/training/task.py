"""The interface of a training task: a data set, models fitted on it, and their evaluation.

A task knows its labels, baselines and metrics. Tracking, registration and the report are common to
all tasks and live in `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipelines.registry.packaging import Predictor
from pipelines.training.source import TrainingSource

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Columns = Mapping[str, Any]
"""Equally long columns: numpy arrays or lists."""
Progress = Callable[[str, float], None]
"""Callback: the current step, and the fraction of the task that is done, 0 to 1."""
SEEDS: Final = (0, 1, 2, 3, 4)
QUICK_SEEDS: Final = (0,)


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its two-sided Student-t interval; with one seed its width is infinite.

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
        metrics: by name; whether higher or lower is better follows from the name.
        losses: one per independent unit (session, route-day, episode), lower is better, in the same
            order for every model on the same data, for paired tests.
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
    """One line of the report: a target, the measured value, and whether it holds."""

    name: str
    target: str
    measured: Interval
    holds: bool
    note: str = ""


@dataclass(frozen=True)
class Candidate:
    """One fitted model or baseline that may be registered, with its metrics over the seeds.

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
        outcome: the outputs for `example`.
        reference: by feature name, values of the training set for the drift check.
        chance: the claims for a world without signal.
        unknown: features that were null throughout training, which no model gets.
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
        columns: features and other inputs of the signature, equally long.
        labels: equally long; what happened after each row's event time.
        timestamps: (rows,) datetime64[us], UTC, each row's event time.
        groups: (rows,) the user, session, … that must not be on both sides of a split.
        extra: the task's own data.
    """

    columns: dict[str, Any]
    labels: dict[str, NDArray[Any]]
    timestamps: NDArray[np.datetime64]
    groups: NDArray[Any]
    extra: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.timestamps)


@dataclass(frozen=True)
class Split:
    """(rows,) masks: what to train on, what to judge by, and what to calibrate on, if anything.

    The hold-out is later in time than the others.
    """

    train: NDArray[np.bool_]
    hold_out: NDArray[np.bool_]
    validation: NDArray[np.bool_]


def take(columns: dict[str, Any], rows: NDArray[Any]) -> dict[str, Any]:
    """Some rows of equally long columns."""
    return {name: values[rows] for name, values in columns.items()}


class Task(Protocol):
    """One of the three models, as training sees it."""

    @property
    def name(self) -> str:
        """Its name on the command line: intent, gnn, ppo."""

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
            source: of logs and features.
            quick: a smaller data set.
            since: only rows whose labels became known after this time (UTC, naive), for scoring
                champions on new labels.

        Raises:
            TrainingDataError: there are too few rows, or more than memory holds.
        """

    def train(
        self, data: Dataset, *, seeds: Sequence[int], quick: bool, progress: Progress
    ) -> Trained:
        """Fit the model and its baselines once per seed; the first seed's are registered.

        Args:
            data: from `dataset`.
            seeds: one fit each.
            quick: smaller models, fewer epochs.
            progress: see `Progress`.
        """

    def evaluate(self, predictor: Predictor, data: Dataset) -> Evaluation:
        """Score any served model of this task on the data's hold-out (seed 0's split).

        A data set made with `since` is hold-out as a whole.
        """
