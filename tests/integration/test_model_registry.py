"""The model registry on a real MLflow store: versions, aliases, loading, and stores that fail."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
import tiny_model
import yaml
from tiny_model import ACCEPTED, Level, example, new_run, register

from pipelines.batch import BatchConfig
from pipelines.errors import (
    NewerFormatError,
    NotAcceptedError,
    StorageFullError,
    UnknownNameError,
    UsageError,
)
from pipelines.feast_plugins.repository import open_store
from pipelines.models.tasks import MODELS as TASK_MODELS
from pipelines.registry import mlflow_store
from pipelines.registry.packaging import BrokenModelError
from pipelines.registry.signatures import CONTRACTS
from pipelines.registry.store import (
    CHALLENGER,
    CHAMPION,
    MODELS,
    ModelRegistry,
    ModelVersion,
    RegistryUnavailableError,
)


@pytest.fixture(scope="module", autouse=True)
def kind() -> Iterator[None]:
    """The tiny model can be registered."""
    with tiny_model.known():
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with three versions of the delay model, the second the champion."""
    folder = tmp_path_factory.mktemp("template")
    registry = ModelRegistry(BatchConfig(data_dir=folder))
    run = new_run(registry)
    for level in (0.1, 0.2, 0.3):
        register(registry, level, run_id=run, is_baseline=level == 0.1, tags=ACCEPTED)
    registry.promote("supply_gnn", 2)
    return folder


@pytest.fixture
def registry(template: Path, tmp_path: Path) -> ModelRegistry:
    """A copy of it that a test may change."""
    shutil.copytree(template / "mlflow", tmp_path / "mlflow")
    return ModelRegistry(BatchConfig(data_dir=tmp_path))


@pytest.fixture(scope="module")
def shared(folder: Path) -> ModelRegistry:
    """One registry for many tests, beside an applied feature repository."""
    return ModelRegistry(BatchConfig(data_dir=folder))


