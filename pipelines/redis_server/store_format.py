"""The format of what the online store holds: a number beside the rows, read at each connection."""

from __future__ import annotations

from typing import Any, Final

import redis

from pipelines.errors import NewerFormatError

FORMAT: Final = 1
KEY: Final = "synchrochain:format"


def check_format(client: redis.Redis, where: str) -> None:
    """Make sure that no newer version of SynchroChain writes this online store.

    A store without a number is of the first format, or empty.

    Raises:
        NewerFormatError: one does.
        redis.RedisError: the server cannot be asked.
    """
    try:
        found: Any = client.get(KEY)
    except redis.ResponseError:  # whoever may not read it may not be able to do more either
        return
    text = found.decode("utf-8", "replace") if isinstance(found, bytes) else found
    if text is not None and (not text.isdecimal() or int(text) > FORMAT):
        raise NewerFormatError(f"the online store at {where}", text, FORMAT)


def note_format(client: redis.Redis) -> None:
    """Say of which format the store's rows are.

    Raises:
        redis.RedisError: as it comes.
    """
    client.set(KEY, FORMAT)
