"""Where a Redis server is to be reached, and what it is."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Engine = Literal["configured", "redis", "valkey", "fakeredis"]


@dataclass(frozen=True)
class RedisEndpoint:
    """One Redis server: its address, its password and where it came from.

    `engine` is "configured" for a server that we did not start. `pid` and `directory` belong to
    a private one. `started` tells that this very call started it. `timeout` is seconds: how long
    a client of this endpoint waits for a connection and for a reply.
    """

    host: str
    port: int
    db: int
    password: str | None = field(repr=False)
    unix_socket: Path | None
    engine: Engine
    version: str
    pid: int | None = None
    directory: Path | None = None
    started: bool = False
    timeout: float = 0.8

    @property
    def connection_string(self) -> str:
        """The server in Feast's format, the password in the clear: neither log nor print it."""
        parts = [f"{self.host}:{self.port}", f"db={self.db}"]
        if self.password is not None:
            parts.append(f"password={_feast_value(self.password)}")
        return ",".join(parts)

    @property
    def description(self) -> str:
        """The server in words, for a message: never the password."""
        if self.engine == "configured":
            return f"the configured Redis at {self.host}:{self.port}"
        return f"the private {self.engine} {self.version} (process {self.pid}) of {self.directory}"


def _feast_value(text: str) -> str:
    """Feast splits at commas and reads values as JSON where it can: quote what that would bend."""
    try:
        json.loads(text)
    except ValueError:
        if "," not in text:
            return text
    return json.dumps(text).replace(",", "\\u002c")