@pytest.fixture
def tracked(shared: ModelRegistry) -> Iterator[ModelRegistry]:
    """The shared registry is the one that MLflow itself looks at; afterwards it looks at none."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(shared.config.mlflow_uri)
    yield shared
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


def champion(registry: ModelRegistry) -> int | None:
    found = registry.with_alias("supply_gnn", CHAMPION)
    return None if found is None else found.version


# Registering


def test_a_version_says_what_it_is(registry: ModelRegistry) -> None:
    """Its number, kind, run, service, metrics in their order, and further tags."""
    run = new_run(registry)
    made = register(registry, run_id=run, metrics={"z": 1, "a": 2.5}, tags={"note": "by hand"})
    assert (made.model, made.version, made.kind) == ("supply_gnn", 4, tiny_model.KIND)
    assert (made.run_id, made.service) == (run, "supply_gnn_v1")
    assert list(made.metrics.items()) == [("z", 1.0), ("a", 2.5)]
    assert (made.aliases, made.is_baseline) == ((), False)
    assert made.tags["note"] == "by hand"
    assert made == registry.get("supply_gnn", 4) == registry.versions("supply_gnn")[0]


def test_versions_come_newest_first_with_their_aliases(registry: ModelRegistry) -> None:
    """A model without versions has an empty list."""
    found = registry.versions("supply_gnn")
    assert [(v.version, v.aliases) for v in found] == [(3, ()), (2, (CHAMPION,)), (1, ())]
    assert [v.is_baseline for v in found] == [False, False, True]
    assert found[0].created >= found[1].created >= found[2].created
    assert registry.versions("ppo_agent") == []
    assert registry.with_alias("ppo_agent", CHAMPION) is None
    assert registry.with_alias("supply_gnn", CHALLENGER) is None


def test_what_was_registered_is_what_is_loaded(registry: ModelRegistry) -> None:
    """Each version with its own weights."""
    for version, level in ((1, 0.1), (3, 0.3)):
        model = registry.load(registry.get("supply_gnn", version))
        answered = model.predict(example("supply_gnn"))
        assert answered["late_probability"].tolist() == [level, level]


@pytest.mark.parametrize("model", MODELS)
def test_mlflow_alone_loads_and_predicts(tracked: ModelRegistry, model: str) -> None:
    """`models:/<name>@champion` on a data frame, with nulls, in whatever number type; the stored
    example too."""
    import mlflow

    tracked.promote(model, register(tracked, 0.25, model, tags=ACCEPTED).version)
    served = mlflow.pyfunc.load_model(f"models:/{model}@champion")
    frame = pd.DataFrame({name: pd.Series(values) for name, values in example(model).items()})
    whole = frame.iloc[:1].infer_objects()
    for given in (frame, whole, frame.iloc[1:], served.input_example):
        answered = served.predict(given)
        assert list(answered.columns) == list(CONTRACTS[model].outputs)
        numbers = answered.select_dtypes("number")
        assert len(answered) == len(given)
        assert (numbers == 0.25).all(axis=None)


def test_the_signature_has_lists_that_may_be_null(shared: ModelRegistry) -> None:
    """Arrays of text and of doubles, as the features are; every input may be left out."""
    from mlflow.models import get_model_info
    from mlflow.types import DataType
    from mlflow.types.schema import Array

    made = register(shared, 0.25, "intent_transformer")
    found = get_model_info(str(made.folder)).signature
    assert found is not None
    types = {column.name: column.type for column in found.inputs}
    assert types["actions"] == types["product_ids"] == Array(DataType.string)
    assert types["gaps"] == types["times_on_page"] == Array(DataType.double)
    assert types["intent_score"] == DataType.double
    assert not any(column.required for column in found.inputs)
    assert [column.name for column in found.outputs] == [
        "purchase_probability",
        "urgency_class",
        "urgency",
    ]


def test_artifacts_never_lie_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does MLflow make its folders there; everything is in the data directory."""
    here, data = tmp_path / "here", tmp_path / "data"
    here.mkdir()
    monkeypatch.chdir(here)
    made = register(ModelRegistry(BatchConfig(data_dir=data)))
    assert made.folder.is_relative_to(data / "mlflow" / "artifacts")
    assert list(here.iterdir()) == []
    with closing(sqlite3.connect(data / "mlflow" / "mlflow.db")) as connection:
        rows = connection.execute("SELECT artifact_location FROM experiments").fetchall()
    assert rows
    places = [Path(unquote(urlsplit(row[0]).path)) for row in rows]
    assert all(place.is_relative_to(data / "mlflow" / "artifacts") for place in places)


