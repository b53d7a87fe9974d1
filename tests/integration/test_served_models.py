"""Champions in service from a real registry: they change without a restart, and break politely."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from serving_shop import open_shop, put_everything
from tiny_model import ACCEPTED, register

from pipelines.batch import BatchConfig
from pipelines.feast_plugins.repository import open_store
from pipelines.live_databases import LiveDatabases
from pipelines.registry import mlflow_store
from pipelines.registry.store import MODELS, ModelRegistry, ModelVersion
from pipelines.serving.config import ServingConfig
from pipelines.serving.decision_log import DecisionLog
from pipelines.serving.decisions import Decision
from pipelines.serving.loading import Absent, ChampionModels
from pipelines.serving.online import OnlineFeatures
from pipelines.serving.orchestrator import ModelOrchestrator
from pipelines.serving.orders import Order
from pipelines.serving.replay import replay
from pipelines.settings import DataConfig

ORDER = Order(user_id=1, product_id="P1", session_id="s1")


@pytest.fixture(scope="module", autouse=True)
def kind() -> Iterator[None]:
    """The tiny model can be registered."""
    with tiny_model.known():
        yield


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[Any]:
    """Feast's store with the shop in it."""
    opened = open_store(BatchConfig(data_dir=folder))
    put_everything(opened)
    with open_shop(folder):
        yield opened


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry in which version 1 of each model is champion and version 2 is not."""
    folder = tmp_path_factory.mktemp("template")
    registry = ModelRegistry(BatchConfig(data_dir=folder))
    for model in MODELS:
        register(registry, 0.25, model, tags=ACCEPTED)
        register(registry, 0.75, model, tags=ACCEPTED)
        registry.promote(model, 1)
    return folder


@pytest.fixture
def registry(template: Path, tmp_path: Path) -> ModelRegistry:
    """A copy of it that a test may change."""
    shutil.copytree(template / "mlflow", tmp_path / "mlflow")
    return ModelRegistry(BatchConfig(data_dir=tmp_path))


@pytest.fixture
def orchestrator(
    registry: ModelRegistry, folder: Path, store: Any, tmp_path: Path
) -> Iterator[ModelOrchestrator]:
    """Looks at the registry only when it is asked to."""
    config = ServingConfig(network_max_age=3600, reference_age=3600, poll=3600)
    made = ModelOrchestrator(
        LiveDatabases.open(DataConfig(data_dir=folder)),
        OnlineFeatures(lambda: store),
        ChampionModels(lambda: registry, registry.store.path),
        DecisionLog(tmp_path / "decisions.db", 100, 0.05),
        config,
    )
    with made:
        yield made


def look(orchestrator: ModelOrchestrator) -> None:
    """What the orchestrator does by itself every two seconds."""
    assert isinstance(orchestrator.models, ChampionModels)
    orchestrator.models.poll()


def versions(decision: Decision) -> dict[str, int | None]:
    return {used.name: used.version for used in decision.models.values()}


def notes(decision: Decision) -> dict[str, str]:
    return {note.what: note.why for note in decision.fallbacks}


def package_of(version: ModelVersion) -> Path:
    return version.folder / "data" / "package"


def test_champions_decide_and_change_without_a_restart(
    orchestrator: ModelOrchestrator, registry: ModelRegistry
) -> None:
    """Back again too."""
    before = orchestrator.decide(ORDER)
    assert versions(before) == dict.fromkeys(MODELS, 1)
    assert before.fallbacks == []
    assert (before.intent.urgency, before.choice.expected_delay_hours) == (0.25, 0.25)
    registry.promote("supply_gnn", 2)
    look(orchestrator)
    after = orchestrator.decide(ORDER)
    assert versions(after) == {**versions(before), "supply_gnn": 2}
    assert after.choice.expected_delay_hours == 0.75
    registry.rollback("supply_gnn")
    look(orchestrator)
    assert versions(orchestrator.decide(ORDER)) == versions(before)


@pytest.mark.parametrize("damage", ["truncated", "another signature", "gone"])
def test_a_champion_whose_files_are_damaged_leaves_the_one_before_in_service(
    orchestrator: ModelOrchestrator, registry: ModelRegistry, damage: str
) -> None:
    """Decisions and readiness say so; a rollback ends it."""
    broken = registry.get("ppo_agent", 2)
    match damage:
        case "truncated":
            path = package_of(broken) / "level.json"
            path.write_bytes(path.read_bytes()[:3])
        case "another signature":
            path = broken.folder / "MLmodel"
            path.write_text(path.read_text().replace("ship_cost", "shipping_cost"))
        case "gone":
            shutil.rmtree(package_of(broken))
    registry.promote("ppo_agent", 2)
    look(orchestrator)
    decision = orchestrator.decide(ORDER)
    assert versions(decision)["ppo_agent"] == 1
    why = notes(decision)["ppo_agent"]
    assert why.startswith("the champion, version 2, does not load: ")
    assert why.endswith("; version 1 goes on")
    readiness = orchestrator.readiness()
    assert (readiness.ready, readiness.warnings) == (True, [f"ppo_agent: {why}"])
    registry.rollback("ppo_agent")
    look(orchestrator)
    assert orchestrator.decide(ORDER).fallbacks == []


def test_a_registry_that_is_locked_leaves_everything_in_service(
    orchestrator: ModelOrchestrator, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again until it answers."""
    monkeypatch.setattr(mlflow_store, "WAIT_SECONDS", 0.01)
    with closing(sqlite3.connect(registry.store.path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        assert isinstance(orchestrator.models, ChampionModels)
        orchestrator.models._seen = None  # as if something had been written
        look(orchestrator)
        decision = orchestrator.decide(ORDER)
        other.execute("ROLLBACK")
    assert versions(decision) == dict.fromkeys(MODELS, 1)
    assert set(notes(decision)) == set(MODELS)
    assert "the registry does not answer: " in notes(decision)["supply_gnn"]
    look(orchestrator)
    assert orchestrator.decide(ORDER).fallbacks == []


def test_a_registry_that_is_gone_leaves_everything_in_service(
    orchestrator: ModelOrchestrator, registry: ModelRegistry
) -> None:
    """Who starts without one decides by the rule."""
    registry.store.path.unlink()
    look(orchestrator)
    decision = orchestrator.decide(ORDER)
    assert versions(decision) == dict.fromkeys(MODELS, 1)
    assert "there is no model registry" in notes(decision)["intent_transformer"]
    late = ChampionModels(lambda: registry, registry.store.path)
    late.poll()
    found = late.get("ppo_agent")
    assert isinstance(found, Absent)
    assert "there is no model registry" in found.why


def test_a_decision_is_replayed_by_the_versions_of_then(
    orchestrator: ModelOrchestrator, registry: ModelRegistry
) -> None:
    """Although others are champions by now."""
    decision = orchestrator.decide(ORDER)
    for model in MODELS:
        registry.promote(model, 2)

    def load(model: str, version: int) -> Any:
        return registry.load(registry.get(model, version))

    found = replay(orchestrator.log.get(decision.id), load)
    assert (found.identical, found.largest) == (True, 0.0)
