"""Feast's DuckDB offline store made right and fast: our own point-in-time joins over Parquet."""

from __future__ import annotations

import copy
import glob
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import duckdb
import ibis
import ibis.expr.types as ir
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.data_source import DataSource
from feast.errors import RequestDataNotFoundInEntityDfException
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.offline_stores import duckdb as feast_duckdb
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.ibis import (
    IbisRetrievalJob,
    get_historical_features_ibis,
    pull_all_from_table_or_query_ibis,
    pull_latest_from_table_or_query_ibis,
)
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig

from pipelines.errors import UsageError, first_line
from pipelines.feast_plugins.entities import check_columns, entity_dataframe
from pipelines.feast_plugins.entity_times import event_times
from pipelines.feast_plugins.history.point_in_time import ONLY_NULLS, ViewHistory
from pipelines.feast_plugins.history.retrieval_job import EntityDataframe, PointInTimeJob
from pipelines.feast_plugins.parquet_source import connect, is_parquet, pattern_of, placed_rows
from pipelines.feast_plugins.published_files import published_files
from pipelines.features.columns import EVENT_TIMESTAMP
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.paths import duckdb_pattern

_ROW: Final = "synchrochain_row"
_WHOLE: Final = frozenset(
    f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "", "BIG", "HUGE")
) | {"INTEGER", "UINTEGER"}


class ParquetOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Options of the store, beside those of Feast's DuckDB store.

    Attributes:
        memory_limit: how much memory a retrieval may use, as DuckDB writes it ("2GB"); beyond it,
            it spills to files. By default 80 % of the machine's.
        temp_directory: where these files go; by default the system's temporary directory.
        values_computed_later: whether an entity row may get a value that was computed (by its
            created timestamp) after the row's event time, as in stock Feast. By default it may not,
            so that no training set leaks from the future. A history that was computed at once,
            after all of its event times, can only be used with `true`.
    """

    type: Literal["pipelines.feast_plugins.offline_store.ParquetOfflineStore"] = (
        "pipelines.feast_plugins.offline_store.ParquetOfflineStore"
    )
    memory_limit: str | None = None
    temp_directory: str | None = None
    values_computed_later: bool = False


class ParquetOfflineStore(DuckDBOfflineStore):
    """Reads the offline sources that the batch flow publishes.

    Differs from Feast's DuckDB store: a relative path is meant relative to the feature repository,
    not to the working directory; the rows of a training set come in the order of the entity
    dataframe; a view that has no files yet is empty instead of an error; an entity dataframe may
    also be given as a SQL query that DuckDB can run; no value is used before it was computed,
    unless `values_computed_later`; results larger than memory spill to disk.
    """

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **stretch: datetime,
    ) -> RetrievalJob:
        """The newest features of each entity row as of its time stamp, in the frame's order.

        Of a view's rows of an entity's keys, not later than the event time and not older than the
        time to live, the one with the newest event time counts, among equals the newest created.
        With the cut-off, only rows that were created by then count at all.

        Args:
            config: Feast's repository configuration.
            feature_views: the views to join.
            feature_refs: references `view:feature`.
            entity_df: join keys, event times (`event_timestamp`, or the only column of times) and
                any further columns, in whatever `entity_dataframe` takes; or a SQL query that
                DuckDB runs whenever the job is.
            registry: Feast's.
            project: Feast's.
            full_feature_names: whether names in the answer start with their view's name.
            filter_by_created_timestamp: cut off, even with `values_computed_later`.
            stretch: `start_date` and `end_date` of a request without a frame, which is refused.

        Raises:
            UsageError: no entity dataframe, or one that lacks a join key or cannot be read; a
                feature that no column of the source holds, or that has the name of an entity's
                column.
            EntityTimestampInferenceException: no column of times, or several.
        """
        if entity_df is None or stretch:
            raise UsageError(
                "get_historical_features needs an entity dataframe: entity_df is None, and this "
                "store does not read a stretch of time (start_date, end_date) without one"
            )
        copied = bool(config.coerce_tz_aware)
        if not isinstance(entity_df, str | pd.DataFrame):
            entity_df, copied = entity_dataframe(entity_df), True
        cut_off = filter_by_created_timestamp or not config.offline_store.values_computed_later
        if not all(is_parquet(view.batch_source) for view in feature_views):
            return _stock_job(
                config=config,
                feature_views=feature_views,
                feature_refs=feature_refs,
                entity_df=entity_df,
                registry=registry,
                project=project,
                full_feature_names=full_feature_names,
                filter_by_created_timestamp=cut_off,
            )
        with connect(config) as connection:
            if isinstance(entity_df, str):
                frame = _sql_frame(connection, entity_df)
            else:
                frame = _pandas_frame(connection, entity_df, copied=copied)
            views = partial(
                _read_views, config, feature_views, feature_refs, frame, full_feature_names
            )
            views(connection)  # fail now rather than on the first run
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        for view in on_demand:
            for name in view.get_request_data_schema():
                if name not in frame.columns:
                    raise RequestDataNotFoundInEntityDfException(  # type: ignore[no-untyped-call]  # Feast's
                        feature_name=name, feature_view_name=view.name
                    )
        return PointInTimeJob(
            config, frame, views, cut_off, on_demand, full_feature_names, feature_refs
        )

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Skipped: Feast's check mistakes a glob for a file name and warns."""

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest row of each key whose event time lies between the dates, both included.

        Args:
            config: Feast's repository configuration.
            data_source: the file source to read.
            join_key_columns: the columns of the entity key.
            feature_name_columns: the columns to return beside keys and times.
            timestamp_field: the column of the event time.
            created_timestamp_column: the column that breaks ties; None without one.
            start_date: the earliest event time, UTC where naive.
            end_date: the latest one.
        """
        return pull_latest_from_table_or_query_ibis(
            config=config,
            data_source=data_source,
            join_key_columns=join_key_columns,
            feature_name_columns=feature_name_columns,
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            start_date=start_date,
            end_date=end_date,
            **_reading(config),
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row whose event time lies between the dates, both included.

        Args:
            config: Feast's repository configuration.
            data_source: the file source to read.
            join_key_columns: the columns of the entity key.
            feature_name_columns: the columns to return beside keys and times.
            timestamp_field: the column of the event time.
            created_timestamp_column: the column that is returned too; None without one.
            start_date: the earliest event time, UTC where naive; None for no limit.
            end_date: the latest one; None for no limit.
        """
        return pull_all_from_table_or_query_ibis(
            config=config,
            data_source=data_source,
            join_key_columns=join_key_columns,
            feature_name_columns=feature_name_columns,
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            start_date=start_date,
            end_date=end_date,
            **_reading(config),
        )


def _sql_frame(connection: duckdb.DuckDBPyConnection, query: str) -> EntityDataframe:
    query = query.strip().rstrip(";")
    try:
        found = connection.execute(f"DESCRIBE SELECT * FROM ({query})").fetchall()
    except duckdb.Error as error:
        raise UsageError(f"DuckDB cannot run the entity query: {first_line(error)}") from error
    kinds = {str(name): str(kind) for name, kind, *_ in found}
    times = {n: np.dtype("M8[us]" if k.startswith("TIMESTAMP") else "O") for n, k in kinds.items()}
    check_columns(list(kinds))
    event = infer_event_timestamp_from_entity_df(times)
    if not kinds[event].startswith(("TIMESTAMP", "DATE")):
        raise UsageError(
            f"the entity query's {event} is {kinds[event]}: make it a TIMESTAMP in the query"
        )
    return EntityDataframe(query, list(kinds), list(kinds.values()), list(kinds).index(event))


