"""Feast's Redis store on the server that belongs to the data directory: newer wins, old expires."""

from __future__ import annotations

import threading
from collections.abc import ByteString, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal

import pandas as pd
import redis
import redis.asyncio
from feast import metrics
from feast.feature_service import FeatureService
from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import (
    RedisOnlineStore,
    RedisOnlineStoreConfig,
    _versioned_fv_name,
)
from feast.infra.registry.base_registry import BaseRegistry
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.utils import _get_cached_request_context
from pydantic import model_validator
from redis.exceptions import RedisError

from pipelines.feast_plugins.entities import entity_rows as rows_of_entities
from pipelines.feast_plugins.reading.connections import ReadConnections, Reply, is_wrong_type
from pipelines.feast_plugins.reading.decoding import event_time, event_times, value_message
from pipelines.feast_plugins.reading.plan import Plans, ReadPlan
from pipelines.feast_plugins.reading.plan import plan as make_plan
from pipelines.feast_plugins.reading.request import ReadRequest, read_request
from pipelines.feast_plugins.reading.response import ColumnarResponse
from pipelines.feast_plugins.stale_fallback import Block, ReadMode, StaleFallback
from pipelines.feast_plugins.writing.damage import Damage
from pipelines.feast_plugins.writing.newer_wins import PUT_UNLESS_OLDER, created_field, time_fields
from pipelines.lake.clock import EPOCH, aware_now
from pipelines.redis_server import (
    RedisEndpoint,
    connect,
    connect_async,
    ensure_server,
    translate_redis_errors,
)
from pipelines.redis_server.online_keys import project_keys
from pipelines.redis_server.store_format import check_format
from pipelines.settings import DataConfig

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
ReadRow = tuple[datetime | None, dict[str, Value] | None]

ROWS_PER_ROUND_TRIP: Final = 500


_WITHOUT_EFFECT: Final = frozenset(
    {
        "client",
        "connection_string",
        "key_ttl_seconds",
        "redis_type",
        "sentinel_master",
        "skip_dedup",
    }
)


class SharedRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """The connection comes from SynchroChain's settings; Feast's options for it are refused."""

    # Feast picks a store by this field; the type is ignored because its own is Literal["redis"].
    type: Literal["pipelines.feast_plugins.online_store.SharedRedisOnlineStore"] = (
        "pipelines.feast_plugins.online_store.SharedRedisOnlineStore"  # type: ignore[assignment]
    )

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> SharedRedisOnlineStoreConfig:
        if given := sorted(self.model_fields_set & _WITHOUT_EFFECT):
            raise ValueError(
                f"online_store has {given}, which SynchroChain's store does not use: remove them; "
                "set SYNCHROCHAIN_REDIS_HOST and its like for the connection"
            )
        return self


