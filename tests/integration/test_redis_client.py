"""The configured server, and clients that notice when a server is dead, frozen or refuses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    InvalidResponse,
    RedisError,
    ResponseError,
    TimeoutError,
)

from pipelines.errors import RedisRefusedError, RedisUnavailableError
from pipelines.redis_server import (
    RedisEndpoint,
    connect,
    connect_async,
    ensure_server,
    find_programs,
    find_server,
    stop_server,
    translate_redis_errors,
)
from pipelines.settings import DataConfig

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="only on Unix: a real server")

REAL = [program for program in find_programs() if program.engine != "fakeredis"]


@pytest.fixture
def endpoint() -> Iterator[RedisEndpoint]:
    """A real server of its own, killed by its id at the end."""
    folder = Path(tempfile.mkdtemp(prefix="sc-")).resolve()
    server = ensure_server(DataConfig(data_dir=folder, redis_host=None), programs=REAL)
    process = psutil.Process(server.pid)
    yield server
    if process.is_running():
        process.kill()
        process.wait(10)
    shutil.rmtree(folder, ignore_errors=True)


def configured(endpoint: RedisEndpoint, folder: Path, **changes: Any) -> DataConfig:
    """A configuration that names this server as somebody else's."""
    values: dict[str, Any] = {
        "data_dir": folder,
        "redis_host": endpoint.host,
        "redis_port": endpoint.port,
        "redis_password": endpoint.password,
    }
    return DataConfig(**values | changes)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def elsewhere(port: int, timeout: float = 0.8) -> RedisEndpoint:
    return RedisEndpoint(
        host="127.0.0.1",
        port=port,
        db=0,
        password=None,
        unix_socket=None,
        engine="configured",
        version="unknown",
        timeout=timeout,
    )


@pytest.fixture
def silent() -> Iterator[tuple[int, list[socket.socket]]]:
    """A port that takes connections and never answers, and the connections it took."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1], taken
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in taken:
        connection.close()


def test_the_configured_server_is_used_and_never_stopped(
    endpoint: RedisEndpoint, tmp_path: Path
) -> None:
    """Its version is read from it; `stop_server` leaves it alone; no private one is made."""
    config = configured(endpoint, tmp_path, redis_db=3)
    found = ensure_server(config)
    assert found == find_server(config)
    assert (found.engine, found.db, found.pid, found.started) == ("configured", 3, None, False)
    assert found.version == endpoint.version
    assert stop_server(config) is False
    with connect(found) as client:
        assert client.ping()
    assert list(tmp_path.iterdir()) == []


def test_a_dead_configured_server_stops_the_command(tmp_path: Path) -> None:
    """One line with the address and the remedy; nothing else is started in its place."""
    port = closed_port()
    config = configured(elsewhere(port), tmp_path)
    for look in (ensure_server, find_server):
        with pytest.raises(
            RedisUnavailableError, match=f"127.0.0.1:{port}.*unset SYNCHRO"
        ) as caught:
            look(config)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_silent_configured_server_stops_the_command(
    silent: tuple[int, list[socket.socket]], tmp_path: Path
) -> None:
    """A port that answers nothing is given up after one time-out, not tried again."""
    port, taken = silent
    with pytest.raises(RedisUnavailableError, match="Timeout"):
        ensure_server(configured(elsewhere(port), tmp_path, redis_timeout=0.2))
    assert len(taken) == 1


def test_another_service_on_the_port_is_not_taken_for_redis(tmp_path: Path) -> None:
    """What does not speak Redis is unavailable, in one line."""

    def answer(server: socket.socket) -> None:
        # Closed as soon as the client has given up.
        with contextlib.suppress(OSError):
            for _ in range(2):
                with server.accept()[0] as connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        with pytest.raises(RedisUnavailableError, match="does not answer"):
            ensure_server(configured(elsewhere(server.getsockname()[1]), tmp_path))


@pytest.mark.parametrize("password", [None, "wrong-password"])
def test_a_wrong_or_missing_password_is_refused(
    endpoint: RedisEndpoint, tmp_path: Path, password: str | None
) -> None:
    """The line names the setting, never the password."""
    with pytest.raises(RedisRefusedError, match="SYNCHROCHAIN_REDIS_PASSWORD") as caught:
        ensure_server(configured(endpoint, tmp_path, redis_password=password))
    assert "wrong-password" not in str(caught.value)


@pytest.mark.parametrize(
    "policy", ["allkeys-lru", "volatile-lfu", "allkeys-random", "volatile-ttl"]
)
def test_a_server_that_evicts_is_refused(
    endpoint: RedisEndpoint, tmp_path: Path, policy: str
) -> None:
    """Every policy but noeviction loses features silently, once there is a memory limit."""
    config = configured(endpoint, tmp_path)
    with connect(endpoint) as client:
        client.config_set("maxmemory-policy", policy)
        assert ensure_server(config).engine == "configured"
        client.config_set("maxmemory", "100mb")
        with pytest.raises(RedisRefusedError, match=f"{policy}.*set noeviction"):
            ensure_server(config)
        client.config_set("maxmemory-policy", "noeviction")
        assert ensure_server(config).engine == "configured"


def test_a_server_that_hides_its_settings_is_used_with_a_log_line(
    endpoint: RedisEndpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Managed servers forbid CONFIG and some forbid INFO: the check is skipped, and it says so."""
    with connect(endpoint) as client:
        client.execute_command("ACL", "SETUSER", "default", "-info", "-config")
    with caplog.at_level(logging.INFO):
        assert ensure_server(configured(endpoint, tmp_path)).version == "unknown"
    assert "make sure that it is noeviction" in caplog.text


