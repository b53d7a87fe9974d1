"""Looking after the online store while a streamer runs: what was lost is noticed and mended.

A random mark in Redis shows that everything was removed; what the server says of itself, that it
was started again, evicted keys or holds fewer; and now and then rows are compared without a sign.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import redis
from redis.exceptions import RedisError

from pipelines.errors import RedisRefusedError, RedisUnavailableError, SynchroChainError
from pipelines.feast_plugins.online_check import OnlineCheck, check_server
from pipelines.feast_plugins.repository import TTLS
from pipelines.lake.state import PipelineState
from pipelines.redis_server import RedisEndpoint, connect, find_server
from pipelines.redis_server.online_keys import STREAM_MARK as MARK
from pipelines.redis_server.server_info import server_facts
from pipelines.settings import DataConfig

logger = logging.getLogger(__name__)

FACTS_SECONDS: Final = 5.0
CHECK_SECONDS: Final = 300.0


class OnlineWatch:
    """Looks when it is asked to, by one thread at a time.

    Args:
        config: which Redis; it is not started.
        project: the Feast project whose rows are compared.
        state: the pipeline's state: what is published.
        rewrite: has everything written again that only the stream knows.
        now: the present time, UTC and naive.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        config: DataConfig,
        project: str,
        state: PipelineState,
        rewrite: Callable[[], None],
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._project = project
        self._state = state
        self._rewrite = rewrite
        self._now = now
        self._clock = clock
        self._stopped = threading.Event()
        self._found: tuple[redis.Redis, RedisEndpoint] | None = None
        self._mark: str | None = None
        self._asked: float | None = None
        self._checked: float | None = None
        self._last: dict[str, Any] = {}
        self.emptied = 0
        self.mended = 0
        self.last_error: str | None = None

    def look(self) -> bool:
        """Look at the mark; every five seconds at the server, every five minutes at the rows.

        Returns:
            Whether rows were compared. An error is said, and the next look tries again.
        """
        try:
            client, endpoint = self._server()
            looked = self._look(client, endpoint)
        except (SynchroChainError, RedisError) as error:
            self._failed(error)
            return False
        self.last_error = None
        return looked

    def report(self) -> dict[str, Any]:
        """What was found so far, for the status."""
        return {
            "emptied": self.emptied,
            "mended": self.mended,
            "last_error": self.last_error,
            "last": {key: self._last[key] for key in ("at", "signs", "warning", "views")}
            if self._last
            else {},
        }

    def close(self) -> None:
        """Leave off soon, and let go of the connection."""
        self._stopped.set()
        if self._found is not None:
            self._found[0].close()

    def _look(self, client: redis.Redis, endpoint: RedisEndpoint) -> bool:
        now = self._clock()
        held: Any = client.get(MARK)
        gone = self._mark is None or held != self._mark.encode()
        due = self._checked is None or now - self._checked >= CHECK_SECONDS
        if not gone and not due and self._asked is not None:
            if now - self._asked < FACTS_SECONDS:
                return False
            facts = server_facts(client, endpoint.db)
            self._asked = now
            if not facts.losses_since(self._last["server"]) and facts.evicts is None:
                self._last["server"] = facts.as_dict()
                return False
        ttls = self._state.document(TTLS)
        if ttls is None or self._stopped.is_set():  # nothing is published online yet
            return False
        if gone and self._mark is not None:
            self.emptied += 1
            logger.warning("%s has lost our mark: its rows are written again", endpoint.description)
        mark, known = uuid.uuid4().hex, self._mark
        self._mark = None
        if gone:
            client.set(MARK, mark)  # first: what is removed while we write is noticed next time
        check = OnlineCheck(client, self._project, self._state, ttls, self._stopped.is_set)
        emptied = gone and known is not None
        self._last = check_server(client, endpoint, check, self._now(), self._last, whole=emptied)
        wrong = sum(
            number
            for found in self._last["views"].values()
            for kind, number in found.items()
            if kind not in ("keys", "values")
        )
        self.mended += wrong
        if wrong or emptied or self._last["signs"]:
            self._rewrite()
        self._mark = mark if gone else known
        self._asked = self._checked = now
        return True

    def _server(self) -> tuple[redis.Redis, RedisEndpoint]:
        if self._found is None:
            endpoint = find_server(self._config)
            if endpoint is None:
                raise RedisUnavailableError(f"no Redis runs in {self._config.redis_dir}")
            self._found = connect(endpoint), endpoint
        return self._found

    def _failed(self, error: Exception) -> None:
        said = str(error)
        if not isinstance(error, RedisRefusedError) and self._found is not None:
            self._found[0].close()
            self._found = None  # a server that was started again may have another port
        # That Redis is away the sink says already.
        away = isinstance(error, RedisError | RedisUnavailableError)
        if said != self.last_error:
            logger.log(
                logging.DEBUG if away else logging.ERROR,
                "the online store cannot be compared: %s",
                said,
            )
        self.last_error = said
