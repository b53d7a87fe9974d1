"""Middleware before the application: which Host names are answered, how large a body may be."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serving.problems import problem

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?")

_URL: Final = re.compile(r"https?://([^/]*)(/.*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY: Final = "synchrochain.authority"


class AllowedHosts:
    """Answers only who asks for a name that is ours.

    A web page can let its own name point to this machine, and would then read the answers as its
    own. So a request asks for a loopback name, the address it came to, or a configured name; one
    with a whole URL, as for a proxy, does so twice.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        self._app = app
        self._names = LOOPBACK_NAMES | {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/"):
            scope = _of_whole_url(scope)
        if scope["type"] == "http" and not self._allows(scope):
            refusal = problem(
                421,
                "this server does not answer to the name in the Host header: ask for 127.0.0.1 or "
                "localhost, or let the operator add the name to SYNCHROCHAIN_ALLOWED_HOSTS",
            )
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"host"]
        whole = scope.get(_AUTHORITY)
        if len(given) != 1 or (whole is not None and not self._is_ours(whole, scope)):
            return False
        return self._is_ours(given[0].decode("latin-1"), scope)

    def _is_ours(self, host: str, scope: Scope) -> bool:
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found[1] or found[2].removesuffix(".")
        came_to = scope.get("server") or ("", None)
        return name in self._names or name == came_to[0]


def _of_whole_url(scope: Scope) -> Scope:
    """The same request for the path of the URL alone, with its authority beside it."""
    found = _URL.fullmatch(scope["path"])
    raw = _URL.fullmatch(scope["raw_path"].decode("latin-1"))
    if found is None or raw is None:
        return scope
    path, raw_path = found[2] or "/", (raw[2] or "/").encode("latin-1")
    return {**scope, "path": path, "raw_path": raw_path, _AUTHORITY: found[1]}


class LimitedBody:
    """Reads a request's body before the application does, and refuses one that is too large."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._most:
                refusal = problem(413, f"the body has more than {self._most:,} bytes")
                refusal.headers["connection"] = "close"
                await refusal(scope, receive, send)
                return
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def once() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, once, send)
