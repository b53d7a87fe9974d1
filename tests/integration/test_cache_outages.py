"""Redis dies, freezes, refuses and comes back: the cache answers all the while."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.cache import Batch, CacheStatistics, FeatureEntry, RealtimeCache
from pipelines.cache.redis_backend import INDEX
from pipelines.redis_server import (
    RedisEndpoint,
    connect,
    ensure_server,
    find_programs,
    find_server,
    stop_server,
)
from pipelines.settings import DataConfig

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="only on Unix: a real server")

REAL = [program for program in find_programs() if program.engine != "fakeredis"]
NOON = datetime(2024, 4, 1, 12)
MINUTE = timedelta(minutes=1)


class World:
    """A data directory with a real server of its own, a clock, and caches on them."""

    def __init__(self, folder: Path) -> None:
        self.config = DataConfig(data_dir=folder, redis_host=None, redis_timeout=0.2)
        self.seconds = 1000.0
        self.looks = 0
        self.pids: set[int] = set()
        self.endpoint = self.start()

    def start(self) -> RedisEndpoint:
        """Start the server again, or for the first time."""
        self.endpoint = ensure_server(self.config, programs=REAL)
        self.pids.add(self.endpoint.pid or 0)
        return self.endpoint

    def kill(self) -> None:
        process = psutil.Process(self.endpoint.pid)
        process.kill()
        process.wait(10)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.endpoint.pid or 0, number)

    def client(self) -> Any:
        return connect(self.endpoint)

    def cache(self, **options: Any) -> RealtimeCache:
        def find(config: DataConfig) -> RedisEndpoint | None:
            self.looks += 1
            return find_server(config)

        return RealtimeCache(
            options.pop("config", self.config),
            find=find,
            clock=lambda: self.seconds,
            now=lambda: NOON + timedelta(seconds=self.seconds),
            **options,
        )


@pytest.fixture
def world() -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="sc-")).resolve()
    world = World(folder)
    yield world
    for pid in world.pids:
        if psutil.pid_exists(pid) and psutil.Process(pid).cwd().startswith(str(folder)):
            psutil.Process(pid).kill()
            psutil.Process(pid).wait(10)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "pipelines.cache")
    return caplog


def levels(lines: pytest.LogCaptureFixture) -> list[str]:
    """What the cache has logged, by level."""
    return [r.levelname for r in lines.records if r.name.startswith("pipelines.cache")]


def entry(minute: float = 0, **values: Any) -> FeatureEntry:
    return FeatureEntry(values, NOON + minute * MINUTE, NOON + minute * MINUTE)


def score(cache: RealtimeCache, feature_id: str) -> Any:
    found = cache.get_features([feature_id])[feature_id]
    return found and found.values["score"]


def test_a_killed_server_is_left_at_once_and_announced_once(
    world: World, lines: pytest.LogCaptureFixture
) -> None:
    """The very call that finds it dead succeeds; reads know what was written before and since."""
    with world.cache() as cache:
        cache.put_features({"a": entry(score=1)})
        cache.put_batch("orders", NOON, [{"id": 1}])
        world.kill()
        assert cache.put_features({"b": entry(score=2)}) == 1
        cache.put_batch("orders", NOON + MINUTE, [{"id": 2}])
        assert (score(cache, "a"), score(cache, "b"), score(cache, "c")) == (1, 2, None)
        assert cache.latest("orders") == Batch("orders", NOON + MINUTE, [{"id": 2}])
        assert cache.stream("orders", NOON) == Batch("orders", NOON, [{"id": 1}])
        assert levels(lines) == ["WARNING"]
        message = lines.messages[-1]
        assert f"process {world.endpoint.pid}" in message
        assert "\n" not in message
        world.seconds += 0.5
        found = cache.statistics()
        assert found == CacheStatistics(
            mode="memory",
            since=NOON + timedelta(seconds=1000),
            hits=4,
            misses=1,
            hit_rate=0.8,
            size=5,
            waiting=3,
            outages=1,
            seconds_away=0.5,
            last_error=found.last_error,
        )
        assert found.last_error is not None
        assert found.last_error in message


def test_a_read_that_finds_the_server_dead_is_answered(world: World) -> None:
    """From what this process has written or read; another process's value as it was read."""
    with world.cache() as writer, world.cache() as reader:
        writer.put_features({"a": entry(score=1), "b": entry(score=1)})
        assert score(reader, "a") == 1
        world.kill()
        assert (score(reader, "a"), score(reader, "b")) == (1, None)
        assert reader.statistics().mode == "memory"