def test_nothing_is_printed_and_nobody_is_called(tmp_path: Path) -> None:
    """From an empty directory to a loaded version, in a process of its own."""
    program = """
import sys, threading
from pathlib import Path
import tiny_model
from pipelines.registry.store import ModelRegistry
from pipelines.settings import BatchConfig
with tiny_model.known():
    registry = ModelRegistry(BatchConfig(data_dir=Path(sys.argv[1])))
    registry.load(tiny_model.register(registry))
from mlflow.telemetry.client import get_telemetry_client
assert get_telemetry_client() is None
assert [t.name for t in threading.enumerate()] == ["MainThread"]
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "PYTEST_CURRENT_TEST")}
    paths = [str(Path(tiny_model.__file__).parent), environment.get("PYTHONPATH", "")]
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "data")],
        env=environment | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def _without(columns: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in columns.items() if key != name}


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        ({"example": _without(example("supply_gnn"), "mode")}, BrokenModelError, "lacks the input"),
        ({"example": example("supply_gnn") | {"late": [1, 0]}}, BrokenModelError, "input 'late'"),
        ({"outcome": {"late_probability": [0.5, 0.5]}}, BrokenModelError, "lacks the output"),
        ({"kind": "nosuch"}, UnknownNameError, "no kind of model 'nosuch'"),
        ({"service": "ppo_agent_v1"}, UnknownNameError, "supply_gnn reads supply_gnn_v1, not"),
        ({"run_id": "0" * 32}, UnknownNameError, "there is no run '0000"),
    ],
)
def test_what_does_not_fit_is_not_registered(
    registry: ModelRegistry, change: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    """The line names the column or the name that is wrong."""
    with pytest.raises(error, match=complaint):
        register(registry, **change)
    assert len(registry.versions("supply_gnn")) == 3


def test_an_optional_column_may_be_missing(registry: ModelRegistry) -> None:
    """A single snapshot needs no number; a baseline may know less than the model."""
    given = _without(example("supply_gnn"), "snapshot")
    answered = _without(Level("supply_gnn", 0.5).predict(given), "delay_index")
    made = register(registry, example=given, outcome=answered)
    assert registry.load(made).level == 0.5


def test_a_model_that_loads_as_another_is_not_registered(registry: ModelRegistry) -> None:
    """Whoever forgets to save a part of it hears of it before it serves."""

    class Forgetful(Level):
        def predict(self, columns: Any) -> dict[str, Any]:
            return {name: values + 1.0 for name, values in super().predict(columns).items()}

    model = Forgetful("supply_gnn", 0.5)
    outcome = model.predict(example("supply_gnn"))
    with pytest.raises(BrokenModelError, match="answers its example with another"):
        register(registry, predictor=model, outcome=outcome)


@pytest.mark.parametrize(
    "ask",
    [
        lambda registry: registry.versions("nosuch"),
        lambda registry: registry.get("nosuch", 1),
        lambda registry: registry.with_alias("nosuch", CHAMPION),
        lambda registry: registry.promote("nosuch", 1),
        lambda registry: registry.rollback("nosuch"),
        lambda registry: registry.get("supply_gnn", 99),
        lambda registry: registry.get("ppo_agent", 1),
        lambda registry: registry.promote("supply_gnn", 99),
    ],
)
def test_an_unknown_model_or_version_is_told(
    registry: ModelRegistry, ask: Callable[[ModelRegistry], Any]
) -> None:
    """With what there is, or how to list it."""
    with pytest.raises(
        UnknownNameError, match=r"there are: intent_|synchrochain models|no version"
    ):
        ask(registry)


# Feast


@pytest.mark.parametrize("model", MODELS)
def test_feast_resolves_the_feature_service(
    shared: ModelRegistry, tmp_path: Path, model: str
) -> None:
    """By alias, as Feast spells it; the features noted are those of the applied service."""
    made = register(shared, 0.4, model, tags=ACCEPTED)
    shared.promote(model, made.version)
    store = open_store(shared.config)
    assert store.mlflow.resolve_features(f"models:/{model}/champion") == made.service
    service = store.get_feature_service(made.service)
    applied = {
        f"{projection.name_to_use()}:{feature.name}"
        for projection in service.feature_view_projections
        for feature in projection.features
    }
    with shared.store.client() as client:
        noted = client.download_artifacts(made.run_id, "feast_features.json", str(tmp_path))
    assert set(json.loads(Path(noted).read_text())) == applied


def test_feast_refuses_a_version_whose_service_has_changed(shared: ModelRegistry) -> None:
    """The features noted with the run are compared with the service as it is."""
    from feast.mlflow_integration.model_resolver import FeastMlflowModelResolutionError

    run = new_run(shared, "ppo_agent")
    made = register(shared, 0.4, "ppo_agent", run_id=run)
    with shared.store.client(writes=True) as client:
        client.log_text(run, json.dumps(["user_intent:gone"]), "feast_features.json")
    store = open_store(shared.config)
    with pytest.raises(FeastMlflowModelResolutionError, match="Feature mismatch"):
        store.mlflow.resolve_features(f"models:/ppo_agent/{made.version}")


# Loading what is broken


def _truncate(version: ModelVersion) -> None:
    path = version.folder / "data" / "package" / "level.json"
    path.write_bytes(path.read_bytes()[:-1])


def _alter_description(version: ModelVersion) -> None:
    path = version.folder / "data" / "package" / "model.json"
    path.write_text(path.read_text() + " ")


def _remove(version: ModelVersion) -> None:
    shutil.rmtree(version.folder)


def _change_signature(change: Callable[[list[dict[str, Any]]], Any]) -> Any:
    def damage(version: ModelVersion) -> None:
        path = version.folder / "MLmodel"
        described = yaml.safe_load(path.read_text())
        inputs = json.loads(described["signature"]["inputs"])
        change(inputs)
        described["signature"]["inputs"] = json.dumps(inputs)
        path.write_text(yaml.safe_dump(described))

    return damage


def _without_signature(version: ModelVersion) -> None:
    path = version.folder / "MLmodel"
    described = yaml.safe_load(path.read_text())
    del described["signature"]
    path.write_text(yaml.safe_dump(described))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_truncate, r"level\.json is missing, truncated or altered"),
        (_alter_description, "is not what was registered as supply_gnn 3"),
        (_remove, "MLmodel is missing"),
        (_without_signature, "damaged or has no signature"),
        (lambda v: (v.folder / "MLmodel").write_text("{"), "MLmodel is missing, damaged"),
        (
            _change_signature(lambda columns: columns.append({**columns[0], "name": "late"})),
            "it was trained with 'late', now gone: `synchrochain rollback supply_gnn`,"
            " or `synchrochain train supply_gnn`",
        ),
        (
            _change_signature(lambda columns: columns[0].update(type="double")),
            "its 'route_id' is double, and string now",
        ),
    ],
)
def test_a_broken_version_is_not_loaded(
    registry: ModelRegistry, damage: Callable[[ModelVersion], Any], complaint: str
) -> None:
    """Damaged files and signatures for other columns alike: one line, one type of error."""
    version = registry.get("supply_gnn", 3)
    damage(version)
    with pytest.raises(BrokenModelError, match=complaint) as raised:
        registry.load(version)
    assert len(str(raised.value).splitlines()) == 1
    assert registry.load(registry.get("supply_gnn", 2)).level == 0.2


def test_a_version_needs_no_more_than_it_was_trained_with(registry: ModelRegistry) -> None:
    """What was declared after it is none of its business; nor is what no version reads."""
    version = registry.get("supply_gnn", 3)
    _change_signature(lambda columns: columns.pop(0))(version)
    assert registry.load(version).level == 0.3
    features = {name.partition(":")[2] for name in CONTRACTS["supply_gnn"].features}
    given = {n: v for n, v in example("supply_gnn").items() if n not in features}
    assert registry.load(register(registry, 0.4, example=given)).level == 0.4


def test_each_model_names_the_task_that_trains_it() -> None:
    """So the command in an error works."""
    assert {contract.task: model for model, contract in CONTRACTS.items()} == TASK_MODELS


def test_our_reader_runs_nothing_that_a_version_brings_along(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    """MLflow's own `load_model` imports whatever module `MLmodel` names, before any check."""
    version, proof = registry.get("supply_gnn", 3), tmp_path / "it ran"
    path = version.folder / "MLmodel"
    described = yaml.safe_load(path.read_text())
    described["flavors"]["python_function"] |= {"loader_module": "tampered", "code": "code"}
    path.write_text(yaml.safe_dump(described))
    (version.folder / "code").mkdir()
    program = f"open({str(proof)!r}, 'w').close()"
    (version.folder / "code" / "tampered.py").write_text(program)
    assert registry.load(version).level == 0.3
    assert not proof.exists()


