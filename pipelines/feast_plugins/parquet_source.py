"""Feast's file sources as DuckDB relations: what the compute engine and the offline store read."""

from __future__ import annotations

import glob
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

import duckdb
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource
from feast.repo_config import RepoConfig

from pipelines.features.views import VIEWS_BY_NAME


def is_parquet(source: DataSource | None) -> bool:
    """Whether `relation` can read it; any other source is left to Feast's own code."""
    if not isinstance(source, FileSource) or "://" in source.path:
        return False
    if source.file_format is None:
        return bool(source.path.endswith(".parquet"))
    return isinstance(source.file_format, ParquetFormat)


def connect(config: RepoConfig) -> duckdb.DuckDBPyConnection:
    """DuckDB in memory, in UTC; what does not fit into memory goes to files and is removed after.

    `memory_limit` ("2GB") and `temp_directory` come from the repository's `offline_store`; by
    default they are DuckDB's share of the machine and a folder of the system's temporary one.
    """
    options: dict[str, Any] = {"preserve_insertion_order": False}
    limit = getattr(config.offline_store, "memory_limit", None)
    if limit is not None:
        options["memory_limit"] = limit
    directory = getattr(config.offline_store, "temp_directory", None) or tempfile.gettempdir()
    # DuckDB makes the folder when it first needs it and takes it away with the connection.
    options["temp_directory"] = str(Path(directory, f"duckdb-{os.getpid()}-{uuid.uuid4().hex}"))
    connection = duckdb.connect(config=options)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def relation(connection: duckdb.DuckDBPyConnection, source: FileSource, repo_path: Path) -> str:
    """What to write behind FROM for a source's rows, in the types that its files have.

    A relative path is meant relative to the feature repository. A view of ours that has no files
    yet is empty.

    Raises:
        duckdb.IOException: on running the query, when there are no files of another source.
    """
    path = str(Path(repo_path, source.path))  # an absolute path stays what it is
    if source.name in VIEWS_BY_NAME and not glob.glob(path):
        name = f"empty_{uuid.uuid4().hex}"
        connection.register(name, VIEWS_BY_NAME[source.name].schema.empty_table())
        return name
    return f"read_parquet({literal(path)})"


def identifier(name: str) -> str:
    """A name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as a SQL string."""
    return "'" + text.replace("'", "''") + "'"
