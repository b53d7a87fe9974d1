"""Stock Feast's stores and ours, side by side on one private Redis."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from conftest import new_directory, used_directory
from feast import FeatureStore
from feast.repo_config import RepoConfig
from parity_repositories import NOW, OnlineRow, Repository, repository

from pipelines.redis_server import RedisEndpoint, connect, ensure_server
from pipelines.settings import DataConfig

_PLUGINS: Final = "pipelines.feast_plugins"

Hashes = dict[bytes, dict[bytes, bytes]]


@dataclass
class World:
    """A Redis and the feature stores on it.

    A project's keys end with its name. Stores of the same project share a registry and what is in
    Redis, whoever of them writes.
    """

    folder: Path
    endpoint: RedisEndpoint
    client: Any  # redis.Redis, whose types hide that it is not asynchronous
    _repositories: dict[int, Repository] = field(default_factory=dict)
    _stores: dict[tuple[str, bool], Any] = field(default_factory=dict)

    def repository(self, seed: int) -> Repository:
        """The repository of a seed, made once."""
        if seed not in self._repositories:
            folder = self.folder / f"sources_{seed}"
            folder.mkdir()
            self._repositories[seed] = repository(seed, folder)
        return self._repositories[seed]

    def stock(self, project: str, objects: Sequence[Any] = ()) -> Any:
        """Stock Feast's store of a project; `objects` are applied when it is first opened."""
        return self._store(project, objects, ours=False)

    def ours(self, project: str, objects: Sequence[Any] = ()) -> Any:
        """Our store of a project, whose present time is `NOW`."""
        return self._store(project, objects, ours=True)

    def hashes(self, project: str) -> Hashes:
        """What Redis holds of a project: keys without its name, without our created timestamps."""
        end = project.encode()
        found = {}
        for key in self.client.scan_iter(b"*" + end):
            kept = self.client.hgetall(key).items()
            fields = {k: v for k, v in kept if not k.startswith(b"_created:")}
            found[key.removesuffix(end)] = fields
        return found

    def _store(self, project: str, objects: Sequence[Any], *, ours: bool) -> Any:
        if (project, ours) not in self._stores:
            store = FeatureStore(config=self._config(project, ours=ours))
            if objects and (project, not ours) not in self._stores:
                with quiet():
                    store.apply(list(objects))
            if ours:
                online: Any = store._get_provider().online_store
                online.now = lambda: NOW
            self._stores[project, ours] = store
        return self._stores[project, ours]

    def _config(self, project: str, *, ours: bool) -> RepoConfig:
        if ours:
            kinds: dict[str, Any] = {
                "online_store": {"type": f"{_PLUGINS}.online_store.SharedRedisOnlineStore"},
                "offline_store": {
                    "type": f"{_PLUGINS}.offline_store.ParquetOfflineStore",
                    "values_computed_later": True,
                },
                "batch_engine": {"type": f"{_PLUGINS}.compute_engine.ArrowComputeEngine"},
            }
        else:
            kinds = {
                "online_store": {
                    "type": "redis",
                    "connection_string": self.endpoint.connection_string,
                },
                "offline_store": {"type": "duckdb"},
                "batch_engine": {"type": "local"},
            }
        return RepoConfig(
            project=project,
            provider="local",
            registry=str(self.folder / f"registry_{project}.db"),
            repo_path=self.folder,
            entity_key_serialization_version=3,
            **kinds,
        )


@contextmanager
def parity_world() -> Iterator[World]:
    """A new data directory with its Redis, which end with the context."""
    with new_directory() as folder, used_directory(folder):
        endpoint = ensure_server(DataConfig())
        with connect(endpoint) as client:
            yield World(folder, endpoint, client)


def write(store: Any, view: str, rows: list[OnlineRow]) -> None:
    """Write rows of a view through a store's own online store."""
    table = store.registry.get_feature_view(view, store.project)
    store._get_provider().online_write_batch(store.config, table, rows, None)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Feast's progress on standard output and error."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        yield
