"""Feast's file sources as DuckDB relations: what the compute engine and the offline store read."""

from __future__ import annotations

import glob
import os
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource
from feast.repo_config import RepoConfig

from pipelines.errors import UsageError
from pipelines.feast_plugins.published_files import published_files
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.paths import duckdb_pattern, read_parquet


def is_parquet(source: DataSource | None) -> bool:
    """Whether `relation` can read it; any other source is left to Feast's own code."""
    if not isinstance(source, FileSource) or "://" in source.path:
        return False
    if source.file_format is None:
        return bool(source.path.endswith(".parquet"))
    return isinstance(source.file_format, ParquetFormat)


def connect(config: RepoConfig) -> duckdb.DuckDBPyConnection:
    """DuckDB in memory, in UTC; what does not fit into memory is spilled to temporary files.

    `memory_limit` ("2GB") and `temp_directory` come from the repository's `offline_store`; by
    default they are DuckDB's share of the machine and a folder of the system's temporary one.
    """
    options: dict[str, Any] = {"preserve_insertion_order": False}
    limit = getattr(config.offline_store, "memory_limit", None)
    if limit is not None:
        options["memory_limit"] = limit
    directory = getattr(config.offline_store, "temp_directory", None) or tempfile.gettempdir()
    # DuckDB creates the folder when it spills and removes it with the connection.
    options["temp_directory"] = str(Path(directory, f"duckdb-{os.getpid()}-{uuid.uuid4().hex}"))
    connection = duckdb.connect(config=options)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def relation(connection: duckdb.DuckDBPyConnection, source: FileSource, repo_path: Path) -> str:
    """The SQL relation (for a FROM clause) of a source's rows, in the types of its files.

    A view of ours that has no files yet is empty.

    Args:
        connection: gets an empty relation registered where one is needed.
        source: a Parquet source (see `is_parquet`).
        repo_path: the feature repository, to which a relative path is relative.

    Raises:
        CorruptFileError: a published file of ours is not what was published.
        duckdb.IOException: on running the query, when there are no files of another source.
    """
    files = published_files(source)
    if files:
        return read_parquet(files)
    path = pattern_of(source, repo_path)
    if source.name in VIEWS_BY_NAME and (files == [] or not glob.glob(path)):
        name = f"empty_{uuid.uuid4().hex}"
        connection.register(name, VIEWS_BY_NAME[source.name].schema.empty_table())
        return name
    # DuckDB reads a folder called `name=value` as a column, also above the data directory.
    hive = ", hive_partitioning = false" if source.name in VIEWS_BY_NAME else ""
    return f"read_parquet({literal(path)}{hive})"


def pattern_of(source: FileSource, repo_path: Path) -> str:
    """A source's glob for DuckDB: its path is a pattern, the repository's folder is not.

    A path that names an existing file means that file.
    """
    whole = Path(repo_path, source.path)  # an absolute path stays what it is
    if whole.is_file():
        return duckdb_pattern(whole)
    if Path(source.path).is_absolute():
        return str(source.path)
    return os.path.join(duckdb_pattern(Path(repo_path).absolute()), source.path)


@dataclass(frozen=True)
class Rows:
    """The rows of a source, each with a place by which it can be found again.

    Attributes:
        sql: the SQL relation; always the same files, whatever is published meanwhile.
        files: the number of files; None for a table in memory.
    """

    sql: str
    files: int | None

    def place(self, alias: str) -> str:
        """SQL for a number that identifies a row."""
        if self.files is None:
            return f"{alias}.rowid"
        if self.files == 1:
            return f"{alias}.file_row_number"
        return f"(({alias}.file_index::BIGINT << 40) + {alias}.file_row_number)"


def placed_rows(connection: duckdb.DuckDBPyConnection, source: FileSource, repo_path: Path) -> Rows:
    """A source's rows with their places, as `relation` finds them.

    Args:
        connection: gets a temporary table for a source without files.
        source: a Parquet source (see `is_parquet`).
        repo_path: the feature repository, to which a relative path is relative.

    Raises:
        CorruptFileError: a published file of ours is not what was published.
        duckdb.IOException: there are no files, unless the view is one of ours.
        UsageError: the source has a column with a name that places need.
    """
    files: Sequence[Path | str] | None = published_files(source)
    if files is None:
        path = pattern_of(source, repo_path)
        found = connection.execute("SELECT file FROM glob(?) ORDER BY file", [path]).fetchall()
        files = [str(file) for (file,) in found]
    if not files:
        name = f"rows_{uuid.uuid4().hex}"
        given = relation(connection, source, repo_path)
        connection.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM {given}")
        return Rows(name, None)
    theirs = source.name not in VIEWS_BY_NAME
    sql = read_parquet(files, folders_are_columns=theirs)
    columns = {row[0].lower() for row in connection.execute(f"DESCRIBE FROM {sql}").fetchall()}
    if taken := columns & {"file_index", "file_row_number"}:
        raise UsageError(
            f"the source {source.name!r} has a column {min(taken)!r}: rename it, for DuckDB "
            "numbers the rows of Parquet files by that name"
        )
    return Rows(sql, len(files))


def identifier(name: str) -> str:
    """A name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as a SQL string."""
    return "'" + text.replace("'", "''") + "'"
