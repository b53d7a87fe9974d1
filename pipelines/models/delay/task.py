"""The delay task: data, models and baselines over seeds, and what the report may claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.models.delay import figures
from pipelines.models.delay.baselines import Persistence, Usual
from pipelines.models.delay.dataset import GAP, SERVICE, build, rows_of, split
from pipelines.models.delay.evaluation import (
    Judged,
    interval_over_days,
    judge,
    metrics,
    of_predictor,
)
from pipelines.models.delay.features import MORE_CONDITIONS, READ_CONDITIONS
from pipelines.models.delay.fit_baselines import GlobalLag, RouteMean, boosting, usual
from pipelines.models.delay.predictor import Gnn
from pipelines.models.delay.training import Edges, FitConfig, Fitted, fit
from pipelines.registry.packaging import Predictor
from pipelines.registry.signatures import without_unread
from pipelines.registry.unknown_features import ignoring, never_known, without
from pipelines.training.figures import learning_curve
from pipelines.training.source import TrainingDataError, TrainingSource
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
MODEL: Final = "GNN"
ROUTE_MEAN: Final = "route and mode mean"
PERSISTENCE: Final = "persistence"
GLOBAL_LAG: Final = "global-mean lag"
NO_EDGES: Final = "MLP without edges"
BOOSTING: Final = "gradient boosting without neighbours"
BOOSTING_NEIGHBOURS: Final = "gradient boosting with neighbours"
SHUFFLED: Final = "GNN with shuffled edges"
_EDGES: Final[Mapping[str, Edges]] = {MODEL: "true", NO_EDGES: "none", SHUFFLED: "shuffled"}
_KINDS: Final = {
    MODEL: "delay/gnn",
    NO_EDGES: "delay/gnn",
    BOOSTING: "delay/gradient_boosting",
    BOOSTING_NEIGHBOURS: "delay/gradient_boosting",
    PERSISTENCE: "delay/persistence",
}
_DAYS_KEPT: Final = 0.8
_CHANCE_R2: Final = 0.005
_CHANCE_AUC: Final = 0.03


class GnnTask:
    """Implements `pipelines.training.task.Task`."""

    name = "gnn"
    model = "supply_gnn"
    service = SERVICE

    def dataset(
        self, source: TrainingSource, *, quick: bool, since: datetime | None = None
    ) -> Dataset:
        """Snapshots of the network with labels of each route's next 24 hours; see `Task.dataset`.

        Args:
            source: of logs and features.
            quick: fewer snapshots.
            since: only labels that became known after this time (UTC, naive).

        Raises:
            TrainingDataError: there are too few labels.
        """
        return build(source, quick=quick, since=since)

    def train(
        self,
        data: Dataset,
        *,
        seeds: Sequence[int],
        quick: bool,
        progress: Progress,
        config: FitConfig | None = None,
    ) -> Trained:
        """Fit all models once per seed.

        The first seed learns from all training days, each further one from a part of them drawn
        anew; initialisation, order and the shuffled edges change with the seed too.

        Args:
            data: from `dataset`.
            seeds: one fit each.
            quick: recorded in the settings.
            progress: see `Progress`.
            config: sizes and rates; None for the defaults.

        Raises:
            TrainingDataError: one side of the split is empty.
        """
        parts = split(data)
        if not parts.train.any() or not parts.hold_out.any():
            raise TrainingDataError(
                f"{int(parts.train.sum())} rows to train on and {int(parts.hold_out.sum())} to "
                "test on are too few: let the shop run for longer, "
                "e.g. `synchrochain run --days 30`"
            )
        config = config or FitConfig()
        rounds = []
        for number, seed in enumerate(seeds):
            weights = _days(data, parts.train, seed) if number else np.ones(len(data))
            report = partial(_within, progress, number / len(seeds), 1 / len(seeds), seed)
            rounds.append(_Round.of(data, weights, seed, config, report))
        return _outcome(data, rounds, config, quick=quick)

    def evaluate(self, predictor: Predictor, data: Dataset) -> Evaluation:
        """Score any served model of this task on the data's hold-out."""
        return of_predictor(predictor, data)