@pytest.mark.parametrize("timeout", [0.2, 30.0])
def test_a_frozen_server_is_left_within_a_second(
    world: World, lines: pytest.LogCaptureFixture, timeout: float
) -> None:
    """Whatever time-out is configured; then it costs nothing until the next probe, and little."""
    config = world.config.model_copy(update={"redis_timeout": timeout})
    with world.cache(config=config) as cache:
        cache.put_features({"a": entry(score=1)})
        world.send(signal.SIGSTOP)
        began = time.monotonic()
        assert score(cache, "a") == 1
        assert time.monotonic() - began < 15  # and not 30
        began = time.monotonic()
        for _ in range(100):
            cache.put_features({"a": entry(1, score=2)})
            assert score(cache, "a") == 2
        assert time.monotonic() - began < 10  # 200 waits are 40
        world.seconds += 1.0
        began = time.monotonic()
        assert score(cache, "a") == 2
        assert time.monotonic() - began < 15
        assert world.looks == 1
        assert levels(lines) == ["WARNING"]
        world.send(signal.SIGCONT)
        world.seconds += 1.0
        assert score(cache, "a") == 2
        assert levels(lines) == ["WARNING", "INFO"]
        assert cache.statistics().mode == "redis"
    with world.cache() as other:
        assert score(other, "a") == 2


def test_an_absent_redis_is_looked_for_once_per_interval(
    world: World, lines: pytest.LogCaptureFixture
) -> None:
    """By the first call that comes then, of whatever kind; and without another warning."""
    with world.cache(probe_interval=5.0) as cache:
        world.kill()
        cache.put_features({"a": entry(score=1)})
        for seconds, looks in ((4.9, 0), (0.1, 1), (4.9, 1), (5.0, 2)):
            world.seconds += seconds
            for _ in range(3):
                assert score(cache, "a") == 1
                cache.put_batch("orders", NOON, [])
                assert cache.statistics().mode == "memory"
            assert world.looks == looks
        assert levels(lines) == ["WARNING"]
        assert cache.statistics().outages == 1
        assert "no Redis runs in" in (cache.statistics().last_error or "")


def test_it_returns_by_itself_and_writes_back(
    world: World, lines: pytest.LogCaptureFixture
) -> None:
    """What was written before, during and after the outage is in Redis, the newest of each."""
    with world.cache() as cache:
        cache.put_features({"a": entry(score=1), "before": entry(score=1)})
        world.kill()
        cache.put_features({"a": entry(1, score=2), "b": entry(1, score=2)})
        cache.put_features({"a": entry(2, score=3)})
        cache.put_batch("orders", NOON, [{"id": 1}])
        world.start()
        world.seconds += 0.9
        assert cache.statistics().mode == "memory"
        world.seconds += 0.1
        cache.put_features({"c": entry(score=4)})
        found = cache.statistics()
        assert (found.mode, found.outages, found.waiting) == ("redis", 1, 0)
        assert found.seconds_away == pytest.approx(1.0)
        assert found.since == NOON + timedelta(seconds=1001)
        assert found.size == 6
        assert levels(lines) == ["WARNING", "INFO"]
        assert lines.messages[-1].endswith("back on Redis after 1.0 s: 4 values written back")
        with world.cache() as other:
            ids = ["a", "b", "before", "c"]
            assert [score(other, each) for each in ids] == [3, 2, 1, 4]
            assert other.latest("orders") == Batch("orders", NOON, [{"id": 1}])

        world.kill()
        assert score(cache, "a") == 3
        world.start()
        world.seconds += 1.0
        assert score(cache, "a") == 3
        found = cache.statistics()
        assert (found.outages, found.mode) == (2, "redis")
        assert found.seconds_away == pytest.approx(2.0)
        assert levels(lines) == ["WARNING", "INFO"] * 2


def test_what_another_process_wrote_meanwhile_stays_when_it_is_newer(world: World) -> None:
    """Writing back is a write like any other: older never replaces newer."""
    with world.cache() as cache:
        world.kill()
        cache.put_features({"a": entry(1, score="ours"), "b": entry(3, score="ours")})
        world.start()
        with world.cache() as other:
            other.put_features({"a": entry(2, score="other's"), "b": entry(2, score="other's")})
        world.seconds += 1.0
        assert (score(cache, "a"), score(cache, "b")) == ("other's", "ours")
        assert cache.statistics().mode == "redis"


def test_what_expired_meanwhile_is_not_written_back(world: World) -> None:
    """The rest goes back with the life it has left."""
    with world.cache() as cache:
        world.kill()
        cache.put_batch("orders", NOON, [])
        cache.put_features({"a": entry(score=1)})
        world.start()
        world.seconds += 300.0
        assert cache.statistics().mode == "redis"
        with world.client() as client:
            lives = {key: client.ttl(key) for key in client.scan_iter()}
        assert lives.keys() == {b"latest:orders", b"features:a", INDEX.encode()}
        assert all(3295 < left <= 3300 for left in lives.values())


def test_a_cache_that_starts_without_redis_finds_it_later(
    world: World, lines: pytest.LogCaptureFixture
) -> None:
    """A configured server that is down at the start is an outage like any other."""
    own = {
        "redis_host": "127.0.0.1",
        "redis_port": world.endpoint.port,
        "redis_password": world.endpoint.password,
    }
    config = DataConfig(**vars(world.config) | own)
    world.kill()
    with world.cache(config=config) as cache:
        assert cache.statistics().mode == "memory"
        assert levels(lines) == ["WARNING"]
        assert "the configured Redis" in lines.messages[-1]
        cache.put_features({"a": entry(score=1)})
        world.start()
        world.seconds += 1.0
        assert score(cache, "a") == 1
        assert cache.statistics().mode == "redis"


