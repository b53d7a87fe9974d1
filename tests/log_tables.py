"""Turning logs written as Python rows into relations that the feature functions read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import duckdb

from pipelines.tables.known import BY_NAME


def load_logs(
    connection: duckdb.DuckDBPyConnection, logs: Mapping[str, Iterable[Mapping[str, Any]]]
) -> None:
    """Make one table per log in `connection`; a column missing from a row is null there."""
    for log in BY_NAME.values():
        columns = ", ".join(f'"{name}" {kind}' for name, kind in log.types.items())
        connection.execute(f'CREATE OR REPLACE TABLE "{log.name}" ({columns})')
        rows = [[row.get(name) for name in log.types] for row in logs.get(log.name, ())]
        if rows:
            marks = ", ".join("?" for _ in log.types)
            connection.executemany(f'INSERT INTO "{log.name}" VALUES ({marks})', rows)
