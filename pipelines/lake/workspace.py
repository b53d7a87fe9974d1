"""The DuckDB database in which one cycle does its work, bounded in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import duckdb
import psutil

from pipelines.errors import MemoryFullError, StorageFullError
from pipelines.lake.state import PublishedFile
from pipelines.paths import read_parquet
from pipelines.stopping import interruptible
from pipelines.tables.declare import Log
from pipelines.tables.known import LOGS

DUCKDB_SHARE: Final = 0.4
"""Of the memory of a process: with ten million changes libraries, record batches, files being
written and what DuckDB does not count took as much again, and the allocator keeps some."""
ROWS_PER_BATCH: Final = 8_192
"""Several batches are under way for each file, and rows may hold lists."""
STAGING: Final = "staging"
"""Where workspaces spill to, in the data directory."""
Progress = Callable[[str, int], None]
"""Callback: the name of the step, and how many more rows it has processed."""


def memory_limit(memory: int) -> str:
    """What DuckDB may take, as it writes it, where the process may hold `memory` bytes."""
    return f"{int(memory * DUCKDB_SHARE)}B"


@contextmanager
def workspace(folder: Path, memory: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection that spills to `folder` when memory runs short; the folder is removed.

    Args:
        folder: where it spills to.
        memory: bytes that the process may hold.

    Raises:
        StorageFullError: there was no room left to spill.
        MemoryFullError: data that cannot spill does not fit, such as very many long texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    connection = duckdb.connect(config={"temp_directory": str(folder)})
    try:
        connection.execute(f"SET memory_limit = '{memory_limit(memory)}'")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("SET TimeZone = 'UTC'")
        # Many rows of long texts make more than 2 GB in a record batch.
        connection.execute("SET arrow_large_buffer_size = true")
        with interruptible():
            yield connection
    except duckdb.Error as error:
        if "No space left" in str(error):
            raise StorageFullError(f"no room left on the disk of {folder}: free some") from None
        if isinstance(error, duckdb.OutOfMemoryException):
            raise MemoryFullError(
                f"not enough memory for the changes that are dealt with at once: {memory:,} bytes, "
                "set SYNCHROCHAIN_BATCH_MEMORY to more and run the command again; nothing is lost"
            ) from None
        raise
    finally:
        connection.close()
        shutil.rmtree(folder, ignore_errors=True)


def remove_dead_workspaces(staging: Path) -> None:
    """Remove the folders of killed cycles and audits; the caller holds the batch flow's lock.

    Audits run beside cycles: a folder names its process id and is kept while that is alive.
    """
    for folder in staging.glob("*-*"):
        kind, number, *_ = folder.name.split("-")
        if not number.isdecimal() or kind not in ("audit", "cycle"):
            continue
        if kind == "cycle" or not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(staging / "cleanup", ignore_errors=True)


def read_files(files: Sequence[PublishedFile]) -> str:
    """SQL that reads the given Parquet files as one relation."""
    return read_parquet([file.path for file in files])


def attach_history(
    connection: duckdb.DuckDBPyConnection, files: Mapping[str, Sequence[PublishedFile]]
) -> None:
    """Make `old_<log>` readable: what earlier cycles have published of each log."""
    for log in LOGS:
        published = files.get(log.name)
        source = f"SELECT {columns(log)} FROM {read_files(published)}" if published else empty(log)
        connection.execute(f"CREATE OR REPLACE VIEW old_{log.name} AS {source}")


def columns(log: Log, of: str = "") -> str:
    """The log's columns, quoted, for a SELECT; with the name of a relation, that one's."""
    return ", ".join(f'{of}."{name}"' if of else f'"{name}"' for name in log.types)


def quoted(names: Iterable[str]) -> str:
    """Names of columns, quoted, for a SELECT."""
    return ", ".join(f'"{name}"' for name in names)


def same_key(log: Log, left: str, right: str, prefix: str = "") -> str:
    """SQL for whether two relations' rows have the same key.

    Args:
        log: whose key it is.
        left, right: the relations' names.
        prefix: of the key's columns in the right one.
    """
    return " AND ".join(f'{left}."{name}" = {right}."{prefix}{name}"' for name in log.key)


def count(connection: duckdb.DuckDBPyConnection, relation: str) -> int:
    """How many rows a relation has."""
    found = connection.execute(f"SELECT count(*) FROM {relation}").fetchone()
    return int(found[0]) if found else 0


def empty(log: Log) -> str:
    """A query with the log's columns and no rows."""
    nulls = ", ".join(f'CAST(NULL AS {kind}) AS "{name}"' for name, kind in log.types.items())
    return f"SELECT {nulls} WHERE FALSE"
