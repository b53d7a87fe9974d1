"""Intent, delay and score answer with a model and without, and say which it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from serving_shop import Linear, decision_model, delay_model, intent_model, size

from pipelines.errors import DeclarationError
from pipelines.models.delay.features import ROUTE_FEATURES, past_delays
from pipelines.models.intent.features import INTENT_COLUMNS, before_purchase, past_urgency
from pipelines.registry.columns import as_column, as_columns, require
from pipelines.registry.signatures import CONTRACTS
from pipelines.serving.deciding import DECISION_FEATURES, DECISION_VIEWS
from pipelines.serving.forecasts import (
    forecast_delays,
    forecast_intent,
    score_options,
)
from pipelines.serving.greedy import GreedyWeights, greedy_scores
from pipelines.serving.loading import Absent, Served

NAN = float("nan")
ABSENT = Absent("some_model", "there is none")
RULES = GreedyWeights()


def served(predictor: Any) -> Served:
    return Served("some_model", 3, "test/linear", predictor)


def intent_columns(urgency: list[float]) -> dict[str, Any]:
    rows = len(urgency)
    columns = {name: np.full(rows, NAN) for name in INTENT_COLUMNS}
    return columns | {"urgency_score": np.array(urgency), "event_count": np.full(rows, 10.0)}


def network_columns(rows: int = 3) -> dict[str, Any]:
    columns = {name: np.full(rows, NAN) for name in ROUTE_FEATURES}
    return columns | {"delay_risk": np.linspace(0.1, 0.3, rows)}


def option_columns(**changed: Any) -> dict[str, Any]:
    """Four options of two orders."""
    columns = {
        "order": np.array([0, 0, 1, 1]),
        "shipping_method": np.array(["express", "economy"] * 2, dtype=object),
        "ship_cost": np.array([9.0, 3.0, 9.0, 3.0]),
        "promised_hours": np.array([6.0, 30.0, 6.0, 30.0]),
        "wanted_hours": np.full(4, 6.0),
        "expected_delay_hours": np.zeros(4),
        "late_probability": np.zeros(4),
        "urgency": np.zeros(4),
        "order_carbon_kg": np.zeros(4),
        "feasible": np.full(4, True),
    }
    return columns | changed


def test_a_model_that_is_there_answers() -> None:
    """And the answer says so."""
    found = forecast_intent(served(intent_model()), intent_columns([0.2]))
    assert (found.probability, found.urgency_class) == ([0.5], ["high"])
    assert found.urgency.tolist() == [0.8]
    assert (found.used.version, found.used.alias, found.why) == (3, "champion", None)


def test_without_a_model_urgency_is_that_of_the_feature() -> None:
    """Half of it, at most 1, and the usual one where it is not known, as in training."""
    found = forecast_intent(ABSENT, intent_columns([0.5, 9.0, NAN]))
    assert found.urgency.tolist() == [0.25, 1.0, 0.5]
    assert found.probability == found.urgency_class == [None] * 3
    assert (found.used.kind, found.used.version, found.why) == ("rule", None, "there is none")


def test_without_a_model_delays_are_those_of_the_past() -> None:
    """Of the last day, else of the week, else none; likewise the probability of being late."""
    columns = {
        "mean_delay_hours_24h": np.array([4.0, NAN, NAN]),
        "mean_delay_hours_7d": np.array([1.0, 2.0, NAN]),
        "late_rate_24h": np.array([0.5, NAN, NAN]),
        "delay_risk": np.array([0.1, 0.2, NAN]),
    }
    hours, late = past_delays(columns)
    assert hours.tolist() == [4.0, 2.0, 0.0]
    assert late.tolist() == [0.5, 0.2, 0.0]
    found = forecast_delays(ABSENT, columns)
    assert found.hours.tolist() == hours.tolist()
    assert found.why == "there is none"


def broken(problem: str) -> Linear:
    def answer(columns: Any) -> dict[str, Any]:
        rows = size(columns)
        match problem:
            case "raises":
                raise KeyError("urgency")
            case "short":
                return {"score": np.zeros(rows - 1)}
            case "another output":
                return {"points": np.zeros(rows)}
            case _:
                return {"score": np.array(["high"] * rows, dtype=object)}

    return Linear(answer)


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ("raises", "version 3 fails: KeyError"),
        ("short", "version 3 fails: the output 'score' has 3 values for 4 rows"),
        ("another output", "version 3 has no output score"),
        ("text", "version 3 fails: ValueError"),
    ],
)
def test_a_broken_model_is_told_and_the_rule_decides(problem: str, said: str) -> None:
    """Whatever it does, an order is answered."""
    found = score_options(
        served(broken(problem)), option_columns(), RULES, np.zeros(4, dtype=np.bool_)
    )
    assert found.scores.tolist() == greedy_scores(option_columns(), RULES).tolist()
    assert not found.by_model.any()
    assert (found.used.kind, found.why is not None and found.why.startswith(said)) == ("rule", True)


def test_a_score_that_is_no_number_costs_the_model_its_order_only() -> None:
    """All options of that order are scored by the rule, for scores must be comparable."""

    def answer(columns: Any) -> dict[str, Any]:
        return {"score": np.array([1.0, 2.0, NAN, 4.0])}

    columns = option_columns()
    found = score_options(served(Linear(answer)), columns, RULES, np.zeros(4, dtype=np.bool_))
    assert found.by_model.tolist() == [True, True, False, False]
    assert found.scores.tolist() == [1.0, 2.0, *greedy_scores(columns, RULES)[2:].tolist()]
    assert found.why == "it answers with values that are no numbers"


def test_an_order_without_its_features_is_not_the_models() -> None:
    """The others are; when none is, the model is not even asked."""
    model = decision_model()
    unfit = np.array([True, True, False, False])
    found = score_options(served(model), option_columns(), RULES, unfit)
    assert found.by_model.tolist() == [False, False, True, True]
    score_options(served(model), option_columns(), RULES, np.ones(4, dtype=np.bool_))
    assert len(model.asked) == 1


def test_answers_out_of_range_are_brought_into_it() -> None:
    """A negative delay and a probability above 1 would spoil what is made from them."""

    def answer(columns: Any) -> dict[str, Any]:
        rows = size(columns)
        return {
            "expected_delay_hours": np.full(rows, -1.0),
            "late_probability": np.full(rows, 1.5),
        }

    found = forecast_delays(served(Linear(answer)), network_columns())
    assert found.hours.tolist() == [0.0] * 3
    assert found.late.tolist() == [1.0] * 3


def test_a_route_without_an_answer_is_guessed_alone() -> None:
    """The others keep the model's."""

    def answer(columns: Any) -> dict[str, Any]:
        return {
            "expected_delay_hours": np.array([5.0, NAN, 5.0]),
            "late_probability": np.array([0.5, 0.5, 0.5]),
        }

    found = forecast_delays(served(Linear(answer)), network_columns())
    assert found.hours.tolist() == [5.0, 0.0, 5.0]
    assert found.late.tolist() == [0.5, pytest.approx(0.2), 0.5]
    assert found.why == "it answers for 2 of 3 routes"


