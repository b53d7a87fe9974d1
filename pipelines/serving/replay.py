"""Replaying a logged decision: the same inputs, the same model versions, the same answer?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pipelines.errors import SynchroChainError, said
from pipelines.models.delay.features import past_delays
from pipelines.registry.columns import Columns, as_column
from pipelines.registry.signatures import CONTRACTS
from pipelines.serving.decision_log import Logged
from pipelines.serving.forecasts import (
    RULE,
    forecast_delays,
    forecast_intent,
    score_options,
)
from pipelines.serving.greedy import GreedyWeights
from pipelines.serving.loading import Absent, Served
from pipelines.serving.recording import unpack

TOLERANCE: Final = 1e-5
"""Relative and absolute. A model that answered for many orders at once sums in another order than
for one, which moves the last digits of single precision."""

Load = Callable[[str, int], Any]
"""Loads a version's predictor by model and number."""


@dataclass(frozen=True)
class Replay:
    """What came of replaying: identical, or what differs.

    Attributes:
        differences: one sentence each.
        largest: the largest difference between a score then and now.
    """

    id: str
    identical: bool
    differences: list[str]
    largest: float
    choice: tuple[str, str]


def replay(logged: Logged, load: Load) -> Replay:
    """Compute a decision again from what was logged of it.

    Raises:
        SynchroChainError: a model version that took part cannot be loaded any more.
    """
    content = logged.content
    decision = content["decision"]
    options = decision["alternatives"]
    recorded = _still_known("ppo_agent", unpack(content["options"], len(options)))
    models = {name: _model(used, load) for name, used in decision["models"].items()}
    different: list[str] = []

    intent = forecast_intent(
        models["intent"], _still_known("intent_transformer", content["intent"])
    )
    urgency = np.repeat(intent.urgency, len(options))
    _compare("urgency", recorded["urgency"], urgency, different)
    hours, late = _delays(content["delay"], logged, models["delay"], recorded)
    _compare("expected_delay_hours", recorded["expected_delay_hours"], hours, different)
    _compare("late_probability", recorded["late_probability"], late, different)

    columns = recorded | {
        "urgency": urgency,
        "expected_delay_hours": hours,
        "late_probability": late,
        "order": np.zeros(len(options)),
        "feasible": recorded["feasible"].astype(np.bool_),
    }
    by_rule = np.full(len(options), decision["models"]["decision"]["kind"] == RULE)
    score = score_options(models["decision"], columns, GreedyWeights(**content["weights"]), by_rule)
    return _judged(logged.id, decision, content["ways"], score.scores, columns, different)


def _judged(
    decision_id: str,
    decision: Any,
    candidates: Sequence[Sequence[str]],
    scores: Any,
    columns: Columns,
    different: list[str],
) -> Replay:
    """Compare the scores and the choice with those of then."""
    before = {
        (o["warehouse_id"], o["shipping_method"]): o["score"] for o in decision["alternatives"]
    }
    then = np.array([before[warehouse, method] for warehouse, method in candidates])
    largest = _compare("score", then, scores, different)
    chosen = (decision["choice"]["warehouse_id"], decision["choice"]["shipping_method"])
    feasible = columns["feasible"]
    nearest = candidates[0][0]
    able = feasible if feasible.any() else np.array([name == nearest for name, _ in candidates])
    best = int(np.where(able, scores, -np.inf).argmax())
    choice = candidates[best][0], candidates[best][1]
    if choice != chosen:
        different.append(f"the choice was {' '.join(chosen)} and is now {' '.join(choice)}")
    return Replay(decision_id, not different, different, largest, choice)


def _delays(part: Any, logged: Logged, model: Served | Absent, recorded: Columns) -> Any:
    if part is None:
        return past_delays(recorded)
    if logged.network is None:
        raise SynchroChainError(f"the network of decision {logged.id} is no longer in the log")
    network = _still_known("supply_gnn", logged.network)
    for name, values in _still_known("supply_gnn", part["fresh"]).items():
        if name in network:
            network[name][part["at"]] = values
    answer = forecast_delays(model, network)
    return answer.hours[part["routes"]], answer.late[part["routes"]]


def _still_known(model: str, columns: Mapping[str, Sequence[Any]]) -> Columns:
    """What was logged, without features that are gone or retyped: a version that reads one of them
    does not load."""
    found: Columns = {}
    for name, values in columns.items():
        if name in CONTRACTS[model].inputs:
            with suppress(ValueError, TypeError):
                found[name] = as_column(name, values)
    return found


def _model(used: Any, load: Load) -> Served | Absent:
    name, version = used["name"], used["version"]
    if version is None:
        return Absent(name, "a rule stood in")
    try:
        return Served(name, version, used["kind"], load(name, version))
    except SynchroChainError as error:
        raise SynchroChainError(f"{name} {version} cannot be loaded: {said(error)}") from None


def _compare(what: str, then: Any, now: Any, different: list[str]) -> float:
    gap = np.abs(np.asarray(then, dtype=np.float64) - np.asarray(now, dtype=np.float64))
    largest = float(gap.max(initial=0.0))
    if not np.allclose(then, now, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
        different.append(f"{what} differs by up to {largest:.3g}")
    return largest
