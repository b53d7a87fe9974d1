"""Starting over from the change logs: what `batch --rebuild` does before its first cycle."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path

from pipelines.change_log.reading import plan, readers_of
from pipelines.errors import CycleInProgressError
from pipelines.lake.process_lock import BATCH_LOCK, only_one
from pipelines.lake.set_aside import check_places
from pipelines.lake.state import KINDS, STATUSES, PipelineState
from pipelines.lake.state_rescue import set_damaged_aside
from pipelines.settings import BatchConfig, DataConfig

logger = logging.getLogger(__name__)


def only_cycle(config: BatchConfig) -> AbstractContextManager[None]:
    """Holds the batch flow's lock of a data directory.

    Raises:
        CycleInProgressError: another process or thread holds it.
    """
    return only_one(config.data_dir / BATCH_LOCK, CycleInProgressError)


def check_rebuilding(config: BatchConfig, data: DataConfig) -> None:
    """Make sure that all can be made anew from the change logs, before anything is dropped.

    Raises:
        LiveDatabaseError: a live database is away, locked or not what the pipelines need.
        UnusablePathError: a folder of ours is none, or cannot be read.
    """
    check_places(config)
    readers = readers_of(data)
    for reader in readers.values():
        reader.upgrade()
    plan(readers, {})


def set_damaged_state_aside(config: BatchConfig, data: DataConfig) -> Path | None:
    """Move a damaged pipeline state out of the way, so that a rebuild can begin.

    Returns:
        Where it lies now; None if it is whole, or not there.

    Raises:
        CycleInProgressError: a cycle runs on this data directory.
        SynchroChainError: the rebuild could not be done now.
    """

    def read() -> None:
        state = PipelineState(config.state_path)
        state.last_cycles()
        state.pending_materializations()
        for kind in KINDS:
            for status in STATUSES:
                state.files(kind, status=status)

    with only_cycle(config):
        check_rebuilding(config, data)
        aside = set_damaged_aside(config.state_path, read)
    if aside is not None:
        logger.warning("%s was damaged, it is %s now", config.state_path, aside.name)
    return aside
