"""Champions are loaded, swapped when their alias moves, and kept when the next one is broken."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from serving_shop import delay_model, intent_model

from pipelines.registry.packaging import BrokenModelError
from pipelines.registry.signatures import MODELS
from pipelines.registry.store import RegistryUnavailableError
from pipelines.serving.loading import Absent, ChampionModels, Served


@dataclass
class Version:
    """What the registry says of a version."""

    model: str
    version: int
    kind: str = "test/linear"


@dataclass
class Shelf:
    """A registry in memory: predictors by version, and who is champion."""

    predictors: dict[tuple[str, int], Any] = field(default_factory=dict)
    champions: dict[str, int] = field(default_factory=dict)
    away: bool = False
    questions: int = 0

    def with_alias(self, model: str, alias: str) -> Version | None:
        """The champion."""
        assert alias == "champion"
        self.questions += 1
        if self.away:
            raise RegistryUnavailableError("the store is locked")
        version = self.champions.get(model)
        return None if version is None else Version(model, version)

    def load(self, version: Version) -> Any:
        """Its predictor."""
        found = self.predictors[version.model, version.version]
        if isinstance(found, Exception):
            raise found
        return found

    def get(self, model: str, version: int) -> Version:
        """A version."""
        return Version(model, version)

    def versions(self, model: str) -> list[Version]:
        """All of them."""
        return [Version(m, v) for m, v in self.predictors if m == model]


@pytest.fixture
def shelf() -> Shelf:
    """A first version of each model, champion."""
    return Shelf(
        predictors={(model, 1): delay_model() for model in MODELS},
        champions=dict.fromkeys(MODELS, 1),
    )


def serving(models: ChampionModels, model: str = "supply_gnn") -> Served:
    found = models.get(model)
    assert isinstance(found, Served)
    return found


def test_before_anything_is_loaded_every_model_is_absent(shelf: Shelf) -> None:
    """And asking waits for nothing."""
    models = ChampionModels(lambda: shelf)
    assert models.get("ppo_agent") == Absent("ppo_agent", "models are not loaded yet")
    assert shelf.questions == 0


def test_champions_are_served(shelf: Shelf) -> None:
    """With what they are."""
    models = ChampionModels(lambda: shelf)
    models.poll()
    found = serving(models)
    assert (found.version, found.kind, found.alias, found.problem) == (
        1,
        "test/linear",
        "champion",
        None,
    )
    assert found.predictor is shelf.predictors["supply_gnn", 1]


def test_an_alias_that_moves_changes_what_is_served(shelf: Shelf) -> None:
    """Without a restart, for the one model alone."""
    models = ChampionModels(lambda: shelf)
    models.poll()
    other = serving(models, "ppo_agent")
    shelf.predictors["supply_gnn", 2] = intent_model()
    shelf.champions["supply_gnn"] = 2
    models.poll()
    assert serving(models).version == 2
    assert serving(models).predictor is shelf.predictors["supply_gnn", 2]
    assert serving(models, "ppo_agent") is other


def test_a_model_without_a_champion_says_what_to_do(shelf: Shelf) -> None:
    """Also when the alias was taken away while it was served."""
    models = ChampionModels(lambda: shelf)
    models.poll()
    del shelf.champions["supply_gnn"]
    models.poll()
    found = models.get("supply_gnn")
    assert isinstance(found, Absent)
    assert found.why == "no version of supply_gnn is champion: `synchrochain train` makes one"


def test_a_broken_champion_leaves_the_one_before_in_service(shelf: Shelf) -> None:
    """Decisions and readiness say so; a champion that loads ends it."""
    models = ChampionModels(lambda: shelf)
    models.poll()
    shelf.predictors["supply_gnn", 2] = BrokenModelError("weights.pt is truncated")
    shelf.champions["supply_gnn"] = 2
    models.poll()
    found = serving(models)
    assert found.version == 1
    assert found.predictor is shelf.predictors["supply_gnn", 1]
    assert found.problem == (
        "the champion, version 2, does not load: weights.pt is truncated; version 1 goes on"
    )
    shelf.champions["supply_gnn"] = 1
    models.poll()
    assert serving(models).problem is None


def test_a_first_champion_that_is_broken_is_absent(shelf: Shelf) -> None:
    """There is nothing before it."""
    shelf.predictors["supply_gnn", 1] = BrokenModelError("weights.pt is truncated")
    models = ChampionModels(lambda: shelf)
    models.poll()
    found = models.get("supply_gnn")
    assert isinstance(found, Absent)
    assert "does not load: weights.pt is truncated" in found.why
    assert isinstance(models.get("ppo_agent"), Served)


def test_a_registry_that_is_away_leaves_everything_in_service(shelf: Shelf) -> None:
    """And is asked again the next time, although its file is as it was."""
    file = Path(__file__)
    models = ChampionModels(lambda: shelf, file)
    models.poll()
    shelf.away = True
    models._seen = None
    models.poll()
    found = serving(models)
    assert found.problem == "the registry does not answer: the store is locked; version 1 goes on"
    shelf.away = False
    models.poll()
    assert serving(models).problem is None


def test_a_registry_that_cannot_be_opened_is_reported(shelf: Shelf) -> None:
    """It is opened again at the next look."""
    away = [RegistryUnavailableError("there is no model registry")]

    def opened() -> Shelf:
        if away:
            raise away.pop()
        return shelf

    models = ChampionModels(opened)
    models.poll()
    assert isinstance(models.get("intent_transformer"), Absent)
    models.poll()
    assert isinstance(models.get("intent_transformer"), Served)


def test_a_registry_whose_file_is_untouched_is_not_asked(shelf: Shelf, tmp_path: Path) -> None:
    """Looking every two seconds costs nothing then."""
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"one")
    models = ChampionModels(lambda: shelf, file)
    models.poll()
    asked = shelf.questions
    models.poll()
    assert shelf.questions == asked
    file.write_bytes(b"more")
    models.poll()
    assert shelf.questions == 2 * asked
