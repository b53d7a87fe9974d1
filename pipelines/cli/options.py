"""Options that many commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pipelines.errors import UsageError
from pipelines.paths import absolute


def _use_data_dir(text: str) -> Path:
    # Feast's plug-ins read the same variable, so every part of this process agrees.
    try:
        path = absolute(text)
    except ValueError as error:
        raise UsageError(f"--data-dir {text!r} is not allowed: it must be {error}") from None
    os.environ["SYNCHROCHAIN_DATA_DIR"] = str(path)
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
