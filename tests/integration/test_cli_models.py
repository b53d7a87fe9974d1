"""The commands on registered models, as their users meet them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import tiny_model
import typer
from tiny_model import new_run, register

from pipelines.batch import BatchConfig
from pipelines.cli import models
from pipelines.cli.training import _names
from pipelines.errors import NotAcceptedError, SynchroChainError, UnknownNameError
from pipelines.registry.store import ModelRegistry

JUDGED = {
    "gate.verdict": "accepted",
    "gate.at": "2026-01-31 12:00:00",
    "gate.against": "1",
    "gate.better": "ok: loss -0.1 [-0.2, -0.05] against champion 1; wanted: its 95% interval",
}
REFUSED = {
    "gate.verdict": "refused",
    "gate.better": "ok: loss -0.1",
    "gate.drift": "refused: index of 2 features; beyond: gaps 0.300; wanted: each at most 0.25",
    "gate.fresh": "refused: oldest is user_intent, 48 h; wanted: each view at most 24 h old",
}


@dataclass(frozen=True)
class Answer:
    """What one command line came to: its error is ours, or an exit status."""

    out: str
    error: SynchroChainError | None = None

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document that it must be."""
        return json.loads(self.out)


Run = Callable[..., Answer]


def command_line() -> click.Command:
    """The commands on an application of their own."""
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="markdown")
    models.register(app)
    return typer.main.get_command(app)


def run(*arguments: str) -> Answer:
    """Run a command in this process."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            command_line().main(list(arguments), standalone_mode=False)
    except SynchroChainError as error:
        return Answer(out.getvalue(), error)
    return Answer(out.getvalue())


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """Nothing but what a test sets; the tiny model can be registered."""
    with tiny_model.known(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "100")
        for name in [n for n in os.environ if n.startswith("SYNCHROCHAIN_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 (a baseline, champion), 2 (accepted), 3 (refused) and 4 (never judged)."""
    folder = tmp_path_factory.mktemp("template")
    registry = ModelRegistry(BatchConfig(data_dir=folder))
    run_id = new_run(registry)
    metrics = {"r2": 0.25, "r2_low": 0.2, "mae": 1.5, "late_ece": 0.01, "carbon_mae": 0.5}
    for number in range(1, 5):
        register(registry, number / 10, run_id=run_id, metrics=metrics, is_baseline=number == 1)
    registry.promote("supply_gnn", 1, {"gate.verdict": "first"})
    registry.tag(registry.get("supply_gnn", 1), {"champion.loss": "0.5"})
    registry.tag(registry.get("supply_gnn", 2), JUDGED)
    registry.challenge(registry.get("supply_gnn", 3), REFUSED)
    return folder


