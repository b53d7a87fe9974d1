"""Removing what the cache holds of feature views."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import redis

from pipelines.cache.entries import decode_batch
from pipelines.cache.keys import FEATURES, LATEST
from pipelines.cache.redis_backend import INDEX

VIEW: Final = "view"
"""The column of a cached batch that names each row's view."""
KEYS_AT_ONCE: Final = 1_000


def forget_views(client: redis.Redis, views: Collection[str]) -> int:
    """Remove the cached features of views, and the latest batches that hold rows of them.

    Args:
        client: without decoding of responses.
        views: their names.

    Returns:
        The number of values that were removed.

    Raises:
        redis.RedisError: as it comes.
    """
    known = (key for key, _ in client.zscan_iter(INDEX, count=KEYS_AT_ONCE))
    mine = [key for key in known if _holds(client, key, views)]
    for first in range(0, len(mine), KEYS_AT_ONCE):
        keys = mine[first : first + KEYS_AT_ONCE]
        client.unlink(*keys)
        client.zrem(INDEX, *keys)
    return len(mine)


def _holds(client: redis.Redis, key: bytes, views: Collection[str]) -> bool:
    kind, _, rest = key.decode("utf-8", "replace").partition(":")
    if kind == FEATURES:
        return rest.partition(":")[0] in views
    if kind != LATEST:
        return False
    value: Any = client.get(key)
    batch = decode_batch(value) if value else None
    return batch is not None and any(row.get(VIEW) in views for row in batch.rows)
