"""Moves foreign files that are in the way of published ones to a folder of their own."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path
from typing import Final

from pipelines.features.views import VIEWS
from pipelines.file_kinds import check_file, check_folder
from pipelines.lake.rejected import FOLDER
from pipelines.lake.workspace import STAGING
from pipelines.settings import BatchConfig
from pipelines.tables.known import LOGS

SET_ASIDE: Final = "set_aside"
"""The folder, in the data directory."""


def check_places(config: BatchConfig) -> None:
    """Check that the batch flow's folders are folders, and Feast's registry is a file.

    Raises:
        UnusablePathError: one is not, or this user may not read it.
    """
    for folder in (
        config.data_dir,
        config.processed_data_path,
        config.processed_data_path / FOLDER,
        config.feature_store_path,
        config.offline_path,
        *(config.offline_path / view.name for view in VIEWS),
        config.quarantine_path,
        *(config.quarantine_path / log.table for log in LOGS),
        config.data_dir / STAGING,
    ):
        check_folder(folder)
    check_file(config.registry_path)


def set_aside(path: Path, config: BatchConfig) -> Path:
    """Move something out of the way; returns its new path."""
    home = config.data_dir / SET_ASIDE
    home.mkdir(parents=True, exist_ok=True)
    names = (f"{path.name}.{number}" if number else path.name for number in count())
    aside = next(home / name for name in names if not (home / name).exists())
    shutil.move(path, aside)
    return aside


def remove_file(path: Path, config: BatchConfig) -> Path | None:
    """Remove a file, if it exists; set a folder in its place aside.

    Returns:
        The folder's new path; None for anything else.
    """
    if path.is_dir() and not path.is_symlink():
        return set_aside(path, config)
    path.unlink(missing_ok=True)
    return None
