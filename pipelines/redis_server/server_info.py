"""What tells that a server may have lost rows without a word: restarts, evictions, deletions."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any, Final

import redis
from redis.exceptions import ResponseError

from pipelines.redis_server.endpoint import RedisEndpoint

logger = logging.getLogger(__name__)

_SAFE: Final = "noeviction"


@dataclass(frozen=True)
class ServerFacts:
    """One look at a server; what it does not say is None.

    `keys` are those that never expire, as rows of the online store are. `evicts` is the eviction
    policy if keys may be lost to it.
    """

    run_id: str | None
    evicted: int | None
    keys: int | None
    evicts: str | None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)

    def losses_since(self, before: dict[str, Any]) -> list[str]:
        """In words, why rows may be gone since an earlier look; nothing if there is no sign.

        Args:
            before: `as_dict` of that look, or nothing.
        """
        signs = []
        if before.get("run_id") and self.run_id != before["run_id"]:
            signs.append("it was started again")
        elif (self.evicted or 0) > (before.get("evicted") or 0):
            signs.append(f"it evicted {(self.evicted or 0) - (before.get('evicted') or 0)} keys")
        if before.get("keys") and self.keys is not None and self.keys < before["keys"]:
            signs.append(f"it holds {before['keys'] - self.keys} keys less")
        return signs


def server_facts(client: redis.Redis, db: int) -> ServerFacts:
    """Ask the server: one round trip.

    Raises:
        redis.RedisError: it does not answer; a refusal to answer is no error.
    """
    try:
        found: Any = client.info()
    except ResponseError as error:
        logger.info("Redis says nothing about itself: %s", error)
        return ServerFacts(None, None, None, None)
    here: Any = found.get(f"db{db}", {"keys": 0, "expires": 0})
    policy = found.get("maxmemory_policy", _SAFE)
    return ServerFacts(
        run_id=found.get("run_id"),
        evicted=found.get("evicted_keys"),
        keys=here["keys"] - here["expires"],
        evicts=policy if policy != _SAFE and found.get("maxmemory") else None,
    )


def stop_eviction(client: redis.Redis, endpoint: RedisEndpoint, facts: ServerFacts) -> str | None:
    """Set the policy of a server of ours back; in one line what is wrong if keys may be evicted.

    Args:
        client: of the server.
        endpoint: whose server it is.
        facts: what was seen of it.

    Raises:
        redis.RedisError: it does not answer.
    """
    if facts.evicts is None:
        return None
    said = f"{endpoint.description} had maxmemory-policy {facts.evicts} and may have evicted rows"
    if endpoint.engine == "configured":
        return f"{said}: set {_SAFE}"
    try:
        client.config_set("maxmemory-policy", _SAFE)
    except ResponseError as error:
        return f"{said}, and it cannot be set back: {error}"
    return f"{said}: it was set back to {_SAFE}"
