"""From an order to a decision on real parts: Feast, Redis and SQLite; only the models are small."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from older_decisions import DECISIONS, open_older_log
from serving_shop import (
    Linear,
    Models,
    decision_model,
    delete,
    execute,
    insert,
    open_shop,
    order_row,
    put,
    put_everything,
    size,
)

from pipelines.feast_plugins.repository import open_store
from pipelines.features.views import VIEWS
from pipelines.lake.declarations import as_recorded
from pipelines.lake.state import DECLARED, PipelineState
from pipelines.live_databases import LiveDatabases, inventory
from pipelines.redis_server import ensure_server
from pipelines.registry.signatures import CONTRACTS
from pipelines.serving.config import ServingConfig
from pipelines.serving.decision_log import DecisionLog
from pipelines.serving.decisions import Decision
from pipelines.serving.online import OnlineFeatures
from pipelines.serving.orchestrator import ModelOrchestrator
from pipelines.serving.orders import (
    NotReadyError,
    Order,
    UnknownProductError,
    UnknownUserError,
    UnservedOrderError,
)
from pipelines.serving.replay import replay
from pipelines.settings import BatchConfig, DataConfig

NOW = timedelta(0)
"""The age of what is written during a test: newer than all that was written before."""
Make = Callable[..., ModelOrchestrator]


@pytest.fixture(scope="module")
def store(folder: Path) -> Any:
    """Feast's store of the data directory, with everything about the shop in it."""
    opened = open_store(BatchConfig(data_dir=folder))
    put_everything(opened)
    return opened


@pytest.fixture(scope="module")
def databases(folder: Path) -> Iterator[LiveDatabases]:
    with open_shop(folder) as opened:
        yield opened


@pytest.fixture
def make(folder: Path, store: Any, databases: LiveDatabases, tmp_path: Path) -> Iterator[Make]:
    """Makes started orchestrators, each with a log of its own; they are stopped at the end."""
    made: list[ModelOrchestrator] = []

    def one(models: Models | None = None, config: ServingConfig | None = None) -> ModelOrchestrator:
        config = config or ServingConfig(network_max_age=3600, reference_age=3600)
        orchestrator = ModelOrchestrator(
            LiveDatabases.open(DataConfig(data_dir=folder)),
            OnlineFeatures(lambda: store),
            Models.all() if models is None else models,
            DecisionLog(tmp_path / "decisions.db", config.keep_decisions, config.log_busy),
            config,
        )
        made.append(orchestrator)
        orchestrator.start()
        return orchestrator

    yield one
    for orchestrator in made:
        orchestrator.stop()


@pytest.fixture
def orchestrator(make: Make) -> ModelOrchestrator:
    """With all three models."""
    return make()


def an_order(**given: Any) -> Order:
    return Order(**{"user_id": 1, "product_id": "P1", "session_id": "s1", **given})


def noted(decision: Decision) -> dict[str, str]:
    """What was not as it should be."""
    return {note.what: note.why for note in decision.fallbacks}


def test_an_order_is_decided_by_three_models(orchestrator: ModelOrchestrator) -> None:
    """From the features of now; nothing is left to fall back from."""
    decision = orchestrator.decide(an_order())
    assert (decision.status, decision.fallbacks, decision.logged) == ("decided", [], True)
    assert {name: used.version for name, used in decision.models.items()} == {
        "intent": 7,
        "delay": 7,
        "decision": 7,
    }
    choice = decision.choice
    assert (choice.warehouse_id, choice.shipping_method) == ("W1", "express")
    assert choice.route_id == "W1-north-air"
    assert choice.ship_cost == pytest.approx(1.5 + 2.0 * 8.0)
    assert choice.expected_delay_hours == pytest.approx(10 * 0.1 + 0.1)
    assert choice.expected_hours == pytest.approx(6.0 + 1.1)
    assert choice.late_probability == pytest.approx(0.1)
    assert choice.carbon_kg == pytest.approx(100.0 * 2.0 / 1000)
    assert (choice.stock_level, choice.feasible) == (40, True)
    intent = decision.intent
    assert (intent.purchase_probability, intent.urgency) == (pytest.approx(2 / 12), 0.8)
    assert intent.urgency_class == "high"
    assert decision.took_ms > 0