def _pandas_frame(
    connection: duckdb.DuckDBPyConnection, frame: pd.DataFrame, copied: bool
) -> EntityDataframe:
    check_columns([str(name) for name in frame.columns])
    event = infer_event_timestamp_from_entity_df({str(n): kind for n, kind in frame.dtypes.items()})
    # Arrow may share memory with pandas: the caller's frame must not.
    frame = (frame if copied else frame.copy()).assign(**{event: event_times(frame[event])})
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise UsageError(f"the entity dataframe cannot be read: {first_line(error)}") from error
    for i, field in enumerate(table.schema):
        column = table[i]
        if pa.types.is_dictionary(field.type):
            column = column.cast(field.type.value_type)
        elif field.type == pa.timestamp("ns"):  # as Feast's store answers
            column = column.cast(pa.timestamp("us"), safe=False)
        table = table.set_column(i, field.name, column)
    numbered = table.rename_columns([str(i) for i in range(len(frame.columns))])
    try:
        connection.register("frame", numbered)
        found = connection.execute("DESCRIBE frame").fetchall()
    except duckdb.Error as error:
        raise UsageError(f"the entity dataframe cannot be read: {first_line(error)}") from error
    kinds = [
        ONLY_NULLS if pa.types.is_null(field.type) else str(row[1])
        for field, row in zip(table.schema, found, strict=True)
    ]
    return EntityDataframe(table, table.column_names, kinds, table.column_names.index(event))


def _read_views(
    config: RepoConfig,
    feature_views: Sequence[FeatureView],
    feature_refs: Sequence[str],
    frame: EntityDataframe,
    full_feature_names: bool,
    connection: duckdb.DuckDBPyConnection,
) -> list[ViewHistory]:
    reads = [
        _read_view(config, view, feature_refs, frame, full_feature_names, connection)
        for view in feature_views
    ]
    names = [*frame.columns, *(name for read in reads for name in read.features)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"the answer would have two columns {twice[0]!r}: rename the entity dataframe's "
            "column, or ask with full_feature_names=True"
        )
    return reads


def _read_view(
    config: RepoConfig,
    view: FeatureView,
    feature_refs: Sequence[str],
    frame: EntityDataframe,
    full_feature_names: bool,
    connection: duckdb.DuckDBPyConnection,
) -> ViewHistory:
    source = view.batch_source
    assert isinstance(source, FileSource)  # is_parquet
    rows = placed_rows(connection, source, Path(config.repo_path or "."))
    found = connection.execute(f"DESCRIBE SELECT * FROM {rows.sql}").fetchall()
    types = {str(name): str(kind) for name, kind, *_ in found}
    mapping: Mapping[str, str] = source.field_mapping
    mapped = {mapping.get(name, name): name for name in types}

    def column(name: str) -> str:
        """The source's column of a name after the field mapping, or before it."""
        if name in mapped or name in types:
            return mapped.get(name, name)
        raise UsageError(
            f"feature view {view.name!r}: the source {source.path!r} has no column {name!r}; it "
            f"has {sorted(mapped)}"
        )

    keys = []
    for entity in view.entity_columns:
        if entity.name == DUMMY_ENTITY_ID:  # of views without entities
            continue
        key = view.projection.join_key_map.get(entity.name, entity.name)
        if key not in frame.columns:
            raise UsageError(
                f"feature view {view.name!r} is joined by {key!r}, which the entity dataframe "
                f"lacks; it has {list(frame.columns)}"
            )
        at, kept = frame.columns.index(key), column(entity.name)
        if not _may_join(frame.kinds[at], types[kept]):
            raise UsageError(
                f"feature view {view.name!r}: the join key {key!r} is {frame.kinds[at]} in the "
                f"entity dataframe and {types[kept]} in the source; convert the frame's"
            )
        if types[kept] in _WHOLE:
            _refuse_fractions(frame, at)
        keys.append((f"c{at}", kept))
    shown: str = view.projection.name_to_use()  # type: ignore[no-untyped-call]  # Feast's
    prefix = f"{view.projection.name_alias or view.name}__" if full_feature_names else ""
    asked = [ref.split(":")[1] for ref in feature_refs if ref.startswith(f"{shown}:")]
    created = source.created_timestamp_column
    return ViewHistory(
        rows=rows,
        types=types,
        keys=keys,
        event=column(source.timestamp_field),
        created=column(created) if created else None,
        features={f"{prefix}{name}": column(name) for name in asked},
        ttl=view.ttl or None,
    )