class _Round:
    """All models of one seed."""

    def __init__(
        self,
        predictors: dict[str, Predictor],
        judged: dict[str, Judged],
        curves: dict[str, list[float]],
        unknown: list[str],
    ) -> None:
        self.predictors = predictors
        self.judged = judged
        self.curves = curves
        self.unknown = unknown
        self.metrics = {name: metrics(one) for name, one in judged.items()}

    @classmethod
    def of(
        cls,
        data: Dataset,
        weights: Floats,
        seed: int,
        config: FitConfig,
        report: Callable[[str, float], None],
    ) -> _Round:
        """Fit and judge.

        Args:
            data: from `dataset`.
            weights: (rows,) factors of the rows' shipments.
            seed: of the fits.
            config: sizes and rates.
            report: callback with the step and the fraction that is done.
        """
        parts = split(data)
        numeric = [name for name, values in data.columns.items() if values.dtype.kind == "f"]
        unknown = never_known(data.columns, numeric, rows_of(data, parts.train))
        data = replace(data, columns=without(data.columns, unknown))
        habits = usual(data, parts.train, weights)
        judged: dict[str, Judged] = {}
        served: dict[str, Predictor] = {}
        curves: dict[str, list[float]] = {}
        for step, (name, edges) in enumerate(_EDGES.items()):
            fitted = fit(
                data,
                parts.train,
                parts.hold_out,
                seed=seed,
                edges=edges,
                weights=weights,
                config=config,
                report=partial(_scaled, report, name, step * 0.25),
            )
            judged[name] = judge(partial(_forecast, fitted, habits), data)
            if name in _KINDS:
                served[name] = Gnn(fitted.network, habits)
            if name == MODEL:
                curves = {"training": fitted.training_loss, "test": fitted.test_loss}
        report("gradient boosting", 0.75)
        for name, neighbours in ((BOOSTING, False), (BOOSTING_NEIGHBOURS, True)):
            served[name] = boosting(
                data, parts.train, weights, habits, neighbours=neighbours, seed=seed
            )
        served[PERSISTENCE] = Persistence(habits)
        for name, model in served.items():
            if name not in judged:
                judged[name] = judge(model.predict, data)
        judged[GLOBAL_LAG] = judge(GlobalLag(habits).predict, data)
        judged[ROUTE_MEAN] = judge(RouteMean(data, parts.train, weights, habits).predict, data)
        report("judged", 1.0)
        served = {name: ignoring(model, unknown) for name, model in served.items()}
        return cls(served, judged, curves, unknown)


