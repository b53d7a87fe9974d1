"""Feast's materialization in Arrow: newest rows from DuckDB, encoded, pipelined to Redis."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Literal

import duckdb
import pyarrow as pa
from feast.feature_view import DUMMY_ENTITY_NAME, FeatureView
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.backends.pandas_backend import PandasBackend
from feast.infra.compute_engines.dag.context import ColumnInfo
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.feature_builder import LocalFeatureBuilder
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.online_stores.redis import _versioned_fv_name
from feast.infra.registry.base_registry import BaseRegistry

from pipelines.errors import UsageError, first_line
from pipelines.feast_plugins.online_store import SharedRedisOnlineStore
from pipelines.feast_plugins.parquet_source import connect, is_parquet, relation
from pipelines.feast_plugins.writing.batch_encoder import BatchEncoder
from pipelines.feast_plugins.writing.newest_rows import NewestRows
from pipelines.feast_plugins.writing.online_writer import OnlineWriter
from pipelines.feast_plugins.writing.resp import Commands

ROWS_AT_ONCE: Final = 4_096
BYTES_AT_ONCE: Final = 16 << 20
CHUNKS_UNDER_WAY: Final = 2  # one being written, one waiting

Chunk = tuple[Commands, int]

_BEYOND_US: Final = ("aggregations", "feature_transformation", "source_views", "filter")


class ArrowComputeEngineConfig(LocalComputeEngineConfig):
    """No options beyond those of Feast's local engine, to which some views are left."""

    # Feast picks an engine by this field; the type is ignored because its own is Literal["local"].
    type: Literal["pipelines.feast_plugins.compute_engine.ArrowComputeEngine"] = (
        "pipelines.feast_plugins.compute_engine.ArrowComputeEngine"  # type: ignore[assignment]
    )


class ArrowComputeEngine(LocalComputeEngine):
    """Materializes Parquet sources into `SharedRedisOnlineStore` without an object per row.

    The newest row of each key is found in DuckDB, which spills to disk what does not fit into its
    `memory_limit`, and comes in batches; while one is written, the next is encoded. Each row is
    written unless the store holds a newer one. An interrupted run leaves the rows that it wrote;
    running it again is safe.

    Left to Feast's local engine: views with a transformation, aggregations, a filter or other
    views as their source, without entities, not online or also offline; other sources and stores;
    event times that are not time stamps; entity keys before version 3.
    """

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        if not self._is_ours(task):
            return super()._materialize_one(registry, task, **kwargs)
        view = task.feature_view
        job_id = f"{view.name}-{task.start_time}-{task.end_time}"
        try:
            with closing(connect(self.repo_config)) as connection:
                builder = LocalFeatureBuilder(registry, task, PandasBackend())
                rows = self._rows(connection, task, builder.get_column_info(view))
                types = rows.types(connection)
                if not rows.times_are_timestamps(types):
                    return super()._materialize_one(registry, task, **kwargs)
                self._copy(connection, task, rows, types, builder)
        except duckdb.Error as error:
            failure = UsageError(f"the source of {view.name} cannot be read: {first_line(error)}")
            failure.__cause__ = error
            return LocalMaterializationJob(job_id, MaterializationJobStatus.ERROR, failure)
        except Exception as error:
            return LocalMaterializationJob(job_id, MaterializationJobStatus.ERROR, error)
        return LocalMaterializationJob(job_id, MaterializationJobStatus.SUCCEEDED)

    def _is_ours(self, task: MaterializationTask) -> bool:
        view = task.feature_view
        return (
            isinstance(self.online_store, SharedRedisOnlineStore)
            and self.repo_config.entity_key_serialization_version == 3
            and is_parquet(view.batch_source)
            and task.only_latest
            and view.online
            and not view.offline
            and view.entities != [DUMMY_ENTITY_NAME]
            and bool(view.entities)
            and not any(getattr(view, name, None) for name in _BEYOND_US)
        )

    def _rows(
        self, connection: duckdb.DuckDBPyConnection, task: MaterializationTask, info: ColumnInfo
    ) -> NewestRows:
        wanted = [*info.join_keys, *info.feature_cols, info.ts_col]
        if info.created_ts_col:
            wanted.append(info.created_ts_col)
        mapping = info.field_mapping or {}
        source = task.feature_view.batch_source
        assert isinstance(source, FileSource)  # for it is Parquet
        return NewestRows(
            source=relation(connection, source, Path(self.repo_config.repo_path or ".")),
            columns={name: mapping.get(name, name) for name in wanted},
            keys=info.join_keys,
            event=info.ts_col,
            created=info.created_ts_col,
            start=task.start_time,
            end=task.end_time,
        )

    def _copy(
        self,
        connection: duckdb.DuckDBPyConnection,
        task: MaterializationTask,
        rows: NewestRows,
        types: dict[str, str],
        builder: LocalFeatureBuilder,
    ) -> None:
        view: FeatureView = task.feature_view
        store = self.online_store
        assert isinstance(store, SharedRedisOnlineStore)
        with store._reported():
            writer = OnlineWriter(store._get_client(self.repo_config.online_store), task.project)
        names = rows.columns
        encoder = BatchEncoder(
            view,
            task.project,
            stored_name=_versioned_fv_name(view, self.repo_config),
            event=names[rows.event],
            created=names[rows.created] if rows.created else None,
            builder=builder,
        )

        def chunks() -> Iterator[Chunk]:
            for batch in rows.batches(connection, types, ROWS_AT_ONCE):
                for part in _bounded(batch):
                    yield encoder.commands(part), part.num_rows

        def write(chunk: Chunk) -> int:
            commands, number = chunk
            with store._reported():
                writer.put(commands)
            return number

        with closing(_Progress(task, lambda: rows.approximate_keys(connection, types))) as progress:
            for number in behind(write, chunks()):
                progress.update(number)
            progress.finish()


class _Progress:
    """The task's bar, if it wants one: rows written, of about so many keys."""

    def __init__(self, task: MaterializationTask, about: Callable[[], int]) -> None:
        self._bar = task.tqdm_builder(about()) if task.tqdm_builder else None

    def update(self, rows: int) -> None:
        if self._bar is not None:
            self._bar.update(rows)

    def finish(self) -> None:
        """Nothing was left out: the number of keys was an estimate."""
        if self._bar is not None:
            self._bar.total = self._bar.n
            self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def behind(write: Callable[[Chunk], int], chunks: Iterable[Chunk]) -> Iterator[int]:
    """What `write` returns for each chunk, while the next is made; one writes at a time, in order.

    The thread that writes has ended when this ends, also by an error on either side.
    """
    under_way: deque[Future[int]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="materialization")
    try:
        for chunk in chunks:
            under_way.append(pool.submit(write, chunk))
            if len(under_way) == CHUNKS_UNDER_WAY:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _bounded(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in parts of about `BYTES_AT_ONCE`, for rows may be wide."""
    parts = min(batch.num_rows, -(-batch.nbytes // BYTES_AT_ONCE))
    rows = -(-batch.num_rows // max(parts, 1))
    for start in range(0, batch.num_rows, max(rows, 1)):
        yield batch.slice(start, rows)
