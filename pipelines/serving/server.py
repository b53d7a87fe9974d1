"""The server process: decisions over HTTP until it is told to end."""

from __future__ import annotations

import logging
import socket
import sys
from typing import Final

from pipelines.errors import UsageError
from pipelines.serving.options import ServingOptions
from pipelines.settings import BatchConfig, DataConfig

BACKLOG: Final = 512
PATIENCE: Final = 10
"""Seconds that answers under way have at the end."""


def serve_until_interrupted(
    data: DataConfig,
    batch: BatchConfig,
    host: str,
    port: int,
    options: ServingOptions | None = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        UsageError: the address cannot be listened on, or what serves is not installed.
    """
    try:
        import uvicorn

        from pipelines.serving.http_api import create_app
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{error.name} is not installed: pip install 'synchrochain[models]'"
        ) from None
    from pipelines.serving.orchestrator import ModelOrchestrator

    listening = listen(host, port)
    with listening:
        address = f"http://{host if ':' not in host else f'[{host}]'}:{listening.getsockname()[1]}"
        sys.stderr.write(f"decisions at {address}/decisions, described at {address}/docs; ")
        sys.stderr.write("Ctrl-C ends it\n")
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        app = create_app(ModelOrchestrator.open(data, batch, options))
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=PATIENCE,
            backlog=BACKLOG,
        )
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:  # uvicorn ends cleanly and then raises it again
            return


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address.

    Raises:
        UsageError: it cannot, for instance because somebody else does.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        raise UsageError(
            f"cannot listen on {host} port {port} ({reason}): choose another --host or --port"
        ) from None
    return listening
