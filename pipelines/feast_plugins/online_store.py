"""Feast's Redis store on the server that belongs to the data directory; newer wins, atomically."""

from __future__ import annotations

from collections.abc import ByteString, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any, Final, Literal

import redis
import redis.asyncio
from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import (
    RedisOnlineStore,
    RedisOnlineStoreConfig,
    _versioned_fv_name,
)
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.utils import make_tzaware
from google.protobuf.timestamp_pb2 import Timestamp
from redis.commands.core import Script

from pipelines.redis import (
    RedisEndpoint,
    connect,
    connect_async,
    ensure_server,
    translate_redis_errors,
)
from pipelines.settings import DataConfig

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]

ROWS_PER_ROUND_TRIP: Final = 500

# Feast keeps a row's event time as a serialized protobuf Timestamp: field 1 seconds, field 2 nanos,
# both varints. A row replaces the stored one unless that one is newer; a correction of the same
# event time therefore replaces what it corrects.
_PUT_UNLESS_OLDER: Final = """
local function read(text)
  local seconds, nanos, at = 0, 0, 1
  while at <= #text do
    local field, value, weight, byte = text:byte(at), 0, 1, 0
    repeat
      at = at + 1
      byte = text:byte(at)
      value = value + (byte % 128) * weight
      weight = weight * 128
    until byte < 128
    at = at + 1
    if field == 8 then seconds = value else nanos = value end
  end
  return seconds, nanos
end
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if stored then
  local old_seconds, old_nanos = read(stored)
  local seconds, nanos = read(ARGV[2])
  if old_seconds > seconds or (old_seconds == seconds and old_nanos > nanos) then return 0 end
end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
"""


class SharedRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """The connection comes from SynchroChain's settings; `connection_string` is not used."""

    # Feast picks a store by this field and declares its own as Literal["redis"].
    type: Literal["pipelines.feast_plugins.online_store.SharedRedisOnlineStore"] = (
        "pipelines.feast_plugins.online_store.SharedRedisOnlineStore"  # type: ignore[assignment]
    )


class SharedRedisOnlineStore(RedisOnlineStore):
    """Feast's Redis layout, unchanged, on the server that `pipelines.redis` finds or starts.

    Differs from Feast's store in three ways: the server need not be installed, configured or
    running; a write is one atomic step per entity, and a correction with the same event time
    replaces what it corrects; a dead or frozen server is noticed within a second and reported in
    one line.

    Raises:
        RedisUnavailableError: the server does not answer.
        RedisRefusedError: the server refuses, for instance for want of memory.
    """

    _endpoint: RedisEndpoint | None = None
    _script: Script | None = None

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: Sequence[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows, each unless the store holds a newer one of the same entity."""
        view = _versioned_fv_name(table, config)
        fields = {feature.name: _mmh3(f"{view}:{feature.name}") for feature in table.features}
        client = self._get_client(config.online_store)
        if self._script is None:
            self._script = client.register_script(_PUT_UNLESS_OLDER)
        rows = iter(data)
        while chunk := list(islice(rows, ROWS_PER_ROUND_TRIP)):
            with self._reported(), client.pipeline(transaction=False) as pipe:
                for entity_key, values, event_time, _created in chunk:
                    key = _redis_key(
                        project=config.project,
                        entity_key=entity_key,
                        entity_key_serialization_version=config.entity_key_serialization_version,
                    )
                    arguments: list[Any] = [f"_ts:{view}", _serialized(event_time)]
                    for name, value in values.items():
                        arguments += (fields[name], value.SerializeToString())
                    self._script(keys=[key], args=arguments, client=pipe)
                pipe.execute()
            if progress:
                progress(len(chunk))

    def _get_client(self, online_store_config: RedisOnlineStoreConfig) -> redis.Redis:
        del online_store_config  # the settings say where the server is
        client = self._client
        if not isinstance(client, redis.Redis):
            client = self._client = connect(self._find_server())
        return client

    async def _get_client_async(
        self, online_store_config: RedisOnlineStoreConfig
    ) -> redis.asyncio.Redis:
        del online_store_config
        client = self._client_async
        if not isinstance(client, redis.asyncio.Redis):
            client = self._client_async = connect_async(self._find_server())
        return client

    def _read_hash_fields(
        self, config: RepoConfig, commands: list[tuple[bytes, list[str | bytes]]]
    ) -> list[list[ByteString | None]]:
        with self._reported():
            return super()._read_hash_fields(config, commands)

    def _find_server(self) -> RedisEndpoint:
        if self._endpoint is None:
            self._endpoint = ensure_server(DataConfig())
        return self._endpoint

    @contextmanager
    def _reported(self) -> Iterator[None]:
        with translate_redis_errors(self._find_server()):
            yield


def _serialized(moment: datetime) -> bytes:
    stamp = Timestamp()
    stamp.FromDatetime(make_tzaware(moment))
    return bytes(stamp.SerializeToString())