def test_a_server_with_another_port_and_password_is_found(world: World) -> None:
    """A private server that was stopped in order gets new ones when it starts again."""
    with world.cache() as cache:
        before = world.endpoint
        stop_server(world.config)
        cache.put_features({"a": entry(score=1)})
        assert world.start().password != before.password
        world.seconds += 1.0
        assert score(cache, "a") == 1
        assert cache.statistics().mode == "redis"


def test_a_full_memory_is_an_outage_with_its_reason(
    world: World, lines: pytest.LogCaptureFixture
) -> None:
    """The server answers each probe; until it takes what waits, the cache stays away, silently."""
    with world.cache() as cache, world.client() as client:
        cache.put_features({"old": entry(score=0)})
        client.config_set("maxmemory", "1")
        assert cache.put_features({f"v:{n}": entry(score=n) for n in range(100)}) == 100
        assert "out of memory" in lines.messages[-1]
        for _ in range(3):
            world.seconds += 1.0
            assert score(cache, "v:7") == 7
        found = cache.statistics()
        assert (found.mode, found.waiting, found.outages) == ("memory", 100, 1)
        assert "out of memory" in (found.last_error or "")
        assert levels(lines) == ["WARNING"]
        client.config_set("maxmemory", "0")
        world.seconds += 1.0
        assert cache.statistics().mode == "redis"
        assert client.mget("features:v:7")[0] is not None


def test_a_refused_password_is_an_outage_with_its_reason(world: World) -> None:
    """The reason names the setting and not the password."""
    with world.cache() as cache, world.client() as client:
        cache.put_features({"a": entry(score=1)})
        client.config_set("requirepass", "another-password")
        client.client_kill_filter(_type="normal", skipme=True)
        assert score(cache, "a") == 1
        found = cache.statistics()
        assert found.mode == "memory"
        assert "SYNCHROCHAIN_REDIS_PASSWORD" in (found.last_error or "")
        assert "another-password" not in (found.last_error or "")


def test_any_other_refusal_is_an_outage_too(world: World) -> None:
    """A cache is no reason for its caller to stop: here somebody else's key is where ours goes."""
    with world.cache() as cache, world.client() as client:
        client.set(INDEX, "text")
        assert cache.put_features({"a": entry(score=1)}) == 1
        assert score(cache, "a") == 1
        found = cache.statistics()
        assert (found.mode, found.size) == ("memory", 1)
        assert "WRONGTYPE" in (found.last_error or "")
        client.delete(INDEX)
        world.seconds += 1.0
        assert (cache.statistics().mode, cache.statistics().size) == ("redis", 1)


def test_a_server_that_forgot_the_script_gets_it_again(world: World) -> None:
    """A restart, or SCRIPT FLUSH: no outage."""
    with world.cache() as cache, world.client() as client:
        cache.put_features({"a": entry(score=1)})
        client.script_flush()
        assert cache.put_features({"a": entry(1, score=2)}) == 1
        assert (score(cache, "a"), cache.statistics().outages) == (2, 0)


def test_a_restart_between_two_calls_is_no_outage(world: World) -> None:
    """The client connects again; nobody notices."""
    with world.cache() as cache:
        cache.put_features({"a": entry(score=1)})
        world.kill()
        world.start()
        assert score(cache, "a") == 1
        assert cache.put_features({"a": entry(1, score=2)}) == 1
        found = cache.statistics()
        assert (found.mode, found.outages) == ("redis", 0)


def test_many_threads_notice_one_outage(world: World, lines: pytest.LogCaptureFixture) -> None:
    """One warning, one wait for the frozen server; every call is answered."""
    answers: list[Any] = []
    with world.cache() as cache:
        cache.put_features({"a": entry(score=1)})
        world.send(signal.SIGSTOP)
        threads = [
            threading.Thread(target=lambda: answers.append(score(cache, "a"))) for _ in range(100)
        ]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - began < 10  # 100 waits are 20
        assert answers == [1] * 100
        assert levels(lines) == ["WARNING"]
        assert cache.statistics().outages == 1


def test_something_else_under_our_key_does_not_get_into_the_copy(world: World) -> None:
    """It would pass for newer than anything of ours."""
    with world.cache() as cache, world.client() as client:
        client.set("latest:orders", b"\xff" * 200)
        assert cache.latest("orders") is None
        world.kill()
        cache.put_batch("orders", NOON, [])
        assert cache.latest("orders") == Batch("orders", NOON, [])


def test_the_copy_is_bounded_and_keeps_what_lives_longest(world: World) -> None:
    """However long the outage: history goes first."""
    with world.cache(max_items=10) as cache:
        world.kill()
        for minute in range(50):
            cache.put_batch("orders", NOON + minute * MINUTE, [])
        cache.put_features({f"v:{n}": entry(score=n) for n in range(9)})
        found = cache.statistics()
        assert (found.size, found.waiting) == (10, 10)
        assert cache.latest("orders") == Batch("orders", NOON + 49 * MINUTE, [])
        assert [score(cache, f"v:{n}") for n in range(9)] == list(range(9))
