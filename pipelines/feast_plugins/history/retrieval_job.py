"""What `get_historical_features` hands out: a retrieval that runs in DuckDB when asked for."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import ibis
import pandas as pd
import pyarrow as pa
from feast.data_format import ParquetFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores import duckdb as feast_duckdb
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from pipelines.errors import StorageFullError, UsageError
from pipelines.feast_plugins.history.point_in_time import (
    ENTITY_ROWS,
    ONLY_NULLS,
    ViewHistory,
    answer,
    entity_rows,
    match,
    ties,
)
from pipelines.feast_plugins.parquet_source import connect, literal
from pipelines.lake.clock import EPOCH
from pipelines.stopping import interruptible

_GIVEN = "given_rows"


@dataclass(frozen=True)
class EntityDataframe:
    """The entity rows of a request: a table, or a query that DuckDB runs each time.

    Attributes:
        rows: the table, or the SQL text.
        columns, kinds: names and DuckDB's types of its columns.
        event: the index of the event time column.
    """

    rows: pa.Table | str
    columns: Sequence[str]
    kinds: Sequence[str]
    event: int

    @property
    def statement(self) -> str:
        """The SQL that stores the entity rows; a table must be registered before."""
        source = f"({self.rows})" if isinstance(self.rows, str) else _GIVEN
        return entity_rows(source, self.kinds, self.event)

    def store(self, connection: duckdb.DuckDBPyConnection) -> tuple[int, int] | None:
        """Store the rows in their order.

        Returns:
            The first and last event time, in microseconds since 1970; None without any.
        """
        if isinstance(self.rows, pa.Table):
            # Numbered, since DuckDB's column names are case-insensitive.
            numbered = self.rows.rename_columns([f"c{i}" for i in range(len(self.columns))])
            connection.register(_GIVEN, numbered)
        connection.execute("SET preserve_insertion_order = true")
        connection.execute(self.statement)
        connection.execute("SET preserve_insertion_order = false")
        row = connection.execute(f"SELECT min(t), max(t) FROM {ENTITY_ROWS}").fetchone()
        return None if row is None or row[0] is None else (row[0], row[1])


class _Steps(NamedTuple):
    """Statements of a run; `ties` are checks, each with the statement to run where it is true."""

    match: str
    ties: Sequence[tuple[str, str]]
    answer: str


class PointInTimeJob(RetrievalJob):
    """Runs one ASOF join per view in DuckDB, anew at each call.

    The entity dataframe is as it was when the job was made; a SQL frame and the sources are read at
    each run. Whatever does not fit into `memory_limit` is spilled to `temp_directory`. An interrupt
    (Ctrl-C) ends the query; the connection and its files are gone after each run.

    Args:
        config: of the feature store.
        frame: the entity dataframe.
        views: registers the sources in a connection and says how each is read.
        cut_off: leave out values that were created after the entity's time.
        on_demand: on-demand views that are asked for.
        full_feature_names: whether names hold the view's.
        feature_refs: `view:feature` as asked.
    """

    def __init__(
        self,
        config: RepoConfig,
        frame: EntityDataframe,
        views: Callable[[duckdb.DuckDBPyConnection], list[ViewHistory]],
        cut_off: bool,
        on_demand: Sequence[OnDemandFeatureView],
        full_feature_names: bool,
        feature_refs: list[str],
    ) -> None:
        super().__init__()
        self._config = config
        self._frame = frame
        self._views = views
        self._cut_off = cut_off
        self._substrait = [view for view in on_demand if view.mode == "substrait"]
        self._on_demand = [view for view in on_demand if view.mode != "substrait"]
        self._full_feature_names = full_feature_names
        self._feature_refs = feature_refs

    @property
    def full_feature_names(self) -> bool:
        """Whether names of features begin with those of their views."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Those that Feast computes from the answer; substrait ones are part of it."""
        return self._on_demand

    @cached_property
    def _metadata(self) -> RetrievalMetadata:
        frame = self._frame
        with connect(self._config) as connection:
            span = frame.store(connection)
        first, last = (None, None) if span is None else map(_time, span)
        return RetrievalMetadata(
            features=self._feature_refs,
            keys=[c for i, c in enumerate(frame.columns) if i != frame.event],
            min_event_timestamp=first,
            max_event_timestamp=last,
        )

    @property
    def metadata(self) -> RetrievalMetadata:
        """Features, columns of the entity dataframe and its first and last event time (UTC)."""
        return self._metadata

    def to_sql(self) -> str:
        """The statements that are run, in DuckDB's SQL; a pandas frame is `given_rows` in them."""
        with self._prepared() as (_, steps):
            mending = [mend for _, mend in steps.ties]
            return ";\n".join([self._frame.statement, steps.match, *mending, steps.answer]) + ";"

    def to_arrow_batches(self, rows_per_batch: int = 65_536) -> pa.RecordBatchReader:
        """The answer of `to_arrow` in batches, without ever holding it whole.

        Args:
            rows_per_batch: how many rows a batch has at most.

        Returns:
            A reader; its query ends when it is read to the end or dropped.

        Raises:
            UsageError: on-demand views are asked for, which need the whole answer.
        """
        if self._on_demand or self._substrait:
            names = [view.name for view in (*self._on_demand, *self._substrait)]
            raise UsageError(
                f"on-demand views cannot be computed in batches: {names}; use to_arrow, or ask "
                "for the other features only"
            )
        batches = self._batches(rows_per_batch)
        schema: pa.Schema = next(batches)
        return pa.RecordBatchReader.from_batches(schema, batches)

    def _batches(self, rows_per_batch: int) -> Iterator[Any]:
        with self._running() as (connection, query):
            reader = connection.execute(query).to_arrow_reader(rows_per_batch)
            yield reader.schema
            yield from reader

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,
        timeout: int | None = None,  # noqa: ARG002  # Feast's signature
    ) -> None:
        """Write the answer to a storage; to Parquet files it streams, unless on demand.

        A file appears whole. A folder gets one file; with `allow_overwrite` it replaces the
        existing ones.

        Args:
            storage: where to write to.
            allow_overwrite: whether existing files may be replaced.
            timeout: not used; part of Feast's signature.

        Raises:
            SavedDatasetLocationAlreadyExists: the location exists and may not be overwritten.
        """
        target = storage.to_data_source()
        if (
            not isinstance(target, FileSource)
            or "://" in target.path
            or not isinstance(target.file_format, ParquetFormat | None)
        ):
            table = ibis.memtable(self.to_arrow())
            repo_path = str(self._config.repo_path)
            feast_duckdb._write_data_source(table, target, repo_path, "overwrite", allow_overwrite)
            return
        path = Path(str(self._config.repo_path or "."), target.path)
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=target.path)
        if path.suffix == ".parquet":
            self._write(path)
            return
        old = list(path.glob("*.parquet"))
        self._write(path / f"{uuid.uuid4().hex}.parquet")
        for file in old:
            file.unlink()

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        to = f"TO {literal(str(beside))} (FORMAT parquet, COMPRESSION zstd)"
        try:
            if self._on_demand or self._substrait:
                table = self.to_arrow()
                with connect(self._config) as connection:
                    connection.register("answer", table)
                    connection.execute("SET preserve_insertion_order = true")
                    connection.execute(f"COPY answer {to}")
            else:
                with self._running() as (connection, query):
                    connection.execute("SET preserve_insertion_order = true")
                    connection.execute(f"COPY ({query}) {to}")
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002  # Feast's signature
        with self._running() as (connection, query):
            table: pa.Table = connection.execute(query).to_arrow_table()
        for i, kind in enumerate(self._frame.kinds):
            if kind == ONLY_NULLS:
                table = table.set_column(i, table.field(i).name, pa.nulls(len(table)))
        for view in self._substrait:
            changed = view.transform_ibis(ibis.memtable(table), self._full_feature_names)
            table = changed.to_pyarrow()
        return table

    @contextmanager
    def _running(self) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
        with _reported(), self._prepared() as (connection, steps):
            connection.execute(steps.match)
            for check, mend in steps.ties:
                if connection.execute(check).fetchone() == (True,):
                    connection.execute(mend)
            # The hash tables shall hold the entity rows, as the statement is written, and the
            # files be read past them: DuckDB guesses wrong and holds the files.
            connection.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
            yield connection, steps.answer

    @contextmanager
    def _prepared(self) -> Iterator[tuple[duckdb.DuckDBPyConnection, _Steps]]:
        """A connection with the entity rows, and the statements to run."""
        with connect(self._config) as connection:
            # DuckDB cannot know how many rows a view will leave for a few entity rows: compared
            # one by one, these take minutes where a sort takes a second.
            connection.execute("SET asof_loop_join_threshold = 0")
            span = self._frame.store(connection)
            views = self._views(connection)
            found = [] if self._cut_off else [ties(i, view) for i, view in enumerate(views)]
            yield (
                connection,
                _Steps(
                    match(views, span, self._cut_off),
                    [tie for tie in found if tie is not None],
                    answer(self._frame.columns, views),
                ),
            )


@contextmanager
def _reported() -> Iterator[None]:
    try:
        with interruptible():
            yield
    except duckdb.Error as error:
        if "No space left" in str(error):
            raise StorageFullError(
                "no room left on the disk to which the retrieval spills: free some, or set "
                "temp_directory of the offline_store to a larger one"
            ) from None
        raise


def _time(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)