def test_one_versions_files_do_not_pass_for_anothers(registry: ModelRegistry) -> None:
    """Even if they are whole in themselves."""
    second, third = (registry.get("supply_gnn", number) for number in (2, 3))
    package = Path("data") / "package"
    shutil.rmtree(third.folder / package)
    shutil.copytree(second.folder / package, third.folder / package)
    with pytest.raises(BrokenModelError, match="is not what was registered as supply_gnn 3"):
        registry.load(third)


def test_a_copied_data_directory_reads_its_own_models(registry: ModelRegistry) -> None:
    """MLflow notes absolute paths; what was copied must not depend on where it came from."""
    version = registry.get("supply_gnn", 1)
    assert version.folder.is_relative_to(registry.config.data_dir)


# Aliases


def test_promoting_moves_the_alias_and_rolling_back_returns_it(registry: ModelRegistry) -> None:
    """Step by step, to the first champion and no further."""
    assert registry.promote("supply_gnn", 3, {"promoted.by": "gate"}).aliases == (CHAMPION,)
    assert registry.promote("supply_gnn", 1).version == 1
    assert champion(registry) == 1
    assert registry.rollback("supply_gnn").version == 3
    assert registry.rollback("supply_gnn").version == 2
    with pytest.raises(UsageError, match="supply_gnn 2 is the first champion"):
        registry.rollback("supply_gnn")
    assert champion(registry) == 2


