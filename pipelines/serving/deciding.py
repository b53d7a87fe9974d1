"""From completed orders to scored candidates: read features, forecast intent and delays, score.

`evaluate` is the whole line; every step is a function that returns a value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.lake.clock import aware_now
from pipelines.models.delay.features import past_delays
from pipelines.models.intent.features import intent_columns
from pipelines.registry.columns import Columns, as_column, as_columns
from pipelines.registry.signatures import CONTRACTS, DECISION_CONTEXT, features_of
from pipelines.serving.candidates import OrderBatch
from pipelines.serving.config import ServingConfig
from pipelines.serving.decisions import Fallback
from pipelines.serving.forecasts import (
    DelayForecast,
    IntentForecast,
    OptionScores,
    forecast_delays,
    forecast_intent,
    score_options,
)
from pipelines.serving.greedy import numbers
from pipelines.serving.loading import Absent, ModelSource, Served
from pipelines.serving.network_snapshot import Snapshot
from pipelines.serving.online import SERVICES, OnlineFeatures
from pipelines.serving.reading import NEEDED, OrderFeatures, read_features
from pipelines.serving.reference import Reference

DECISION_VIEWS: Final = CONTRACTS["ppo_agent"].views
DECISION_FEATURES: Final = (*features_of(*DECISION_VIEWS), *DECISION_CONTEXT)

Stopwatch = Callable[[str], None]


@dataclass(frozen=True)
class NetworkForecast:
    """The delays of all routes, as of a snapshot with some routes read afresh.

    Attributes:
        fresh: ids of the routes that were read for these orders.
        columns: (routes,) the delay model's input.
        route_of: (C,) the candidate's route in the network.
    """

    snapshot: Snapshot
    fresh: list[str]
    columns: Columns
    delays: DelayForecast
    route_of: list[int]


@dataclass(frozen=True)
class Evaluation:
    """Everything that was read and computed for a batch: N orders, C candidates of all orders.

    Attributes:
        snapshot: of the network, whether or not it could be used.
        intent_columns: (N,) the intent model's input.
        network: None where each route's own past had to do.
        columns: (C,) the decision model's input.
        fallbacks: by order, what was not as it should be.
    """

    batch: OrderBatch
    config: ServingConfig
    decided_at: datetime
    features: OrderFeatures
    intent_columns: Columns
    intent: IntentForecast
    snapshot: Snapshot | None
    network: NetworkForecast | None
    columns: Columns
    scores: OptionScores
    fallbacks: list[list[Fallback]]


def evaluate(
    batch: OrderBatch,
    online: OnlineFeatures,
    reference: Reference,
    models: ModelSource,
    snapshot: Snapshot | None,
    config: ServingConfig,
    stopwatch: Stopwatch,
) -> Evaluation:
    """Score every candidate of every order.

    Args:
        batch: the orders, completed.
        online: the online store.
        reference: has the stock of the live database.
        models: the models in service.
        snapshot: of the network; None if it has not been read yet.
        config: how decisions are made.
        stopwatch: callback at the beginning of each stage.

    Raises:
        LiveDatabaseError: stock must be read from the live database, and cannot be.
    """
    decided_at = aware_now()
    stopwatch("features")
    features = read_features(batch, online, reference, config.max_age)
    stopwatch(SERVICES["intent_transformer"])
    sessions = intent_columns(features.sessions.columns)
    intent = forecast_intent(models.get("intent_transformer"), sessions)
    stopwatch(SERVICES["supply_gnn"])
    unusable = _why_unusable(snapshot, features, decided_at, config.stale_after)
    network = None
    if snapshot is not None and unusable is None:
        network = _forecast_network(batch, features, snapshot, models.get("supply_gnn"))
    stopwatch(SERVICES["ppo_agent"])
    columns = _candidate_columns(batch, features, intent, network, decided_at)
    unfit, lacking = _lacking_features(batch, features, config.stale_after)
    scores = score_options(models.get("ppo_agent"), columns, config.weights, unfit[batch.order_of])
    reasons = {
        "intent_transformer": intent.why,
        "supply_gnn": network.delays.why if network else unusable,
        "ppo_agent": None if unfit.all() else scores.why,
        "Redis": _why_not_redis(features),
    }
    of_all = [Fallback(what, why) for what, why in reasons.items() if why is not None]
    return Evaluation(
        batch=batch,
        config=config,
        decided_at=decided_at,
        features=features,
        intent_columns=sessions,
        intent=intent,
        snapshot=snapshot,
        network=network,
        columns=columns,
        scores=scores,
        fallbacks=[of_all + of_one for of_one in lacking],
    )


def _why_unusable(
    snapshot: Snapshot | None, features: OrderFeatures, now: datetime, stale_after: float
) -> str | None:
    if snapshot is None:
        return "the network has not been read yet"
    if (age := snapshot.age(now.timestamp())) > stale_after:
        return f"what is known of the network is {age:.0f} s old"
    if not snapshot.network.position.keys() >= set(features.routes.columns["route_id"]):
        return "the network has changed and is being read again"
    return None


def _forecast_network(
    batch: OrderBatch, features: OrderFeatures, snapshot: Snapshot, model: Served | Absent
) -> NetworkForecast:
    """Forecast all routes: each depends on its neighbours in the network."""
    read = features.routes
    fresh = read.columns["route_id"] if read.read_mode != "unavailable" else []
    columns = snapshot.overlaid(fresh, read.columns)
    position = snapshot.network.position
    route_of = [position[candidate.route.route_id] for candidate in batch.candidates]
    return NetworkForecast(snapshot, fresh, columns, forecast_delays(model, columns), route_of)


def _candidate_columns(
    batch: OrderBatch,
    features: OrderFeatures,
    intent: IntentForecast,
    network: NetworkForecast | None,
    decided_at: datetime,
) -> Columns:
    """What the decision model sees of a candidate: its lane's features, the order, the forecasts.

    Stock and carbon that the online store does not know are filled in.
    """
    orders, candidates, of = batch.orders, batch.candidates, batch.order_of
    lanes = as_columns({name: features.lanes.columns[name] for name in DECISION_FEATURES})
    columns = {name: values[batch.lane_of] for name, values in lanes.items()}
    for name in ("quantity", "price", "weight_kg"):
        columns[name] = np.array([float(getattr(one.order, name)) for one in orders])[of]
    columns["order"] = of
    columns["decision_hour"] = np.full(len(candidates), float(decided_at.hour))
    methods = [candidate.shipping_method for candidate in candidates]
    columns["shipping_method"] = as_column("shipping_method", methods)
    columns["ship_cost"] = np.array([candidate.ship_cost for candidate in candidates])
    columns["promised_hours"] = np.array([candidate.promised_hours for candidate in candidates])
    columns["wanted_hours"] = np.array([one.wanted_hours for one in orders])[of]
    columns["urgency"] = intent.urgency[of]
    columns["stock_level"] = features.stock[batch.lane_of]
    columns["stock_after_order"] = columns["stock_level"] - columns["quantity"]
    per_tonne = np.array([candidate.route.carbon_cost for candidate in candidates])
    carbon, static = columns["order_carbon_kg"], per_tonne * columns["weight_kg"] / 1000
    columns["order_carbon_kg"] = np.where(np.isnan(carbon), static, carbon)
    if network is None:
        hours, late = past_delays(columns)
    else:
        hours, late = network.delays.hours[network.route_of], network.delays.late[network.route_of]
    columns["expected_delay_hours"], columns["late_probability"] = hours, late
    columns["feasible"] = numbers(columns["stock_level"]) >= columns["quantity"]
    return columns


def _lacking_features(
    batch: OrderBatch, features: OrderFeatures, stale_after: float
) -> tuple[NDArray[np.bool_], list[list[Fallback]]]:
    """(N,) orders that the model must not decide for want of features, and by order why."""
    unfit = np.full(len(batch.orders), features.lanes.mode_age > stale_after)
    notes: list[list[Fallback]] = [[] for _ in batch.orders]
    begin = 0
    for n, one in enumerate(batch.orders):
        count = len(one.lanes)
        for view in NEEDED:
            states = features.states[view][begin : begin + count]
            for state in ("missing", "stale"):
                bad = int((states == state).sum())
                if bad:
                    unfit[n] = True
                    some = f" for {bad} of {count} candidates" if bad < count else ""
                    why = f"{state} online{some}: the greedy rule decides"
                    if view == "inventory_levels":
                        why += "; stock comes from the live database"
                    notes[n].append(Fallback(f"features of {view}", why))
        begin += count
    return unfit, notes


def _why_not_redis(features: OrderFeatures) -> str | None:
    if features.problem is None and features.lanes.read_mode != "redis":
        return f"it is away: features are those seen {features.lanes.mode_age:.0f} s ago"
    return features.problem
