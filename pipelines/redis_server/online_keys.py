"""The keys of a project in Redis: found by what they are made of, and removed.

A key is a serialized entity key (version 3: the number of join keys; the type, length and bytes
of each name, then of each value), followed by the project's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from struct import error, unpack_from
from typing import Any, Final

import redis

KEYS_PER_SCAN: Final = 1_000
STREAM_MARK: Final = "synchrochain:streaming"
"""Set by a streamer; where it is gone, the streamer writes again what only it knows."""


def project_keys(client: redis.Redis, project: str) -> Iterator[Any]:
    """Every key of a project (bytes), whatever is stored under it; one may come twice.

    Raises:
        redis.RedisError: as it comes.
    """
    for key in client.scan_iter(b"*" + _escaped(project.encode()), count=KEYS_PER_SCAN):
        if project_of_key(key) == project.encode():
            yield key


def project_of_key(key: bytes) -> bytes | None:
    """What follows the entity key in a Redis key; None for a key of another make."""
    try:
        (parts,) = unpack_from("<I", key)
        at = 4
        if not 0 < parts < len(key):
            return None
        for _ in range(2 * parts):
            _, length = unpack_from("<II", key, at)
            at += 8 + length
    except error:
        return None
    return key[at:] or None


def forget_project(client: redis.Redis, project: str) -> int:
    """Remove every row of a project; how many keys that were. Other projects' rows stay.

    Raises:
        redis.RedisError: as it comes; some keys may be gone then.
    """
    keys, removed = project_keys(client, project), 0
    while some := list(islice(keys, KEYS_PER_SCAN)):
        gone: Any = client.unlink(*some)
        removed += gone
    return removed


def forget_fields(client: redis.Redis, project: str, fields: Sequence[bytes]) -> int:
    """Remove fields from every row of a project. A row without others goes.

    Args:
        client: of the online store.
        project: Feast's.
        fields: their names in Redis.

    Returns:
        How many were there.

    Raises:
        redis.RedisError: as it comes; some may be gone then.
    """
    keys, removed = project_keys(client, project), 0
    while some := list(islice(keys, KEYS_PER_SCAN)):
        with client.pipeline(transaction=False) as pipe:
            for key in some:
                pipe.hdel(key, *fields)  # type: ignore[arg-type]  # bytes do as well
            gone = pipe.execute(raise_on_error=False)  # where no hash is, there are no fields
        removed += sum(found for found in gone if isinstance(found, int))
    return removed


def _escaped(text: bytes) -> bytes:
    """For a pattern of Redis, in which it stands for itself."""
    return b"".join(b"\\" + bytes([c]) if c in b"*?[]^-\\" else bytes([c]) for c in text)
