"""What a decision says: the choice, its alternatives, and everything that led to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic_core import to_jsonable_python

from pipelines.serving.orders import Order

Status = Literal["decided", "backorder"]


@dataclass(frozen=True)
class Option:
    """One way to serve the order, with its forecasts and its score.

    Attributes:
        ship_cost: $.
        promised_hours, expected_delay_hours, expected_hours: to the door; the last is the sum.
        late_probability: of being late at all.
        carbon_kg: kgCO2e of carrying it.
        stock_level: units not reserved; None if that is not known.
        score: higher is better; of the model, or minus the greedy rule's cost in $.
        why_not: set if it is not feasible.
    """

    warehouse_id: str
    shipping_method: str
    route_id: str
    mode: str
    ship_cost: float
    promised_hours: float
    expected_delay_hours: float
    expected_hours: float
    late_probability: float
    carbon_kg: float
    stock_level: int | None
    score: float
    feasible: bool
    why_not: str | None = None


@dataclass(frozen=True)
class Intent:
    """The customer's intent as forecast; probability and class are None without a model."""

    purchase_probability: float | None
    urgency_class: str | None
    urgency: float


@dataclass(frozen=True)
class ViewUse:
    """The features of one view that spoke for the choice, and how old they were.

    Attributes:
        event_timestamp: UTC, of the row of the chosen option; None if nothing is known.
        age_seconds: of that row.
        state: present, missing, or stale (older than the view's time to live or the limit set).
        oldest_age_seconds: the oldest row of all options.
        values: by feature.
    """

    state: str
    event_timestamp: datetime | None
    age_seconds: float | None
    oldest_age_seconds: float | None
    values: dict[str, Any]


@dataclass(frozen=True)
class ModelUsed:
    """Which version answered; all None where a rule stood in."""

    name: str
    version: int | None
    alias: str | None
    kind: str


@dataclass(frozen=True)
class Fallback:
    """Something that was not as it should be: what, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Decision:
    """The answer to one order.

    Attributes:
        status: "backorder" if no option is feasible: the choice is then the nearest warehouse that
            carries the product, which has to be restocked first.
        order: as it was asked for, with what was left out filled in.
        alternatives: every option, the choice included, best score first.
        features: by view.
        models: intent, delay, decision: which version of which model.
        network_age_seconds: of the snapshot of the routes that are no candidates.
        read_mode: "redis"; "stale_fallback" if Redis is away and what was read before answers, or
            "unavailable".
        logged: whether the decision log has it, so that it can be replayed.
        took_ms: without logging; for one of several, its share.
    """

    id: str
    status: Status
    decided_at: datetime
    order: Order
    choice: Option
    alternatives: list[Option]
    intent: Intent
    features: dict[str, ViewUse]
    models: dict[str, ModelUsed]
    fallbacks: list[Fallback] = field(default_factory=list)
    network_age_seconds: float | None = None
    read_mode: str = "redis"
    logged: bool = False
    took_ms: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, time stamps in ISO 8601, for JSON."""
        plain: dict[str, Any] = to_jsonable_python(self, inf_nan_mode="null")
        return plain
