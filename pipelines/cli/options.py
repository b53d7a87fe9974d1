"""What many commands share: options, the batch processor that they name, plain answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.errors import UsageError
from pipelines.paths import absolute
from pipelines.settings import ENV_PREFIX

if TYPE_CHECKING:
    from pipelines.batch import BatchProcessor


def _use_data_dir(text: str) -> Path:
    # Feast's plug-ins read the same variable, so every part of this process agrees.
    try:
        path = absolute(text)
    except ValueError as error:
        raise UsageError(f"--data-dir {text!r} is not allowed: it must be {error}") from None
    os.environ[f"{ENV_PREFIX}DATA_DIR"] = str(path)
    return path


DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        parser=_use_data_dir,
        metavar="PATH",
        help="Where everything lies; also SYNCHROCHAIN_DATA_DIR. Default: data/ in the project.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def processor(progress: Any = None) -> BatchProcessor:
    """The batch flow of the data directory that the options and the environment name."""
    from pipelines.batch import BatchProcessor
    from pipelines.monitoring.after_update import champions_scorer
    from pipelines.settings import BatchConfig, DataConfig, check_environment

    check_environment()
    config = BatchConfig()
    scored = champions_scorer(config)
    return BatchProcessor(config, DataConfig(), progress=progress, after_update=scored)


def as_dict(value: Any) -> dict[str, Any]:
    """A dataclass as a dictionary."""
    from dataclasses import asdict

    return asdict(value)


def print_answer(report: dict[str, Any], as_json: bool) -> None:
    """A report, as one JSON document or as a table of names and values."""
    from pipelines.cli.console import print_json, print_table
    from pipelines.cli.layout import answer_rows

    if as_json:
        print_json(report)
        return
    said = {name: value for name, value in report.items() if value not in ({}, None)}
    print_table("", ["", ""], answer_rows(said))
