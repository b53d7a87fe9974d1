"""Removing published files: what a killed cycle left, or everything before a rebuild."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipelines.features.views import VIEWS
from pipelines.lake.publishing import PARTIAL_PREFIX, PARTIAL_SUFFIX
from pipelines.lake.rejected import FOLDER
from pipelines.lake.set_aside import remove_file, set_aside
from pipelines.lake.state import KINDS, PipelineState
from pipelines.lake.verification import parquet_files
from pipelines.settings import BatchConfig
from pipelines.tables.known import LOGS

logger = logging.getLogger(__name__)


def remove_leftovers(state: PipelineState, config: BatchConfig) -> int:
    """Remove what a killed cycle left: files never committed, half-written ones, and
    superseded quarantine files.

    Returns:
        How many files were removed.
    """
    folders = (config.processed_data_path, config.offline_path, config.quarantine_path)
    pending = [f.path for kind in KINDS for f in state.files(kind, status="pending")]
    partial = [
        path
        for folder in folders
        if folder.exists()
        for path in folder.rglob(f"{PARTIAL_PREFIX}*{PARTIAL_SUFFIX}")
    ]
    replaced = [file.path for file in state.files("quarantine", status="superseded")]
    for path in (*pending, *partial, *replaced):
        remove_file(path, config)
    state.forget_files(pending)
    return len(pending) + len(partial)


def remove_everything(state: PipelineState, config: BatchConfig) -> None:
    """Remove all published files and reset every reader to the beginning of its change log.

    This includes files that a lost state had published: those in our folders with names like ours.
    Other files that readers would take for published ones are set aside. If the process dies, the
    next cycle goes on with it.
    """
    paths = state.forget_everything(uuid.uuid4().hex)
    aside = [remove_file(path, config) for path in (*paths, *_unknown(config))]
    views = [config.offline_path / view.name for view in VIEWS]
    for folder in (config.processed_data_path, *views):
        aside += [set_aside(path, config) for path in parquet_files(folder)]
    for path in filter(None, aside):
        logger.warning("what lay among the published files and is not ours is %s now", path)
    state.forget_files(paths)


def _unknown(config: BatchConfig) -> Iterator[Path]:
    """Files named like those that the batch flow publishes."""
    logs = "|".join(re.escape(log.name) for log in LOGS)
    span = r"\d{12,}-\d{12,}(_m?\d{8,})?|kept_\d{8,}"
    yield from _named(config.processed_data_path, rf"({logs})_({span})\.parquet")
    yield from _named(config.processed_data_path / FOLDER, rf"({logs})_\d{{8,}}\.parquet")
    for view in VIEWS:
        yield from _named(
            config.offline_path / view.name, rf"{re.escape(view.name)}_(m\d)?\d{{8,}}\.parquet"
        )
    for log in LOGS:
        yield from _named(config.quarantine_path / log.table, r"\d{8,}(_\d{8,})?\.jsonl")


def _named(folder: Path, pattern: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if re.fullmatch(pattern, path.name)]
