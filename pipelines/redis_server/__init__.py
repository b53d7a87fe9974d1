"""Redis without installing it: the configured server, else a private one, else a stand-in.

`ensure_server` returns the endpoint of a server that answers, `connect` a client with safe
time-outs. `find_server` looks without starting, `stop_server` ends a private server.
"""

from pipelines.redis_server.client import connect, connect_async, translate_redis_errors
from pipelines.redis_server.endpoint import Engine, RedisEndpoint
from pipelines.redis_server.programs import Program, find_programs
from pipelines.redis_server.server import ensure_server, find_server, stop_server

__all__ = [
    "Engine",
    "Program",
    "RedisEndpoint",
    "connect",
    "connect_async",
    "ensure_server",
    "find_programs",
    "find_server",
    "stop_server",
    "translate_redis_errors",
]
