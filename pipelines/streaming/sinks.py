"""Sinks: the online store in Redis and the real-time cache."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pyarrow as pa
import redis
import yaml

from pipelines.cache import FeatureEntry, RealtimeCache
from pipelines.errors import ConfigurationError, RedisUnavailableError, said
from pipelines.feast_plugins.writing.online_writer import OnlineWriter
from pipelines.features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from pipelines.features.views import View
from pipelines.redis_server import (
    RedisEndpoint,
    connect,
    ensure_server,
    find_server,
    translate_redis_errors,
)
from pipelines.redis_server.store_format import check_format
from pipelines.settings import DataConfig
from pipelines.streaming.view_refresh import AWAY

logger = logging.getLogger(__name__)

PROBE_SECONDS: Final = 1.0
VIEW_COLUMN: Final = "view"


def project_of(feature_repo: Path) -> str:
    """The project's name in feature_store.yaml, without importing Feast.

    Raises:
        ConfigurationError: the file is not there, or names none.
    """
    path = feature_repo / "feature_store.yaml"
    try:
        return str(yaml.safe_load(path.read_text("utf-8"))["project"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise ConfigurationError(f"{path} is not there or names no project") from None


class OnlineSink:
    """Writes feature rows in Feast's layout; newer wins, whoever else writes.

    When the server does not answer or refuses, that is said once; from then on it is tried at most
    once a second until a write succeeds. Streams share it, on one thread.

    Args:
        config: which Redis; it is started, where it is ours to start, now but not after an outage.
        project: the Feast project whose keys are written.
        clock: seconds that only grow.
    """

    def __init__(
        self, config: DataConfig, project: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._project = project
        self._clock = clock
        self._lock = threading.Lock()
        self._client: redis.Redis | None = None
        self._next_try: float | None = None
        self.outages = 0
        self.last_error: str | None = None
        try:
            ensure_server(config)
        except AWAY as error:
            self._leave(error)

    @property
    def mode(self) -> str:
        """ "redis", or "away" while what should be written is pending."""
        return "redis" if self._next_try is None else "away"

    def ready(self) -> bool:
        """Whether the server answered last, or it is time to try again."""
        next_try = self._next_try
        return next_try is None or self._clock() >= next_try

    def write(self, view: View, rows: pa.Table) -> None:
        """Write rows of the view's schema in one pipelined round trip per thousand rows.

        Raises:
            RedisUnavailableError, RedisRefusedError: not all of them are written.
            NewerFormatError: a newer version of SynchroChain writes this store.
        """
        try:
            writer, endpoint = self._writer()
            with translate_redis_errors(endpoint):
                writer.write({view.name: rows}, {view.name: view.keys})
        except AWAY as error:
            self._leave(error)
            raise
        self._return()

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
        self._client = None

    def _writer(self) -> tuple[OnlineWriter, RedisEndpoint]:
        if self._client is None:
            # Found anew after an outage: a server that was started again may have another port.
            endpoint = find_server(self._config)
            if endpoint is None:
                raise RedisUnavailableError(
                    f"no Redis runs in {self._config.redis_dir}: `synchrochain batch` starts it"
                )
            client = connect(endpoint)
            with translate_redis_errors(endpoint):
                check_format(client, f"{endpoint.host}:{endpoint.port}")
            self._client = client
            self._found = (OnlineWriter(self._client, self._project), endpoint)
        return self._found

    def _leave(self, error: Exception) -> None:
        with self._lock:
            if self._next_try is None:
                self.outages += 1
                logger.warning("what the stream computes is kept, for Redis is away: %s", error)
            if isinstance(error, RedisUnavailableError):
                self.close()
            self.last_error = str(error)
            self._next_try = self._clock() + PROBE_SECONDS

    def _return(self) -> None:
        if self._next_try is None:
            return
        with self._lock:
            self._next_try = None
            logger.warning("Redis is back: the stream writes what was missed")


class CacheSink:
    """Writes feature rows to the real-time cache.

    The cache is a copy: an error of its own is logged, and the online store goes on.
    """

    def __init__(self, cache: RealtimeCache) -> None:
        self.cache = cache
        self.last_error: str | None = None

    def put(self, view: View, rows: pa.Table) -> None:
        """Keep each row as the features of its key, under `features:{view}:{key}:…`."""
        with self._logging_errors():
            keys = zip(*(rows[name].to_pylist() for name in view.keys), strict=True)
            ids = [":".join((view.name, *map(str, key))) for key in keys]
            values = rows.select(list(view.features)).to_pylist()
            events, created = (rows[n].to_pylist() for n in (EVENT_TIMESTAMP, CREATED_TIMESTAMP))
            entries = map(FeatureEntry, values, events, created)
            self.cache.put_features(dict(zip(ids, entries, strict=True)))

    def put_latest(self, data_type: str, rows: Mapping[str, pa.Table]) -> None:
        """Keep the rows of a micro-batch, by view, as `latest:{data_type}`."""
        tables = [
            table.append_column(VIEW_COLUMN, pa.repeat(view, table.num_rows))
            for view, table in rows.items()
            if table.num_rows
        ]
        if not tables:
            return
        whole = pa.concat_tables(tables, promote_options="default")
        created = tables[0][CREATED_TIMESTAMP][0].as_py()
        with self._logging_errors():
            self.cache.put_batch(data_type, created, whole)

    @contextmanager
    def _logging_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, the online store goes on
            text = said(error)
            if text != self.last_error:
                logger.error("the cache lacks rows that the online store gets: %s", text)
            self.last_error = text
