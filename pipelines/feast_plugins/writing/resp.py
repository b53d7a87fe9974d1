"""Redis commands built column by column and sent as they are, in Redis' own protocol (RESP).

A client's pipeline packs every argument of every command in Python. Here the arguments of many
commands are Arrow arrays, and what goes over the wire is joined from them at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import redis
from redis.exceptions import ResponseError

from pipelines.feast_plugins.writing import binary_arrays
from pipelines.feast_plugins.writing.binary_arrays import Integers, data_of, joined

BYTES_AT_ONCE: Final = 1 << 17
PARTS_UNDER_WAY: Final = 2  # so that the server works while we read earlier replies

_SHORT: Final = 1024


@dataclass(frozen=True)
class Commands:
    """Commands in RESP on end, and the bounds of each in the data."""

    data: pa.Buffer
    bounds: Integers

    @classmethod
    def of(cls, array: pa.BinaryArray) -> Commands:
        """One command for each row of the array, each in RESP."""
        return cls(*data_of(array))

    def parts(self) -> Iterator[tuple[memoryview, int]]:
        """Stretches of about `BYTES_AT_ONCE`, and how many commands each holds."""
        view, ends = memoryview(self.data), self.bounds
        first = 0
        while first < len(ends) - 1:
            last = int(ends.searchsorted(ends[first] + BYTES_AT_ONCE, "right")) - 1
            last = max(last, first + 1)
            yield view[int(ends[first]) : int(ends[last])], last - first
            first = last


def argument(text: bytes) -> bytes:
    """One argument of a command in RESP."""
    return b"$%d\r\n%b\r\n" % (len(text), text)


def arguments(*columns: pa.BinaryArray) -> pa.BinaryArray:
    """Row by row one argument from each column, in RESP; no column may have nulls."""
    if len(columns[0]) <= binary_arrays.FEW:
        rows = zip(*(column.to_pylist() for column in columns), strict=True)
        return pa.array([b"".join(map(argument, row)) for row in rows], pa.binary())
    pieces: list[Any] = []
    for column in columns:
        pieces += (_heads(pc.binary_length(column)), column)
    return joined(*pieces, b"", between=b"\r\n")


def exchange(client: redis.Redis, commands: Commands) -> list[Any]:
    """Send the commands over one of the client's connections; the replies in order.

    A command that the server refuses has the error as its reply. A dropped connection is opened
    again and everything repeated as often as the client's `Retry` says, which is right for
    commands that may run twice.

    Raises:
        redis.ConnectionError, redis.TimeoutError: as redis-py raises them.
    """
    pool = client.connection_pool
    connection: Any = pool.get_connection()
    try:
        replies: list[Any] = connection.retry.call_with_retry(
            lambda: _talk(connection, commands), lambda _: connection.disconnect()
        )
    except BaseException:
        connection.disconnect()  # late replies must not reach the next user
        raise
    finally:
        pool.release(connection)
    return replies


def _talk(connection: Any, commands: Commands) -> list[Any]:
    replies: list[Any] = []
    under_way: deque[int] = deque()
    for part, number in commands.parts():
        connection.send_packed_command([part])
        under_way.append(number)
        if len(under_way) == PARTS_UNDER_WAY:
            replies += _replies(connection, under_way.popleft())
    for number in under_way:
        replies += _replies(connection, number)
    return replies


def _replies(connection: Any, number: int) -> Iterator[Any]:
    for _ in range(number):
        try:
            yield connection.read_response()
        except ResponseError as error:
            yield error


def _heads(lengths: Any) -> pa.BinaryArray:
    """What stands before arguments of these lengths, without the end of the line."""
    longest = pc.max(lengths).as_py()
    if longest is None or longest < _SHORT:
        return _short_heads().take(lengths)
    return joined(b"$", lengths.cast(pa.string()).cast(pa.binary()))


@cache
def _short_heads() -> pa.BinaryArray:
    return pa.array([b"$%d" % length for length in range(_SHORT)], pa.binary())
