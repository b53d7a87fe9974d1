"""The `train` command: models on point-in-time features, tracked and put before the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import AsJson, DataDir
from pipelines.errors import SynchroChainError

if TYPE_CHECKING:
    from pipelines.settings import BatchConfig


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(train)


def train(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]…",
            help="intent_transformer, supply_gnn, ppo_agent, or all, which is the default.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed and less data: minutes become a minute.")
    ] = False,
    report: Annotated[
        bool,
        typer.Option("--report", help="Also train in a world without signal, and list the claims."),
    ] = False,
    rebuild: Annotated[
        str | None,
        typer.Option(metavar="RUN_ID", help="Make the data set of an old run again and compare."),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Train models and their baselines on features from Feast, and let the gate choose champions.

    Everything is tracked in MLflow: data set, settings, metrics over seeds, plots, versions. When
    one model cannot be trained, the others are; the exit status is 1 then.

    Example: `synchrochain train intent_transformer --quick`
    """
    from pipelines.settings import BatchConfig, check_environment

    check_environment()
    config = BatchConfig()
    if rebuild is not None:
        _rebuild(config, rebuild, as_json)
        return
    names = _names(what or ["all"])
    _train(config, names, quick, report, as_json)


def _names(given: list[str]) -> list[str]:
    from pipelines.models.tasks import TASKS
    from pipelines.registry.signatures import contract_of, model_named

    if "all" in given:
        return list(TASKS)
    return [contract_of(model_named(name)).task for name in given]


def _train(config: BatchConfig, names: list[str], quick: bool, report: bool, as_json: bool) -> None:
    from pipelines.cli.console import messages, print_json, progress_of_training
    from pipelines.cli.control_world import train_control
    from pipelines.cli.training_table import print_report, print_training, report_as_dict
    from pipelines.models.tasks import TASKS
    from pipelines.monitoring.champions import gate
    from pipelines.training.run import TrainingFailedError
    from pipelines.training.run import train as run

    failed: TrainingFailedError | None = None
    try:
        with progress_of_training() as progress:
            reports = run(config, names, tasks=TASKS, gate=gate, quick=quick, progress=progress)
    except TrainingFailedError as error:
        failed, reports = error, error.reports
        names = [report.task for report in reports]
    control = []
    if report and names:
        with messages.status("a world without signal") as line:
            control = train_control(
                names, lambda step: line.update(f"a world without signal: {step}")
            )
    found = report_as_dict(reports, control)
    if as_json:
        print_json(found | {"failed": failed.lines if failed else {}})
    else:
        print_training(reports)
        if report:
            print_report(found)
    if failed:
        raise failed


def _rebuild(config: BatchConfig, run_id: str, as_json: bool) -> None:
    import tempfile
    from dataclasses import asdict
    from pathlib import Path

    from pipelines.cli.console import answers, messages, print_json, print_table
    from pipelines.training.manifest import rebuild
    from pipelines.training.tracking import fetch_manifest

    with tempfile.TemporaryDirectory() as folder, messages.status("retrieving again"):
        found = rebuild(config, run_id, fetch_manifest(config, run_id, Path(folder)))
    if as_json:
        print_json(asdict(found))
    else:
        rows = [
            [made.name, made.service, made.rows, made.identical, ", ".join(made.changed)]
            for made in found.retrievals
        ]
        headings = ["retrieval", "feature service", "rows", "identical", "changed columns"]
        print_table(f"data set of run {run_id}", headings, rows)
        answers.print(
            f"definitions changed: {', '.join(found.definitions_changed) or 'none'}\n"
            f"files merged or gone since: {len(found.files_gone)}\n"
            f"code changed: {'yes' if found.code_changed else 'no'}",
        )
    if not found.identical:
        raise SynchroChainError(f"the data set of run {run_id} is not identical any more")
