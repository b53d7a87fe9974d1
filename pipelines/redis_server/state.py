"""What lies in the Redis directory beside the servers' data: the lock, the state, who was last."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from pipelines.errors import RedisUnavailableError, StorageFullError, UnusablePathError
from pipelines.file_kinds import check_file, check_folder
from pipelines.redis_server.programs import PrivateEngine

logger = logging.getLogger(__name__)

LOCK_SECONDS: Final = 60.0
STATE_NAME: Final = "server.json"
LAST_NAME: Final = "last_engine"


@dataclass(frozen=True)
class ServerState:
    """The private server of one data directory, as `server.json` holds it.

    Written before the server starts, with `pid` None, and again once its process is known: a
    starter that dies between the two leaves a server that can still be found. `created` is when
    the process was created, seconds since the epoch.
    """

    engine: PrivateEngine
    version: str
    port: int
    password: str | None
    directory: Path
    socket: Path | None
    pid: int | None = None
    created: float | None = None


def prepare_root(root: Path) -> None:
    """Make the Redis directory and let only its owner in."""
    with explain_file_errors(root):
        check_folder(root)
        make_private(root)


def make_private(directory: Path) -> None:
    """Create the directory where it is missing; mode 0700 in any case."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)


@contextmanager
def server_lock(root: Path) -> Iterator[None]:
    """Hold the data directory's server against every other process and thread.

    Raises:
        RedisUnavailableError: somebody else has held it for `LOCK_SECONDS`.
    """
    try:
        with FileLock(root / "server.lock", timeout=LOCK_SECONDS, mode=0o600):
            yield
    except Timeout:
        raise RedisUnavailableError(
            f"another process has been starting or stopping the Redis of {root} for "
            f"{LOCK_SECONDS:.0f} s: end that process, then try again"
        ) from None


@contextmanager
def explain_file_errors(path: Path) -> Iterator[None]:
    """Turn a failure of the file system into one line about the Redis directory.

    Raises:
        StorageFullError: no room is left.
        RedisUnavailableError: anything else: rights, a read-only disk, a file in the way.
    """
    try:
        yield
    except UnusablePathError as error:
        raise RedisUnavailableError(
            f"the private Redis: {error}, or choose another place with SYNCHROCHAIN_DATA_DIR"
        ) from None
    except OSError as error:
        where = error.filename or path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(
                f"no room left to write {where}: free some, then try again"
            ) from error
        raise RedisUnavailableError(
            f"the private Redis cannot use {where}: {error.strerror}; give this user the right "
            f"to it, or choose another place with SYNCHROCHAIN_DATA_DIR"
        ) from error


def read_state(root: Path) -> ServerState | None:
    """The recorded server, or None when there is no record or it cannot be understood."""
    path = root / STATE_NAME
    try:
        with explain_file_errors(root):
            check_file(path)
            raw = json.loads(path.read_text("utf-8")) if path.exists() else None
        if raw is None:
            return None
        # The directory may have been moved with its server running: only the name is taken.
        directory = root / Path(raw["directory"]).name
        socket = directory / Path(raw["socket"]).name if raw["socket"] else None
        return ServerState(**raw | {"directory": directory, "socket": socket})
    except (ValueError, TypeError, KeyError) as error:
        logger.warning("%s is damaged and is ignored: %r", path, error)
        return None


def write_state(root: Path, state: ServerState) -> None:
    """Record the server, so that every process finds it. Holds the password: mode 0600."""
    socket = str(state.socket) if state.socket else None
    raw = vars(state) | {"directory": str(state.directory), "socket": socket}
    write_private(root / STATE_NAME, json.dumps(raw, indent=1))


def remove_state(root: Path) -> None:
    """Forget the recorded server."""
    (root / STATE_NAME).unlink(missing_ok=True)


def read_last(root: Path) -> str | None:
    """The directory name of the server that ran here last, for example "redis-7"."""
    path = root / LAST_NAME
    check_file(path)
    return path.read_text("utf-8").strip() if path.exists() else None


def write_last(root: Path, name: str) -> None:
    """Remember which server ran here, also past `synchrochain down`."""
    write_private(root / LAST_NAME, name)


def write_private(path: Path, text: str) -> None:
    """Write a whole file that only its owner may read: readers see the old one or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    with open(
        os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