def test_reasons_and_moments_are_tags(registry: ModelRegistry) -> None:
    """Of the version that was promoted, and of the one that was taken back."""
    promoted = registry.promote("supply_gnn", 3, {"gate.verdict": "accepted"})
    assert promoted.tags["gate.verdict"] == "accepted"
    datetime.fromisoformat(promoted.tags["promoted.at"])
    registry.rollback("supply_gnn")
    datetime.fromisoformat(registry.get("supply_gnn", 3).tags["rolled_back.at"])


@pytest.mark.parametrize(
    ("verdict", "complaint"),
    [
        ({}, "supply_gnn 4 was never judged by the gate; "),
        (
            {"gate.verdict": "refused", "gate.drift": "refused: gaps 0.300", "gate.fresh": "ok"},
            "supply_gnn 4 was refused by the gate: drift (gaps 0.300); ",
        ),
    ],
    ids=["never judged", "refused"],
)
def test_what_the_gate_has_not_accepted_becomes_champion_only_by_force(
    registry: ModelRegistry, verdict: dict[str, str], complaint: str
) -> None:
    """Whoever asks: one line that says why, and nothing has changed; force leaves a tag."""
    register(registry, tags=verdict)
    with pytest.raises(NotAcceptedError) as raised:
        registry.promote("supply_gnn", 4)
    remedy = "`synchrochain promote supply_gnn 4 --force` makes it champion all the same"
    assert str(raised.value) == complaint + remedy
    assert champion(registry) == 2
    assert "promoted.at" not in registry.get("supply_gnn", 4).tags
    forced = registry.promote("supply_gnn", 4, {"note": "tried"}, force=True)
    assert (forced.aliases, forced.tags["note"]) == ((CHAMPION,), "tried")
    assert forced.tags["promoted.by"] == "hand, without the gate"


@pytest.mark.parametrize("verdict", ["accepted", "first"])
def test_the_verdict_may_come_with_the_promotion(registry: ModelRegistry, verdict: str) -> None:
    """As the gate gives it; and it counts more than an earlier one."""
    register(registry, tags={"gate.verdict": "refused"})
    promoted = registry.promote("supply_gnn", 4, {"gate.verdict": verdict})
    assert promoted.aliases == (CHAMPION,)
    assert "promoted.by" not in promoted.tags
    with pytest.raises(NotAcceptedError, match="refused"):
        registry.promote("supply_gnn", 3, {"gate.verdict": "refused"})


def test_promoting_the_champion_again_changes_nothing(registry: ModelRegistry) -> None:
    """It does not become its own predecessor."""
    registry.promote("supply_gnn", 3)
    registry.promote("supply_gnn", 3)
    assert registry.rollback("supply_gnn").version == 2


def test_a_rollback_after_a_rollback_and_a_promotion(registry: ModelRegistry) -> None:
    """Goes back to who was champion before, not to who was taken back."""
    registry.promote("supply_gnn", 3)
    registry.rollback("supply_gnn")
    registry.promote("supply_gnn", 1)
    assert registry.rollback("supply_gnn").version == 2


def test_a_promotion_that_ended_half_way_does_no_harm(registry: ModelRegistry) -> None:
    """The champion was noted as earlier, and the alias was not moved any more."""
    registry.promote("supply_gnn", 3)
    with registry.store.client(writes=True) as client:
        client.set_registered_model_tag("supply_gnn", "champions", "[2, 3]")
    assert registry.rollback("supply_gnn").version == 2