def _may_join(given: str, stored: str) -> bool:
    """Whether a key of the entity dataframe can be compared with the source's, by DuckDB's
    types."""
    if given == ONLY_NULLS:
        return True
    if stored in _WHOLE:
        return given in _WHOLE or given in ("FLOAT", "DOUBLE") or given.startswith("DECIMAL")
    return (given == "VARCHAR") == (stored == "VARCHAR")


def _refuse_fractions(frame: EntityDataframe, at: int) -> None:
    """Floats will do for whole numbers: pandas makes them when some are null."""
    if isinstance(frame.rows, str) or frame.kinds[at] in _WHOLE or frame.kinds[at] == ONLY_NULLS:
        return
    column = frame.rows.column(at)
    wrong = pc.not_equal(column, pc.trunc(column))
    if pa.types.is_floating(column.type):  # nan is null
        wrong = pc.or_(pc.is_inf(column), pc.and_(wrong, pc.invert(pc.is_nan(column))))
    if pc.any(wrong).as_py():
        raise UsageError(
            f"the join key {frame.columns[at]!r} is {column.filter(wrong)[0].as_py()} in a row of "
            "the entity dataframe: it has to be a whole number"
        )


def _stock_job(
    config: RepoConfig, entity_df: pd.DataFrame | str, **request: Any
) -> IbisRetrievalJob:
    """Feast's own plan, for sources that are not Parquet files; rows in the frame's order."""
    frame = duckdb.sql(entity_df).df() if isinstance(entity_df, str) else entity_df
    if EVENT_TIMESTAMP in frame:
        frame = frame.assign(**{EVENT_TIMESTAMP: event_times(frame[EVENT_TIMESTAMP])})
    job = get_historical_features_ibis(
        config=config,
        entity_df=frame.assign(**{_ROW: range(len(frame))}),
        **request,
        **_reading(config),
    )
    assert isinstance(job, IbisRetrievalJob)  # what that function returns
    assert job.metadata is not None
    job.table = job.table.order_by(_ROW).drop(_ROW)
    job.metadata.keys.remove(_ROW)
    return job


def _reading(config: RepoConfig) -> dict[str, Any]:
    # Ibis 12 calls a DuckDB method that 1.5 renamed: nothing that a user could act on.
    warnings.filterwarnings("ignore", "fetch_arrow_table", DeprecationWarning)
    reader: Callable[[DataSource, str], ir.Table] = _read
    return {
        "data_source_reader": reader,
        "data_source_writer": feast_duckdb._write_data_source,
        "staging_location": config.offline_store.staging_location,
        "staging_location_endpoint_override": (
            config.offline_store.staging_location_endpoint_override
        ),
    }


def _read(source: DataSource, repo_path: str) -> ir.Table:
    if not isinstance(source, FileSource) or "://" in source.path:
        return feast_duckdb._read_data_source(source, repo_path)
    files = published_files(source)
    if files:
        return ibis.read_parquet([duckdb_pattern(f) for f in files], hive_partitioning=False)
    path = pattern_of(source, Path(repo_path))
    if source.name in VIEWS_BY_NAME and (files == [] or not glob.glob(path)):
        return ibis.memtable(VIEWS_BY_NAME[source.name].schema.empty_table())
    if source.name in VIEWS_BY_NAME:
        return ibis.read_parquet(path, hive_partitioning=False)
    placed = copy.copy(source)
    placed.file_options = copy.copy(source.file_options)
    placed.file_options.uri = path
    return feast_duckdb._read_data_source(placed, repo_path)