def _forecast(fitted: Fitted, habits: Usual, columns: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """A fitted network's forecast on the graph that it learned on, shuffled or not."""
    size = len(fitted.graph.place)
    copies = len(columns["snapshot"]) // size
    model = Gnn(fitted.network, habits)
    return model.predict_on(columns, fitted.graph.repeated(copies))


def _outcome(data: Dataset, rounds: Sequence[_Round], config: FitConfig, *, quick: bool) -> Trained:
    first = rounds[0]
    over = {
        name: {
            metric: Interval.of([one.metrics[name][metric] for one in rounds])
            for metric in first.metrics[name]
        }
        for name in first.metrics
    }
    candidates = [
        Candidate(
            name,
            _KINDS.get(name),
            first.predictors.get(name),
            over[name],
            is_baseline=name != MODEL,
        )
        for name in over
    ]
    parts = split(data)
    first_time = data.timestamps[parts.hold_out][0]
    example = take(data.columns, data.timestamps == first_time)
    example = without_unread("supply_gnn", example, READ_CONDITIONS)
    del example["snapshot"]
    model = first.predictors[MODEL]
    compared = {name: first.judged[name] for name in (MODEL, BOOSTING, PERSISTENCE)}
    return Trained(
        model=candidates[0],
        baselines=candidates[1:],
        claims=[
            _above(rounds, BOOSTING, "r2"),
            _above(rounds, SHUFFLED, "r2"),
            _above(rounds, BOOSTING, "r2_risk"),
            _above(rounds, SHUFFLED, "r2_risk"),
        ],
        settings={
            **{name: value for name, value in asdict(config).items() if name != "network"},
            **{f"network_{name}": value for name, value in asdict(config.network).items()},
            "quick": quick,
            "gap_hours": int(GAP / np.timedelta64(1, "h")),
            "cut": str(data.extra["cut"]),
            "snapshots": len(np.unique(data.timestamps)),
            "routes": len(np.unique(data.groups)),
            "training_rows": int(parts.train.sum()),
            "test_rows": int(parts.hold_out.sum()),
            "test_shipments": int(data.labels["shipments"][parts.hold_out].sum()),
        },
        curves=first.curves,
        figures={
            "delay_calibration": partial(figures.delay_calibration, compared),
            "delay_forecast": partial(figures.delay_forecast, compared),
            "learning_curve": partial(learning_curve, first.curves),
            "comparison": partial(
                figures.comparison,
                {name: values["r2"] for name, values in over.items()},
                "R² of the delay index on the hold-out",
            ),
        },
        example=example,
        outcome=model.predict(example),
        reference={
            name: values
            for name, values in _conditions(data, parts.train)
            if name not in first.unknown
        },
        chance=_chance(rounds),
        unknown=first.unknown,
    )


def _conditions(data: Dataset, rows: NDArray[np.bool_]) -> list[tuple[str, Floats]]:
    """The features that change, as Feast serves them, for the drift check."""
    named = ("delay_risk", "congestion", "deliveries_24h", "late_rate_24h", "mean_delay_hours_24h")
    names = (*named, *MORE_CONDITIONS)
    return [(name, np.asarray(data.columns[name], dtype=np.float64)[rows]) for name in names]


def _above(rounds: Sequence[_Round], other: str, metric: str) -> Claim:
    """The network's R² less another's, paired over seeds; holds if the interval is above zero."""
    measured = Interval.of(
        [one.metrics[MODEL][metric] - one.metrics[other][metric] for one in rounds]
    )
    what = "delay index" if metric == "r2" else "risk published in the next 24 h"
    mine, theirs = (
        float(np.mean([one.metrics[name][metric] for one in rounds])) for name in (MODEL, other)
    )
    note = f"R² {mine:.4f} against {theirs:.4f}, mean of {len(rounds)} seeds"
    if metric == "r2":
        better, worse = (
            np.mean([one.judged[name].outputs["delay_index"] for one in rounds], axis=0)
            for name in (MODEL, other)
        )
        low, high = interval_over_days(rounds[0].judged[MODEL], better, worse)
        note += f"; drawing the test days anew: {low:+.4f} to {high:+.4f}"
    return Claim(
        name=f"R² of the {what}: GNN above {other}",
        target="interval above 0",
        measured=measured,
        holds=measured.low > 0,
        note=note,
    )


def _chance(rounds: Sequence[_Round]) -> list[Claim]:
    """What must be true of the network in a world without signal."""
    gain = Interval.of([one.metrics[MODEL]["r2"] - one.metrics[ROUTE_MEAN]["r2"] for one in rounds])
    within = Interval.of([one.metrics[MODEL]["late_auc_within_mode"] for one in rounds])
    return [
        Claim(
            name="without signal: R² of the delay index, GNN above the route and mode mean",
            target=f"at most {_CHANCE_R2}",
            measured=gain,
            holds=gain.mean <= _CHANCE_R2,
        ),
        Claim(
            name="without signal: AUC of being late among routes of a mode",
            target=f"0.5 ± {_CHANCE_AUC}",
            measured=within,
            holds=abs(within.mean - 0.5) <= _CHANCE_AUC,
        ),
    ]


def _days(data: Dataset, train: NDArray[np.bool_], seed: int) -> Floats:
    """(N,) 1 on the days that this seed learns from, 0 on the others; all if none would be left."""
    day = data.timestamps.astype("datetime64[D]")
    days = np.unique(day)
    rng = np.random.default_rng([seed, 2])
    kept = rng.permutation(days)[: max(1, round(_DAYS_KEPT * len(days)))]
    drawn = np.isin(day, kept)
    return (drawn if (drawn & train).any() else np.ones(len(data))).astype(np.float64)


def _within(
    progress: Progress, start: float, share: float, seed: int, what: str, fraction: float
) -> None:
    progress(f"seed {seed}: {what}", start + share * fraction)


def _scaled(report: Callable[[str, float], None], what: str, start: float, fraction: float) -> None:
    report(what, start + 0.25 * fraction)