def test_an_earlier_champion_that_was_deleted_is_passed_over(registry: ModelRegistry) -> None:
    """A rollback goes to the one before it."""
    registry.promote("supply_gnn", 3)
    registry.promote("supply_gnn", 1)
    with registry.store.client(writes=True) as client:
        client.delete_model_version("supply_gnn", "3")
    assert registry.rollback("supply_gnn").version == 2


def test_a_model_without_a_champion_cannot_be_rolled_back(registry: ModelRegistry) -> None:
    """Whether it has versions or not."""
    with pytest.raises(UsageError, match="ppo_agent cannot be rolled back: there is no champion"):
        registry.rollback("ppo_agent")
    register(registry, model="ppo_agent")
    with pytest.raises(UsageError, match="there is no champion"):
        registry.rollback("ppo_agent")


def test_a_challenger_that_becomes_champion_is_challenger_no_more(registry: ModelRegistry) -> None:
    """The alias challenger belongs to one version, with its reasons as tags."""
    for number in (1, 3):
        registry.challenge(registry.get("supply_gnn", number), {"note": "tried"})
    assert [v.aliases for v in registry.versions("supply_gnn")] == [(CHALLENGER,), (CHAMPION,), ()]
    promoted = registry.promote("supply_gnn", 3)
    assert (promoted.aliases, promoted.tags["note"]) == ((CHAMPION,), "tried")


def test_a_champions_history_is_metrics_with_moments(registry: ModelRegistry) -> None:
    """In the version's run, where MLflow draws them over time."""
    version = registry.get("supply_gnn", 2)
    for hour, value in ((10, 0.5), (11, 0.25)):
        registry.log_history(version, {"r2": value}, datetime(2026, 1, 31, hour))
    with registry.store.client() as client:
        found = client.get_metric_history(version.run_id, "champion_r2")
    assert [(metric.timestamp, metric.value) for metric in found] == [
        (1769853600000, 0.5),
        (1769857200000, 0.25),
    ]


def test_tags_are_read_back(registry: ModelRegistry) -> None:
    """On the version they were written to."""
    registry.tag(registry.get("supply_gnn", 1), {"a": "b"})
    assert registry.get("supply_gnn", 1).tags["a"] == "b"
    assert "a" not in registry.get("supply_gnn", 2).tags


# Stores that fail


def test_a_version_of_a_newer_format_is_listed_and_not_used(registry: ModelRegistry) -> None:
    """In one line; one without a format is of the first."""
    version = registry.get("supply_gnn", 3)
    assert version.tags["format"] == "1"
    with registry.store.client(writes=True) as client:
        client.delete_model_version_tag("supply_gnn", "3", "format")
    registry.load(registry.get("supply_gnn", 3))
    registry.tag(version, {"format": "2"})
    refused = r"supply_gnn 3 was .* \(format 2, this one knows up to 1\)"
    with pytest.raises(NewerFormatError, match=refused):
        registry.load(registry.get("supply_gnn", 3))
    with pytest.raises(NewerFormatError, match=refused):
        registry.promote("supply_gnn", 3)
    assert {found.version for found in registry.versions("supply_gnn")} == {1, 2, 3}


def _garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


