"""Feast's DuckDB offline store made right: absolute paths, rows in the order of the entities."""

from __future__ import annotations

import copy
import glob
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import duckdb
import ibis
import ibis.expr.types as ir
import pandas as pd
from feast.data_source import DataSource
from feast.feature_view import FeatureView
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
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import RepoConfig

from pipelines.errors import UsageError
from pipelines.features.views import VIEWS_BY_NAME

_ROW: Final = "synchrochain_row"


class ParquetOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """No options beyond those of Feast's DuckDB store."""

    type: Literal["pipelines.feast_plugins.offline_store.ParquetOfflineStore"] = (
        "pipelines.feast_plugins.offline_store.ParquetOfflineStore"
    )


class ParquetOfflineStore(DuckDBOfflineStore):
    """Reads the offline sources that the batch flow publishes.

    Differs from Feast's DuckDB store in three ways: a relative path is meant relative to the
    feature repository, not to the working directory; the rows of a training set come in the order
    of the entity frame; a view that has no files yet is empty instead of an error. An entity frame
    may also be given as a SQL query that DuckDB can run.
    """

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """The newest features of each entity row as of its time stamp, in the frame's order."""
        if entity_df is None:
            raise UsageError("get_historical_features needs an entity frame: entity_df is None")
        frame = duckdb.sql(entity_df).df() if isinstance(entity_df, str) else entity_df
        job = get_historical_features_ibis(
            config=config,
            feature_views=feature_views,
            feature_refs=feature_refs,
            entity_df=frame.assign(**{_ROW: range(len(frame))}),
            registry=registry,
            project=project,
            full_feature_names=full_feature_names,
            filter_by_created_timestamp=filter_by_created_timestamp,
            **_reading(config),
        )
        assert isinstance(job, IbisRetrievalJob)  # what that function returns
        assert job.metadata is not None
        job.table = job.table.order_by(_ROW).drop(_ROW)
        job.metadata.keys.remove(_ROW)
        return job

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Nothing: Feast's own check takes a glob for a file's name and warns."""

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
        """The newest row of each key whose event time lies between the dates, both included."""
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
        """Every row whose event time lies between the dates, both included."""
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
    path = str(Path(repo_path, source.path))  # an absolute path stays what it is
    if source.name in VIEWS_BY_NAME and not glob.glob(path):
        return ibis.memtable(VIEWS_BY_NAME[source.name].schema.empty_table())
    placed = copy.copy(source)
    placed.file_options = copy.copy(source.file_options)
    placed.file_options.uri = path
    return feast_duckdb._read_data_source(placed, repo_path)
