"""Reading the pipeline's state without writing a byte beside it: from a copy."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pipelines.file_kinds import check_sqlite_file
from pipelines.lake.state import PipelineState
from pipelines.lake.state_migrations import is_current
from pipelines.lake.state_rescue import state_error


@contextmanager
def copied_state(path: Path) -> Iterator[PipelineState | None]:
    """A copy of the state as it is now, of the newest format; None if there is no state.

    Paths of files are not those of the original.

    Raises:
        PipelineStateError: the file cannot be read.
        DamagedStateError: its content is invalid.
        NewerFormatError: it was written by a newer version.
    """
    check_sqlite_file(path)
    if not path.exists():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="synchrochain-") as folder:
        copy = Path(folder, path.name)
        try:
            while not _copied(path, copy):
                copy.unlink()
            with closing(sqlite3.connect(copy)) as connection:
                is_current(connection, path)
            state = PipelineState(copy)
        except sqlite3.Error as error:
            raise state_error(path, error) from None
        yield state


def _copied(path: Path, copy: Path) -> bool:
    """Copy the file; false if somebody began to write it meanwhile."""
    log = path.with_name(f"{path.name}-wal")
    quiet = not log.exists()
    # Opening a file in WAL mode to read leaves two files behind, but for one that nobody writes.
    options = "immutable=1" if quiet else "mode=ro"
    with (
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    return not quiet or not log.exists()