def _damaged_inside(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _emptied_without_models(path: Path) -> None:
    shutil.rmtree(path.parent / "artifacts")
    _emptied(path)


def _instead(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def replaced(path: Path) -> None:
        path.unlink()
        make(path)

    return replaced


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (Path.unlink, "there is no model registry at .* `synchrochain train` makes it"),
        (lambda path: shutil.rmtree(path.parent), "there is no model registry at"),
        (_garbage, "file is not a database: it is corrupt; restore it, or move it away"),
        (_damaged_inside, "malformed: it is corrupt"),
        (_emptied_without_models, "holds no model registry: `synchrochain train` makes it"),
        (_emptied, "is damaged: it holds no model registry.* restore it, or move"),
        (_instead(Path.mkdir), "is a folder where a file belongs: move it away"),
        (_instead(os.mkfifo), "is a named pipe where a file belongs: move it away"),
    ],
    ids=[
        "removed",
        "folder removed",
        "garbage",
        "damaged inside",
        "emptied without models",
        "emptied",
        "a folder",
        "a pipe",
    ],
)
@pytest.mark.parametrize("used_before", [False, True])
def test_a_store_that_is_gone_or_corrupt_is_told_in_one_line(
    registry: ModelRegistry, damage: Callable[[Path], Any], complaint: str, used_before: bool
) -> None:
    """By every method, whether the store was open before or not; nothing is made in its place."""
    version = replace(_any_version(), folder=registry.config.data_dir)
    run = new_run(registry) if used_before else "0" * 32
    damage(registry.store.path)
    for ask in (
        lambda: registry.versions("supply_gnn"),
        lambda: registry.get("supply_gnn", 1),
        lambda: registry.with_alias("supply_gnn", CHAMPION),
        lambda: registry.promote("supply_gnn", 1),
        lambda: registry.rollback("supply_gnn"),
        lambda: registry.tag(version, {"a": "b"}),
        lambda: registry.log_history(version, {"a": 1.0}, datetime(2026, 1, 31)),
        lambda: register(registry, run_id=run),
    ):
        with pytest.raises(RegistryUnavailableError, match=complaint) as raised:
            ask()
        assert len(str(raised.value).splitlines()) == 1


def _any_version() -> ModelVersion:
    moment = datetime(2026, 1, 31)
    return ModelVersion("supply_gnn", 1, "", "0" * 32, (), "", {}, {}, moment, False, Path())


@pytest.mark.parametrize("used_before", [False, True])
def test_a_locked_store_is_not_waited_for_in_vain(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch, used_before: bool
) -> None:
    """Another connection holds it exclusively: reads and writes end with one line; then go on."""
    monkeypatch.setattr(mlflow_store, "WAIT_SECONDS", 0.05)
    if used_before:
        registry.versions("supply_gnn")
    with closing(sqlite3.connect(registry.store.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for ask in (
            lambda: registry.with_alias("supply_gnn", CHAMPION),
            lambda: registry.promote("supply_gnn", 3),
        ):
            with pytest.raises(RegistryUnavailableError, match="is locked: another process"):
                ask()
    assert champion(registry) == 2


def test_another_writer_does_not_keep_readers_out(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aliases can be looked up while a training run writes; they cannot be moved."""
    monkeypatch.setattr(mlflow_store, "WAIT_SECONDS", 0.05)
    with closing(sqlite3.connect(registry.store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert champion(registry) == 2
        with pytest.raises(RegistryUnavailableError, match="is locked"):
            registry.promote("supply_gnn", 3)


def test_an_empty_store_of_feasts_has_no_versions(tmp_path: Path) -> None:
    """Tables without models are an answer, not an error."""
    registry = ModelRegistry(BatchConfig(data_dir=tmp_path))
    registry.experiment("intent_transformer")
    assert all(registry.versions(model) == [] for model in MODELS)
    assert registry.with_alias("intent_transformer", CHAMPION) is None


def test_an_experiment_is_made_once(registry: ModelRegistry) -> None:
    """The same name has the same id."""
    assert registry.experiment("supply_gnn") == registry.experiment("supply_gnn")
    assert registry.experiment("other") != registry.experiment("supply_gnn")


def test_a_full_disk_is_called_so(registry: ModelRegistry) -> None:
    """Not a corrupt registry."""
    with (
        pytest.raises(StorageFullError, match="the disk is full; free some room"),
        registry.store.client(),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_outputs_of_numbers_and_text_survive(registry: ModelRegistry) -> None:
    """An intent model's class is text."""
    made = register(registry, 0.75, "intent_transformer")
    answered = registry.load(made).predict(example("intent_transformer"))
    assert answered["urgency_class"].tolist() == ["low", "low"]
    assert np.asarray(answered["urgency"]).tolist() == [0.75, 0.75]
