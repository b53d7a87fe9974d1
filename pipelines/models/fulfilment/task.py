"""The PPO task: data set, training, baselines, claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.models.delay.features import MORE_CONDITIONS
from pipelines.models.fulfilment.claims import chance_claim, claims_of
from pipelines.models.fulfilment.clairvoyant import best_plan
from pipelines.models.fulfilment.episodes import Period, deal, everything, split
from pipelines.models.fulfilment.evaluation import AGENT, GREEDY, PACED, Comparison, compare, judge
from pipelines.models.fulfilment.features import WEIGHED
from pipelines.models.fulfilment.figures import by_policy, by_seed, learning
from pipelines.models.fulfilment.game import FulfilmentGame
from pipelines.models.fulfilment.policies import play, served, weighed
from pipelines.models.fulfilment.predictors import NUMBERS, TEXTS, Greedy, Ppo
from pipelines.models.fulfilment.shop import ShopHistory, read_history
from pipelines.models.fulfilment.training import PpoConfig, train_agent
from pipelines.models.fulfilment.tuning import tune
from pipelines.models.fulfilment.world import FulfilmentConfig, Shop
from pipelines.registry.packaging import Predictor
from pipelines.registry.signatures import without_unread
from pipelines.registry.unknown_features import ignoring
from pipelines.training.source import TrainingSource
from pipelines.training.task import (
    Candidate,
    Columns,
    Dataset,
    Evaluation,
    Interval,
    Progress,
    Trained,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

_TUNING: Final = 16  # episodes
_LONGEST_WINDOW_DAYS: Final = 7  # of user_intent; a shop that just opened has half-filled ones
# What a stream of random numbers is for; the first number of its seed is the training seed.
_TRAIN, _TEST, _TUNE, _WATCH, _SHUFFLE = range(1, 6)


@dataclass(frozen=True)
class PpoTask:
    """Choosing warehouse and shipping method.

    Attributes:
        intent, delay: served models whose forecasts every policy sees; without them the features'
            own urgency and past delays stand in.
        config: prices and stress of the environment.
        settings, quick_settings: of training.
        episodes, quick_episodes: of the hold-out.
    """

    intent: Predictor | None = None
    delay: Predictor | None = None
    config: FulfilmentConfig = field(default_factory=FulfilmentConfig)
    settings: PpoConfig = field(default_factory=PpoConfig)
    quick_settings: PpoConfig = field(default_factory=lambda: PpoConfig().quick())
    episodes: int = 40
    quick_episodes: int = 16

    name = "ppo"
    model = "ppo_agent"
    service = "ppo_agent_v1"

    def dataset(
        self, source: TrainingSource, *, quick: bool, since: datetime | None = None
    ) -> Dataset:
        """The shop's history.

        Args:
            source: of logs and features.
            quick: fewer episodes in `evaluate`; the logs are read whole.
            since: only orders placed after this time (UTC, naive).
        """
        history = read_history(source, since=since, intent=self.intent, delay=self.delay)
        lines = history.lines
        columns = {
            **lines.features,
            "preferred_shipping_method": lines.preferred,
            "region": np.array(history.shop.regions, dtype=object)[lines.region],
            "product_id": np.array(history.shop.products, dtype=object)[lines.product],
            "shipping_method": np.array(history.shop.methods, dtype=object)[lines.method],
            "quantity": lines.quantity,
            "urgency": lines.urgency,
        }
        extra = {"history": history, "since": since, "quick": quick}
        extra["until"] = history.timestamps.max()
        return Dataset(columns, {}, history.timestamps, history.users, extra)

    def train(
        self, data: Dataset, *, seeds: Sequence[int], quick: bool, progress: Progress
    ) -> Trained:
        """Fit greedy weights and an agent per seed, and compare them on that seed's hold-out.

        Args:
            data: from `dataset`.
            seeds: one fit each.
            quick: fewer steps and episodes.
            progress: see `Progress`.
        """
        runs: list[_Run] = []
        for number, seed in enumerate(seeds):

            def report(what: str, done: float, number: int = number, seed: int = seed) -> None:
                progress(f"seed {seed}: {what}", (number + done) / len(seeds))

            runs.append(self._run(data.extra["history"], seed, quick, report))
        comparisons = [run.comparison for run in runs]
        names = list(comparisons[0].outcomes)
        metrics = {name: _over_seeds([run.metrics(name) for run in runs]) for name in names}
        first = runs[0]
        kept: dict[str, tuple[str, Greedy]] = {
            GREEDY: ("fulfilment/greedy", Greedy(self.config, first.greedy.tolist())),
            PACED: ("fulfilment/greedy", Greedy(self.config, first.paced.tolist())),
        }
        baselines = []
        for name in (name for name in names if name != AGENT):
            kind, rule = kept.get(name, (None, None))
            baselines.append(Candidate(name, kind, rule, metrics[name]))
        example = _example(first.game)
        return Trained(
            model=Candidate(AGENT, "fulfilment/ppo", first.agent, metrics[AGENT], False),
            baselines=baselines,
            claims=claims_of(metrics, [c.noise(AGENT) for c in comparisons]),
            settings=self._settings(quick, runs),
            curves={"gap_fraction_on_training": first.curve},
            figures=_figures(runs, seeds),
            example=example,
            outcome=first.agent.predict(example),
            reference=_reference(
                data.extra["history"], split(data.extra["history"], seeds[0])[0], first.unknown
            ),
            unknown=first.unknown,
            chance=[chance_claim(metrics[AGENT])],
        )

    def evaluate(self, predictor: Predictor, data: Dataset) -> Evaluation:
        """Play the hold-out's episodes by a served model."""
        history: ShopHistory = data.extra["history"]
        if "hold-out" not in data.extra:
            train, test = split(history, 0) if data.extra["since"] is None else (None, None)
            seen, held = train or everything(history), test or everything(history)
            count = self.quick_episodes if data.extra["quick"] else self.episodes
            weights, _ = tune(deal(history, seen, self.config, (0, _TUNE), _TUNING))
            game = deal(history, held, self.config, (0, _TEST), count)
            data.extra["hold-out"] = game, weights, _bounds(game)
        game, weights, bounds = data.extra["hold-out"]
        return judge(game, served(predictor), weights, bounds)

    def _run(
        self, history: ShopHistory, seed: int, quick: bool, report: Callable[[str, float], None]
    ) -> _Run:
        settings = self.quick_settings if quick else self.settings
        episodes = self.quick_episodes if quick else self.episodes
        train, test = split(history, seed)

        report("tuning the greedy rule", 0.0)
        greedy, paced = tune(deal(history, train, self.config, (seed, _TUNE), _TUNING))
        watched = deal(history, train, self.config, (seed, _WATCH), episodes // 2)
        low, high = play(watched, weighed(greedy)).value.mean(), _bounds(watched).mean()
        curve: list[float] = []

        def follow(agent: Ppo, done: float) -> None:
            value = play(watched, served(agent)).value.mean()
            curve.append(float((value - low) / (high - low)))
            report("learning", 0.15 + 0.7 * done)

        practice = deal(history, train, self.config, (seed, _TRAIN), settings.priced)
        unknown = [name for name, seen in practice.fixed.items() if np.isnan(seen).all()]
        learnt = train_agent(practice, paced, settings, seed=seed, follow=follow)
        agent: Predictor = ignoring(learnt, unknown)
        report("comparing policies", 0.9)
        game = deal(history, test, self.config, (seed, _TEST), episodes)
        policies = {GREEDY: weighed(greedy), PACED: weighed(paced), AGENT: served(agent)}
        comparison = compare(history, train, game, policies, greedy, seed)
        blind = replace(game.shop, **_shuffled(game.shop, seed))
        without = play(FulfilmentGame(blind, self.config, game.episodes), served(agent))
        gain = float((comparison.outcomes[AGENT].value - without.value).mean())
        report("done", 1.0)
        return _Run(agent, greedy, paced, game, comparison, curve, gain, unknown)

    def _settings(self, quick: bool, runs: list[_Run]) -> dict[str, Any]:
        chosen = self.quick_settings if quick else self.settings
        weights = {
            f"{kind}_weight_{name}": float(value)
            for kind, found in (("greedy", runs[0].greedy), ("paced", runs[0].paced))
            for name, value in zip(WEIGHED, found, strict=True)
        }
        forecasts = {"intent_model": self.intent is not None, "delay_model": self.delay is not None}
        environment = {f"env_{name}": value for name, value in asdict(self.config).items()}
        return {**environment, **asdict(chosen), **weights, **forecasts}


@dataclass(frozen=True)
class _Run:
    """What one seed came to.

    `forecast_gain` is $ per order that forecasts of routes are worth; `unknown` names what was null
    whenever an order was decided in training.
    """

    agent: Predictor
    greedy: Floats
    paced: Floats
    game: FulfilmentGame
    comparison: Comparison
    curve: list[float]
    forecast_gain: float
    unknown: list[str]

    def metrics(self, name: str) -> dict[str, float]:
        found = self.comparison.metrics(name)
        if name != AGENT:
            return found
        return {
            **found,
            "gap_fraction_of_paced": self.comparison.gap(AGENT, PACED),
            "forecast_gain": self.forecast_gain,
        }


def _over_seeds(metrics: list[dict[str, float]]) -> dict[str, Interval]:
    return {name: Interval.of([found[name] for found in metrics]) for name in metrics[0]}


def _bounds(game: FulfilmentGame) -> Floats:
    """(B,) the clairvoyant's return per order."""
    plans = [best_plan(game, episode) for episode in range(len(game.episodes))]
    return np.array([plan.value for plan in plans]) / game.length


def _shuffled(shop: Shop, seed: int) -> dict[str, Any]:
    """What is seen of routes, from another look; how they really are stays as it is."""
    looks = np.random.default_rng((seed, _SHUFFLE)).permutation(len(shop.true_delay))
    return {
        "conditions": {name: table[looks] for name, table in shop.conditions.items()},
        "forecast_delay": shop.forecast_delay[looks],
        "forecast_late": shop.forecast_late[looks],
    }


def _example(game: FulfilmentGame) -> Columns:
    """The options of the first order."""
    game.reset()
    columns = {name: np.asarray(column[0]) for name, column in game.columns().items()}
    for name in ("is_weekend", "is_low_stock", "feasible"):  # the game reckons in numbers
        columns[name] = columns[name].astype(bool)
    read = without_unread("ppo_agent", columns, (*NUMBERS, *TEXTS, *MORE_CONDITIONS))
    return {**read, "order": np.zeros(game.options, dtype=np.int64)}


def _reference(history: ShopHistory, train: Period, unknown: Sequence[str]) -> dict[str, Floats]:
    """Training values for the drift check, without the days whose windows were filling."""
    first, last = (24 * day // history.shop.look_hours for day in train.days)
    routes = {
        name: table[first:last].ravel().astype(np.float64)
        for name, table in history.shop.conditions.items()
    }
    settled = train.lines.where(train.lines.day >= _LONGEST_WINDOW_DAYS)
    found = {**(settled if len(settled) else train.lines).features, **routes}
    return {name: values for name, values in found.items() if name not in unknown}


def _figures(runs: list[_Run], seeds: Sequence[int]) -> dict[str, Callable[[], Figure]]:
    comparisons = [run.comparison for run in runs]
    return {
        "policies": lambda: by_policy(comparisons),
        "learning_curve": lambda: learning([run.curve for run in runs], seeds),
        "gap_by_seed": lambda: by_seed(comparisons, seeds),
    }
