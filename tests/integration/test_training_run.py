"""A training from the logs to a registered version, as `synchrochain train` does it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import new_directory, used_directory
from typer.testing import CliRunner

from pipelines.batch import BatchProcessor
from pipelines.cli.app import app
from pipelines.cli.main_job import simulate_until_now
from pipelines.cli.training_table import interval, print_report, print_training, report_as_dict
from pipelines.errors import UnknownNameError, UsageError
from pipelines.models.tasks import TASKS
from pipelines.monitoring.champions import gate
from pipelines.registry.store import ModelRegistry
from pipelines.settings import BatchConfig, DataConfig
from pipelines.training import run
from pipelines.training.run import TaskReport, TrainingFailedError, train
from pipelines.training.source import TrainingDataError
from pipelines.training.tracking import fetch_manifest


@pytest.fixture(scope="module")
def shop() -> Iterator[Path]:
    """A shop of ten days with a registry of its own."""
    with new_directory() as path, used_directory(path):
        simulate_until_now(DataConfig(), {"users": 800, "products": 40, "days": 10, "seed": 4})
        BatchProcessor(BatchConfig(), DataConfig()).run_cycle()
        yield path


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str, float]]:
    """What the training said of its progress."""
    return []


@pytest.fixture(scope="module")
def report(shop: Path, steps: list[tuple[str, str, float]]) -> TaskReport:
    """The GNN's, trained quickly."""
    (found,) = train(
        BatchConfig(),
        ["gnn"],
        tasks=TASKS,
        gate=gate,
        quick=True,
        progress=lambda *what: steps.append(what),
    )
    return found


def test_the_best_baseline_and_the_model_are_registered(report: TaskReport) -> None:
    """One of them is champion, and the gate says why."""
    registry = ModelRegistry(BatchConfig())
    newest, oldest = registry.versions("supply_gnn")
    assert (newest.version, oldest.version) == (report.version, report.baseline)
    assert (newest.is_baseline, oldest.is_baseline) == (False, True)
    champion = registry.with_alias("supply_gnn", "champion")
    assert champion is not None
    assert champion.version == report.champion == (2 if report.accepted else 1)
    assert {reason.split(":")[0] for reason in report.reasons} == {
        *("better", "calibrated", "fresh", "consistent", "drift")
    }


def test_the_run_holds_data_set_metrics_and_plots(report: TaskReport, tmp_path: Path) -> None:
    """Beside the model's metrics those of its baselines."""
    registry = ModelRegistry(BatchConfig())
    found = fetch_manifest(BatchConfig(), report.run_id, tmp_path)
    manifest = json.loads((found / "manifest.json").read_text())
    assert [made["service"] for made in manifest["retrievals"]] == ["supply_gnn_v1"]
    assert manifest["retrievals"][0]["rows"] > 0
    version = registry.get("supply_gnn", report.version)
    assert version.run_id == report.run_id
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        client = mlflow.MlflowClient(BatchConfig().mlflow_uri)
        run = client.get_run(report.run_id)
        plots = [file.path for file in client.list_artifacts(report.run_id, "plots")]
    assert run.info.status == "FINISHED"
    assert run.data.tags["feast.feature_service"] == "supply_gnn_v1"
    assert any(name.startswith("persistence/") for name in run.data.metrics)
    assert run.data.params
    assert len(plots) >= 3


def test_progress_runs_from_nothing_to_all(
    report: TaskReport, steps: list[tuple[str, str, float]]
) -> None:
    """Fractions never fall."""
    fractions = [fraction for _, _, fraction in steps]
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert fractions == sorted(fractions)


def test_an_old_data_set_is_rebuilt_from_the_command_line(report: TaskReport) -> None:
    """Identical, while nothing has changed; an unknown run is named."""
    found = CliRunner().invoke(app, ["train", "--rebuild", report.run_id, "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["identical"] is True
    with pytest.raises(UnknownNameError, match="no run 'abc' with a data set"):
        CliRunner().invoke(app, ["train", "--rebuild", "abc"], catch_exceptions=False)


def test_the_report_is_shown_and_is_json(
    report: TaskReport, capsys: pytest.CaptureFixture[str]
) -> None:
    """One seed has no interval: null for machines, the mean alone for people."""
    found = report_as_dict([report], report_as_dict([report])["chance"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert len(found["claims"]) == len(report.claims)
    assert {one["task"] for one in found["control"]} == {"gnn"}
    assert all(one["low"] is None for one in found["claims"])
    print_training([report])
    print_report(found)
    shown = capsys.readouterr().out
    assert "what must be true" in shown
    assert "no signal" in shown
    assert interval({"mean": 0.5, "low": 0.4, "high": 0.6}) == "0.5000 [0.4000, 0.6000]"
    assert interval({"mean": 0.5, "low": None, "high": math.nan}) == "0.5000"


def test_what_cannot_be_trained_is_said(shop: Path) -> None:
    """An unknown task, and a directory in which nothing was processed."""
    with pytest.raises(UsageError, match="nothing to train called 'gan'"):
        train(BatchConfig(), ["gan"], tasks=TASKS, gate=gate)
    with new_directory() as empty, used_directory(empty), pytest.raises(TrainingDataError):
        train(BatchConfig(), ["gnn"], tasks=TASKS, gate=gate, quick=True)


def test_other_models_go_on_when_one_fails(
    report: TaskReport,
    shop: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """For want of data or by a defect: others are reported, each failure is a line, rc is 1."""
    asked: list[str] = []

    def failing(_config: Any, _registry: Any, task: Any, *_: Any) -> TaskReport:
        asked.append(task.name)
        if task.name == "intent":
            raise TrainingDataError("0 sessions with a purchase")
        if task.name == "ppo":
            raise KeyError("region")
        return report

    monkeypatch.setattr(run, "_train", failing)
    with pytest.raises(TrainingFailedError) as caught:
        train(BatchConfig(), tasks=TASKS, gate=gate, quick=True)
    assert asked == ["intent", "gnn", "ppo"]
    assert caught.value.reports == [report]
    assert str(caught.value).splitlines() == [
        "intent was not trained: 0 sessions with a purchase",
        "ppo was not trained: KeyError: 'region'",
    ]
    assert [record.message for record in caplog.records if record.exc_info] == [
        "training ppo failed"
    ]
    answer = CliRunner().invoke(app, ["train", "--quick", "--json"])
    assert isinstance(answer.exception, TrainingFailedError)
    assert answer.exception.exit_code == 1
    found = json.loads(answer.stdout)
    assert [one["task"] for one in found["tasks"]] == ["gnn"]
    assert set(found["failed"]) == {"intent", "ppo"}
    with pytest.raises(TrainingDataError, match="0 sessions"):  # alone it is the line itself
        train(BatchConfig(), ["intent"], tasks=TASKS, gate=gate, quick=True)


def test_notes_are_in_the_report_and_shown(
    report: TaskReport, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was left out, and what no model could learn from."""
    assert report.notes == []
    print_training([replace(report, notes=["3 of 90 orders are left out", "null in every row: a"])])
    shown = capsys.readouterr().out
    assert "3 of 90 orders are left out" in shown
    assert "null in every row: a" in shown