def test_a_database_that_the_server_lacks_is_refused(
    endpoint: RedisEndpoint, tmp_path: Path
) -> None:
    """The line names the setting."""
    sixteen = configured(endpoint, tmp_path, redis_db=15)
    assert ensure_server(sixteen).db == 15
    with pytest.raises(RedisRefusedError, match="SYNCHROCHAIN_REDIS_DB"):
        ensure_server(sixteen.model_copy(update={"redis_db": 16}))


def test_time_outs_and_retries_are_explicit(endpoint: RedisEndpoint) -> None:
    """A dropped connection is tried once more, a time-out never; no health checks, no cache."""
    for client in (connect(endpoint), connect_async(endpoint)):
        settings = client.connection_pool.connection_kwargs
        assert settings["socket_timeout"] == settings["socket_connect_timeout"] == 0.8
        assert settings["health_check_interval"] == 0
        assert settings["retry"].get_retries() == 1
        assert settings["retry"]._supported_errors == (ConnectionError,)
        assert settings["path"] == str(endpoint.unix_socket)
    settings = connect(endpoint, timeout=0.3).connection_pool.connection_kwargs
    assert settings["socket_timeout"] == settings["socket_connect_timeout"] == 0.3


def test_a_dropped_connection_is_opened_again(endpoint: RedisEndpoint) -> None:
    """A client whose pooled connection the server closed carries on, its caller notices nothing."""
    with connect(endpoint) as client, connect(endpoint) as killer:
        client.set("stock", 7)
        assert killer.client_kill_filter(_type="normal", skipme=True) == 1
        assert client.get("stock") == b"7"


def test_a_connection_that_drops_under_a_command_is_opened_again() -> None:
    """The command is sent a second time, not a third."""
    pings = []

    def drop(server: socket.socket) -> None:
        while True:
            try:
                connection = server.accept()[0]
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    if line == b"SETINFO\r\n":
                        connection.sendall(b"+OK\r\n")
                    if line == b"PING\r\n":
                        pings.append(line)
                        break

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drop, args=(server,))
        thread.start()
        client = connect(elsewhere(server.getsockname()[1]))
        with pytest.raises(ConnectionError):
            client.ping()
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert len(pings) == 2


def test_a_time_out_is_not_repeated(silent: tuple[int, list[socket.socket]]) -> None:
    """One connection, one wait: noticed within the time-out, by both clients."""
    port, taken = silent
    with connect(elsewhere(port, timeout=0.2)) as client, pytest.raises(TimeoutError):
        client.ping()
    assert len(taken) == 1

    async def ping() -> None:
        async with connect_async(elsewhere(port, timeout=0.2)) as client:
            await client.ping()

    with pytest.raises(TimeoutError):
        asyncio.run(ping())
    assert len(taken) == 2


def test_a_frozen_server_is_an_unavailable_one(endpoint: RedisEndpoint) -> None:
    """SIGSTOP under a pooled connection ends in a typed error, for both kinds of client."""
    endpoint = replace(endpoint, timeout=0.2)
    assert endpoint.pid is not None
    with connect(endpoint) as client:
        client.set("stock", 7)
        os.kill(endpoint.pid, signal.SIGSTOP)
        with pytest.raises(RedisUnavailableError), translate_redis_errors(endpoint):
            client.get("stock")

    async def get() -> None:
        async with connect_async(endpoint) as client:
            with translate_redis_errors(endpoint):
                await client.get("stock")

    with pytest.raises(RedisUnavailableError):
        asyncio.run(get())


