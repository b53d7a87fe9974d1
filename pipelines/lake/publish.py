"""Publishing a cycle's files: all of them, with the offsets that they stand for, or none."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pipelines.change_log.logs import LOGS
from pipelines.change_log.offsets import Offset
from pipelines.features.views import VIEWS
from pipelines.lake.files import (
    PARTIAL_PREFIX,
    PARTIAL_SUFFIX,
    StagedFile,
    discard,
    identities_of,
    move_into_place,
)
from pipelines.lake.rejected import FOLDER
from pipelines.lake.set_aside import removed, set_aside
from pipelines.lake.state import KINDS, PipelineState
from pipelines.lake.verification import parquet_files
from pipelines.settings import BatchConfig

logger = logging.getLogger(__name__)


def publish(
    state: PipelineState,
    cycle: int,
    staged_files: Sequence[StagedFile],
    now: datetime,
    *,
    reader: str | None = None,
    offsets: Mapping[str, Offset] | None = None,
    waiting: Mapping[str, tuple[datetime, datetime]] | None = None,
    superseded: Sequence[Path] = (),
    late: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Rename the staged files into place and commit what they stand for.

    The commit in the state file is the moment at which they count. If anything fails before it,
    the files are removed again; if the process dies, `remove_leftovers` does so later.
    """
    try:
        state.add_pending(cycle, [staged.file for staged in staged_files], now)
        move_into_place(staged_files)
        state.commit_pending(
            cycle,
            now,
            reader=reader,
            offsets=offsets,
            waiting=waiting,
            superseded=superseded,
            identities=identities_of(staged_files),
            late=late,
        )
    except BaseException:
        discard(staged_files)
        state.forget_files([staged.file.path for staged in staged_files])
        raise


def remove_leftovers(state: PipelineState, config: BatchConfig) -> int:
    """Remove what a killed cycle left: files never committed, half-written ones, and lines for
    people of which there are newer ones.

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
        removed(path, config)
    state.forget_files(pending)
    return len(pending) + len(partial)


def remove_everything(state: PipelineState, config: BatchConfig) -> None:
    """Remove all that was published and put every reader back to the beginning of its change log.

    Also what a state that is gone had published: files in our folders with names such as ours. What
    else readers would take for one of them is set aside. If the process dies, the next cycle goes
    on with it.
    """
    paths = state.forget_everything(uuid.uuid4().hex)
    aside = [removed(path, config) for path in (*paths, *_unknown(config))]
    views = [config.offline_path / view.name for view in VIEWS]
    for folder in (config.processed_data_path, *views):
        aside += [set_aside(path, config) for path in parquet_files(folder)]
    for path in filter(None, aside):
        logger.warning("what lay among the published files and is not ours is %s now", path)
    state.forget_files(paths)


def _unknown(config: BatchConfig) -> Iterator[Path]:
    """Files that look as if the batch flow had published them."""
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
