"""Writes files atomically: no reader ever sees a partial one.

A file is written under a hidden name beside its target, synced, and renamed when the whole cycle is
ready. Parquet pages carry checksums, and the file's own SHA-256 goes into the pipeline's state.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import StorageFullError
from pipelines.lake.prefetch import prefetched
from pipelines.lake.state import PublishedFile
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


@dataclass(frozen=True)
class StagedFile:
    """A written file that waits under a hidden name to be published."""

    file: PublishedFile
    partial: Path
    identity: str
    """Its identity when its checksum was computed."""


def partial_path(target: Path) -> Path:
    """The hidden name under which a file is written before it is published."""
    return target.with_name(f"{PARTIAL_PREFIX}{target.name}{PARTIAL_SUFFIX}")


def write_parquet(
    target: Path,
    kind: str,
    name: str,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    time_column: str | None,
) -> StagedFile | None:
    """Stream record batches into a file staged for `target`.

    Args:
        target: the path under which the file will be published.
        kind: one of `state.KINDS`.
        name: the log or view.
        schema: the file's schema, to which batches are cast.
        batches: the rows.
        time_column: the column whose range is recorded (UTC, naive); None for none.

    Returns:
        The staged file, or None if there were no rows (then no file is left behind).

    Raises:
        StorageFullError: the disk is full; the partial file is removed.
    """
    partial = partial_path(target)
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
            for batch in prefetched(batches):
                if batch.num_rows == 0:
                    continue
                for part in _parts(batch):
                    writer.write_batch(part.cast(schema), row_group_size=ROWS_PER_GROUP)
                rows += batch.num_rows
                if time_column:
                    low, high = pc.min_max(batch.column(time_column)).as_py().values()
                    oldest = min(filter(None, (oldest, low)), default=None)
                    newest = max(filter(None, (newest, high)), default=None)
        if rows == 0:
            partial.unlink()
            return None
        return _staged(target, partial, kind, name, rows, oldest, newest)


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


def write_lines(target: Path, kind: str, name: str, lines: Sequence[str]) -> StagedFile:
    """Write text lines into a file staged for `target`.

    Args:
        target: the path under which the file will be published.
        kind: one of `state.KINDS`.
        name: the log or view.
        lines: without their newlines.
    """
    partial = partial_path(target)
    with _removing_on_failure(partial):
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return _staged(target, partial, kind, name, len(lines), None, None)


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
    target: Path,
    partial: Path,
    kind: str,
    name: str,
    rows: int,
    oldest: datetime | None,
    newest: datetime | None,
) -> StagedFile:
    sync(partial)
    identity = identity_of(partial)
    size, digest = partial.stat().st_size, sha256_of(partial)
    file = PublishedFile(target, kind, name, rows, size, digest, oldest, newest, format=FILE_FORMAT)
    return StagedFile(file, partial, identity)


def compacted(staged: StagedFile) -> StagedFile:
    """The same file, marked as holding only the newest rows of an expired stretch of time."""
    return replace(staged, file=replace(staged.file, compacted=True))
