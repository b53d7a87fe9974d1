"""Stages files and publishes them: all files of a cycle with the offsets they cover, or none.

A file is staged under a hidden name beside its target and synced. Publishing renames all of them;
readers see them from the commit in the pipeline's state on, never a partial one. Parquet pages
carry checksums, and the file's own SHA-256 goes into the state.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.change_log.offsets import Offset
from pipelines.errors import StorageFullError
from pipelines.lake.prefetch import prefetched
from pipelines.lake.state import Declared, PipelineState, PublishedFile
from pipelines.lake.verification import (
    FILE_FORMAT,
    FORMAT_KEY,
    identity_of,
    is_stable,
)
from pipelines.paths import sha256_of

PARTIAL_PREFIX: Final = "."
PARTIAL_SUFFIX: Final = ".partial"
ROWS_PER_GROUP: Final = 65_536
BYTES_AT_ONCE: Final = 1 << 28
"""The most bytes of a record batch that is written at once: a text column is limited to 2 GB."""


FILES_AT_ONCE: Final = 2
"""Files staged at the same time; DuckDB computes each with all cores."""


@dataclass(frozen=True)
class Table:
    """Rows for one Parquet file; the batches are computed while the file is written."""

    target: Path
    """The path under which the file is published."""
    kind: str
    """One of `state.KINDS`."""
    name: str
    """The log or view."""
    schema: pa.Schema
    """The file's schema, to which batches are cast."""
    time_column: str | None
    """The column whose range is recorded (UTC, naive); None for none."""
    batches: Iterable[pa.RecordBatch]
    replaces: Sequence[Path] = ()
    """Published files that this one supersedes, even if it has no rows and is not written."""


@dataclass(frozen=True)
class Lines:
    """Text lines for one file, without their newlines; otherwise as `Table`."""

    target: Path
    kind: str
    name: str
    lines: Iterable[str]
    replaces: Sequence[Path] = ()


@dataclass(frozen=True)
class StagedFile:
    """A written file that waits under a hidden name to be published."""

    file: PublishedFile
    partial: Path
    identity: str
    """Its identity when its checksum was computed."""


@dataclass(frozen=True)
class Staged:
    """Staged files, and the published ones that they supersede."""

    files: Sequence[StagedFile] = ()
    superseded: Sequence[Path] = ()

    @property
    def views(self) -> Iterator[PublishedFile]:
        """Those of the files that hold feature rows."""
        return (staged.file for staged in self.files if staged.file.kind == "view")


def stage(contents: Sequence[Table | Lines]) -> Staged:
    """Write each into a file staged for its target; what has no rows gets no file.

    Two at a time: while one is written, which takes one core, another one is computed.

    Raises:
        StorageFullError: the disk is full; the partial file is removed.
    """
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        files = [staged for staged in pool.map(_write, contents) if staged]
    return Staged(files, [path for content in contents for path in content.replaces])


def _write(content: Table | Lines) -> StagedFile | None:
    return write_parquet(content) if isinstance(content, Table) else write_lines(content)


def partial_path(target: Path) -> Path:
    """The hidden name under which a file is written before it is published."""
    return target.with_name(f"{PARTIAL_PREFIX}{target.name}{PARTIAL_SUFFIX}")


