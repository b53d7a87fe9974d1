"""Publishing a cycle's files: all of them, with the positions that they stand for, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pipelines.batch.files import PARTIAL_PREFIX, PARTIAL_SUFFIX, Draft, discard, move_into_place
from pipelines.batch.state import PipelineState


def publish(
    state: PipelineState,
    cycle: int,
    drafts: Sequence[Draft],
    now: datetime,
    *,
    reader: str | None = None,
    positions: Mapping[str, int] | None = None,
    waiting: Mapping[str, tuple[datetime, datetime]] | None = None,
    superseded: Sequence[Path] = (),
) -> None:
    """Rename the drafts into place and commit what they stand for.

    The commit in the state file is the moment at which they count. If anything fails before it,
    the files are removed again; if the process dies, `remove_leftovers` does so later.
    """
    try:
        state.add_pending(cycle, [draft.file for draft in drafts], now)
        move_into_place(drafts)
        state.commit_pending(
            cycle,
            now,
            reader=reader,
            positions=positions,
            waiting=waiting,
            superseded=superseded,
        )
    except BaseException:
        discard(drafts)
        state.forget_files([draft.file.path for draft in drafts])
        raise


def remove_leftovers(state: PipelineState, folders: Sequence[Path]) -> int:
    """Remove what a killed cycle left: files never committed and half-written ones.

    Returns:
        How many files were removed.
    """
    pending = [
        f.path
        for kind in ("log", "view", "quarantine")
        for f in state.files(kind, status="pending")
    ]
    partial = [
        path
        for folder in folders
        if folder.exists()
        for path in folder.rglob(f"{PARTIAL_PREFIX}*{PARTIAL_SUFFIX}")
    ]
    for path in (*pending, *partial):
        path.unlink(missing_ok=True)
    state.forget_files(pending)
    return len(pending) + len(partial)
