"""One round of decisions: the features read for the orders and the models' answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.features.views import VIEWS_BY_NAME
from pipelines.lake.clock import aware_now
from pipelines.registry.signatures import CONTRACTS, DECISION_CONTEXT
from pipelines.serving.decisions import Fallback
from pipelines.serving.greedy import Floats, numbers, past_delays
from pipelines.serving.loading import ModelSource
from pipelines.serving.online import SERVICES, OnlineRows, State
from pipelines.serving.options import ServingOptions
from pipelines.serving.orders import Order, UnservedOrderError
from pipelines.serving.outlook import Columns, Snapshot
from pipelines.serving.reference import Reference, Route
from pipelines.serving.steps import (
    INTENT_COLUMNS,
    DelayAnswer,
    IntentAnswer,
    ScoreAnswer,
    as_column,
    as_columns,
    before_purchase,
    delay_step,
    intent_step,
    score_step,
)
from pipelines.serving.ways import Way, wanted_hours, ways_of

NEEDED: Final = ("user_intent", "inventory_levels", "route_conditions")
"""Views without which the model does not decide. A first order has no user_orders, which the model
was trained for."""
DECISION_VIEWS: Final = CONTRACTS["ppo_agent"].views
CONTEXT: Final = "decision_context"
CONTEXT_FEATURES: Final = tuple(DECISION_CONTEXT)
FEATURES_OF: Final = {view: VIEWS_BY_NAME[view].features for view in VIEWS_BY_NAME}
_FEATURES: Final = (
    *(name for view in DECISION_VIEWS for name in FEATURES_OF[view]),
    *CONTEXT_FEATURES,
)


@dataclass(frozen=True)
class Case:
    """One completed order with its fulfilment options.

    `places` are the distinct (warehouse, route) of the options; `place_of` has by option its index
    in `places`.
    """

    order: Order
    ways: list[Way]
    wanted: float
    places: list[tuple[str, Route]]
    place_of: list[int]


def case_of(order: Order, reference: Reference, at_most: int) -> Case:
    """Complete an order and list its fulfilment options.

    Args:
        order: as it came in.
        reference: looks up products, regions and routes.
        at_most: the most warehouses.

    Raises:
        OrderError: it cannot be decided.
    """
    home = reference.region_of(order.user_id)
    product = reference.product(order.product_id)
    weight = product.weight_kg * order.quantity if order.weight_kg is None else order.weight_kg
    region = order.region or home
    completed = order.model_copy(
        update={
            "price": product.price if order.price is None else order.price,
            "weight_kg": weight,
            "region": region,
        }
    )
    ways = ways_of(reference.candidates(region, product, at_most), weight)
    if not ways:
        raise UnservedOrderError("region", f"no shipping method reaches region {region!r}")
    place_of: dict[tuple[str, str], int] = {}
    places: list[tuple[str, Route]] = []
    for way in ways:
        if (way.warehouse_id, way.route.route_id) not in place_of:
            place_of[way.warehouse_id, way.route.route_id] = len(places)
            places.append((way.warehouse_id, way.route))
    return Case(
        completed,
        ways,
        wanted_hours(ways, order.shipping_method),
        places,
        [place_of[way.warehouse_id, way.route.route_id] for way in ways],
    )


@dataclass
class Round:
    """Decides on several orders at once; every step fills in what the next one needs.

    Sizes: N orders, P places (distinct warehouse and route of an order), O options of all orders.

    Attributes:
        read: reads a service's features for rows of keys.
        first: (N + 1,) where the options of an order begin.
        place: (O,) the row of `places` that an option is read from.
        route_at: (O,) its route in the network; None where no delay model was asked.
        network_columns: the delay model's input, all routes; `overlaid` are those read afresh.
        columns: (O,) the decision model's input.
        troubles: fallbacks that concern all orders; `notes` by order.
    """

    cases: list[Case]
    reference: Reference
    models: ModelSource
    options: ServingOptions
    read: Callable[[str, Sequence[Mapping[str, Any]]], OnlineRows]
    troubles: list[Fallback] = field(default_factory=list)

    sessions: OnlineRows = field(init=False)
    intent_columns: Columns = field(init=False)
    intent: IntentAnswer = field(init=False)
    snapshot: Snapshot | None = field(init=False, default=None)
    overlaid: list[str] = field(init=False, default_factory=list)
    network_columns: Columns = field(init=False, default_factory=dict)
    delay: DelayAnswer | None = field(init=False, default=None)
    places: OnlineRows = field(init=False)
    place: NDArray[np.int64] = field(init=False)
    route_at: list[int] | None = field(init=False, default=None)
    columns: Columns = field(init=False)
    score: ScoreAnswer = field(init=False)

    def __post_init__(self) -> None:
        self.decided_at = aware_now()
        self.counts = [len(case.ways) for case in self.cases]
        self.first: list[int] = np.concatenate([[0], np.cumsum(self.counts)]).tolist()
        self.notes: list[list[Fallback]] = [[] for _ in self.cases]
        self._states: dict[str, NDArray[Any]] = {}

    def want(self) -> None:
        """Intent: one row per order."""
        rows = [
            {"session_id": case.order.session_id or "", "user_id": case.order.user_id}
            for case in self.cases
        ]
        self.sessions = self.read(SERVICES["intent_transformer"], rows)
        cut = before_purchase({name: self.sessions.columns[name] for name in INTENT_COLUMNS})
        self.intent_columns = as_columns(cut)
        self.intent = intent_step(self.models.get("intent_transformer"), self.intent_columns)
        self._fell_back("intent_transformer", self.intent.why)

    def expect(self, snapshot: Snapshot | None) -> None:
        """Delay: all routes of the network, those of the orders freshly read."""
        asked: dict[str, dict[str, str]] = {}
        for case in self.cases:
            for warehouse, route in case.places:
                asked.setdefault(
                    route.route_id,
                    {
                        "route_id": route.route_id,
                        "warehouse_id": warehouse,
                        "product_id": case.order.product_id,
                    },
                )
        read = self.read(SERVICES["supply_gnn"], list(asked.values()))
        self.snapshot = snapshot
        problem = self._of_no_use(snapshot, asked)
        if snapshot is None or problem is not None:
            self._fell_back("supply_gnn", problem)
            return
        self.overlaid = list(asked) if read.read_mode != "unavailable" else []
        self.network_columns = snapshot.overlaid(self.overlaid, read.columns)
        self.delay = delay_step(self.models.get("supply_gnn"), self.network_columns)
        self._fell_back("supply_gnn", self.delay.why)

    def _of_no_use(self, snapshot: Snapshot | None, routes: Mapping[str, Any]) -> str | None:
        if snapshot is None:
            return "the network has not been read yet"
        age = snapshot.age(self.decided_at.timestamp())
        if age > self.options.stale_after:
            return f"what is known of the network is {age:.0f} s old"
        if any(name not in snapshot.network.position for name in routes):
            return "the network has changed and is being read again"
        return None

    def choose(self) -> None:
        """Score every option of every order."""
        rows = [
            {
                "user_id": case.order.user_id,
                "warehouse_id": warehouse,
                "product_id": case.order.product_id,
                "route_id": route.route_id,
                "quantity": case.order.quantity,
                "price": float(case.order.price or 0.0),
                "weight_kg": float(case.order.weight_kg or 0.0),
            }
            for case in self.cases
            for warehouse, route in case.places
        ]
        self.places = self.read(SERVICES["ppo_agent"], rows)
        place, before = [], 0
        for case in self.cases:
            place += [before + number for number in case.place_of]
            before += len(case.places)
        self.place = np.array(place)
        self.columns = self._decision_columns()
        unfit = np.repeat([self._unfit(n) for n in range(len(self.cases))], self.counts)
        self.score = score_step(
            self.models.get("ppo_agent"), self.columns, self.options.weights, unfit
        )
        if not unfit.all():
            self._fell_back("ppo_agent", self.score.why)

    def _decision_columns(self) -> Columns:
        columns = {
            name: as_column(name, self.places.columns[name])[self.place] for name in _FEATURES
        }
        ways = [way for case in self.cases for way in case.ways]
        order = np.repeat(np.arange(len(self.cases)), self.counts)
        orders = [case.order for case in self.cases]
        for name in ("quantity", "price", "weight_kg"):
            columns[name] = np.array([float(getattr(o, name)) for o in orders])[order]
        columns["order"] = order
        columns["decision_hour"] = np.full(len(order), float(self.decided_at.hour))
        columns["shipping_method"] = as_column("shipping_method", [w.shipping_method for w in ways])
        columns["ship_cost"] = np.array([way.ship_cost for way in ways])
        columns["promised_hours"] = np.array([way.promised_hours for way in ways])
        columns["wanted_hours"] = np.array([case.wanted for case in self.cases])[order]
        columns["urgency"] = self.intent.urgency[order]
        self._fill_in(columns, ways)
        hours, late = self._delays(columns, ways)
        columns["expected_delay_hours"], columns["late_probability"] = hours, late
        columns["feasible"] = numbers(columns["stock_level"]) >= columns["quantity"]
        return columns

    def _fill_in(self, columns: Columns, ways: Sequence[Way]) -> None:
        """Fill in stock and carbon from the live databases where the online store lacks them."""
        level = columns["stock_level"]
        states = self.states("inventory_levels")
        unknown = np.isnan(level) | (states[self.place] != "present")
        if unknown.any():
            products = [case.order.product_id for case in self.cases for _ in case.ways]
            wanted = {(ways[n].warehouse_id, products[n]) for n in np.flatnonzero(unknown).tolist()}
            stock = self.reference.stock(wanted)
            for n in np.flatnonzero(unknown).tolist():
                level[n] = stock.get((ways[n].warehouse_id, products[n]), np.nan)
            columns["stock_after_order"] = level - columns["quantity"]
        carbon = columns["order_carbon_kg"]
        static = np.array([way.route.carbon_cost for way in ways]) * columns["weight_kg"] / 1000
        columns["order_carbon_kg"] = np.where(np.isnan(carbon), static, carbon)

    def _delays(self, columns: Columns, ways: Sequence[Way]) -> tuple[Floats, Floats]:
        if self.delay is None or self.snapshot is None:
            return past_delays(columns)
        position = self.snapshot.network.position
        self.route_at = [position[way.route.route_id] for way in ways]
        return self.delay.hours[self.route_at], self.delay.late[self.route_at]

    def _unfit(self, number: int) -> bool:
        """Whether an order lacks a feature without which the model does not decide."""
        rows = sorted({*self.place[self.first[number] : self.first[number + 1]].tolist()})
        unfit = False
        for view in NEEDED:
            states = self.states(view)[rows]
            for state in ("missing", "stale"):
                bad = int((states == state).sum())
                if bad:
                    unfit = True
                    instead = (
                        "; stock comes from the live database" if view == "inventory_levels" else ""
                    )
                    some = f" for {bad} of {len(rows)} ways" if bad < len(rows) else ""
                    why = f"{state} online{some}: the greedy rule decides{instead}"
                    self.notes[number].append(Fallback(f"features of {view}", why))
        if self.places.mode_age > self.options.stale_after:
            unfit = True
        return unfit

    def states(self, view: str) -> NDArray[Any]:
        """(P,) present, missing or stale."""
        if view not in self._states:
            states = states_of(self.places, view, self.options.max_age.get(view))
            self._states[view] = np.array(states, dtype=object)
        return self._states[view]

    def _fell_back(self, what: str, why: str | None) -> None:
        if why is not None:
            self.troubles.append(Fallback(what, why))


def states_of(
    read: OnlineRows, view: str, max_age: float | None, rows: Sequence[int] | None = None
) -> list[State]:
    """Whether rows of a view count.

    Args:
        read: the result of a read.
        view: the view.
        max_age: seconds beyond which a row is stale; None for the time to live only.
        rows: indices; None for all.
    """
    known = read.views[view]
    oldest = 0.0 if max_age is None else read.read_at - max_age
    return [
        "stale" if known.states[n] == "present" and known.stamps[n] < oldest else known.states[n]
        for n in (range(len(known.states)) if rows is None else rows)
    ]