def write_parquet(table: Table) -> StagedFile | None:
    """Stream a table's record batches into a staged file.

    Returns:
        The staged file, or None if there were no rows.

    Raises:
        StorageFullError: the disk is full; the partial file is removed.
    """
    batches = (batch for batch in prefetched(table.batches) if batch.num_rows)
    first = next(batches, None)
    if first is None:
        return None
    schema = table.schema
    partial = partial_path(table.target)
    rows = 0
    oldest: datetime | None = None
    newest: datetime | None = None
    with _removing_on_failure(partial):
        with pq.ParquetWriter(
            partial,
            schema.with_metadata({FORMAT_KEY: str(FILE_FORMAT).encode()}),
            compression="zstd",
            compression_level=1,
            write_page_checksum=True,
            coerce_timestamps="us",
            use_dictionary=_texts(schema),
            write_statistics=[f.name for f in schema if not pa.types.is_nested(f.type)],
        ) as writer:
            for batch in chain((first,), batches):
                for part in _parts(batch):
                    writer.write_batch(part.cast(schema), row_group_size=ROWS_PER_GROUP)
                rows += batch.num_rows
                if table.time_column:
                    low, high = pc.min_max(batch.column(table.time_column)).as_py().values()
                    oldest = min(filter(None, (oldest, low)), default=None)
                    newest = max(filter(None, (newest, high)), default=None)
        return _staged(table, partial, rows, (oldest, newest))


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in parts of bounded size, each with arrays of its own."""
    parts = [batch]
    while parts:
        part = parts.pop()
        if part.nbytes > BYTES_AT_ONCE and part.num_rows > 1:
            half = part.num_rows // 2
            parts += [part.slice(half), part.slice(0, half)]
        else:  # a slice keeps the whole's list offsets, too large for 32 bits
            yield part if part is batch else part.take(pa.array(np.arange(part.num_rows)))


def _texts(schema: pa.Schema) -> list[str]:
    """The paths of the text columns: a dictionary makes numbers larger and slower."""
    return [f.name for f in schema if f.type == pa.string()] + [
        f"{f.name}.list.element" for f in schema if f.type == pa.list_(pa.string())
    ]


def write_lines(text: Lines) -> StagedFile | None:
    """Write text lines into a staged file; None if there are no lines."""
    lines = iter(text.lines)
    first = next(lines, None)
    if first is None:
        return None
    partial = partial_path(text.target)
    rows = 0
    with _removing_on_failure(partial):
        with partial.open("w", encoding="utf-8") as file:
            for line in chain((first,), lines):
                file.write(f"{line}\n")
                rows += 1
        return _staged(text, partial, rows)


def publish(
    state: PipelineState,
    cycle: int,
    staged: Staged,
    now: datetime,
    *,
    reader: str | None = None,
    offsets: Mapping[str, Offset] | None = None,
    to_materialize: Mapping[str, tuple[datetime, datetime]] | None = None,
    resolved: Mapping[str, Sequence[int]] | None = None,
    declared: Declared | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Rename the staged files into place and commit them together with their offsets.

    Readers see the files from the commit in the state file on. If anything fails before it, the
    files are removed again; if the process dies, `remove_leftovers` does so later.

    Args:
        state: the pipeline's state.
        cycle: the number of the cycle.
        staged: the files to publish, and those that they supersede.
        now: UTC, naive.
        reader: whose offsets move; None if none do.
        offsets: the reader's new offset by database.
        to_materialize: per view, the oldest and newest event time of its new rows.
        resolved: per log, the `seq` of rows that an earlier cycle rejected and this one accepts.
        declared: what its feature rows are declared from; None to leave that as it is.
        notes: entries of the state's metadata.
    """
    try:
        state.add_pending(cycle, [one.file for one in staged.files], now)
        move_into_place(staged.files)
        state.commit_pending(
            cycle,
            now,
            reader=reader,
            offsets=offsets,
            to_materialize=to_materialize,
            superseded=staged.superseded,
            identities=identities_of(staged.files),
            resolved=resolved,
            declared=declared,
            notes=notes,
        )
    except BaseException:
        discard(staged.files)
        state.forget_files([one.file.path for one in staged.files])
        raise


def discard(staged_files: Iterable[StagedFile]) -> None:
    """Remove staged files, renamed or not."""
    for staged in staged_files:
        staged.partial.unlink(missing_ok=True)
        staged.file.path.unlink(missing_ok=True)


def move_into_place(staged_files: Sequence[StagedFile]) -> None:
    """Rename every staged file to its name and sync the folders."""
    for staged in staged_files:
        os.rename(staged.partial, staged.file.path)
    for folder in {staged.file.path.parent for staged in staged_files}:
        sync(folder)


def identities_of(staged_files: Sequence[StagedFile]) -> dict[Path, str]:
    """The identities of the files in place, as far as only their names have changed."""
    found = {staged.file.path: identity_of(staged.file.path) for staged in staged_files}
    renamed = slice(0, 3)  # a file gets a new status change time with its name
    return {
        staged.file.path: identity
        for staged, identity in zip(staged_files, found.values(), strict=True)
        if identity.split()[renamed] == staged.identity.split()[renamed] and is_stable(identity)
    }


def sync(path: Path) -> None:
    """Have the file system write a file's or folder's state to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def full_disk_reported(where: Path) -> Iterator[None]:
    """Turn "no space left" into one line that names the place."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(
                f"no room left on the disk of {where}: free some and run the command again; "
                "nothing is lost"
            ) from None
        raise


@contextmanager
def _removing_on_failure(partial: Path) -> Iterator[None]:
    try:
        with full_disk_reported(partial.parent):
            partial.parent.mkdir(parents=True, exist_ok=True)
            yield
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _staged(
    content: Table | Lines,
    partial: Path,
    rows: int,
    times: tuple[datetime | None, datetime | None] = (None, None),
) -> StagedFile:
    sync(partial)
    identity = identity_of(partial)
    size, digest = partial.stat().st_size, sha256_of(partial)
    target, kind, name = content.target, content.kind, content.name
    file = PublishedFile(target, kind, name, rows, size, digest, *times, format=FILE_FORMAT)
    return StagedFile(file, partial, identity)


def compacted(staged: StagedFile) -> StagedFile:
    """The same file, marked as holding only the newest rows of an expired stretch of time."""
    return replace(staged, file=replace(staged.file, compacted=True))
