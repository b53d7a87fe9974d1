"""Whether the published files are what was published: all of them, no others, to the bit.

DuckDB does not look at the checksums of Parquet pages, so a flipped bit would be read as another
value. Every reader of ours therefore asks here first. A file is read through once and compared with
its SHA-256; that verdict holds, in the process and in the state, until its inode, size or one of
its time stamps changes.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import CorruptFileError, NewerFormatError, StorageFullError
from pipelines.lake.state import PipelineState, PublishedFile
from pipelines.lake.state_rescue import ANEW
from pipelines.places import check_folder

Read = TypeVar("Read")
FILE_FORMAT: Final = 1
"""Of the published Parquet files; one that does not say has the first."""
FORMAT_KEY: Final = b"synchrochain:format"
_TICK_NS: Final = 20_000_000
"""Two writes within so many nanoseconds may leave the same time stamp."""
_LOOKS: Final = 3

_seen_whole: Final[dict[Path, tuple[str, str]]] = {}
"""What this process has read through: SHA-256 and identity, by path."""


def verified(
    state: PipelineState,
    kind: str,
    name: str | None = None,
    *,
    folder: Path | None = None,
    afresh: bool = False,
) -> list[PublishedFile]:
    """The live files of a kind (and name), each of them as it was published.

    Args:
        folder: where files of this kind and name lie; one that is not ours is complained about.
        afresh: read each through once in this process, whatever others have found.

    Raises:
        CorruptFileError: a file is missing, altered, cannot be read or does not belong there.
        NewerFormatError: a newer version has written it.
    """
    if folder is not None:
        check_strangers(state, folder)
    files = state.files(kind, name)
    while True:
        try:
            check_contents(state, files, afresh=afresh)
        except CorruptFileError:
            before, files = files, state.files(kind, name)
            if files == before:  # else all was made anew meanwhile
                raise
        else:
            return files


def read_again_if_made_anew(state: PipelineState, read: Callable[[], Read]) -> Read:
    """What a function reads of the published files; once more from the beginning if `--rebuild`
    has removed them while it read."""
    while True:
        generation = state.generation
        try:
            return read()
        except (duckdb.IOException, CorruptFileError):
            if state.generation == generation:
                raise


def check_contents(
    state: PipelineState, files: Iterable[PublishedFile], *, afresh: bool = False
) -> None:
    """Make sure that files hold, to the bit, what was published.

    Args:
        afresh: read each through once in this process, whatever others have found.

    Raises:
        CorruptFileError: one is missing, altered or cannot be read.
        NewerFormatError: one was written by a newer version.
    """
    seen: dict[Path, str] = {}
    for file in files:
        if file.format > FILE_FORMAT:
            raise NewerFormatError(file.path, file.format, FILE_FORMAT)
        identity = _identity(file)
        known = _seen_whole.get(file.path) == (file.sha256, identity)
        if known or (file.identity == identity and not afresh):
            continue
        _read_through(file)
        if _identity(file) == identity and settled(identity):
            _seen_whole[file.path] = (file.sha256, identity)
            if file.identity != identity:
                seen[file.path] = identity
    if seen:
        try:
            state.remember_identities(seen)
        except StorageFullError:  # then the next process reads them through as well
            return


def check_strangers(state: PipelineState, folder: Path) -> None:
    """Make sure that a folder of published files holds none that the state does not know.

    Raises:
        CorruptFileError: it does; other readers, who take all that is there, would count its rows.
        UnusablePathError: the folder is none, or cannot be listed.
    """
    paths = parquet_files(folder)
    for _look in range(_LOOKS):  # a cycle may be publishing, or giving up, just now
        known = state.known_paths()
        paths = [path for path in paths if path not in known and path.exists()]
        if not paths:
            return
    more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
    raise CorruptFileError(
        f"{paths[0]}{more} is not among the files that {state.path} knows as published: move it "
        f"elsewhere, or {ANEW}"
    )


def identity_of(path: Path) -> str:
    """What tells a file from another one in its place, or from itself after a change."""
    found = path.stat()
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def settled(identity: str) -> bool:
    """Whether a change from now on would show in the identity: its time stamps lie in the past."""
    times = map(int, identity.split()[2:])
    return all(time.time_ns() - moment > _TICK_NS for moment in times)


def sha256_of(path: Path) -> str:
    """The file's SHA-256, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _identity(file: PublishedFile) -> str:
    try:
        identity = identity_of(file.path)
    except (FileNotFoundError, NotADirectoryError):
        raise _damaged(file, "is missing") from None
    except OSError as error:
        raise _damaged(file, f"cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(file.path.stat().st_mode):
        raise _damaged(file, "is no file any more")
    size = int(identity.split()[1])
    if size != file.bytes:
        raise _damaged(file, f"has {size} bytes instead of {file.bytes}")
    return identity


def _read_through(file: PublishedFile) -> None:
    try:
        if sha256_of(file.path) != file.sha256:
            raise _damaged(file, "was altered after it was published (its SHA-256 differs)")
        if file.path.suffix == ".parquet":
            written = pq.read_schema(file.path).metadata or {}
            found = int(written.get(FORMAT_KEY, b"1"))
            if found > FILE_FORMAT:
                raise NewerFormatError(file.path, found, FILE_FORMAT)
    except OSError as error:
        raise _damaged(file, f"cannot be read ({error.strerror or error})") from None
    except pa.ArrowException as error:
        raise _damaged(file, f"is no Parquet file ({error})") from None


def _damaged(file: PublishedFile, what: str) -> CorruptFileError:
    return CorruptFileError(f"{file.path} {what}: restore it from a backup, or {ANEW}")


def parquet_files(folder: Path) -> Sequence[Path]:
    """What lies in a folder and is called like a Parquet file, in the order of the names.

    Raises:
        UnusablePathError: the folder is none, or cannot be listed.
    """
    check_folder(folder)
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except FileNotFoundError:
        return []
    return [folder / n for n in names if n.endswith(".parquet") and not n.startswith(".")]