@pytest.fixture
def data_dir(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may change, and every part of this process looks at."""
    shutil.copytree(template / "mlflow", tmp_path / "mlflow")
    monkeypatch.setenv("SYNCHROCHAIN_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["models", "promote", "rollback"])
def test_every_command_has_help_with_an_example(name: str) -> None:
    """A sentence, an example that can be copied, and a word on every option."""
    group: Any = command_line()
    command = group.commands[name]
    assert f"Example: `synchrochain {name}" in command.help
    silent = [p.name for p in command.params if not getattr(p, "help", "") and p.name != "help"]
    assert silent == []


def test_models_are_listed_with_metrics_aliases_and_verdicts(data_dir: Path) -> None:
    """The newest first; a model without versions says how to get one."""
    shown = run("models").out
    lines = [line.split() for line in shown.splitlines() if tiny_model.KIND in line]
    assert [line[0] for line in lines] == ["4", "3", "2", "1"]
    assert "supply_gnn, reads supply_gnn_v1" in shown
    for word in ("champion", "challenger", "accepted", "refused", "first", "r2 0.25", "mae 1.5"):
        assert word in shown
    assert "r2_low" not in shown
    assert "intent_transformer: no version yet; `synchrochain train` makes one" in shown


def test_one_model_is_listed_with_the_gates_checks(data_dir: Path) -> None:
    """And what the champion scored last."""
    shown = run("models", "supply_gnn").out
    assert "intent_transformer" not in shown
    assert "beyond: gaps 0.300" in shown.replace("\n", " ")
    assert "loss: 0.5" in shown


def test_models_answer_with_one_document(data_dir: Path) -> None:
    """Everything that is known of a version."""
    found = run("models", "--json").document
    assert list(found) == ["intent_transformer", "supply_gnn", "ppo_agent"]
    assert found["ppo_agent"] == {"champion": None, "challenger": None, "versions": []}
    model = found["supply_gnn"]
    assert (model["champion"], model["challenger"]) == (1, 3)
    newest, refused, accepted, first = model["versions"]
    assert newest["gate"] == {"verdict": None, "at": None, "against": None, "checks": {}}
    assert set(refused["gate"]["checks"]) == {"better", "drift", "fresh"}
    assert accepted["gate"]["verdict"] == "accepted"
    assert (accepted["gate"]["against"], accepted["gate"]["at"]) == ("1", "2026-01-31T12:00:00")
    assert accepted["feature_service"] == "supply_gnn_v1"
    assert accepted["metrics"]["mae"] == 1.5
    assert len(accepted["run_id"]) == 32
    assert (first["is_baseline"], first["aliases"]) == (True, ["champion"])
    assert first["scored"] == {"loss": "0.5"}
    assert list(run("models", "supply_gnn", "--json").document) == ["supply_gnn"]


def test_an_accepted_version_is_promoted_and_taken_back(data_dir: Path) -> None:
    """Each answers who is champion now and who was."""
    promoted = run("promote", "supply_gnn", "2")
    assert promoted.out == (
        f"supply_gnn: version 2 ({tiny_model.KIND}) is champion, version 1 was before\n"
    )
    registry = ModelRegistry(BatchConfig(data_dir=data_dir))
    assert registry.get("supply_gnn", 2).tags["promoted.by"] == "hand"
    assert run("rollback", "supply_gnn", "--json").document == {
        "model": "supply_gnn",
        "champion": 1,
        "kind": tiny_model.KIND,
        "before": 2,
    }


def test_a_refused_version_is_promoted_only_by_force(data_dir: Path) -> None:
    """The refusal repeats the gate's reasons and says how to overrule it."""
    error = run("promote", "supply_gnn", "3").error
    assert isinstance(error, NotAcceptedError)
    assert str(error) == (
        "supply_gnn 3 was refused by the gate: drift (index of 2 features; beyond: gaps 0.300; "
        "wanted: each at most 0.25), fresh (oldest is user_intent, 48 h; wanted: each view at most "
        "24 h old); `synchrochain promote supply_gnn 3 --force` makes it champion all the same"
    )
    assert run("models", "--json").document["supply_gnn"]["champion"] == 1
    assert run("promote", "supply_gnn", "3", "--force", "--json").document["champion"] == 3
    version = ModelRegistry(BatchConfig(data_dir=data_dir)).get("supply_gnn", 3)
    assert version.tags["promoted.by"] == "hand, without the gate"
    assert version.aliases == ("champion",)


def test_a_version_that_was_never_judged_needs_force_too(data_dir: Path) -> None:
    """Silence is not consent."""
    error = run("promote", "supply_gnn", "4").error
    assert "supply_gnn 4 was never judged by the gate; `synchrochain promote" in str(error)


@pytest.mark.parametrize("name", ["gnn", "delay"])
def test_a_model_answers_to_its_tasks_and_its_folders_name(data_dir: Path, name: str) -> None:
    """Whoever has read the code asks by its names, and gets the registered model."""
    assert run("models", name).out == run("models", "supply_gnn").out
    assert run("promote", name, "2", "--json").document["model"] == "supply_gnn"
    assert run("rollback", name, "--json").document["champion"] == 1


def test_training_takes_every_name_of_a_model() -> None:
    """The registered one, the task's and the folder's, in any mixture."""
    assert _names(["supply_gnn", "fulfilment", "intent"]) == ["gnn", "ppo", "intent"]
    assert _names(["ppo_agent", "all"]) == ["intent", "gnn", "ppo"]
    with pytest.raises(UnknownNameError, match="no model 'gan'; there are: intent_transformer"):
        _names(["gan"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("models nosuch", "there is no model 'nosuch'; there are: intent_transformer"),
        ("promote nosuch 1", "there is no model 'nosuch'"),
        ("promote supply_gnn 9", "there is no version 9 of supply_gnn: `synchrochain models"),
        ("rollback supply_gnn", "cannot be rolled back: supply_gnn 1 is the first champion"),
        ("rollback ppo_agent", "ppo_agent cannot be rolled back: there is no champion"),
    ],
)
def test_what_is_asked_wrongly_is_told_in_one_line(
    data_dir: Path, arguments: str, complaint: str
) -> None:
    """With what there is, and exit status 2."""
    error = run(*arguments.split()).error
    assert error is not None
    assert complaint in str(error)
    assert len(str(error).splitlines()) == 1
    assert error.exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [["models"], ["models", "--json"], ["promote", "supply_gnn", "1"], ["rollback", "supply_gnn"]],
    ids=" ".join,
)
def test_a_missing_store_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """And is not made by looking."""
    monkeypatch.setenv("SYNCHROCHAIN_DATA_DIR", str(tmp_path / "data"))
    answer = run(*arguments)
    assert answer.out == ""
    assert answer.error is not None
    assert "there is no model registry at" in str(answer.error)
    assert "`synchrochain train` makes it" in str(answer.error)
    assert answer.error.exit_code == 1
    assert not (tmp_path / "data").exists()


def test_a_damaged_store_is_told_in_one_line(data_dir: Path) -> None:
    """Garbage in place of the database."""
    (data_dir / "mlflow" / "mlflow.db").write_bytes(b"\xff" * 4096)
    error = run("models").error
    assert "not a database: it is corrupt" in str(error)


def test_importing_the_commands_is_light() -> None:
    """Whatever is heavy is imported by the command."""
    heavy = ("feast", "mlflow", "pandas", "duckdb", "ibis", "pyarrow", "numpy")
    program = (
        "import sys, pipelines.cli.models\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout == "[]\n"