def test_what_is_left_out_is_looked_up(orchestrator: ModelOrchestrator) -> None:
    """Price and weight of the product, the region of the user; what is said goes before it."""
    found = orchestrator.decide(an_order(quantity=3)).order
    assert (found.price, found.weight_kg, found.region) == (20.0, 6.0, "north")
    said = an_order(price=0.0, weight_kg=1.5, region="south", shipping_method="express")
    found = orchestrator.decide(said).order
    assert (found.price, found.weight_kg, found.region) == (0.0, 1.5, "south")


def test_all_options_are_listed_best_first(orchestrator: ModelOrchestrator) -> None:
    """With their scores, and those that are not feasible with the reason."""
    decision = orchestrator.decide(an_order(quantity=50))
    assert len(decision.alternatives) == 8
    scores = [option.score for option in decision.alternatives]
    assert scores == sorted(scores, reverse=True)
    reasons = {o.warehouse_id: o.why_not for o in decision.alternatives}
    assert reasons == {"W1": "only 40 in stock", "W2": None}
    assert decision.choice.warehouse_id == "W2"


def test_the_features_are_shown_with_their_ages(orchestrator: ModelOrchestrator) -> None:
    """Of every view that took part, for the option that was chosen."""
    features = orchestrator.decide(an_order()).features
    assert set(features) == {
        *("session_events", "user_intent", "user_orders", "inventory_levels"),
        *("route_conditions", "decision_context"),
    }
    for use in features.values():
        assert use.state == "present"
        assert use.age_seconds is not None
        assert 0 <= use.age_seconds < 600
    assert features["inventory_levels"].values["stock_level"] == 40
    assert features["session_events"].values["actions"] == ["view", "add_to_cart"]
    assert features["decision_context"].values["stock_after_order"] == 39


def test_the_models_are_asked_with_the_columns_of_their_contracts(make: Make) -> None:
    """The delay model sees the whole network, the decision model every option."""
    models = Models.all()
    make(models).decide(an_order())
    for name, rows in (("intent_transformer", 1), ("supply_gnn", 10), ("ppo_agent", 8)):
        (asked,) = models.predictors[name].asked
        contract = CONTRACTS[name]
        assert set(contract.inputs) - contract.optional <= set(asked)
        assert set(asked) <= set(contract.inputs) | {"decision_hour"}
        assert {len(column) for column in asked.values()} == {rows}
    (asked,) = models.predictors["ppo_agent"].asked
    assert asked["expected_delay_hours"].tolist() == [pytest.approx(1.1)] * 8
    assert asked["urgency"].tolist() == [0.8] * 8
    assert asked["wanted_hours"].tolist() == [pytest.approx(11.0)] * 8
    assert asked["stock_level"].tolist() == [40.0] * 4 + [100.0] * 4


def test_a_session_that_has_bought_is_cut_before_it(make: Make, store: Any) -> None:
    """The intent model was never shown a purchase."""
    models = Models.all()
    actions = ["view", "purchase"]
    put(store, "session_events", {"session_id": "s2"}, NOW, actions=actions)
    make(models).decide(an_order(session_id="s2"))
    (asked,) = models.predictors["intent_transformer"].asked
    assert asked["actions"].tolist() == [["view"]]


def test_orders_decided_together_are_decided_alike(orchestrator: ModelOrchestrator) -> None:
    """Each as if it were alone, in their order; more than one round of them too."""
    alone = [an_order(quantity=n % 60 + 1, user_id=n % 2 + 1) for n in range(120)]
    together = orchestrator.decide_many(alone)
    assert [d.order.quantity for d in together] == [order.quantity for order in alone]
    for number in (0, 1, 59, 119):
        single = orchestrator.decide(alone[number])
        assert together[number].choice == single.choice
        assert together[number].intent == single.intent
    assert orchestrator.decide_many([]) == []


