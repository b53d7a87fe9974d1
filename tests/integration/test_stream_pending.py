"""Whatever keeps rows from being written: they are pending, and no other row waits for them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from conftest import Clock
from stream_helpers import FOREVER, StreamWorld, stream_world
from stream_rows import HOUR, T, furnish, order, session, stock, user

from pipelines.errors import UsageError
from pipelines.features.views import View
from pipelines.streaming.online_sink import OnlineSink


@pytest.fixture
def world(clock: Clock) -> Any:
    with stream_world(clock, allowed_lateness=FOREVER, redis_timeout=0.5) as world:
        furnish(world)
        yield world


def acl(*rules: str) -> Callable[[Any], None]:
    def change(client: Any) -> None:
        client.execute_command("ACL", "SETUSER", "default", *rules)

    return change


def config(name: str, value: Any) -> Callable[[Any], None]:
    def change(client: Any) -> None:
        client.config_set(name, value)

    return change


REFUSALS: dict[str, tuple[Callable[[Any], None], Callable[[Any], None]]] = {
    "no writes": (acl("-@write"), acl("+@write")),
    "no scripts": (acl("-@scripting"), acl("+@scripting")),
    "no hashes in scripts": (acl("-hset"), acl("+hset")),
    "no reads in scripts": (acl("-hmget"), acl("+hmget")),
    "no keys": (acl("resetkeys"), acl("allkeys")),
    "no memory": (config("maxmemory", 1), config("maxmemory", 0)),
    "no replicas": (config("min-replicas-to-write", 1), config("min-replicas-to-write", 0)),
    "a replica": (
        lambda client: client.execute_command("REPLICAOF", "127.0.0.1", "1"),
        lambda client: client.execute_command("REPLICAOF", "NO", "ONE"),
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_redis_refused_arrives_without_another_change(world: StreamWorld, name: str) -> None:
    """All views that were affected are pending, the offset stays; then all rows are there."""
    refuse, allow = REFUSALS[name]
    before = {n: world.counters(n)["offset"] for n in ("orders", "users", "inventory")}
    with world.redis() as client:
        refuse(client)
        world.commit("orders", order(1))
        world.commit("inventory", stock(T + HOUR))
        world.commit("sessions", session("s2", T + HOUR))
        world.stream()
        world.try_again()
        world.stream()
        report = world.flow.report()
        assert {"inventory_levels", "user_intent", "user_orders"} <= set(report["pending_writes"])
        assert report["online_store"]["mode"] == "away"
        assert report["set_apart"] == {}
        for database, offset in before.items():
            assert report["streams"][database]["offset"] == offset
        world.flow.save()
        assert world.state.offsets("stream").get("orders", 0) == before["orders"]
        allow(client)
    world.try_again()
    world.stream()
    assert world.online("user_orders")[(1,)]["orders_7d"] == 1
    assert world.online("user_intent")[(1,)]["event_timestamp"] == T + HOUR
    assert world.online("inventory_levels")[("w1", "p1")]["demand_24h"] == 1
    report = world.flow.report()
    assert (report["pending_writes"], report["view_errors"]) == ([], {})
    for stream in report["streams"].values():
        assert stream["offset"] == stream["absorbed"]


class Faulty:
    """The online store's sink, but for rows that it cannot write."""

    def __init__(
        self, sink: OnlineSink, cannot: Callable[[View, pa.Table], bool], error: Exception
    ) -> None:
        self._sink = sink
        self._cannot = cannot
        self._error = error
        self.calls = 0
        self.healed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    def write(self, view: View, rows: pa.Table) -> None:
        self.calls += 1
        if not self.healed and self._cannot(view, rows):
            raise self._error
        self._sink.write(view, rows)


def faulty(
    world: StreamWorld, cannot: Callable[[View, pa.Table], bool], error: Exception
) -> Faulty:
    found = Faulty(world.flow.online, cannot, error)
    world.flow.online = found  # type: ignore[assignment]  # it stands in for it
    return found


def of_user(number: int) -> Callable[[View, pa.Table], bool]:
    return lambda view, rows: view.name == "user_orders" and number in rows["user_id"].to_pylist()


