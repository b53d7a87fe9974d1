"""The answer to each order of an evaluated batch."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from pipelines.features.views import VIEWS_BY_NAME
from pipelines.registry.signatures import DECISION_CONTEXT
from pipelines.serving.candidates import Candidate
from pipelines.serving.deciding import DECISION_VIEWS, Evaluation
from pipelines.serving.decisions import Decision, Fallback, Intent, Option, ViewUse
from pipelines.serving.forecasts import used_rule
from pipelines.serving.online import OnlineRows

CONTEXT: Final = "decision_context"
_FEATURES: Final = {view: VIEWS_BY_NAME[view].features for view in VIEWS_BY_NAME}
_OF_OPTION: Final = (
    *("expected_delay_hours", "late_probability", "order_carbon_kg", "stock_level", "feasible"),
)


def decisions_of(evaluation: Evaluation) -> list[Decision]:
    """The answers, in the orders' order; `took_ms` and `logged` are not filled in yet."""
    lists = {name: evaluation.columns[name].tolist() for name in _OF_OPTION}
    lists["score"] = evaluation.scores.scores.tolist()
    return [_decision(evaluation, n, lists) for n in range(len(evaluation.batch.orders))]


def _decision(evaluation: Evaluation, number: int, lists: dict[str, list[Any]]) -> Decision:
    batch, intent = evaluation.batch, evaluation.intent
    first, last = batch.first[number], batch.first[number + 1]
    options = [_option(batch.candidates[n], n, lists) for n in range(first, last)]
    ranking = sorted(range(len(options)), key=lambda n: -options[n].score)
    able = [n for n in ranking if options[n].feasible]
    nearest = options[0].warehouse_id
    chosen = able[0] if able else next(n for n in ranking if options[n].warehouse_id == nearest)
    notes = evaluation.fallbacks[number]
    if not able:
        why = f"no warehouse in reach has enough: {nearest} must restock first"
        notes = [*notes, Fallback("stock", why)]
    network, scores = evaluation.network, evaluation.scores
    now = evaluation.decided_at.timestamp()
    return Decision(
        id=secrets.token_hex(8),
        status="decided" if able else "backorder",
        decided_at=evaluation.decided_at,
        order=batch.orders[number].order,
        choice=options[chosen],
        alternatives=[options[n] for n in ranking],
        intent=Intent(
            intent.probability[number], intent.urgency_class[number], float(intent.urgency[number])
        ),
        features=_features(evaluation, number, first + chosen),
        models={
            "intent": intent.used,
            "delay": network.delays.used if network else used_rule("supply_gnn"),
            "decision": scores.used if scores.by_model[first] else used_rule("ppo_agent"),
        },
        fallbacks=notes,
        network_age_seconds=evaluation.snapshot.age(now) if evaluation.snapshot else None,
        read_mode=evaluation.features.lanes.read_mode,
    )


def _option(candidate: Candidate, row: int, lists: dict[str, list[Any]]) -> Option:
    level, feasible = lists["stock_level"][row], lists["feasible"][row]
    known = level == level  # NaN is not
    why_not = None
    if not feasible:
        why_not = f"only {max(level, 0):.0f} in stock" if known else "its stock is not known"
    delay = lists["expected_delay_hours"][row]
    return Option(
        warehouse_id=candidate.warehouse_id,
        shipping_method=candidate.shipping_method,
        route_id=candidate.route.route_id,
        mode=candidate.route.mode,
        ship_cost=candidate.ship_cost,
        promised_hours=candidate.promised_hours,
        expected_delay_hours=delay,
        expected_hours=candidate.promised_hours + delay,
        late_probability=lists["late_probability"][row],
        carbon_kg=lists["order_carbon_kg"][row],
        stock_level=int(level) if known else None,
        score=lists["score"][row],
        feasible=feasible,
        why_not=why_not,
    )


def _features(evaluation: Evaluation, number: int, chosen: int) -> dict[str, ViewUse]:
    """By view, the rows that the chosen option was scored with."""
    read, batch = evaluation.features, evaluation.batch
    max_age = evaluation.config.max_age
    row = int(batch.lane_of[chosen])
    rows = np.unique(batch.lane_of[batch.first[number] : batch.first[number + 1]]).tolist()
    found = {"session_events": _use(read.sessions, "session_events", max_age, number, [number])}
    for view in DECISION_VIEWS:
        found[view] = _use(read.lanes, view, max_age, row, rows)
    values = {name: read.lanes.columns[name][row] for name in DECISION_CONTEXT}
    found[CONTEXT] = ViewUse("present", evaluation.decided_at, 0.0, 0.0, values)
    return found


def _use(
    read: OnlineRows, view: str, max_age: Mapping[str, float], row: int, rows: Sequence[int]
) -> ViewUse:
    stamps = read.views[view].stamps
    stamp, oldest = stamps[row], min((stamps[n] for n in rows if stamps[n] > 0), default=0.0)
    return ViewUse(
        state=read.states(view, max_age.get(view), [row])[0],
        event_timestamp=datetime.fromtimestamp(stamp, UTC) if stamp > 0 else None,
        age_seconds=read.read_at - stamp if stamp > 0 else None,
        oldest_age_seconds=read.read_at - oldest if oldest > 0 else None,
        values={name: read.columns[name][row] for name in _FEATURES[view]},
    )