@pytest.mark.parametrize(
    ("given", "error", "field"),
    [
        ({"user_id": 99}, UnknownUserError, "user_id"),
        ({"product_id": "P99"}, UnknownProductError, "product_id"),
        ({"user_id": 3}, UnservedOrderError, "region"),
        ({"region": "nowhere"}, UnservedOrderError, "region"),
        ({"user_id": 4}, UnservedOrderError, "region"),
        ({"product_id": "P3"}, UnservedOrderError, "product_id"),
    ],
)
def test_an_order_that_cannot_be_decided_is_reported(
    orchestrator: ModelOrchestrator, given: dict[str, Any], error: Any, field: str
) -> None:
    """By type and field; of several it says which, and none of them is decided."""
    with pytest.raises(error) as raised:
        orchestrator.decide_many([an_order(), an_order(**given)])
    assert (raised.value.field, raised.value.position) == (field, 1)
    assert orchestrator.log.newest(1) == []


def test_without_enough_stock_anywhere_the_nearest_warehouse_must_restock(
    orchestrator: ModelOrchestrator,
) -> None:
    """It is a decision, flagged; the way is still the best one from there."""
    decision = orchestrator.decide(an_order(quantity=1000, weight_kg=1.0))
    assert decision.status == "backorder"
    assert not decision.choice.feasible
    assert (decision.choice.warehouse_id, decision.choice.shipping_method) == ("W1", "express")
    assert noted(decision) == {"stock": "no warehouse in reach has enough: W1 must restock first"}
    assert decision.logged


@pytest.mark.parametrize("absent", ["intent_transformer", "supply_gnn", "ppo_agent"])
def test_without_a_model_its_rule_stands_in(make: Make, absent: str) -> None:
    """The other two go on, and the decision says so."""
    models = Models.all()
    del models.predictors[absent]
    decision = make(models).decide(an_order())
    assert noted(decision) == {absent: f"no version of {absent} is champion"}
    versions = {used.name: used.version for used in decision.models.values()}
    assert versions == {name: None if name == absent else 7 for name in versions}
    assert decision.choice.feasible
    if absent == "intent_transformer":
        assert (decision.intent.purchase_probability, decision.intent.urgency) == (None, 0.25)
    if absent == "supply_gnn":
        assert decision.choice.expected_delay_hours == 2.0
        assert decision.choice.late_probability == pytest.approx(0.2)
    if absent == "ppo_agent":
        assert decision.choice.shipping_method == "standard"


def test_without_any_model_the_greedy_rule_decides(make: Make) -> None:
    """Nothing but the tariff, the past and the stock."""
    decision = make(Models()).decide(an_order())
    assert set(noted(decision)) == {"intent_transformer", "supply_gnn", "ppo_agent"}
    assert decision.models["decision"].kind == "rule"
    assert decision.choice == replace(decision.alternatives[0])


def test_a_model_that_breaks_is_reported_and_its_rule_stands_in(make: Make) -> None:
    """A wrong signature shows when it is asked."""

    def answer(columns: Any) -> dict[str, Any]:
        return {"score": columns["no_such_column"]}

    models = Models.all()
    models.predictors["ppo_agent"] = Linear(answer)
    decision = make(models).decide(an_order())
    assert noted(decision) == {"ppo_agent": "version 7 fails: KeyError: 'no_such_column'"}
    assert decision.models["decision"].version is None


