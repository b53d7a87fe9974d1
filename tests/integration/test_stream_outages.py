"""Redis dies, has no memory or wants a password, while changes are committed: nothing is lost."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Clock
from live_logs import complete_log, parts_of
from stream_batch import batch_process
from stream_helpers import FOREVER, StreamWorld, joined, stream_world, unequal
from stream_rows import furnish, order, user
from test_feast_repository import delivered_once

from pipelines.settings import DATABASE_NAMES, DataConfig


@pytest.fixture
def world(clock: Clock) -> Iterator[StreamWorld]:
    with stream_world(clock, allowed_lateness=FOREVER, redis_timeout=0.2) as world:
        yield world


def kill(world: StreamWorld) -> Callable[[], None]:
    world.kill_redis()
    return world.start_redis


def fill_up(world: StreamWorld) -> Callable[[], None]:
    """The server refuses every write for want of memory."""
    with world.redis() as client:
        client.config_set("maxmemory", 1)

    def end() -> None:
        with world.redis() as client:
            client.config_set("maxmemory", 0)
        world.try_again()

    return end


def ask_for_password(world: StreamWorld) -> Callable[[], None]:
    """The server wants another password from now on; connections that were open are cut."""
    inside = world.redis()
    password = inside.config_get("requirepass")["requirepass"]
    inside.config_set("requirepass", "secret")
    inside.client_kill_filter(_type="normal", skipme=True)

    def end() -> None:
        inside.config_set("requirepass", password)
        inside.close()
        world.try_again()

    return end


def elsewhere(world: StreamWorld) -> DataConfig:
    """The same configuration with a server that is not there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    return world.config.model_copy(update={"redis_host": "127.0.0.1", "redis_port": port})


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("outage", [kill, fill_up, ask_for_password])
def test_what_is_committed_during_an_outage_is_online_after_it(
    world: StreamWorld,
    caplog: pytest.LogCaptureFixture,
    outage: Callable[[StreamWorld], Callable[[], None]],
    seed: int,
) -> None:
    """The offsets stand still, the views say what they owe; then all of it is written."""
    first, *parts = parts_of(delivered_once(complete_log(seed)), 4)
    world.stream(first)
    before = {name: world.counters(name)["offset"] for name in DATABASE_NAMES}
    end = outage(world)
    with caplog.at_level(logging.WARNING):
        for part in parts:
            world.stream(part)
            world.try_again()  # in vain
            world.stream()
    report = world.flow.report()
    assert report["online_store"]["mode"] == "away"
    assert report["online_store"]["outages"] == 1
    assert report["online_store"]["last_error"]
    assert report["cache"]["mode"] == "memory"
    assert set(report["pending_writes"]) >= {"session_events", "user_intent"}
    assert report["streams"]["users"]["offset"] == before["users"]
    assert report["streams"]["users"]["absorbed"] > before["users"]
    assert len([r for r in caplog.messages if "is kept, for Redis is away" in r]) == 1
    end()
    world.stream()
    assert not unequal(world, joined([first, *parts]))
    report = world.flow.report()
    assert (report["online_store"]["mode"], report["pending_writes"]) == ("redis", [])
    for name, stream in report["streams"].items():
        assert stream["offset"] == stream["absorbed"], name


def test_the_very_write_that_finds_redis_dead_is_repeated(world: StreamWorld) -> None:
    """Its keys are pending though nothing touches them again."""
    furnish(world)
    world.kill_redis()
    world.commit("orders", order(1))
    world.stream()
    assert world.flow.report()["pending_writes"] == ["user_orders"]
    world.start_redis()
    world.stream()
    assert world.online("user_orders")[(1,)]["orders_7d"] == 1


def test_a_restart_during_an_outage_repeats_what_is_owed(world: StreamWorld) -> None:
    """The offset was saved, and what lies behind it is written by the next one."""
    first, second, third = parts_of(delivered_once(complete_log(3)), 3)
    world.stream(first)
    world.kill_redis()
    world.stream(second)
    world.flow.save()
    world.end()
    world.start_redis()
    world.stream(third)
    assert not unequal(world, joined([first, second, third]))


def test_the_first_server_may_be_missing(clock: Clock) -> None:
    """A configured server that is not there yet: the flow starts, and owes."""
    with stream_world(clock, allowed_lateness=FOREVER) as world:
        world.config = elsewhere(world)
        logs = joined(parts_of(delivered_once(complete_log(4)), 1))
        world.stream(logs)
        report = world.flow.report()
        assert report["online_store"]["mode"] == "away"
        assert report["pending_writes"]
        assert report["streams"]["users"]["offset"] == 0


def test_what_is_owed_at_the_start_is_not_passed(clock: Clock) -> None:
    """What the batch flow has read meanwhile, but not put online, waits for Redis."""
    with batch_process() as batch, stream_world(clock, batch, redis_timeout=0.2) as world:
        furnish(world)
        world.flow.save()
        world.end()
        world.commit("users", user(2))
        world.commit("orders", order(1, user_id=2))
        world.cycle()
        at_home = world.config
        world.config = elsewhere(world)
        assert world.flow.report()["pending_writes"]
        assert world.counters("orders")["offset"] == 0
        world.flow.save()
        world.end()
        world.config = at_home
        world.stream()
        assert (2,) in world.online("user_orders")


def test_the_cache_holds_what_was_computed_meanwhile(world: StreamWorld) -> None:
    """In memory first, and in Redis when that is back."""
    furnish(world)
    world.kill_redis()
    world.commit("orders", order(1))
    world.stream()
    found: Any = world.flow.cache.cache.get_features(["user_orders:1"])["user_orders:1"]
    assert found.values["orders_7d"] == 1