@pytest.mark.parametrize("error", [UsageError("no encoding"), ZeroDivisionError("a defect")])
def test_an_error_of_one_view_leaves_the_others_alone(
    world: StreamWorld, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """It is said once, the view's rows are pending; later views are written at once."""
    sink = faulty(world, lambda view, _: view.name == "inventory_levels", error)
    offset = world.counters("inventory")["offset"]
    world.commit("inventory", stock(T))
    world.commit("orders", order(1))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            world.stream()
    assert world.online("user_orders")[(1,)]["orders_7d"] == 1
    assert not world.online("inventory_levels")
    report = world.flow.report()
    assert report["pending_writes"] == ["inventory_levels"]
    assert str(error) in report["view_errors"]["inventory_levels"]
    assert report["streams"]["inventory"]["offset"] == offset
    assert len([m for m in caplog.messages if "stay pending" in m]) == 1
    sink.healed = True
    world.stream()
    assert ("w1", "p1") in world.online("inventory_levels")
    assert world.flow.report()["pending_writes"] == []
    assert world.counters("orders")["offset"] == world.counters("orders")["absorbed"]


def commit_orders(world: StreamWorld, users: range) -> None:
    world.commit("users", *(user(number) for number in users))
    world.run("users")
    world.commit("orders", *(order(number, user_id=number) for number in users))


def test_rows_that_cannot_be_written_hold_nobody_up(
    world: StreamWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of two hundred: the rest is written at once, with few tries; the offset waits."""
    offset = world.counters("orders")["offset"]
    bad = (77, 140)
    sink = faulty(
        world, lambda *of: of_user(bad[0])(*of) or of_user(bad[1])(*of), UsageError("no encoding")
    )
    commit_orders(world, range(2, 202))
    sink.calls = 0
    with caplog.at_level(logging.ERROR):
        world.run("orders")
    assert world.online("user_orders").keys() == {(n,) for n in range(2, 202) if n not in bad}
    assert sink.calls < 60
    report = world.flow.report()
    assert report["set_apart"] == {"user_orders": 2}
    assert (report["pending_writes"], world.flow.is_behind) == ([], False)
    assert report["streams"]["orders"]["offset"] == offset
    assert len([m for m in caplog.messages if "2 keys of user_orders cannot be written" in m]) == 1
    world.commit("orders", order(1001, user_id=3))
    sink.calls = 0
    world.run("orders")
    assert world.online("user_orders")[(3,)]["orders_7d"] == 2
    assert sink.calls < 5  # the bad ones are not tried with each change
    world.flow.sync_with_batch()  # now and then they are
    assert world.flow.report()["set_apart"] == {"user_orders": 2}
    sink.healed = True
    world.flow.sync_with_batch()
    assert world.online("user_orders").keys() == {(n,) for n in range(2, 202)}
    assert world.flow.report()["set_apart"] == {}
    world.run("orders")
    assert world.counters("orders")["offset"] == world.counters("orders")["absorbed"]


def test_a_restart_repeats_what_was_set_apart(world: StreamWorld) -> None:
    """For the offset that was saved lies before it."""
    faulty(world, of_user(77), UsageError("no encoding"))
    commit_orders(world, range(76, 79))
    world.run("orders")
    assert world.online("user_orders").keys() == {(76,), (78,)}
    world.restart(save=True)
    world.stream()
    assert world.online("user_orders").keys() == {(76,), (77,), (78,)}


def test_the_batch_flow_ends_the_waiting_for_what_was_set_apart(clock: Clock, batch: Any) -> None:
    """Its rows are online then, and the offset moves on."""
    with stream_world(clock, batch, allowed_lateness=86_400) as world:
        furnish(world)
        faulty(world, of_user(77), UsageError("no encoding"))
        commit_orders(world, range(76, 79))
        world.run("orders")
        world.flow.sync_with_batch()
        assert world.flow.report()["set_apart"] == {"user_orders": 1}
        world.cycle(update=True)
        assert (77,) in world.online("user_orders")
        world.flow.sync_with_batch()
        assert world.flow.report()["set_apart"] == {}
        world.run("orders")
        assert world.counters("orders")["offset"] == world.counters("orders")["absorbed"]


def test_keys_are_not_set_apart_while_nothing_can_be_written(world: StreamWorld) -> None:
    """Then it is not their fault; they all wait, with a few tries at a time."""
    sink = faulty(world, lambda view, _: view.name == "user_orders", KeyError("whatever"))
    commit_orders(world, range(2, 202))
    sink.calls = 0
    world.run("orders")
    assert world.flow.report()["set_apart"] == {}
    assert world.flow.report()["pending_writes"] == ["user_orders"]
    assert sink.calls < 50
    sink.healed = True
    world.stream()
    assert len(world.online("user_orders")) == 200


def test_the_caches_errors_are_the_caches(
    world: StreamWorld, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The online store gets its rows all the same."""

    def broken(*_: Any) -> None:
        raise ValueError("the cache is broken")

    monkeypatch.setattr(world.flow.cache.cache, "put_features", broken)
    monkeypatch.setattr(world.flow.cache.cache, "put_batch", broken)
    world.commit("orders", order(1), order(2))
    world.stream()
    assert world.online("user_orders")[(1,)]["orders_7d"] == 2
    report = world.flow.report()
    assert "the cache is broken" in report["cache"]["last_error"]
    assert report["streams"]["orders"]["offset"] == report["streams"]["orders"]["absorbed"]
    assert len([m for m in caplog.messages if "the cache lacks rows" in m]) == 1
