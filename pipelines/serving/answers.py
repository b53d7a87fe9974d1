"""The results of a round of decisions: an answer for each order, and its record for the log."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pipelines.serving.deciding import (
    CONTEXT,
    CONTEXT_FEATURES,
    DECISION_VIEWS,
    FEATURES_OF,
    Case,
    Round,
    states_of,
)
from pipelines.serving.decision_log import Record
from pipelines.serving.decisions import (
    Decision,
    Fallback,
    Intent,
    Option,
    ViewUse,
)
from pipelines.serving.online import OnlineRows
from pipelines.serving.outlook import ROUTE_FEATURES
from pipelines.serving.steps import Columns, used_rule

_OF_OPTION = (
    "ship_cost",
    "promised_hours",
    "expected_delay_hours",
    "late_probability",
    "order_carbon_kg",
    "stock_level",
    "feasible",
)


def decisions_of(done: Round) -> list[Decision]:
    """The answers, in the orders' order; `took_ms` and `logged` are not filled in yet."""
    lists = {name: done.columns[name].tolist() for name in _OF_OPTION}
    lists["score"] = done.score.scores.tolist()
    return [_decision(done, number, lists) for number in range(len(done.cases))]


def record_of(done: Round, number: int, decision: Decision, network: int | None) -> Record:
    """Everything that decided on one order, as it was given to the models.

    Args:
        done: the round.
        number: the order's number in it.
        decision: its answer.
        network: the number of the logged network; the rows that this round read afresh are in the
            record, unless they are many and the network was logged with them (`overlaid` is empty).
    """
    first, last = done.first[number], done.first[number + 1]
    delay = None
    if done.snapshot is not None and done.route_at is not None:
        at = [done.snapshot.network.position[name] for name in done.overlaid]
        fresh = {name: done.network_columns[name][at].tolist() for name in ROUTE_FEATURES}
        delay = {"at": at, "fresh": fresh, "routes": done.route_at[first:last]}
    content = {
        "decision": decision,
        "intent": {name: [col[number]] for name, col in _listed(done.intent_columns).items()},
        "delay": delay,
        "ways": [(way.warehouse_id, way.shipping_method) for way in done.cases[number].ways],
        "options": pack({name: column[first:last] for name, column in done.columns.items()}),
        "weights": asdict(done.options.weights),
    }
    return Record(decision.id, network if delay is not None else None, content)


def pack(columns: Columns) -> dict[str, list[Any]]:
    """Columns as lists, one value where all are the same: most of an order's are."""
    packed = {}
    for name, column in columns.items():
        values = column.tolist()
        first = values[0]
        if first == first:
            alike = values.count(first) == len(values)
        else:  # NaN, which equals nothing
            alike = all(value != value for value in values)
        packed[name] = [first] if alike else values
    return packed


def unpack(packed: dict[str, list[Any]], rows: int) -> dict[str, list[Any]]:
    """The inverse of `pack`."""
    return {name: v * rows if len(v) == 1 else v for name, v in packed.items()}


def _listed(columns: Columns) -> dict[str, list[Any]]:
    return {name: column.tolist() for name, column in columns.items()}


def _decision(done: Round, number: int, lists: dict[str, list[Any]]) -> Decision:
    case, first = done.cases[number], done.first[number]
    options = [_option(case, n, first + n, lists) for n in range(len(case.ways))]
    ranking = sorted(range(len(options)), key=lambda n: -options[n].score)
    able = [n for n in ranking if options[n].feasible]
    nearest = case.ways[0].warehouse_id
    chosen = able[0] if able else next(n for n in ranking if options[n].warehouse_id == nearest)
    notes = done.troubles + done.notes[number]
    if not able:
        notes.append(
            Fallback("stock", f"no warehouse in reach has enough: {nearest} must restock first")
        )
    by_model = bool(done.score.by_model[first])
    now = done.decided_at.timestamp()
    return Decision(
        id=secrets.token_hex(8),
        status="decided" if able else "backorder",
        decided_at=done.decided_at,
        order=case.order,
        choice=options[chosen],
        alternatives=[options[n] for n in ranking],
        intent=Intent(
            done.intent.probability[number],
            done.intent.urgency_class[number],
            float(done.intent.urgency[number]),
        ),
        features=_features(done, number, first + chosen),
        models={
            "intent": done.intent.used,
            "delay": done.delay.used if done.delay else used_rule("supply_gnn"),
            "decision": done.score.used if by_model else used_rule("ppo_agent"),
        },
        fallbacks=notes,
        network_age_seconds=done.snapshot.age(now) if done.snapshot else None,
        read_mode=done.places.read_mode,
    )


def _option(case: Case, number: int, row: int, lists: dict[str, list[Any]]) -> Option:
    way = case.ways[number]
    level, feasible = lists["stock_level"][row], lists["feasible"][row]
    known = level == level  # NaN is not
    why_not = None
    if not feasible:
        why_not = f"only {max(level, 0):.0f} in stock" if known else "its stock is not known"
    delay = lists["expected_delay_hours"][row]
    return Option(
        warehouse_id=way.warehouse_id,
        shipping_method=way.shipping_method,
        route_id=way.route.route_id,
        mode=way.route.mode,
        ship_cost=way.ship_cost,
        promised_hours=way.promised_hours,
        expected_delay_hours=delay,
        expected_hours=way.promised_hours + delay,
        late_probability=lists["late_probability"][row],
        carbon_kg=lists["order_carbon_kg"][row],
        stock_level=int(level) if known else None,
        score=lists["score"][row],
        feasible=feasible,
        why_not=why_not,
    )


def _features(done: Round, number: int, chosen: int) -> dict[str, ViewUse]:
    """By view, the rows that the chosen option was scored with."""
    found = {"session_events": _use(done, done.sessions, "session_events", number, [number])}
    row = int(done.place[chosen])
    rows = np.unique(done.place[done.first[number] : done.first[number + 1]]).tolist()
    for view in DECISION_VIEWS:
        found[view] = _use(done, done.places, view, row, rows)
    values = {name: done.places.columns[name][row] for name in CONTEXT_FEATURES}
    found[CONTEXT] = ViewUse("present", done.decided_at, 0.0, 0.0, values)
    return found


def _use(done: Round, read: OnlineRows, view: str, row: int, rows: Sequence[int]) -> ViewUse:
    stamps = read.views[view].stamps
    stamp, oldest = stamps[row], min((stamps[n] for n in rows if stamps[n] > 0), default=0.0)
    return ViewUse(
        state=states_of(read, view, done.options.max_age.get(view), [row])[0],
        event_timestamp=datetime.fromtimestamp(stamp, UTC) if stamp > 0 else None,
        age_seconds=read.read_at - stamp if stamp > 0 else None,
        oldest_age_seconds=read.read_at - oldest if oldest > 0 else None,
        values={name: read.columns[name][row] for name in FEATURES_OF[view]},
    )
