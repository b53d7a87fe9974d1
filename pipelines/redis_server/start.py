"""Start a private server: its configuration, its port, the wait until it listens.

Called with the data directory's server lock held.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    TimeoutError,
)

from pipelines.errors import RedisUnavailableError
from pipelines.file_kinds import check_file, check_folder
from pipelines.redis_server.client import connect
from pipelines.redis_server.endpoint import RedisEndpoint
from pipelines.redis_server.process import (
    CONFIG_NAME,
    FAKE_SERVER,
    FROM_STDIN,
    POLL_SECONDS,
    age_of,
    end_process,
    is_gone,
    launch,
)
from pipelines.redis_server.programs import Program
from pipelines.redis_server.state import (
    ServerState,
    make_private,
    remove_state,
    write_last,
    write_private,
    write_state,
)

logger = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
LOG_NAME: Final = "server.log"
SOCKET_NAME: Final = "redis.sock"
DUMP_NAME: Final = "dump.rdb"
APPENDED_NAME: Final = "appendonlydir"
# The kernel's limit is 104 bytes on macOS, 108 on Linux.
LONGEST_SOCKET_PATH: Final = 100
START_SECONDS: Final = 20.0
PORT_ATTEMPTS: Final = 5
ADDRESS_TAKEN: Final = "ddress already in use"


def start_server(root: Path, program: Program, before: ServerState | None) -> ServerState:
    """Start the program in its directory below `root` and record it, once it listens.

    It may still be loading its data.

    Args:
        root: the folder of the data directory's servers.
        program: what to start.
        before: the record of a server that died; its port and password are kept, so that clients
            which hold them connect again.

    Raises:
        RedisUnavailableError: it ended while it started, or does not answer within 20 s.
    """
    directory = root / program.directory_name
    check_folder(directory)
    make_private(directory)
    _check_data(directory)
    socket_path = directory / SOCKET_NAME if _has_socket(program, directory) else None
    if socket_path is not None and _is_served(socket_path):
        raise RedisUnavailableError(
            f"a server that cannot be seen from here, perhaps of another container, already uses "
            f"{directory}: stop it there, or choose another SYNCHROCHAIN_DATA_DIR"
        )
    log_path = directory / LOG_NAME
    # The letter keeps Feast from reading the password as a number.
    password = (before.password if before else None) or "p" + secrets.token_urlsafe(32)
    log = ""
    for attempt in range(PORT_ATTEMPTS):
        state = ServerState(
            engine=program.engine,
            version=program.version,
            port=_free_port(before.port if before and not attempt else 0),
            password=None if program.engine == "fakeredis" else password,
            directory=directory,
            socket=socket_path,
        )
        log_start = log_path.stat().st_size if log_path.exists() else 0
        running = _launch_recorded(root, program, state, log_path)
        if running is not None:
            write_last(root, program.directory_name)
            logger.info("started %s %s in %s", program.engine, program.version, directory)
            return running
        remove_state(root)
        log = log_path.read_bytes()[log_start:].decode("utf-8", "replace")
        if ADDRESS_TAKEN not in log:
            break
    last_line = next(iter(log.strip().splitlines()[::-1]), "it said nothing")
    raise RedisUnavailableError(
        f"{program.engine} {program.version} ended while it started in {directory}: {last_line} "
        f"(see {log_path}); mend that, or remove {directory} and materialize again"
    )


def wait_until_reachable(state: ServerState, process: psutil.Process) -> None:
    """Give a server that is younger than 20 s the time to open its port; silent if it does not.

    Whoever started it may have been interrupted before it listened.
    """
    deadline = time.monotonic() + START_SECONDS - age_of(process)
    while time.monotonic() < deadline and not is_gone(process):
        try:
            socket.create_connection((LOOPBACK, state.port), timeout=START_SECONDS).close()
            return
        except OSError:
            time.sleep(POLL_SECONDS)


def _check_data(directory: Path) -> None:
    """Make sure that the server can read its data: of a named pipe it would wait for ever."""
    for name in (LOG_NAME, CONFIG_NAME, DUMP_NAME):
        check_file(directory / name)
    appended = directory / APPENDED_NAME
    check_folder(appended)
    if appended.exists():
        for path in appended.iterdir():
            check_file(path)


def fits_socket(path: Path) -> bool:
    """Whether the kernel takes this path for a Unix socket."""
    return len(os.fsencode(path)) <= LONGEST_SOCKET_PATH


def _launch_recorded(
    root: Path, program: Program, state: ServerState, log_path: Path
) -> ServerState | None:
    config_path = state.directory / CONFIG_NAME
    if program.path is None:
        write_private(config_path, json.dumps({"port": state.port}))
    else:
        config_path.unlink(missing_ok=True)  # earlier versions kept the password there too
    write_state(root, state)
    command = _command(program, state)
    given = _configuration(state).encode() if program.path is not None else b""
    process = launch(command, state.directory, log_path, given)
    if process is None:
        return None
    state = replace(state, pid=process.pid, created=process.create_time())
    write_state(root, state)
    # The TCP port: the socket's file comes into being only while the server starts.
    endpoint = RedisEndpoint(
        host=LOOPBACK,
        port=state.port,
        db=0,
        password=state.password,
        unix_socket=None,
        engine=state.engine,
        version=state.version,
        pid=state.pid,
        directory=state.directory,
    )
    deadline = time.monotonic() + START_SECONDS
    with connect(endpoint) as client:
        while not is_gone(process):
            try:
                client.ping()
            except BusyLoadingError:
                return state
            except AuthenticationError as error:
                end_process(process)
                raise RedisUnavailableError(
                    f"{endpoint.description} does not ask for the password that it was given "
                    f"({error}) and was ended: {program.path} is no server that can be used"
                ) from error
            except (ConnectionError, TimeoutError) as error:
                if time.monotonic() > deadline:
                    raise RedisUnavailableError(
                        f"{endpoint.description} does not answer {START_SECONDS:.0f} s after its "
                        f"start ({error}): `synchrochain down` stops it; then start again"
                    ) from error
            else:
                return state
            time.sleep(POLL_SECONDS)
    return None


def _command(program: Program, state: ServerState) -> list[str]:
    """How the server is started: what keeps others out is on the command line.

    The rest, with the password, comes on standard input. A file would be looked for as a pattern,
    and a server that finds none starts on its defaults: all interfaces, no password.
    """
    if program.path is None:
        return [sys.executable, "-m", FAKE_SERVER, str(state.directory / CONFIG_NAME)]
    settings = ["--bind", LOOPBACK, "--protected-mode", "yes", "--port", str(state.port)]
    return [str(program.path), FROM_STDIN, *settings]


def _configuration(state: ServerState) -> str:
    settings = {
        "requirepass": state.password or "",
        "dir": str(state.directory),
        "daemonize": "no",
        # The command line is how the process is recognised.
        "set-proc-title": "no",
        "logfile": "",
        # Survives the death of the process; a power cut costs a second. Snapshots alone lose more.
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        # Features must never vanish silently: a full memory is an error.
        "maxmemory-policy": "noeviction",
    }
    if state.socket is not None:
        settings |= {"unixsocket": str(state.socket), "unixsocketperm": "700"}
    return "".join(f"{name} {_quoted(value)}\n" for name, value in settings.items())


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _has_socket(program: Program, directory: Path) -> bool:
    if program.engine == "fakeredis" or not hasattr(socket, "AF_UNIX"):
        return False
    return fits_socket(directory / SOCKET_NAME)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            if os.name == "posix":
                # As the servers do: connections that a crash left behind do not hold a port.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            chosen: int = probe.getsockname()[1]
            return chosen
    raise RedisUnavailableError(f"no port is free on {LOOPBACK}: end something that listens")
