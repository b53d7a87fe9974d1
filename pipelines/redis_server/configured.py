"""The server that the user named: use it or stop, never another one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from pipelines.errors import RedisRefusedError
from pipelines.redis_server.client import connect, translate_redis_errors
from pipelines.redis_server.endpoint import RedisEndpoint
from pipelines.settings import DataConfig

logger = logging.getLogger(__name__)


def configured_endpoint(config: DataConfig, host: str) -> RedisEndpoint:
    """The configured server, checked: it answers, takes the password, and evicts nothing.

    Raises:
        RedisUnavailableError: it does not answer within `redis_timeout` seconds.
        RedisRefusedError: wrong or missing password, no such database, or it evicts keys.
    """
    password = config.redis_password
    endpoint = RedisEndpoint(
        host=host,
        port=config.redis_port,
        db=config.redis_db,
        password=password.get_secret_value() if password else None,
        unix_socket=None,
        engine="configured",
        version="unknown",
        timeout=config.redis_timeout,
    )
    information = _information(endpoint)
    _refuse_eviction(endpoint, information)
    version = information.get("valkey_version") or information.get("redis_version")
    return replace(endpoint, version=str(version)) if version else endpoint


def _information(endpoint: RedisEndpoint) -> Mapping[str, Any]:
    with translate_redis_errors(endpoint), connect(endpoint) as client:
        try:
            client.ping()
        except ResponseError as error:
            if isinstance(error, NoPermissionError):
                raise
            raise RedisRefusedError(
                f"{endpoint.description} refused database {endpoint.db}: {error}; "
                "check SYNCHROCHAIN_REDIS_DB"
            ) from error
        try:
            # INFO names the eviction policy too, and managed servers allow it more often than
            # CONFIG GET.
            answer: Mapping[str, Any] = client.info()
        except ResponseError as error:
            logger.info("%s says nothing about itself: %s", endpoint.description, error)
            return {}
    return answer


def _refuse_eviction(endpoint: RedisEndpoint, information: Mapping[str, Any]) -> None:
    policy = information.get("maxmemory_policy")
    limit = information.get("maxmemory")
    if policy is None or limit is None:
        logger.info(
            "%s does not show its maxmemory-policy: make sure that it is noeviction, another "
            "one loses features silently",
            endpoint.description,
        )
    elif limit and policy != "noeviction":
        raise RedisRefusedError(
            f"{endpoint.description} has maxmemory-policy {policy} with maxmemory {limit} and "
            "would evict features silently: set noeviction"
        )
