"""Removing from the online store what counts no more: rows of another history, or of views that
are declared otherwise by now or not at all."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from pipelines.feast_plugins.repository import CHECKED, description, is_ours
from pipelines.lake.process_lock import STREAM_LOCK, held_by
from pipelines.lake.state import STALE_ONLINE, STALE_VIEWS, PipelineState
from pipelines.settings import BatchConfig, DataConfig

if TYPE_CHECKING:
    from redis import Redis

    from pipelines.redis_server import RedisEndpoint

logger = logging.getLogger(__name__)

MARK: Final = "synchrochain:materialized"
"""Kept in Redis and in the state: where they differ, Redis lost what was materialized."""
STREAMER_SECONDS: Final = 5.0
"""The longest wait for a streamer with other declarations to end."""


@contextlib.contextmanager
def connected(data: DataConfig, **options: Any) -> Iterator[tuple[Redis, RedisEndpoint]]:
    """A client of the server, which is started where it is ours to start, and the server."""
    from pipelines.redis_server import connect, ensure_server, translate_redis_errors

    endpoint = ensure_server(data)
    with translate_redis_errors(endpoint), connect(endpoint, **options) as client:
        yield client, endpoint


def forget_online_rows(config: BatchConfig, data: DataConfig) -> int:
    """Remove every row of this project from the online store, if that is ours.

    The mark goes first: whatever happens next, the next update fills the store again.

    Returns:
        The number of entity keys that were removed.

    Raises:
        RedisUnavailableError, RedisRefusedError: Redis cannot be asked.
    """
    if not is_ours(config):
        return 0
    from pipelines.redis_server.online_keys import forget_project

    with connected(data) as (client, _):
        client.delete(MARK)
        return forget_project(client, description(config)["project"])


def forget_stale_rows(config: BatchConfig, data: DataConfig, state: PipelineState) -> None:
    """Remove what the online store holds of before everything was started over, if it was: a row
    of another history that is newer than any of this one would be served for ever.

    Args:
        config: the feature repository.
        data: which Redis.
        state: the pipeline's state.

    Raises:
        RedisUnavailableError, RedisRefusedError: Redis cannot be asked; it is still to be done.
    """
    if state.metadata(STALE_ONLINE) is None:
        return
    removed = forget_online_rows(config, data)
    logger.info("removed the online rows of %d keys", removed)
    state.forget_metadata(STALE_ONLINE)


def forget_stale_views(
    config: BatchConfig, data: DataConfig, state: PipelineState, streamer: int | None = None
) -> None:
    """Remove what the online store and the cache hold of views that were declared anew since, or
    are not declared any more: a row at a time that has none now would be served for ever.

    Args:
        config: the feature repository.
        data: which Redis.
        state: the pipeline's state.
        streamer: the process id of a streamer that may still write such rows, and is about to end.

    Raises:
        RedisUnavailableError, RedisRefusedError: Redis cannot be asked; it is still to be done.
    """
    stale = state.document(STALE_VIEWS)
    if stale is None:
        return
    if is_ours(config):
        from pipelines.cache.removal import forget_views
        from pipelines.feast_plugins.writing.encoding import field
        from pipelines.feast_plugins.writing.newer_wins import created_field
        from pipelines.redis_server.online_keys import STREAM_MARK, forget_fields

        _wait_for_end(config, streamer)
        fields = []
        for view, features in stale.items():
            fields += [f"_ts:{view}".encode(), created_field(view).encode()]
            fields += [field(view, name) for name in features]
        with connected(data) as (client, _):
            removed = forget_fields(client, description(config)["project"], fields)
            forget_views(client, stale)
            client.delete(STREAM_MARK)  # a streamer that writes already has to do so again
        logger.info("removed %d values of %s online", removed, ", ".join(stale))
        state.forget_metadata(CHECKED)  # that there are fewer keys is no loss
    state.forget_metadata(STALE_VIEWS)


def _wait_for_end(config: BatchConfig, streamer: int | None) -> None:
    until = time.monotonic() + STREAMER_SECONDS
    while streamer is not None and held_by(config.data_dir / STREAM_LOCK) == streamer:
        if time.monotonic() > until:
            return
        time.sleep(0.05)
