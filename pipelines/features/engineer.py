"""Computes a declared view on any DuckDB connection: in a notebook, a script, a test."""

from __future__ import annotations

from typing import Final

import duckdb
import pyarrow as pa

from pipelines.features.views import VIEWS, view_named


class FeatureEngineer:
    """Computes feature views on a DuckDB connection whose relations are named after the logs.

    It runs the statements that the two flows run: `view_named(view).query(…)`.
    """

    views: Final = tuple(view.name for view in VIEWS)

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def compute(self, view: str, *, newest: bool = False) -> pa.Table:
        """The view over all rows of the connection's relations, unordered.

        With `newest` only the newest row of each key.

        Raises:
            UnknownNameError: there is no such view.
        """
        return self._connection.sql(view_named(view).query(newest=newest)).to_arrow_table()