def test_a_problem_of_the_registry_is_told_with_a_good_answer() -> None:
    """The version before answers, and why."""
    model = Served("some_model", 3, "test/linear", delay_model(), problem="version 4 is broken")
    found = forecast_delays(model, network_columns())
    assert (found.used.version, found.why) == (3, "version 4 is broken")


def test_the_greedy_rule_weighs_money_time_and_carbon() -> None:
    """In a hurry the fast way is worth its price, else not; a missing value counts as nothing."""
    calm = greedy_scores(option_columns(urgency=np.zeros(4)), RULES)
    hurried = greedy_scores(option_columns(urgency=np.ones(4)), RULES)
    assert calm[1] == -(3.0 + 0.4 * 0.3 * 24.0)
    assert calm[1] > calm[0]
    assert hurried[0] > hurried[1]
    dirty = greedy_scores(option_columns(order_carbon_kg=np.array([100.0, 0, 0, 0])), RULES)
    assert dirty[0] == pytest.approx(calm[0] - 10.0)
    unknown = option_columns(
        urgency=np.full(4, NAN), expected_delay_hours=np.full(4, NAN), order_carbon_kg=[NAN] * 4
    )
    assert greedy_scores(unknown, RULES).tolist() == calm.tolist()


def test_early_is_not_better_than_in_time() -> None:
    """Only hours beyond what was wished for cost."""
    columns = option_columns(promised_hours=np.array([1.0, 6.0, 1.0, 6.0]), ship_cost=np.ones(4))
    assert set(greedy_scores(columns, RULES)) == {-1.0}


def test_a_session_is_cut_before_its_purchase() -> None:
    """The model has never seen what comes after; a session without one is left as it is."""
    rows = [["view", "add_to_cart", "purchase", "view"], ["view"], None, ["purchase"]]
    numbers = [[1.0, 2.0, 3.0, 4.0], [1.0], None, [1.0]]
    columns = {
        "actions": rows,
        "product_ids": rows,
        "times_on_page": numbers,
        "scroll_depths": numbers,
        "gaps": numbers,
        "event_count": [40, 1, None, 1],
        "urgency_score": [1.0] * 4,
    }
    cut = before_purchase(columns)
    assert cut["actions"] == [["view", "add_to_cart"], ["view"], None, []]
    assert cut["gaps"] == [[1.0, 2.0], [1.0], None, []]
    assert cut["event_count"] == [38, 1, None, 0]
    assert columns["actions"][0] == ["view", "add_to_cart", "purchase", "view"]


def test_columns_hold_lists_as_they_are() -> None:
    """Also where all are of one length; numbers are floats, and nothing is NaN."""
    found = as_columns({"actions": [["view"], ["search"]], "event_count": [1, None]})
    assert found["actions"].tolist() == [["view"], ["search"]]
    assert found["event_count"][0] == 1.0
    assert np.isnan(found["event_count"][1])
    assert as_column("risk_category", ["low", None]).tolist() == ["low", None]


def test_each_model_is_asked_with_the_columns_of_its_contract() -> None:
    """What is registered and what is served agree by name."""
    assert set(INTENT_COLUMNS) == set(CONTRACTS["intent_transformer"].inputs)
    decided_by = set(CONTRACTS["ppo_agent"].inputs)
    views = {n.partition(":")[0] for n in CONTRACTS["ppo_agent"].features}
    assert views == {*DECISION_VIEWS, "decision_context"}
    assert set(DECISION_FEATURES) <= decided_by


@pytest.mark.parametrize(
    ("names", "objects"), [(["searches_9d"], False), (["actions"], False), (["gaps", "x"], True)]
)
def test_what_code_names_and_nobody_declares_is_one_line(names: list[str], objects: bool) -> None:
    """A feature that was taken away or retyped, with what to do."""
    with pytest.raises(DeclarationError, match=rf"intent_transformer reads .*{names[-1]}' by name"):
        require("intent_transformer", names, objects=objects)


def test_urgency_of_the_past_stays_between_nothing_and_one() -> None:
    """Whatever the feature says."""
    assert past_urgency(np.array([-1.0, 0.0, 1.0, 99.0])).tolist() == [0.0, 0.0, 0.5, 1.0]
    assert past_urgency([None, 1.5, float("nan")]).tolist() == [0.5, 0.75, 0.5]
