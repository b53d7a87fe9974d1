"""The Intent Transformer's task: its data set, models, baselines and claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.models.intent import figures, fit_baselines
from pipelines.models.intent.dataset import (
    FIXED_PREFIXES,
    SERVICE,
    Events,
    check_split,
    make_dataset,
    split,
)
from pipelines.models.intent.evaluation import chance_claim, forecast, hold_out, score
from pipelines.models.intent.features import USER_FEATURES, aggregates, read_sequences
from pipelines.models.intent.gru import IntentGru
from pipelines.models.intent.predictor import Transformer
from pipelines.models.intent.training import LearningCurve, calibrate, fit_network, forecasts
from pipelines.models.intent.transformer import IntentConfig, IntentTransformer
from pipelines.models.intent.windows import EARLY_COUNTS_MORE, make_windows
from pipelines.registry.packaging import Predictor
from pipelines.registry.unknown_features import ignoring, never_known, without
from pipelines.training.figures import learning_curve
from pipelines.training.source import TrainingSource
from pipelines.training.task import (
    Candidate,
    Claim,
    Dataset,
    Evaluation,
    Interval,
    Progress,
    Trained,
    take,
)

Floats = NDArray[np.float64]

TRANSFORMER: Final = "transformer"
KINDS: Final = {
    TRANSFORMER: "intent/transformer",
    "gradient boosting": "intent/gradient_boosting",
    "logistic regression": "intent/logistic_regression",
    "base rate": "intent/base_rate",
    "GRU": None,
    "Markov log-odds": None,
    "last-event rule": None,
}
"""Packaging kinds; what has none is only compared with."""
QUICK_SESSIONS: Final = 20_000
AUC_BAND: Final = (0.74, 0.88)
"""From the least that trees on aggregates should reach to the most of the hidden intent itself."""
LARGEST_ECE: Final = 0.02
_EXAMPLE_ROWS: Final = 5
_REFERENCE_ROWS: Final = 20_000


@dataclass(frozen=True)
class _Fitted:
    """One seed's models, their forecasts on its hold-out, and what became of them.

    `unknown` names the features that were null in all its training rows, which no model sees.
    """

    models: dict[str, Predictor]
    forecasts: dict[str, Floats]
    evaluations: dict[str, Evaluation]
    truth: NDArray[np.bool_]
    curve: LearningCurve
    unknown: list[str]
    train_rows: NDArray[np.int64]
    example_rows: NDArray[np.int64]


@dataclass(frozen=True)
class IntentTask:
    """Will this session end in a purchase, and how soon?"""

    config: IntentConfig = field(default_factory=IntentConfig)
    name: str = "intent"
    model: str = "intent_transformer"
    service: str = SERVICE

    def dataset(
        self, source: TrainingSource, *, quick: bool, since: datetime | None = None
    ) -> Dataset:
        """Prefixes of finished sessions; `quick` takes 20,000 sessions, evenly over time.

        Args:
            source: of logs and features.
            quick: fewer sessions.
            since: only outcomes that became known after this time (UTC, naive).

        Raises:
            TrainingDataError: there are too few sessions or purchases, or too many.
            LeakError: a row contains data from after its event time.
        """
        return make_dataset(source, since=since, most_sessions=QUICK_SESSIONS if quick else None)

    def train(
        self, data: Dataset, *, seeds: Sequence[int], quick: bool, progress: Progress
    ) -> Trained:
        """Fit everything once per seed; a seed draws the hold-out's users and the weights.

        Args:
            data: from `dataset`.
            seeds: one fit each.
            quick: fewer members and epochs.
            progress: see `Progress`.

        Raises:
            TrainingDataError: a part of a split is empty.
        """
        config = self.config
        if quick:
            config = replace(config, members=min(config.members, 2), epochs=min(config.epochs, 4))
        for seed in seeds:
            check_split(data, seed)
        fitted = []
        for number, seed in enumerate(seeds):

            def report(what: str, share: float, number: int = number) -> None:
                progress(what, (number + share) / len(seeds))

            fitted.append(_fit(data, seed, config, report))
        return _outcome(data, fitted, config)

    def evaluate(self, predictor: Predictor, data: Dataset) -> Evaluation:
        """Metrics and losses per session at prefixes of 3, 5 and 10 events.

        The hold-out is seed 0's; of a data set made with `since` it is all of it.

        Raises:
            TrainingDataError: there is nothing to score on.
        """
        rows = hold_out(data, 0)
        return score(forecast(predictor, rows), rows)


def _fit(data: Dataset, seed: int, config: IntentConfig, progress: Progress) -> _Fitted:
    parts = split(data, seed)
    unknown = never_known(data.columns, USER_FEATURES, parts.train)
    data = replace(data, columns=without(data.columns, unknown))
    features = aggregates(data.columns)
    events: Events = data.extra["events"]
    weight = 1 / (1 + events.place[data.extra["at"]] / EARLY_COUNTS_MORE)
    rows = fit_baselines.Rows(features, data.labels["purchase"], data.labels["soon"], weight)
    train, validation = rows.where(parts.train), rows.where(parts.validation)
    known = take(data.columns, np.flatnonzero(parts.train))
    sequences = read_sequences(known)
    watched = take(data.columns, np.flatnonzero(parts.validation))
    progress("baselines", 0.0)
    models: dict[str, Predictor] = {
        "gradient boosting": fit_baselines.gradient_boosting(train, validation, seed),
        "logistic regression": fit_baselines.logistic_regression(train, validation),
        "base rate": fit_baselines.base_rate(train),
        "Markov log-odds": fit_baselines.markov(sequences, train, watched, validation),
        "last-event rule": fit_baselines.last_event(sequences, train),
    }
    windows, check = make_windows(data, parts.train), make_windows(data, parts.validation)
    learned = {}
    for name, kind, start in (("GRU", IntentGru, 0.2), (TRANSFORMER, IntentTransformer, 0.6)):
        torch.manual_seed(seed)

        def report(share: float, name: str = name, start: float = start) -> None:
            progress(name, start + 0.4 * share)

        network, learned[name] = fit_network(kind(config), windows, check, config, seed, report)
        models[name] = Transformer(network, calibrate(*forecasts(network, check)))
    held = hold_out(data, seed)
    found = {name: forecast(model, held) for name, model in models.items()}
    return _Fitted(
        models=models,
        forecasts=found,
        evaluations={name: score(probability, held) for name, probability in found.items()},
        truth=held.purchase,
        curve=learned[TRANSFORMER],
        unknown=unknown,
        train_rows=np.flatnonzero(parts.train),
        example_rows=np.flatnonzero(parts.hold_out)[-_EXAMPLE_ROWS:],
    )


def _outcome(data: Dataset, fitted: list[_Fitted], config: IntentConfig) -> Trained:
    first = fitted[0]
    served = {name: ignoring(model, first.unknown) for name, model in first.models.items()}
    candidates = {
        name: Candidate(name, kind, served[name], _metrics(fitted, name), name != TRANSFORMER)
        for name, kind in KINDS.items()
    }
    example = {
        name: [v.tolist() if isinstance(v, np.ndarray) else v for v in values[first.example_rows]]
        for name, values in data.columns.items()
    }
    train = first.train_rows[:: max(1, len(first.train_rows) // _REFERENCE_ROWS)]
    curves = {
        "training_loss": first.curve.train,
        "validation_log_loss": first.curve.validation,
    }
    return Trained(
        model=candidates[TRANSFORMER],
        baselines=[candidates[name] for name in KINDS if name != TRANSFORMER],
        claims=_claims(fitted),
        settings=asdict(config) | {"rows": len(data), "train_rows": len(first.train_rows)},
        curves=curves,
        figures={
            "reliability": lambda: figures.reliability(first.forecasts[TRANSFORMER], first.truth),
            "precision_recall": lambda: figures.precision_recall(first.forecasts, first.truth),
            "learning_curve": lambda: learning_curve(curves),
        },
        example=example,
        outcome=served[TRANSFORMER].predict(example),
        reference={
            name: np.asarray(data.columns[name][train], dtype=np.float64)
            for name in ("event_count", *USER_FEATURES)
            if name not in first.unknown
        },
        unknown=first.unknown,
        chance=[
            chance_claim(name, _values(fitted, name, "roc_auc"), *_sessions(fitted))
            for name in (TRANSFORMER, "GRU", "gradient boosting", "logistic regression")
        ],
    )


def _sessions(fitted: list[_Fitted]) -> tuple[float, float]:
    """Buying and other sessions of a hold-out; each is looked at after 3, 5 and 10 events."""
    buying = float(np.mean([seed.truth.sum() for seed in fitted])) / len(FIXED_PREFIXES)
    others = float(np.mean([(1 - seed.truth).sum() for seed in fitted])) / len(FIXED_PREFIXES)
    return buying, others


def _values(fitted: list[_Fitted], name: str, metric: str) -> list[float]:
    return [seed.evaluations[name].metrics.get(metric, float("nan")) for seed in fitted]


def _metrics(fitted: list[_Fitted], name: str) -> dict[str, Interval]:
    return {
        metric: Interval.of(_values(fitted, name, metric))
        for metric in fitted[0].evaluations[name].metrics
    }


def _claims(fitted: list[_Fitted]) -> list[Claim]:
    purchases = int(np.mean([seed.truth.sum() for seed in fitted]))
    claims = []
    for metric, other in (
        ("average_precision", "gradient boosting"),
        ("average_precision", "logistic regression"),
        ("roc_auc", "gradient boosting"),
    ):
        ours, theirs = (_values(fitted, name, metric) for name in (TRANSFORMER, other))
        gain = Interval.of([a - b for a, b in zip(ours, theirs, strict=True)])
        note = f"{np.mean(ours):.4f} against {np.mean(theirs):.4f}; {purchases} buying rows a seed"
        name = f"intent: {metric} above {other}, paired"
        claims.append(Claim(name, "above 0, interval without 0", gain, gain.low > 0, note))
    area = Interval.of(_values(fitted, TRANSFORMER, "roc_auc"))
    low, high = AUC_BAND
    claims.append(
        Claim(
            "intent: AUC of the transformer",
            f"{low} to {high}",
            area,
            low <= area.mean <= high,
            "the hidden intent itself reaches 0.80 to 0.88; more would be a leak",
        )
    )
    error = Interval.of(_values(fitted, TRANSFORMER, "ece"))
    note = "10 bins of equal mass, pooled over prefixes of 3, 5 and 10 events"
    held = error.mean <= LARGEST_ECE
    claims.append(Claim("intent: calibration error", f"at most {LARGEST_ECE}", error, held, note))
    return claims
