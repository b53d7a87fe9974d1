"""Options that many commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def _use_data_dir(value: Path | None) -> Path | None:
    # Feast's plug-ins read the same variable, so every part of this process agrees.
    if value is not None:
        os.environ["SYNCHROCHAIN_DATA_DIR"] = str(value.expanduser().absolute())
    return value


DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        callback=_use_data_dir,
        help="Where everything lies; also SYNCHROCHAIN_DATA_DIR. Default: data/ in the project.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