@pytest.mark.parametrize(
    ("view", "keys", "order"),
    [
        ("user_intent", {"user_id": 1}, {}),
        ("inventory_levels", {"warehouse_id": "W1", "product_id": "P1"}, {}),
        ("route_conditions", {"route_id": "W1-north-air"}, {}),
    ],
)
def test_a_stale_feature_leaves_the_decision_to_the_rule(
    make: Make, store: Any, view: str, keys: dict[str, Any], order: dict[str, Any]
) -> None:
    """Older than the age that is set, though within the view's time to live."""
    orchestrator = make(config=ServingConfig(network_max_age=3600, max_age={view: 1e-6}))
    decision = orchestrator.decide(an_order(**order))
    (why,) = noted(decision).values()
    assert why.startswith("stale online")
    assert "the greedy rule decides" in why
    assert decision.models["decision"].kind == "rule"
    assert decision.features[view].state == "stale"


def test_a_feature_that_has_expired_is_stale(make: Make, store: Any, clean: Any) -> None:
    """By the view's own time to live; it is null then."""
    online = store._get_provider().online_store
    clean.setattr(online, "now", lambda now=online.now: now() + timedelta(days=8))
    decision = make().decide(an_order(user_id=2))
    assert "features of user_intent" in noted(decision)
    assert decision.features["user_intent"].state == "stale"
    assert decision.features["user_intent"].values["urgency_score"] is None


@pytest.mark.parametrize(
    ("view", "keys"),
    [
        ("user_intent", {"user_id": 1}),
        ("inventory_levels", {"warehouse_id": "W1", "product_id": "P1"}),
        ("route_conditions", {"route_id": "W1-north-air"}),
    ],
)
def test_the_features_of_what_was_deleted_are_missing(
    make: Make, store: Any, folder: Path, view: str, keys: dict[str, Any]
) -> None:
    """A row without any value is not taken for knowledge: the rule decides."""
    delete(DataConfig(data_dir=folder), view, keys)
    try:
        decision = make().decide(an_order())
    finally:
        put_everything(store, NOW)
    assert any(why.startswith("missing online") for why in noted(decision).values())
    assert decision.models["decision"].kind == "rule"
    if view != "route_conditions":  # there, that of the chosen route is shown
        assert decision.features[view].state == "missing"


@pytest.fixture
def clean() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_stock_that_is_not_online_is_read_from_the_live_database(
    make: Make, databases: LiveDatabases
) -> None:
    """A product so new that no feature of it was computed yet."""
    stock = {"reserved_stock": 0, "reorder_point": 1, "carbon_footprint": 0.0}
    row = {"warehouse_id": "W1", "product_id": "P2", "current_stock": 8, **stock}
    insert(databases, inventory, row | {"updated_at": order_row(1)["order_timestamp"]})
    try:
        decision = make().decide(an_order(product_id="P2", quantity=6))
    finally:
        execute(
            databases,
            "inventory",
            inventory.delete().where(
                (inventory.c.warehouse_id == "W1") & (inventory.c.product_id == "P2")
            ),
        )
    assert decision.status == "decided"
    assert (decision.choice.warehouse_id, decision.choice.stock_level) == ("W1", 8)
    why = noted(decision)["features of inventory_levels"]
    assert why.startswith("missing online for")
    assert why.endswith("stock comes from the live database")
    assert decision.models["decision"].kind == "rule"


def test_who_orders_for_the_first_time_is_decided_by_the_models(
    make: Make, databases: LiveDatabases
) -> None:
    """A visit is known of, orders are not, and the model was trained with such."""
    from pipelines.live_databases import users

    insert(
        databases,
        users,
        {"user_id": 50, "region": "north", "signed_up_at": order_row(1)["order_timestamp"]},
    )
    orchestrator = make()
    put(orchestrator.features._store, "user_intent", {"user_id": 50}, NOW)
    decision = orchestrator.decide(an_order(user_id=50))
    assert decision.features["user_orders"].state == "missing"
    assert decision.models["decision"].version == 7
    assert decision.fallbacks == []


