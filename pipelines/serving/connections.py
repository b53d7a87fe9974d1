"""A client's connection: how long it may take to ask, and how many there may be."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipelines.serving.problems import MEDIA_TYPE, problem

READ_SECONDS: Final = 10.0
"""From the first byte of a request to its last, and from the connection to the first request."""
KEEP_ALIVE_SECONDS: Final = 5
MOST_CONNECTIONS: Final = 256
_NOT_ANSWERED: Final = (h11.IDLE, h11.SEND_RESPONSE)
_ASKING: Final = (h11.IDLE, h11.SEND_BODY)


class Connection(H11Protocol):
    """uvicorn's, which itself would wait for ever for the rest of a request."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's
        """Begin to wait for the first request, or refuse one connection too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._refuse(503, f"{MOST_CONNECTIONS} connections are open: try again in a moment")
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._wait_no_longer()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Wait as long as a request is under way."""
        super().handle_events()
        if self.conn.their_state in _ASKING and not self.transport.is_closing():
            self._wait()
        else:
            self._wait_no_longer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(400, msg)

    def _should_upgrade(self) -> bool:
        # HTTP lets a server answer such a request as if it had not asked for another protocol.
        return False

    def _wait(self) -> None:
        # Not anew with each byte: a client that sends one a second would never be done.
        if self._limit is None:
            self._limit = self.loop.call_later(READ_SECONDS, self._take_too_long)

    def _wait_no_longer(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _take_too_long(self) -> None:
        self._refuse(408, f"the request was not complete after {READ_SECONDS:.0f} seconds")

    def _refuse(self, status: int, detail: str) -> None:
        self._wait_no_longer()
        if self.transport.is_closing():  # the client has gone meanwhile
            return
        if self.conn.our_state in (*_NOT_ANSWERED, h11.ERROR):
            self.transport.write(_answer(status, detail))
        self.transport.close()


def _answer(status: int, detail: str) -> bytes:
    answer = problem(status, detail)
    headers: dict[str, Any] = {
        **answer.headers,
        "content-type": MEDIA_TYPE,
        "connection": "close",
    }
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + bytes(answer.body)
