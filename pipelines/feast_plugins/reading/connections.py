"""Many HMGETs in one round trip, without redis-py's overhead per command."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import ConnectionError, ResponseError

from pipelines.feast_plugins.writing.resp import argument

Reply = list[bytes | None]


class ReadConnections:
    """Connections of a client that are kept open for reading. Safe to share between threads.

    A connection that the server has dropped is opened again, once, and the request repeated: reads
    may be repeated. A time-out is not.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._idle: deque[Any] = deque()
        self._process = os.getpid()

    def ask(self, packed: bytes, replies: int) -> list[Reply]:
        """Send packed commands, read that many replies; an empty one for a key that is not a hash.

        Raises:
            redis.RedisError: as raised by the client; the connection is closed.
        """
        connection = self._take()
        try:
            try:
                found = _exchange(connection, packed, replies)
            except ConnectionError:
                connection.disconnect()
                found = _exchange(connection, packed, replies)
        except BaseException:
            connection.disconnect()  # drop late replies
            raise
        finally:
            self._idle.append(connection)
        return found

    def close(self) -> None:
        """Close the connections; the next request opens one again."""
        while self._idle:
            self._idle.pop().disconnect()

    def _take(self) -> Any:
        if self._process != os.getpid():  # a fork shares its parent's sockets
            self._idle, self._process = deque(), os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            pool = self._client.connection_pool
            return pool.connection_class(**pool.connection_kwargs)


def pack(head: bytes, keys: Sequence[bytes], tail: bytes) -> bytes:
    """A command per key, encoded in Redis' protocol: `head`, the key with its length, `tail`.

    Args:
        head: the bytes before the key, arguments with their lengths.
        keys: the keys, without their lengths.
        tail: the bytes after the key.
    """
    if len({*map(len, keys)}) == 1:
        start = b"%b$%d\r\n" % (head, len(keys[0]))
        return b"%b%b%b" % (start, (tail + start).join(keys), tail)
    return b"".join([b"%b$%d\r\n%b%b" % (head, len(key), key, tail) for key in keys])


def hmget(fields: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The bytes before and after the key of an HMGET of these fields."""
    head = b"*%d\r\n%b" % (len(fields) + 2, argument(b"HMGET"))
    return head, b"\r\n" + b"".join(map(argument, fields))


def _exchange(connection: Any, packed: bytes, replies: int) -> list[Reply]:
    connection.send_packed_command([packed], check_health=False)
    read = connection.read_response
    found: list[Reply] = []
    add = found.append
    while len(found) < replies:
        try:
            for _ in range(replies - len(found)):
                add(read(disable_decoding=True))
        except ResponseError as error:  # read the rest, lest the next request gets it
            if not is_wrong_type(error):
                raise
            add([])
    return found


def is_wrong_type(error: Exception) -> bool:
    """Whether something else than a hash is stored under a key."""
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")
