"""What the three models say, each with the rule that stands in for it: intent, delays, scores.

Pure functions of columns and models, so that a decision can be replayed from what was logged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import said
from pipelines.models.delay.features import forecast_or_past, past_delays
from pipelines.models.intent.features import past_urgency
from pipelines.registry.columns import Columns, as_column
from pipelines.registry.packaging import outputs_of
from pipelines.serving.decisions import ModelUsed
from pipelines.serving.greedy import GreedyWeights, greedy_scores
from pipelines.serving.loading import Absent, Served

Floats = NDArray[np.float64]

RULE: Final = "rule"
"""The kind of what answers where no model does."""


@dataclass(frozen=True)
class IntentForecast:
    """(N,) each; probability and class are None where the model did not answer.

    `why` says why a rule or another version stood in, None if nothing was wrong; so in the others.
    """

    probability: list[float | None]
    urgency_class: list[str | None]
    urgency: Floats
    used: ModelUsed
    why: str | None


@dataclass(frozen=True)
class DelayForecast:
    """(routes,) mean hours past the promise and probability of being late."""

    hours: Floats
    late: Floats
    used: ModelUsed
    why: str | None


@dataclass(frozen=True)
class OptionScores:
    """(C,) score of each candidate; `by_model` is False where the greedy rule has scored."""

    scores: Floats
    by_model: NDArray[np.bool_]
    used: ModelUsed
    why: str | None


def forecast_intent(model: Served | Absent, columns: Columns) -> IntentForecast:
    """How urgent each order is, and how likely a purchase; one row per order."""
    names = ("purchase_probability", "urgency_class", "urgency")
    outputs, why = _ask(model, columns, names)
    guessed = past_urgency(columns["urgency_score"])
    if outputs is None or isinstance(model, Absent):
        nothing: list[Any] = [None] * len(guessed)
        return IntentForecast(nothing, nothing, guessed, used_rule(model.model), why)
    urgency, probability = outputs["urgency"], outputs["purchase_probability"]
    good = np.isfinite(urgency) & np.isfinite(probability)
    if not good.all():
        why = why or "it answers with values that are no numbers"
    return IntentForecast(
        [float(p) if g else None for p, g in zip(probability, good, strict=True)],
        [str(c) if g else None for c, g in zip(outputs["urgency_class"], good, strict=True)],
        np.where(good, np.clip(urgency, 0.0, 1.0), guessed),
        used_of(model),
        why,
    )


def forecast_delays(model: Served | Absent, columns: Columns) -> DelayForecast:
    """How late routes will be, one row per route of the network."""
    names = ("expected_delay_hours", "late_probability")
    outputs, why = _ask(model, columns, names)
    if outputs is None or isinstance(model, Absent):
        return DelayForecast(*past_delays(columns), used_rule(model.model), why)
    hours, late, good = forecast_or_past(outputs[names[0]], outputs[names[1]], columns)
    if not good.all():
        why = why or f"it answers for {int(good.sum())} of {len(good)} routes"
    return DelayForecast(hours, late, used_of(model), why)


def score_options(
    model: Served | Absent, columns: Columns, weights: GreedyWeights, unfit: NDArray[np.bool_]
) -> OptionScores:
    """Score candidates, by the model or by the greedy rule.

    Args:
        model: the decision model, or why there is none.
        columns: (C,) its input.
        weights: of the greedy rule.
        unfit: (C,) those of orders that the model must not decide, for want of features.
    """
    scores = greedy_scores(columns, weights)
    no_model = np.zeros(len(scores), dtype=np.bool_)
    if unfit.all():
        return OptionScores(scores, no_model, used_rule(model.model), None)
    outputs, why = _ask(model, columns, ("score",))
    if outputs is None or isinstance(model, Absent):
        return OptionScores(scores, no_model, used_rule(model.model), why)
    order = columns["order"].astype(np.int64)
    bad = unfit | ~np.isfinite(outputs["score"])
    if (bad & ~unfit).any():
        why = why or "it answers with values that are no numbers"
    worst = np.bincount(order, bad, minlength=order.max(initial=0) + 1) > 0
    by_model = ~worst[order]  # one rule for all of an order: scores must be comparable
    return OptionScores(np.where(by_model, outputs["score"], scores), by_model, used_of(model), why)


def used_of(model: Served) -> ModelUsed:
    """How a decision names the model."""
    return ModelUsed(model.model, model.version, model.alias, model.kind)


def used_rule(model: str) -> ModelUsed:
    """How a decision names the rule that stands in for a model."""
    return ModelUsed(model, None, None, RULE)


def _ask(
    model: Served | Absent, columns: Columns, names: Sequence[str]
) -> tuple[Columns | None, str | None]:
    """The model's outputs and what is wrong with them or it."""
    if isinstance(model, Absent):
        return None, model.why
    try:
        found = outputs_of(model.predictor, columns)
        missing = [name for name in names if name not in found]
        if missing:
            return None, f"version {model.version} has no output {', '.join(missing)}"
        outputs = {name: as_column(name, found[name]) for name in names}
    except Exception as error:  # whatever a model stumbles over, the rule answers instead
        return None, f"version {model.version} fails: {said(error)}"
    return outputs, model.problem
