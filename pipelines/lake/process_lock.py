"""One process at a time: a lock file, and beside it a file with the holder's process id."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil
from filelock import FileLock, Timeout

from pipelines.file_kinds import check_file, check_folder

BATCH_LOCK: Final = "batch.lock"
"""In the data directory: held while a cycle runs."""
STREAM_LOCK: Final = "stream.lock"
"""In the data directory: held by its one streamer."""


@contextmanager
def only_one(path: Path, taken: Callable[[int | None], Exception]) -> Iterator[None]:
    """Hold the lock inside the context; it is released however the process ends.

    Args:
        path: the lock file; its folder is created where missing.
        taken: makes the exception to raise if the lock is held, from the holder's process id (None
            if unknown).
    """
    check_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    check_file(path)
    lock = FileLock(path, timeout=0)  # one per call, so that threads exclude each other too
    holder = path.with_suffix(".pid")
    check_file(holder)
    try:
        lock.acquire()
    except Timeout:
        raise taken(_pid_in(holder)) from None
    try:
        holder.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def held_by(path: Path) -> int | None:
    """The process id of the lock's holder; None if it is free."""
    pid = _pid_in(path.with_suffix(".pid"))
    # The check takes the lock briefly, so skip it where no holder is alive.
    if pid is None or not psutil.pid_exists(pid):
        return None
    try:
        with FileLock(path, timeout=0):
            return None
    except Timeout:
        return pid


def _pid_in(path: Path) -> int | None:
    check_file(path)
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
