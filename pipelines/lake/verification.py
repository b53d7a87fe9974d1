"""Verifies the published files: all of them, no others, unaltered to the bit.

DuckDB does not check the checksums of Parquet pages, so a flipped bit would be read as another
value. So all our readers verify files here first. A file is read once and compared with its
SHA-256; the result is cached, in the process and in the state, until its inode, size or one of its
timestamps changes.
"""

from __future__ import annotations

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
from pipelines.file_kinds import check_folder
from pipelines.lake.state import PipelineState, PublishedFile
from pipelines.lake.state_rescue import ANEW
from pipelines.paths import sha256_of

Read = TypeVar("Read")
FILE_FORMAT: Final = 1
"""Format of the published Parquet files; a file without one has format 1."""
FORMAT_KEY: Final = b"synchrochain:format"
_TICK_NS: Final = 20_000_000
"""Two writes within so many nanoseconds may leave the same timestamp."""
_LOOKS: Final = 3

_seen_whole: Final[dict[Path, tuple[str, str]]] = {}
"""Files that this process has verified: SHA-256 and identity, by path."""


def verified(
    state: PipelineState,
    kind: str,
    name: str | None = None,
    *,
    folder: Path | None = None,
    afresh: bool = False,
) -> list[PublishedFile]:
    """The live files of a kind (and name), each verified.

    Args:
        state: the pipeline's state.
        kind: one of `KINDS`.
        name: the log or view; None for all.
        folder: where files of this kind and name lie; unknown files in it are an error.
        afresh: ignore results of other processes: read each file once in this one.

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
    """Call `read`, which reads published files; again if `--rebuild` has removed them
    meanwhile."""
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
    """Check that files are, to the bit, as they were published.

    Args:
        state: the pipeline's state.
        files: the files to check.
        afresh: ignore results of other processes: read each file once in this one.

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
        if _identity(file) == identity and is_stable(identity):
            _seen_whole[file.path] = (file.sha256, identity)
            if file.identity != identity:
                seen[file.path] = identity
    if seen:
        try:
            state.remember_identities(seen)
        except StorageFullError:  # then the next process reads them again
            return


def check_strangers(state: PipelineState, folder: Path) -> None:
    """Check that a folder of published files holds none that the state does not know.

    Raises:
        CorruptFileError: it does; readers that take all files would count its rows.
        UnusablePathError: the folder is not a folder, or cannot be listed.
    """
    paths = parquet_files(folder)
    for _look in range(_LOOKS):  # a cycle may be publishing or rolling back
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
    """Identifies a file's content without reading it: inode, size, timestamps."""
    return _in_words(path.stat())


def is_stable(identity: str) -> bool:
    """Whether any later change would show in the identity: its timestamps are in the past."""
    times = map(int, identity.split()[2:])
    return all(time.time_ns() - ns > _TICK_NS for ns in times)


def _identity(file: PublishedFile) -> str:
    try:
        found = file.path.stat()  # once: the file may go at any time
    except (FileNotFoundError, NotADirectoryError):
        raise _damaged(file, "is missing") from None
    except OSError as error:
        raise _damaged(file, f"cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(found.st_mode):
        raise _damaged(file, "is no file any more")
    if found.st_size != file.bytes:
        raise _damaged(file, f"has {found.st_size} bytes instead of {file.bytes}")
    return _in_words(found)


def _in_words(found: os.stat_result) -> str:
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


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
    """The `*.parquet` entries of a folder, sorted by name.

    Raises:
        UnusablePathError: the folder is not a folder, or cannot be listed.
    """
    check_folder(folder)
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except FileNotFoundError:
        return []
    return [folder / n for n in names if n.endswith(".parquet") and not n.startswith(".")]
