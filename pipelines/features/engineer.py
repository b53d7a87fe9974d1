"""Runs the feature functions on DuckDB."""

from __future__ import annotations

from typing import Final

import duckdb
import pyarrow as pa

from pipelines.change_log.types import DUCKDB_TYPES
from pipelines.features.views import CREATED_TIMESTAMP, VIEWS, feature_sql, view_named


class FeatureEngineer:
    """Computes feature views on a DuckDB connection whose relations are named after the logs.

    The same compiled statement serves the batch flow, whose relations read Parquet, and the
    real-time flow, whose relations are tables in memory.
    """

    views: Final = tuple(view.name for view in VIEWS)

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def query(self, view: str, *, newest: bool = False) -> str:
        """SQL whose columns are those of the view's schema, without the created timestamp.

        With `newest` it yields only the newest row of each key.

        Raises:
            UnknownNameError: there is no such view.
        """
        schema = view_named(view).schema
        columns = ", ".join(
            f'CAST("{field.name}" AS {DUCKDB_TYPES[field.type]}) AS "{field.name}"'
            for field in schema
            if field.name != CREATED_TIMESTAMP
        )
        return f"SELECT {columns} FROM ({feature_sql(view, newest=newest)})"

    def compute(self, view: str, *, newest: bool = False) -> pa.Table:
        """The view over all rows of the connection's relations, unordered."""
        return self._connection.sql(self.query(view, newest=newest)).to_arrow_table()
