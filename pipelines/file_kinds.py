"""Whether a path is a file or a folder, as it must be, looked at before it is opened.

Opening a named pipe waits for ever, and no library says what to do about a folder in place of its
file. Nothing is opened here: closing a SQLite file would undo the locks that this process holds.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pipelines.errors import UnusablePathError

_KINDS: Final[tuple[tuple[Callable[[int], bool], str], ...]] = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)
_SQLITE: Final = ("", "-wal", "-shm", "-journal")


def check_file(path: Path) -> None:
    """Make sure that a path is a file which this user may read, or that nothing is there.

    Raises:
        UnusablePathError: it is anything else.
    """
    _check(path, stat.S_ISREG, "a file", os.R_OK)


def check_folder(path: Path) -> None:
    """Make sure that a path is a folder which this user may list, or that nothing is there.

    Raises:
        UnusablePathError: it is anything else.
    """
    _check(path, stat.S_ISDIR, "a folder", os.R_OK | os.X_OK)


def check_sqlite_file(path: Path) -> None:
    """Make sure that a database and what SQLite keeps beside it are files, if they are there.

    Raises:
        UnusablePathError: one is anything else.
    """
    for suffix in _SQLITE:
        check_file(path.with_name(path.name + suffix))


def _check(path: Path, wanted: Callable[[int], bool], kind: str, rights: int) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise _unusable(path, "is a link to nothing", kind) from None
        return
    except NotADirectoryError:
        above = next(folder for folder in path.parents if folder.exists())
        raise _unusable(above, f"is {_kind(above.stat().st_mode)}", "a folder") from None
    except PermissionError:
        raise _forbidden(path) from None
    except OSError as error:
        said = "is a link in a circle" if error.errno == errno.ELOOP else f"is {error.strerror}"
        raise _unusable(path, said, kind) from None
    if not wanted(mode):
        raise _unusable(path, f"is {_kind(mode)}", kind)
    if not os.access(path, rights, effective_ids=os.access in os.supports_effective_ids):
        raise _forbidden(path)


def _kind(mode: int) -> str:
    return next((name for has, name in _KINDS if has(mode)), "a device")


def _unusable(path: Path, what: str, kind: str) -> UnusablePathError:
    return UnusablePathError(
        f"{path} {what} where {kind} belongs: move it away and run the command again"
    )


def _forbidden(path: Path) -> UnusablePathError:
    return UnusablePathError(
        f"{path} must not be read by this user: give it the right and run the command again"
    )
