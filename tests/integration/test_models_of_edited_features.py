"""Features come and go under trained models: what can go on does, the rest says why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import new_directory, used_directory
from documented import python_blocks
from edited_copy import EditedCopy
from edited_models import model_process

from pipelines.cli.main_job import simulate_until_now
from pipelines.settings import DataConfig

USERS, ROUTES = (f"pipelines/features/{name}.py" for name in ("user_intent", "route_conditions"))
TASKS = ("intent", "gnn", "ppo")
MODELS = ("intent_transformer", "supply_gnn", "ppo_agent")
TEXT = 'Feature("last_action", last(CLICKS.action, within=WEEK), "a text, for no model"),'
ROUTE = 'Feature("deliveries_7d", count(DELIVERIES, within=days(7)), "deliveries in 7 days"),'


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EditedCopy]:
    """A copy of the package on a simulated shop."""
    with new_directory() as data_dir:
        with used_directory(data_dir):
            simulate_until_now(DataConfig(), {"users": 1500, "products": 40, "days": 7, "seed": 7})
        yield EditedCopy(tmp_path_factory.mktemp("copy"), data_dir)


def versions(decision: dict[str, Any]) -> dict[str, int | None]:
    return {used["name"]: used["version"] for used in decision["models"].values()}


def notes(decision: dict[str, Any]) -> dict[str, str]:
    return {note["what"]: note["why"] for note in decision["fallbacks"]}


def with_features(copy: EditedCopy) -> None:
    """The documentation's line and a text, and a number of a route."""
    line = python_blocks("docs/features.md")[0].rstrip()
    copy.edit(USERS, "    features=(\n", f"    features=(\n{line},\n{TEXT}\n")
    copy.edit(ROUTES, "    features=(\n", f"    features=(\n{ROUTE}\n")


def test_versions_outlive_features_that_they_do_not_read(copy: EditedCopy) -> None:
    """A feature more: champions decide on, old decisions are replayed, new versions read it. It is
    taken away: who read it says so in one line, and the champion of before decides again."""
    with model_process(copy) as process:
        assert "error" not in process.cycle_now()
        trained = process.train(*TASKS)
        assert trained.keys() == set(TASKS), trained
        before = process.decide()
        champions = versions(before)
        assert None not in champions.values()
    with_features(copy)
    with model_process(copy) as process:
        unapplied = process.train("intent")["error"]
        assert "Feast does not know user_intent:searches_7d, user_intent:last_action" in unapplied
        assert unapplied.endswith("with `synchrochain batch --once`")
        report = process.cycle_now()
        assert set(report["feature_rows"]) == {"user_intent", "route_conditions"}
        decided = process.decide()
        assert (versions(decided), notes(decided)) == (champions, notes(before))
        assert process.replay(before["id"])["identical"]
        assert process.rebuild(trained["intent"]["run_id"])["identical"]
        again = process.train(*TASKS)
        assert again.keys() == set(TASKS), again
        newer = {report["model"]: report["version"] for report in again.values()}
        added = [{"searches_7d"}, {"deliveries_7d"}, {"deliveries_7d"}]
        for model, names in zip(MODELS, added, strict=True):
            found = process.inputs(model, newer[model])
            assert found & {"searches_7d", "last_action", "deliveries_7d"} == names
            process.promote(model, newer[model])
        decided = process.decide()
        assert (versions(decided), notes(decided)) == (newer, notes(before))
        assert process.replay(decided["id"])["identical"]
    copy.restore(USERS)
    with model_process(copy) as process:
        assert list(process.cycle_now()["feature_rows"]) == ["user_intent"]
        without = process.decide()
        assert versions(without) == newer | {"intent_transformer": None}
        said = notes(without)["intent_transformer"]
        assert "was trained with 'searches_7d', now gone" in said
        assert said.endswith("`synchrochain train intent_transformer`")
        assert len(said.splitlines()) == 1
        assert said.split(" does not load: ")[1] in process.replay(decided["id"])["error"]
        assert process.rollback("intent_transformer") == {"version": champions[MODELS[0]]}
        assert versions(process.decide()) == newer | {MODELS[0]: champions[MODELS[0]]}
        assert process.replay(before["id"])["identical"]
        process.promote("intent_transformer", newer["intent_transformer"])
        last = process.train("intent")["intent"]
        assert last["champion"] in (last["baseline"], last["version"])
        assert process.decide()["models"]["intent"]["version"] == last["champion"]
