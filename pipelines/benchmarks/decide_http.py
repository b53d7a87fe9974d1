"""Round trips of orders over HTTP to a server in a process of its own."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from pipelines.errors import SynchroChainError
from pipelines.serving.orders import Order
from pipelines.settings import PROJECT_ROOT

START_SECONDS: Final = 120.0
_SERVE: Final = (
    "from pipelines.settings import BatchConfig, DataConfig;"
    "from pipelines.serving.server import serve_until_interrupted;"
    "serve_until_interrupted(DataConfig(), BatchConfig(), '127.0.0.1', 0)"
)


def round_trips(orders: Sequence[Order], warm_up: int) -> list[float]:
    """Milliseconds from sending an order to having read its decision, one after another."""
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVE], cwd=PROJECT_ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        connection = http.client.HTTPConnection("127.0.0.1", _port_of(server), timeout=30)
        _wait_until_ready(connection)
        bodies = [order.model_dump_json() for order in orders]
        for body in bodies[:warm_up]:
            _send(connection, body)
        taken = []
        for body in bodies:
            began = time.perf_counter()
            _send(connection, body)
            taken.append((time.perf_counter() - began) * 1000)
        return taken
    finally:
        server.terminate()  # a command in the background ignores SIGINT, and so do its children
        server.communicate(timeout=30)


def _port_of(server: subprocess.Popen[str]) -> int:
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)/decisions", line):
            return int(found[1])
    raise SynchroChainError(f"the server ended with exit status {server.wait()}")


def _wait_until_ready(connection: http.client.HTTPConnection) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == 200:
            return
        time.sleep(0.2)
    raise SynchroChainError(f"the server is not ready after {START_SECONDS:.0f} s: {body!r}")


def _send(connection: http.client.HTTPConnection, body: str) -> None:
    connection.request("POST", "/decisions", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise SynchroChainError(f"an order was answered with {answer.status}: {said[:200]!r}")
