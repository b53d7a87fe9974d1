"""The online store as a sink of the streamer, and what becomes of rows while Redis is away."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pyarrow as pa
import redis
import yaml

from pipelines.errors import ConfigurationError, RedisUnavailableError
from pipelines.feast_plugins.writing.online_writer import OnlineWriter
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
