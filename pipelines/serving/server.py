"""The server process: decisions over HTTP until it is stopped."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import socket
import sys
from collections.abc import Iterator
from typing import Any, Final

import psutil

from pipelines.errors import UsageError
from pipelines.printable import fitted
from pipelines.settings import BatchConfig, DataConfig
from pipelines.stopping import leave, loading, on_stop

BACKLOG: Final = 512
PATIENCE: Final = 5
"""Seconds that answers under way have at the end."""


def serve_until_interrupted(
    data: DataConfig, batch: BatchConfig, host: str, port: int, *, insecure: bool = False
) -> None:
    """Serve until a signal asks to end.

    Args:
        data, batch: the data directory, and the names that requests may ask for.
        host, port: where to listen; port 0 is a free one.
        insecure: whether other machines may ask too.

    Raises:
        UsageError: the address cannot be listened on, or not without `insecure`, or what serves is
            not installed.
        TriggersError: a live database has lost triggers: decisions would be made on what was.
    """
    with loading(0):
        try:
            import uvicorn

            from pipelines.serving.http_api import create_app
        except ModuleNotFoundError as error:
            raise UsageError(
                f"{error.name} is not installed: pip install 'synchrochain[models]'"
            ) from None
        from pipelines.serving.orchestrator import ModelOrchestrator

        class Server(uvicorn.Server):
            """Ends as every process of ours does."""

            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                def stop() -> None:
                    self.should_exit = True

                with on_stop(stop):
                    yield

        orchestrator = ModelOrchestrator.open(data, batch)
        listening = listen(host, port, insecure=insecure)
        with listening:
            orchestrator.refuse_lost_triggers()
            address = (
                f"http://{host if ':' not in host else f'[{host}]'}:{listening.getsockname()[1]}"
            )
            said = f"decisions at {address}/decisions, described at {address}/docs; Ctrl-C ends it"
            sys.stderr.write(f"{fitted(said, sys.stderr)}\n")
            logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
            app = create_app(orchestrator, [*data.names_allowed, host.lower()])
            Server(configuration(app)).run(sockets=[listening])
        if not orchestrator.has_ended:  # the end of the interpreter would wait for it, or break it
            leave(0)


def configuration(app: Any) -> Any:
    """uvicorn's configuration: slow or many clients must not delay others."""
    import uvicorn

    from pipelines.serving.connections import KEEP_ALIVE_SECONDS, Connection

    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        access_log=False,
        log_config=None,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=PATIENCE,
        backlog=BACKLOG,
    )


def listen(host: str, port: int, *, insecure: bool = False) -> socket.socket:
    """A socket that listens on an address.

    Args:
        host: a name or an IP address.
        port: 0 for any free one.
        insecure: whether other machines may reach it.

    Raises:
        UsageError: the address cannot be used, for example because it is in use; or other machines
            could reach it without `insecure`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        if not insecure and not _is_loopback(listening.getsockname()[0]):
            listening.close()
            raise UsageError(
                f"{host} lets other machines in, and nothing asks them who they are: listen on "
                "127.0.0.1 behind a gateway, or say --insecure"
            )
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        advice = "choose another --host or --port"
        if error.errno == errno.EADDRINUSE:
            reason, advice = _holder_of(port), "stop that, or choose another --port"
        raise UsageError(f"cannot listen on {host} port {port} ({reason}): {advice}") from None
    return listening


def _is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def _holder_of(port: int) -> str:
    """Who listens on a port, as far as this user may know."""
    try:
        found = [c for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port]
        pids = [c.pid for c in found if c.status == psutil.CONN_LISTEN and c.pid is not None]
        if pids:
            return f"process {pids[0]}, {psutil.Process(pids[0]).name()}, listens there"
    except psutil.Error:  # macOS shows them to root alone
        pass
    return "another process listens there"