@pytest.mark.parametrize("absent", [None, "intent_transformer", "supply_gnn", "ppo_agent"])
def test_a_decision_is_replayed_to_the_same_answer(make: Make, absent: str | None) -> None:
    """From the log alone and the versions of then, whichever rule stood in.

    A route was read afresh for it, and has moved on since.
    """
    models = Models.all()
    models.predictors.pop(absent or "", None)
    orchestrator = make(models)
    store, route = orchestrator.features._store, {"route_id": "W1-north-air"}
    put(store, "route_conditions", route, NOW, delay_risk=0.4)
    decision = orchestrator.decide(an_order(quantity=2))
    put(store, "user_intent", {"user_id": 1}, NOW, urgency_score=2.0)
    put(store, "route_conditions", route, NOW)
    found = replay(orchestrator.log.get(decision.id), models.load)
    assert (found.identical, found.differences, found.largest) == (True, [], 0.0)
    assert found.choice == ("W1", decision.choice.shipping_method)
    put(store, "user_intent", {"user_id": 1}, NOW)


@pytest.mark.parametrize("how", DECISIONS)
def test_a_decision_that_older_code_has_logged_is_replayed(tmp_path: Path, how: str) -> None:
    """To the same choice and the same scores: what is persisted keeps its names."""
    decision, choice = DECISIONS[how]
    log = open_older_log(tmp_path)
    found = replay(log.get(decision), Models.all().load)
    log.close()
    assert (found.differences, found.largest, found.choice) == ([], 0.0, choice)


def test_a_decision_is_logged_as_older_code_has_logged_it(make: Make, tmp_path: Path) -> None:
    """By the same names, however deep, so that a log is of one kind throughout."""

    def names(value: Any, path: str = "") -> set[str]:
        if isinstance(value, dict):
            return {p for name, part in value.items() for p in names(part, f"{path}.{name}")}
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return names(value[0], f"{path}[]")
        return {path}

    decision, _ = DECISIONS["by the models, a route read afresh"]
    (tmp_path / "older").mkdir()
    older = open_older_log(tmp_path / "older")
    orchestrator = make()
    logged = orchestrator.log.get(orchestrator.decide(an_order(quantity=2)).id)
    then = older.get(decision)
    older.close()
    assert names(logged.content) == names(then.content)
    assert logged.network is not None
    assert then.network is not None
    assert logged.network.keys() == then.network.keys()


def test_orders_decided_together_are_replayed_one_by_one(make: Make) -> None:
    """Backorders too."""
    models = Models.all()
    orchestrator = make(models)
    decided = orchestrator.decide_many([an_order(quantity=n) for n in (1, 50, 1000, 2, 3, 4)])
    for decision in decided:
        assert replay(orchestrator.log.get(decision.id), models.load).identical


@pytest.mark.parametrize("changed", ["intent_transformer", "supply_gnn", "ppo_agent"])
def test_a_replay_that_comes_out_differently_says_what_differs(make: Make, changed: str) -> None:
    """Here a version whose weights are others than they were."""
    models = Models.all()
    orchestrator = make(models)
    decision = orchestrator.decide(an_order())

    def answer(columns: Any) -> dict[str, Any]:
        rows = size(columns)
        return {
            "purchase_probability": np.zeros(rows),
            "urgency_class": np.array(["low"] * rows, dtype=object),
            "urgency": np.full(rows, 0.1),
            "expected_delay_hours": np.full(rows, 99.0),
            "late_probability": np.full(rows, 0.9),
            "score": np.arange(rows, dtype=float),
        }

    models.predictors[changed] = Linear(answer)
    found = replay(orchestrator.log.get(decision.id), models.load)
    assert not found.identical
    what = {
        "intent_transformer": ["urgency differs"],
        "supply_gnn": ["expected_delay_hours differs", "late_probability differs"],
        "ppo_agent": ["score differs", "the choice was W1 express and is now W2 overnight"],
    }[changed]
    for start, line in zip(what, found.differences, strict=True):
        assert line.startswith(start)


