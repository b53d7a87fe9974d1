"""One process at a time: a lock file, and beside it the process id of who holds it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from pipelines.places import check_file, check_folder


@contextmanager
def only_one(path: Path, taken: Callable[[int | None], Exception]) -> Iterator[None]:
    """Hold the lock while inside; it is free again when the process ends, however it ends.

    Args:
        path: the lock file; its folder is made if it is not there.
        taken: makes the exception that is raised if somebody else holds it, from the holder's
            process id, None if that is not known.
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
    """The process id of who holds the lock, None if nobody does."""
    pid = _pid_in(path.with_suffix(".pid"))
    # Looking takes the lock for a moment, so only where somebody may hold it.
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
