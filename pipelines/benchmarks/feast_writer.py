"""How fast the server takes HSETs from a client that does next to nothing for each of them.

Commands are encoded before they are sent, a block at a time, in numpy; replies are counted, not
parsed. As many commands are in flight on as many connections as redis-benchmark has, whose limit
this is beside: it is there on any machine.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from pipelines.benchmarks.feast_space import Space
from pipelines.errors import SynchroChainError

RANDOM: Final = "__rand_int__"  # as long as the twelve digits that take its place
_DIGITS: Final = len(RANDOM)
_BLOCK_BYTES: Final = 1 << 22  # encoded at once, for many rounds
_REPLY_BYTES: Final = 1 << 16
_PATIENCE_S: Final = 60.0


class HsetBlocks:
    """Commands to new keys, end to end, `size` bytes each.

    Args:
        arguments: the key with `RANDOM` in it, then fields and values.
        rows: how many commands there will be.
    """

    def __init__(self, arguments: Sequence[str], rows: int) -> None:
        words = [word.encode() for word in ("HSET", *arguments)]
        text = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)
        self.size, self._at = len(text), text.index(RANDOM.encode())
        self._template = np.frombuffer(text, dtype=np.uint8)
        self._rows, self._made = rows, 0
        self._block, self._sent = memoryview(b""), 0

    def take(self, commands: int) -> memoryview:
        """The next so many commands, or what is left of them."""
        left = (len(self._block) - self._sent) // self.size
        if not left and self._made < self._rows:
            self._encode()
            left = len(self._block) // self.size
        size = min(commands, left) * self.size
        found = self._block[self._sent : self._sent + size]
        self._sent += size
        return found

    def _encode(self) -> None:
        rows = min(max(1, _BLOCK_BYTES // self.size), self._rows - self._made)
        block = np.tile(self._template, (rows, 1))
        number = np.arange(self._made, self._made + rows)
        for place in range(_DIGITS):
            digit = number // 10 ** (_DIGITS - 1 - place) % 10
            block[:, self._at + place] = digit + ord("0")
        self._block, self._sent, self._made = block.reshape(-1).data, 0, self._made + rows


class _Connection:
    """One socket: what is still to be sent of a batch, and replies that are still to come."""

    def __init__(self, space: Space) -> None:
        endpoint = space.endpoint
        unix = endpoint.unix_socket
        self.socket = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        self.socket.settimeout(_PATIENCE_S)
        self.socket.connect(str(unix) if unix else (endpoint.host, endpoint.port))
        word = str(endpoint.password or "").encode()
        if word:
            self.socket.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n" % (len(word), word))
            if not (reply := self.socket.recv(_REPLY_BYTES)).startswith(b"+"):
                raise SynchroChainError(f"the server refused the writer: {_line(reply)}")
        self.awaited = 0

    def send(self, commands: memoryview, count: int) -> None:
        """A batch fits the server's buffers and ours: it reads while it answers."""
        self.socket.sendall(commands)
        self.awaited = count

    def receive(self) -> int:
        """Replies that came, at least one.

        Raises:
            SynchroChainError: one of them is an error, or the server has gone.
        """
        data = self.socket.recv(_REPLY_BYTES)
        if not data or b"-" in data:
            raise SynchroChainError(f"the server stopped the writer: {_line(data)}")
        came = data.count(b"\n")
        self.awaited -= came
        return came


def written_rows_per_s(
    space: Space, arguments: Sequence[str], rows: int, pipeline: tuple[int, int]
) -> float:
    """Rows a second that raw pipelined HSETs write to new keys, over the socket that all use.

    Args:
        space: where Redis is.
        arguments: key, fields and values of one HSET.
        rows: how many to write.
        pipeline: clients, and commands in flight of each.

    Raises:
        SynchroChainError: the server refuses.
    """
    clients, depth = pipeline
    blocks = HsetBlocks(arguments, rows)
    connections = [_Connection(space) for _ in range(clients)]
    with selectors.DefaultSelector() as ready:
        try:
            for connection in connections:
                ready.register(connection.socket, selectors.EVENT_READ, connection)
            began, came = time.perf_counter(), 0
            for connection in connections:
                _next(connection, blocks, depth)
            while came < rows:
                events = ready.select(_PATIENCE_S)
                if not events:
                    raise SynchroChainError(f"no reply for {_PATIENCE_S:.0f} s: free the machine")
                for key, _ in events:
                    found: Any = key.data
                    came += found.receive()
                    if not found.awaited:
                        _next(found, blocks, depth)
            return rows / (time.perf_counter() - began)
        finally:
            for connection in connections:
                connection.socket.close()


def _next(connection: _Connection, blocks: HsetBlocks, depth: int) -> None:
    commands = blocks.take(depth)
    if len(commands):
        connection.send(commands, len(commands) // blocks.size)


def _line(reply: bytes) -> str:
    """What the server objects to."""
    lines = reply.decode(errors="replace").splitlines()
    return next((line for line in lines if line.startswith("-")), "it closed the connection")