def test_a_log_that_cannot_be_written_costs_the_record_not_the_answer(
    orchestrator: ModelOrchestrator, caplog: pytest.LogCaptureFixture
) -> None:
    """And the decision says so, as readiness does; the process says it once, and when it is over.

    A line with every decision would fill the disk that is full.
    """
    orchestrator.decide(an_order())
    assert not any("decision log" in line for line in orchestrator.readiness().warnings)
    with closing(sqlite3.connect(orchestrator.log.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        orchestrator.decide_many([an_order(), an_order()])
        decision = orchestrator.decide(an_order())
        assert any("decision log: " in line for line in orchestrator.readiness().warnings)
        other.execute("ROLLBACK")
    assert not decision.logged
    assert decision.choice.feasible
    assert "it cannot be written: " in noted(decision)["decision log"]
    assert orchestrator.decide(an_order()).logged
    assert not any("decision log" in line for line in orchestrator.readiness().warnings)
    assert caplog.text.count("decisions are not logged: ") == 1
    assert caplog.text.count("decisions are logged again; 3 were not") == 1


def test_before_it_has_started_it_says_so(folder: Path, databases: LiveDatabases) -> None:
    """Without waiting."""
    waiting = ModelOrchestrator.open(DataConfig(), BatchConfig())
    with pytest.raises(NotReadyError, match="it is starting"):
        waiting.decide(an_order())
    assert waiting.readiness().reasons == ["it is starting"]
    waiting.stop()


def test_other_declarations_are_said_once_and_while_they_last(
    folder: Path,
    store: Any,
    databases: LiveDatabases,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is not ready, for features mean something else by now; decisions go on meanwhile."""
    differing = ["user_intent"]
    orchestrator = ModelOrchestrator(
        LiveDatabases.open(DataConfig(data_dir=folder)),
        OnlineFeatures(lambda: store),
        Models.all(),
        DecisionLog(tmp_path / "decisions.db", 10, 0.05),
        declared_otherwise=lambda: differing,
    )
    with orchestrator:
        orchestrator._look_at_declarations()
        (reason,) = orchestrator.readiness().reasons
        assert reason.startswith("user_intent: what is published was declared otherwise")
        assert caplog.text.count(reason) == 1
        assert orchestrator.decide(an_order()).status == "decided"
        differing.clear()  # a cycle has been run with this process' declarations
        orchestrator._look_at_declarations()
        assert orchestrator.readiness().ready


def test_the_declarations_are_those_of_the_data_directory(tmp_path: Path) -> None:
    """Before there is a state none is made, and nothing differs."""
    config, data = BatchConfig(data_dir=tmp_path), DataConfig(data_dir=tmp_path)
    with LiveDatabases.open(data) as databases:
        databases.create()
    opened = ModelOrchestrator.open(data, config)
    assert opened._declared_otherwise() == ()
    assert not config.state_path.exists()
    state = PipelineState(config.state_path)
    assert opened._declared_otherwise() == []
    state.set_metadata(DECLARED, as_recorded())
    assert opened._declared_otherwise() == []
    state.set_metadata(DECLARED, "{}")
    assert opened._declared_otherwise() == [view.name for view in VIEWS]
    opened.stop()


def test_the_network_is_read_again_when_it_is_old(make: Make, store: Any) -> None:
    """A route that is no candidate changes the forecast of one that is, through the snapshot."""
    orchestrator = make()
    before = orchestrator.decide(an_order()).choice.expected_delay_hours
    snapshot = orchestrator.network.snapshot
    put(store, "route_conditions", {"route_id": "S1-W2-road"}, NOW, delay_risk=0.9)
    assert orchestrator.decide(an_order()).choice.expected_delay_hours == before
    orchestrator.network.renew()
    assert orchestrator.network.snapshot is not snapshot
    after = orchestrator.decide(an_order()).choice.expected_delay_hours
    assert after == pytest.approx(before + 0.8 / 10)
    put(store, "route_conditions", {"route_id": "S1-W2-road"}, NOW)


def test_a_candidate_route_is_read_when_the_order_comes(make: Make, store: Any) -> None:
    """The snapshot does not have to be new for that."""
    orchestrator = make()
    orchestrator.decide(an_order())
    put(store, "route_conditions", {"route_id": "W1-north-air"}, NOW, delay_risk=0.5)
    choice = orchestrator.decide(an_order()).choice
    assert choice.late_probability == 0.5
    put(store, "route_conditions", {"route_id": "W1-north-air"}, NOW)


def test_a_snapshot_that_is_too_old_is_not_used(make: Make) -> None:
    """Delays are then those of each route's own past."""
    orchestrator = make(config=ServingConfig(network_max_age=3600, stale_after=10))
    old = orchestrator.network.snapshot
    assert old is not None
    orchestrator.network.snapshot = replace(old, taken=old.taken - 60)
    decision = orchestrator.decide(an_order())
    assert noted(decision)["supply_gnn"].startswith("what is known of the network is 6")
    assert decision.choice.expected_delay_hours == 2.0


def test_while_redis_is_away_orders_are_decided_from_what_was_seen(
    folder: Path, make: Make
) -> None:
    """And say so; what was never seen is the rule's. When Redis is back, all is as before."""
    orchestrator = make()
    orchestrator.decide(an_order())
    process = ensure_server(DataConfig(data_dir=folder)).pid
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    try:
        known = orchestrator.decide(an_order())
        unknown = orchestrator.decide(an_order(user_id=4, region="north"))
    finally:
        os.kill(process, signal.SIGCONT)
    assert known.read_mode == unknown.read_mode == "stale_fallback"
    assert noted(known)["Redis"].startswith("it is away: features are those seen")
    assert known.models["decision"].version == 7
    assert unknown.models["decision"].version is None
    assert unknown.choice.feasible
    online = orchestrator.features._store._get_provider().online_store
    with suppress(Exception):
        online.stale_fallback._failed -= 10  # as if it were time to ask again
    assert orchestrator.decide(an_order()).fallbacks == []


def test_when_redis_was_never_there_the_live_databases_answer(
    folder: Path, databases: LiveDatabases, tmp_path: Path
) -> None:
    """Stock from there, delays unknown, decided by the rule."""
    store = open_store(BatchConfig(data_dir=folder))  # a process that has seen nothing
    process = ensure_server(DataConfig(data_dir=folder)).pid
    assert process is not None
    orchestrator = ModelOrchestrator(
        LiveDatabases.open(DataConfig(data_dir=folder)),
        OnlineFeatures(lambda: store),
        Models({"ppo_agent": decision_model()}),
        DecisionLog(tmp_path / "decisions.db", 10, 0.05),
    )
    os.kill(process, signal.SIGSTOP)
    try:
        orchestrator.start()
        assert "network" in orchestrator._problems
        assert not orchestrator.readiness().ready
        decision = orchestrator.decide(an_order())
    finally:
        os.kill(process, signal.SIGCONT)
        orchestrator.stop()
    assert decision.read_mode == "unavailable"
    assert (decision.status, decision.choice.stock_level) == ("decided", 40)
    assert decision.models["decision"].kind == "rule"
    assert "Redis" in noted(decision)
    assert decision.choice.carbon_kg == pytest.approx(2.0 * 12.0 / 1000)


def test_threads_decide_in_turn(orchestrator: ModelOrchestrator) -> None:
    """Each gets the answer to its own order, while the network is read again."""
    wanted = [an_order(quantity=n + 1) for n in range(60)]
    with ThreadPoolExecutor(4) as pool:
        renewing = pool.submit(orchestrator.network.renew)
        decided = list(pool.map(orchestrator.decide, wanted))
        renewing.result()
    assert [d.order.quantity for d in decided] == [order.quantity for order in wanted]
    assert {d.choice.warehouse_id for d in decided if d.order.quantity > 40} == {"W2"}
    assert len(orchestrator.log.newest(100)) == 60
