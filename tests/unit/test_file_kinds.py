"""Paths that are not what they must be are named before anything opens them."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.errors import UnusablePathError
from pipelines.file_kinds import check_file, check_folder, check_sqlite_file


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def a_link(to: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(to)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user may look into, with a short name, as a socket needs."""
    made = Path(tempfile.mkdtemp(prefix="sc-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Path.mkdir, "is a folder"),
        (os.mkfifo, "is a named pipe"),
        (a_socket, "is a socket"),
        (a_link("/dev/null"), "is a device"),
        (a_link("nowhere"), "is a link to nothing"),
        (a_link("place"), "is a link in a circle"),
    ],
)
def test_what_is_no_file_is_named(folder: Path, make: Callable[[Path], None], said: str) -> None:
    """With what it is, and what to do."""
    path = folder / "place"
    make(path)
    with pytest.raises(UnusablePathError) as raised:
        check_file(path)
    assert str(raised.value) == (
        f"{path} {said} where a file belongs: move it away and run the command again"
    )


def test_what_is_no_folder_is_named_also_above(folder: Path) -> None:
    """The file in the way, not what would lie in it."""
    path = folder / "place"
    path.touch()
    for check, asked in (
        (check_folder, path),
        (check_folder, path / "a"),
        (check_file, path / "a" / "b"),
    ):
        with pytest.raises(UnusablePathError) as raised:
            check(asked)
        assert str(raised.value).startswith(f"{path} is a file where a folder belongs: move")


def test_what_sqlite_keeps_beside_a_database_is_looked_at_too(folder: Path) -> None:
    """SQLite says nothing of the kind."""
    (folder / "a.db-shm").mkdir()
    with pytest.raises(UnusablePathError, match=r"a\.db-shm is a folder"):
        check_sqlite_file(folder / "a.db")


def test_what_is_right_or_not_there_passes(folder: Path) -> None:
    """Links to it as well."""
    (folder / "file").touch()
    (folder / "link").symlink_to("file")
    for name in ("file", "link", "nothing", "no/thing"):
        check_file(folder / name)
    check_folder(folder)
    check_folder(folder / "nothing")


@pytest.mark.parametrize("above", [False, True])
def test_what_this_user_may_not_read_is_named(folder: Path, above: bool) -> None:
    """Whether it is the file or a folder above it."""
    inner = folder / "inner"
    inner.mkdir()
    path = inner / "file"
    path.touch()
    (inner if above else path).chmod(0)
    root = os.geteuid() == 0
    if root:  # who may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(UnusablePathError, match="must not be read by this user: give it the"):
            check_file(path)
    finally:
        if root:
            os.seteuid(0)
        inner.chmod(0o700)
