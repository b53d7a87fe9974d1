"""One feature view over a Parquet file, in a store of ours and in one of stock Feast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import redis
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.infra.common.materialization_job import MaterializationTask
from feast.repo_config import RepoConfig
from feast.types import Int64
from feast.value_type import ValueType

from pipelines.redis_server import ensure_server
from pipelines.settings import DataConfig

PLUGINS = "pipelines.feast_plugins"
OURS = {
    "online_store": {"type": f"{PLUGINS}.online_store.SharedRedisOnlineStore"},
    "offline_store": {"type": f"{PLUGINS}.offline_store.ParquetOfflineStore"},
    "batch_engine": {"type": f"{PLUGINS}.compute_engine.ArrowComputeEngine"},
}
T = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TIMES = {"happened": pa.timestamp("us"), "made": pa.timestamp("us")}
Hashes = dict[bytes, dict[bytes, bytes]]


class World:
    """One view `v` of key `k` over a Parquet file, in a store of ours and in one of stock Feast."""

    def __init__(
        self, client: redis.Redis, project: str, folder: Path, *, versions: bool = False
    ) -> None:
        self.client = client
        self.project = project
        self.folder = folder
        self.path = folder / "rows.parquet"
        self._versions = versions
        self._stores: dict[bool, Any] = {}
        self.objects: list[Any] = []

    def declare(self, features: Mapping[str, Any], **options: Any) -> World:
        """The view of these features; `options` go to the view, `source` ones to the source."""
        mapping = options.pop("field_mapping", None)
        source = FileSource(
            name="rows",
            path=str(self.path),
            timestamp_field="happened",
            created_timestamp_column="made",
            field_mapping=mapping,
        )
        key = Entity(name="k", join_keys=["k"], value_type=ValueType.INT64)
        schema = [Field(name="k", dtype=Int64)]
        schema += [Field(name=name, dtype=dtype) for name, dtype in features.items()]
        view = options.pop("view", FeatureView)
        self.objects = [
            key,
            view(name="v", entities=[key], schema=schema, source=source, **options),
        ]
        return self

    def fill(self, columns: Mapping[str, Any], types: Mapping[str, Any] = TIMES) -> None:
        """Put these rows into the file."""
        arrays = {
            name: pa.array(_naive(column), types.get(name)) for name, column in columns.items()
        }
        pq.write_table(pa.table(arrays), self.path)

    def store(self, *, ours: bool = True, offline: Mapping[str, Any] | None = None) -> Any:
        """A store with the view applied, opened once."""
        if ours not in self._stores:
            stock = {
                "online_store": {
                    "type": "redis",
                    "connection_string": ensure_server(DataConfig()).connection_string,
                },
                "offline_store": {"type": "duckdb"},
                "batch_engine": {"type": "local"},
            }
            parts = {**OURS, "offline_store": {**OURS["offline_store"], **(offline or {})}}
            config = RepoConfig(
                project=self.project,
                provider="local",
                registry={
                    "path": str(self.folder / f"registry_{ours}.db"),
                    "enable_online_feature_view_versioning": self._versions,
                },
                repo_path=self.folder,
                entity_key_serialization_version=3,
                **(parts if ours else stock),
            )
            self._stores[ours] = FeatureStore(config=config)
            self._stores[ours].apply(self.objects)
        return self._stores[ours]

    def materialize(
        self, start: datetime = T - HOUR, end: datetime = T + HOUR, *, ours: bool = True
    ) -> Hashes:
        """Materialize the view; what the server holds of the project then."""
        self.store(ours=ours).materialize(start, end)
        return self.hashes()

    def job(self, bars: Any = None) -> Any:
        """The job of a task of two hours around T, given to our engine itself."""
        store = self.store()
        view = store.get_feature_view("v")
        task = MaterializationTask(self.project, view, T - HOUR, T + HOUR, tqdm_builder=bars)
        (job,) = store._get_provider().batch_engine.materialize(store.registry, task)
        return job

    def hashes(self) -> Hashes:
        """All rows of the project, without our own created timestamps."""
        found = {}
        for key in self.client.scan_iter(b"*" + self.project.encode(), count=10_000):
            fields: Any = self.client.hgetall(key)
            fields.pop(b"_created:v", None)
            found[key] = fields
        return found

    def values(self, name: str = "x") -> dict[Any, Any]:
        """By key what a feature is online, for keys 0 to 9."""
        answer = self.store().get_online_features(
            features=[f"v:{name}"], entity_rows=[{"k": key} for key in range(10)]
        )
        found = answer.to_dict()
        pairs = zip(found["k"], found[name], strict=True)
        return {key: value for key, value in pairs if value is not None}

    def empty(self) -> None:
        """Take the project's rows away."""
        for key in self.client.scan_iter(b"*" + self.project.encode(), count=10_000):
            self.client.delete(key)


def _naive(column: Any) -> list[Any]:
    return [v.replace(tzinfo=None) if isinstance(v, datetime) else v for v in column]


def rows(*of: tuple[int, str, datetime, datetime | None]) -> dict[str, Sequence[Any]]:
    """Columns from rows of (k, x, event time, created timestamp)."""
    return dict(zip(("k", "x", "happened", "made"), zip(*of, strict=True), strict=True))


class Bar:
    """A progress bar that remembers."""

    def __init__(self, total: int) -> None:
        self.total, self.n, self.closed = total, 0, False
        self.steps: list[int] = []

    def update(self, rows: int) -> None:
        self.n += rows
        self.steps.append(rows)

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def bars() -> tuple[list[Bar], Callable[[int], Bar]]:
    made: list[Bar] = []

    def build(total: int) -> Bar:
        made.append(Bar(total))
        return made[-1]

    return made, build