class SharedRedisOnlineStore(RedisOnlineStore):
    """Feast's Redis layout, unchanged, on the server that `pipelines.redis_server` finds or starts.

    Differs from Feast's store:
    - the server need not be installed, configured or running;
    - a row replaces the stored one only if it is newer by (event time, created timestamp), in one
      atomic step, whoever else writes at the same time;
    - a value older than its view's time to live is null with status OUTSIDE_MAX_AGE, one that is
      not there NOT_FOUND;
    - damage of any kind is null too: of a row with a broken event time NOT_FOUND, of a single value
      NULL_VALUE; the next writer replaces such a row;
    - when Redis is unavailable, a read answers with the last known values of this process: the
      response's `read_mode` says so; `errors_instead_of_stale_values()` asks for an error.

    Raises:
        RedisUnavailableError: the server does not answer a write, or a read that asks for
            errors.
        RedisRefusedError: the server refuses, for instance because it is out of memory.
    """

    now: Callable[[], datetime] = staticmethod(aware_now)
    """The current time, from which times to live are counted."""

    def __init__(self) -> None:
        super().__init__()
        self._endpoint: RedisEndpoint | None = None
        self._connecting = threading.Lock()
        self._connections: ReadConnections | None = None
        self._plans = Plans()
        self.stale_fallback = StaleFallback()
        self.damage = Damage()

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: Sequence[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows, each unless the store holds a newer one of the same entity.

        Args:
            config: Feast's repository configuration.
            table: the feature view that the rows belong to.
            data: per row, the entity key, the values by feature, the event time and the created
                timestamp (None: created at its event time).
            progress: called with the number of rows after each round trip.
        """
        view = _versioned_fv_name(table, config)
        fields = {feature.name: _mmh3(f"{view}:{feature.name}") for feature in table.features}
        rows = iter(data)
        while chunk := list(islice(rows, ROWS_PER_ROUND_TRIP)):
            client = self._get_client(config.online_store)
            put = client.register_script(PUT_UNLESS_OLDER)
            with self._reported(), client.pipeline(transaction=False) as pipe:
                for entity_key, values, event_time, created in chunk:
                    key = _redis_key(
                        project=config.project,
                        entity_key=entity_key,
                        entity_key_serialization_version=config.entity_key_serialization_version,
                    )
                    known = None if pd.isna(created) else created  # Feast passes pandas' NaT
                    arguments = time_fields(view, event_time, known)
                    for name, value in values.items():
                        arguments += (fields[name], value.SerializeToString())
                    put(keys=[key], args=arguments, client=pipe)
                replaced = sum(damaged for _, damaged in pipe.execute())
            self.damage.found(replaced, f"rows of {view}: they were replaced")
            if progress:
                progress(len(chunk))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Call `online_write_batch` in this thread, since a batch takes milliseconds.

        Args:
            config, table, data, progress: as for `online_write_batch`.
        """
        self.online_write_batch(config, table, data, progress)

    def get_online_features(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """Feast's answer; its attribute `read_mode` (`ReadMode`) says where it comes from.

        Args:
            config: Feast's repository configuration.
            features: references `view:feature`, or a feature service.
            entity_rows: the join keys, in any form that `entities.entity_rows` takes.
            registry: Feast's registry.
            project: the Feast project.
            full_feature_names: whether names in the answer start with their view's name.
            include_feature_view_version_metadata: whether the answer names the views' versions.

        Raises:
            UsageError: `entity_rows` has a form that is not supported.
        """
        entity_rows = rows_of_entities(entity_rows)
        plan = self._plan(config, features, registry, project, full_feature_names)
        request = None if plan is None else read_request(plan, entity_rows)
        if plan is None or request is None:  # unusual or invalid: Feast answers or raises
            response = super().get_online_features(
                config,
                features,
                entity_rows,
                registry,
                project,
                full_feature_names,
                include_feature_view_version_metadata,
            )
            response.read_mode = self.read_mode  # type: ignore[attr-defined]  # no such field
            return response
        blocks = [
            Block(group.fields, read.keys)
            for group, read in zip(plan.groups, request.groups, strict=True)
        ]
        replies = self.stale_fallback.read(blocks, lambda: self._ask(plan, request, blocks))
        answer = ColumnarResponse(
            plan,
            request,
            replies,
            self.now(),
            self.read_mode,
            with_versions=include_feature_view_version_metadata,
        )
        for view, rows in answer.damaged().items():
            self.damage.found(rows, f"rows of {view} whose event time is none")
        return answer

    async def get_online_features_async(self, *args: Any, **kwargs: Any) -> OnlineResponse:
        """As `get_online_features`; a read from Redis is cheaper than a switch of tasks."""
        return self.get_online_features(*args, **kwargs)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[ReadRow]:
        """The event time and values of each entity; (None, None) where missing or expired.

        Args:
            config: Feast's repository configuration.
            table: the feature view to read.
            entity_keys: one per row of the answer.
            requested_features: names of features; None for all.
        """
        oldest = self._oldest(table)
        return [
            (None, None)
            if event_time is None or (oldest is not None and event_time < oldest)
            else (event_time, values)
            for event_time, values in super().online_read(
                config, table, entity_keys, requested_features
            )
        ]

    async def online_read_async(self, *args: Any, **kwargs: Any) -> list[ReadRow]:
        """The same as `online_read`."""
        return self.online_read(*args, **kwargs)

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Remove a view's values: Feast's fields and our created timestamps."""
        super().delete_table(config, table)
        field = created_field(_versioned_fv_name(table, config))
        client = self._get_client(config.online_store)
        with self._reported(), client.pipeline(transaction=False) as pipe:
            for key in project_keys(client, config.project):
                pipe.hdel(key, field)
            pipe.execute(raise_on_error=False)  # where no hash is, there is no such field

    @property
    def read_mode(self) -> ReadMode:
        """Where reads come from now: Redis, or last known values and their age."""
        return self.stale_fallback.mode

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: Any,
        join_key_values: Any,
        entity_name_to_join_key_map: Any,
        online_features_response: GetOnlineFeaturesResponse,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        first = len(online_features_response.results)
        super()._read_features_per_fv(
            config,
            grouped_refs,
            join_key_values,
            entity_name_to_join_key_map,
            online_features_response,
            full_feature_names,
            include_feature_view_version_metadata,
        )
        for table, requested in grouped_refs:  # Feast has answered in this order
            last = first + len(requested)
            _expire(online_features_response.results[first:last], self._oldest(table))
            first = last

    def _get_features_for_entity(
        self,
        values: Sequence[ByteString | None],
        feature_view: str,
        requested_features: list[str],
    ) -> ReadRow:
        cells = {
            name: None if cell is None else bytes(cell)
            for name, cell in zip(requested_features, values, strict=True)
        }
        times = event_times([cells.pop(f"_ts:{feature_view}")])
        if times.absent:  # Feast would call it present, with nulls
            if times.damaged:
                self.damage.found(1, f"rows of {feature_view} whose event time is none")
            return None, None
        stamp = event_time(times.stamps[0])
        time = EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1_000)
        found = {name: value_message(cell) for name, cell in cells.items()}
        return time, {n: Value() if value is None else value for n, value in found.items()}

    def _read_hash_fields(
        self, config: RepoConfig, commands: list[tuple[bytes, list[str | bytes]]]
    ) -> list[list[ByteString | None]]:
        blocks = [
            Block(tuple(f if isinstance(f, bytes) else f.encode() for f in fields), [key])
            for key, fields in commands
        ]

        def ask() -> list[Reply]:
            client: Any = self._get_client(config.online_store)
            with self._reported(), client.pipeline(transaction=False) as pipe:
                for key, fields in commands:
                    pipe.hmget(key, fields)
                replies = pipe.execute(raise_on_error=False)
                for error in replies:
                    if isinstance(error, Exception) and not is_wrong_type(error):
                        raise error
            return self._whole(blocks, [[] if isinstance(r, Exception) else r for r in replies])

        found: Any = self.stale_fallback.read(blocks, ask)
        return [reply for (reply,) in found]

    def _whole(self, blocks: Sequence[Block], replies: list[Reply]) -> list[Reply]:
        """The replies, with empty fields where a key holds no hash."""
        if all(replies):
            return replies
        self.damage.found(sum(not reply for reply in replies), "keys that hold no hash")
        widths = [len(block.fields) for block in blocks for _ in block.keys]
        return [reply or [None] * width for reply, width in zip(replies, widths, strict=True)]

    def _plan(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool,
    ) -> ReadPlan | None:
        if metrics._config.online_features or getattr(features, "precompute_online", False):
            return None
        name = features.name if isinstance(features, FeatureService) else tuple(features)

        def make() -> ReadPlan | None:
            context = _get_cached_request_context(registry, project, features, full_feature_names)
            types = self._build_feature_types(context[5])
            return make_plan(context, types, config, full_feature_names)

        return self._plans.get(registry, (name, project, full_feature_names), make)

    def _ask(self, plan: ReadPlan, request: ReadRequest, blocks: Sequence[Block]) -> list[Reply]:
        connections = self._connections
        if connections is None:
            client = self._get_client(None)
            connections = self._connections = ReadConnections(client)
        keys = sum([len(read.keys) for read in request.groups])
        try:
            return self._whole(blocks, connections.ask(request.packed(plan), keys))
        except RedisError:
            with self._reported():
                raise

    def _oldest(self, table: FeatureView) -> datetime | None:
        return self.now() - table.ttl if table.ttl else None

    def _get_client(self, online_store_config: RedisOnlineStoreConfig | None) -> redis.Redis:
        del online_store_config  # the settings say where the server is
        with self._connecting:
            client = self._client
            if not isinstance(client, redis.Redis):
                endpoint = self._find_server()
                client = connect(endpoint)
                with self._reported():
                    check_format(client, f"{endpoint.host}:{endpoint.port}")
                self._client = client
            return client

    async def _get_client_async(
        self, online_store_config: RedisOnlineStoreConfig
    ) -> redis.asyncio.Redis:
        del online_store_config
        client = self._client_async
        if not isinstance(client, redis.asyncio.Redis):
            client = self._client_async = connect_async(self._find_server())
        return client

    def _find_server(self) -> RedisEndpoint:
        if self._endpoint is None:
            self._endpoint = ensure_server(DataConfig())
        return self._endpoint

    @contextmanager
    def _reported(self) -> Iterator[None]:
        with translate_redis_errors(self._find_server()):
            yield


def _expire(vectors: Sequence[Any], oldest: datetime | None) -> None:
    """Clear the values older than `oldest` in one view's feature vectors."""
    if not vectors or oldest is None:
        return
    limit = oldest.timestamp()
    for row, stamp in enumerate(vectors[0].event_timestamps):
        there = vectors[0].statuses[row] != FieldStatus.NOT_FOUND
        if there and stamp.seconds + stamp.nanos / 1e9 < limit:
            for vector in vectors:
                vector.values[row].Clear()
                vector.statuses[row] = FieldStatus.OUTSIDE_MAX_AGE
