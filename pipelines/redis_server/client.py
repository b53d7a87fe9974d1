"""Redis clients that notice a dead or frozen server, and its errors in our words.

redis-py's own defaults retry for seconds on a dead server and wait for ever on a frozen one.
Here every wait has an end: `timeout` seconds to connect and `timeout` seconds for a reply. A
connection that the server dropped (a restart) is opened again, once, and the command repeated:
so a command that is not idempotent may run twice. A time-out is never repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    InvalidResponse,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from pipelines.errors import RedisRefusedError, RedisUnavailableError
from pipelines.redis_server.endpoint import RedisEndpoint

DROPPED_CONNECTION_RETRIES: Final = 1

REFUSALS: Final = {
    "NOAUTH": "set SYNCHROCHAIN_REDIS_PASSWORD to its password",
    "OOM": "it is out of memory: raise its maxmemory or free some, then repeat the batch",
    "NOPERM": "give this user the right to it",
    "READONLY": "name the primary, not a replica",
    "MISCONF": "it cannot write to its disk: free some room, then repeat the batch",
    "NOREPLICAS": "it wants more replicas before it takes writes: start them",
    "CLUSTERDOWN": "some of its nodes are away: start them",
    "BUSY": "a script of somebody else's holds it up: end that with SCRIPT KILL",
}


_CODE: Final = re.compile(r"(?:^|[ -])(MISCONF|NOREPLICAS|READONLY|NOPERM|BUSY) ")


def connect(
    endpoint: RedisEndpoint, *, timeout: float | None = None, decode_responses: bool = False
) -> redis.Redis:
    """A client of the endpoint; nothing is sent before its first command.

    Errors are redis-py's: see `translate_redis_errors`. No client-side cache, no health checks.

    Args:
        endpoint: the server.
        timeout: seconds; None for the endpoint's own (`DataConfig.redis_timeout`).
        decode_responses: texts instead of bytes.
    """
    retry = Retry(NoBackoff(), DROPPED_CONNECTION_RETRIES, supported_errors=(ConnectionError,))
    settings = _settings(endpoint, timeout, decode_responses)
    client = redis.Redis(**settings, retry=retry)
    client.connection_pool.connection_kwargs |= _left_out(settings)
    return client


def connect_async(
    endpoint: RedisEndpoint, *, timeout: float | None = None, decode_responses: bool = False
) -> redis.asyncio.Redis:
    """`connect` for asyncio, with the same time-outs and the same single retry.

    Args:
        endpoint: the server.
        timeout: seconds; None for the endpoint's own.
        decode_responses: texts instead of bytes.
    """
    retry = AsyncRetry(NoBackoff(), DROPPED_CONNECTION_RETRIES, supported_errors=(ConnectionError,))
    settings = _settings(endpoint, timeout, decode_responses)
    client = redis.asyncio.Redis(**settings, retry=retry)
    client.connection_pool.connection_kwargs |= _left_out(settings)
    return client


def _left_out(settings: dict[str, Any]) -> dict[str, Any]:
    # redis-py drops this one for a Unix socket: a frozen server with a full queue would block us
    # for ever.
    return {"socket_connect_timeout": settings["socket_connect_timeout"]}


def _settings(
    endpoint: RedisEndpoint, timeout: float | None, decode_responses: bool
) -> dict[str, Any]:
    seconds = endpoint.timeout if timeout is None else timeout
    address: dict[str, Any] = {"host": endpoint.host, "port": endpoint.port}
    if endpoint.unix_socket is not None:
        address = {"unix_socket_path": str(endpoint.unix_socket)}
    return address | {
        "db": endpoint.db,
        "password": endpoint.password,
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "health_check_interval": 0,
        "decode_responses": decode_responses,
    }


@contextmanager
def translate_redis_errors(endpoint: RedisEndpoint) -> Iterator[None]:
    """Turn redis-py's errors into ours, one line each; what is a defect of ours passes through.

    Raises:
        RedisUnavailableError: no connection, no reply in time, or still loading its data.
        RedisRefusedError: it answered and refused: password, rights, memory, disk, replica.
    """
    try:
        yield
    except RedisError as error:
        translated = _translate(endpoint, error)
        if translated is None:
            raise
        raise translated from error


def _translate(
    endpoint: RedisEndpoint, error: RedisError
) -> RedisUnavailableError | RedisRefusedError | None:
    reason = _reason(error)
    code = _refusal_code(error, reason)
    if code is not None:
        return RedisRefusedError(f"{endpoint.description} refused: {reason}; {REFUSALS[code]}")
    if isinstance(error, BusyLoadingError):
        return RedisUnavailableError(
            f"{endpoint.description} is still loading its data: try again in a few seconds"
        )
    if isinstance(error, ConnectionError | TimeoutError | InvalidResponse):
        return RedisUnavailableError(
            f"{endpoint.description} does not answer: {reason}; {_remedy(endpoint)}"
        )
    return None


def _refusal_code(error: RedisError, reason: str) -> str | None:
    match error:
        case AuthenticationError() | AuthorizationError():
            return "NOAUTH"
        case NoPermissionError():
            return "NOPERM"
        case ReadOnlyError():
            return "READONLY"
        case ClusterDownError():
            return "CLUSTERDOWN"
        case ResponseError() if "can't run this command" in reason or "ACL failure" in reason:
            return "NOPERM"  # of a command inside a script
        case ResponseError() if code := _CODE.search(reason):
            return code[1]
        # In the text, for a script or a transaction wraps it in another error.
        case ResponseError() if "command not allowed when used memory" in reason:
            return "OOM"
    return None


def _remedy(endpoint: RedisEndpoint) -> str:
    if endpoint.engine == "configured":
        return "start it, or unset SYNCHROCHAIN_REDIS_HOST to use a private one"
    return "`synchrochain down` stops it; then start again"


def _reason(error: RedisError) -> str:
    # A pipeline's error quotes the command, and with it the data of a shopper: leave that out.
    _, _, reason = str(error).rpartition("of pipeline caused error: ")
    return " ".join(reason.split()).rstrip(".")