def test_a_socket_with_a_full_queue_is_an_unavailable_server() -> None:
    """What a frozen server leaves behind: connecting ends in an error, not in waiting for ever."""
    folder = Path(tempfile.mkdtemp(prefix="sc-"))
    endpoint = replace(elsewhere(closed_port(), timeout=0.2), unix_socket=folder / "s")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(endpoint.unix_socket))
        server.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(str(endpoint.unix_socket))

        client = stack.enter_context(connect(endpoint))
        with pytest.raises(RedisUnavailableError), translate_redis_errors(endpoint):
            client.ping()

        async def ping() -> None:
            async with connect_async(endpoint) as client:
                with translate_redis_errors(endpoint):
                    await client.ping()

        with pytest.raises(RedisUnavailableError):
            asyncio.run(ping())


def test_a_dead_server_is_an_unavailable_one(endpoint: RedisEndpoint) -> None:
    """The error of a private server names its process and `synchrochain down`."""
    with connect(endpoint) as client:
        client.set("stock", 7)
        psutil.Process(endpoint.pid).kill()
        psutil.Process(endpoint.pid).wait(10)
        with (
            pytest.raises(RedisUnavailableError, match=f"process {endpoint.pid}.*chain down"),
            translate_redis_errors(endpoint),
        ):
            client.get("stock")


def test_the_asynchronous_client_speaks_to_the_same_server(endpoint: RedisEndpoint) -> None:
    """What one client writes the other reads, decoded when asked."""

    async def get() -> object:
        async with connect_async(endpoint, decode_responses=True) as client:
            return await client.get("stock")

    with connect(endpoint) as client:
        client.set("stock", 7)
    assert asyncio.run(get()) == "7"


def test_a_full_memory_is_refused_and_shows_no_data(endpoint: RedisEndpoint) -> None:
    """Out of memory, be it in a pipeline, a transaction or a script: one line, no shopper in it."""
    script = "return redis.call('SET', KEYS[1], ARGV[1])"
    with connect(endpoint) as client:
        client.config_set("maxmemory", "1")
        for transaction in (False, True):
            pipeline = client.pipeline(transaction=transaction)
            pipeline.set("user:shopper", "secret")
            with (
                pytest.raises(RedisRefusedError, match="out of memory") as caught,
                translate_redis_errors(endpoint),
            ):
                pipeline.execute()
            assert "shopper" not in str(caught.value)
        with (
            pytest.raises(RedisRefusedError, match="out of memory"),
            translate_redis_errors(endpoint),
        ):
            client.eval(script, 1, "user:shopper", "secret")


def test_a_replica_and_missing_rights_are_refused(endpoint: RedisEndpoint) -> None:
    """Both are answers, so they are refusals with what to do."""
    with connect(endpoint) as client:
        client.execute_command("ACL", "SETUSER", "default", "-get")
        with pytest.raises(RedisRefusedError, match="right"), translate_redis_errors(endpoint):
            client.get("stock")
        client.replicaof("127.0.0.1", str(closed_port()))
        with pytest.raises(RedisRefusedError, match="replica"), translate_redis_errors(endpoint):
            client.set("stock", 7)


def test_a_defect_of_ours_passes_through(endpoint: RedisEndpoint) -> None:
    """A command on the wrong type is not dressed up as trouble with the server."""
    with connect(endpoint) as client:
        client.set("stock", 7)
        with pytest.raises(ResponseError, match="WRONGTYPE"), translate_redis_errors(endpoint):
            client.hget("stock", "level")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionError("gone"), RedisUnavailableError),
        (TimeoutError("late"), RedisUnavailableError),
        (BusyLoadingError("Redis is loading the dataset in memory"), RedisUnavailableError),
        (InvalidResponse("Protocol Error: 'H'"), RedisUnavailableError),
        (AuthenticationError("Authentication required."), RedisRefusedError),
        (ResponseError("MISCONF Errors writing to the AOF file: No space"), RedisRefusedError),
    ],
)
def test_every_error_of_the_server_has_one_line(
    error: RedisError, expected: type[Exception]
) -> None:
    """The kind, one line, and the original as its cause."""
    with pytest.raises(expected) as caught, translate_redis_errors(elsewhere(6379)):
        raise error
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("password", "written"),
    [
        (None, "127.0.0.1:6379,db=2"),
        ("plain=text", "127.0.0.1:6379,db=2,password=plain=text"),
        ("12345", '127.0.0.1:6379,db=2,password="12345"'),
        ("1e5", '127.0.0.1:6379,db=2,password="1e5"'),
        ("a,b", '127.0.0.1:6379,db=2,password="a\\u002cb"'),
        ('"quoted"', '127.0.0.1:6379,db=2,password="\\"quoted\\""'),
    ],
)
def test_the_connection_string_is_what_feast_reads(password: str | None, written: str) -> None:
    """Feast splits at commas and reads values as JSON: what that would bend is quoted."""
    endpoint = replace(elsewhere(6379), db=2, password=password)
    assert endpoint.connection_string == written
    assert password is None or password not in repr(endpoint)
