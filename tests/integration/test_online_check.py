"""What the online store has lost or holds wrongly is found and mended, by batch and by streamer."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from conftest import Clock
from stream_batch import BatchProcess
from stream_helpers import ForKeys, StreamWorld, stream_world
from stream_rows import DAY, HOUR, T, furnish, order, stock, user

from pipelines.batch import BatchProcessor
from pipelines.cli.status_table import _online_store
from pipelines.feast_plugins import online_check
from pipelines.feast_plugins.repository import CHECKED
from pipelines.feast_plugins.writing.encoding import event_times, field
from pipelines.monitoring.status import collect_status
from pipelines.redis_server.online_keys import project_keys
from pipelines.streaming import online_repair

USERS = range(2, 62)
VIEWS = ("user_orders", "user_intent", "inventory_levels")


@pytest.fixture
def filled(clock: Clock, batch: BatchProcess) -> Iterator[StreamWorld]:
    """Sixty users' orders, streamed, processed and online; looked at in the world's own seconds."""
    clock.now = T + HOUR
    with stream_world(clock, batch, allowed_lateness=86_400) as world:
        furnish(world)
        world.commit("users", *(user(number) for number in USERS))
        world.run("users")
        world.commit("orders", *(order(number, user_id=number) for number in USERS))
        world.commit("inventory", stock())
        world.stream()
        world.flow.save()
        world.cycle(update=True)
        world.flow.sync_with_batch()
        world.flow.watch._clock = lambda: world.seconds
        yield world


def online(world: StreamWorld) -> dict[str, ForKeys]:
    return {view: world.online(view) for view in VIEWS}


def checked(world: StreamWorld) -> dict[str, Any]:
    """What the last cycle's check found."""
    (cycle,) = world.state.last_cycles(1)
    found: dict[str, Any] = cycle.report["online_check"]
    return found


def keys(client: Any) -> list[bytes]:
    return sorted({*project_keys(client, "synchrochain")})


def keys_of_view(client: Any, view: str) -> list[bytes]:
    return [key for key in keys(client) if client.hexists(key, f"_ts:{view}")]


def test_all_is_well_after_a_cycle(filled: StreamWorld) -> None:
    """Every key is compared, and some values; the state and the report say so."""
    filled.cycle(update=True)
    found = checked(filled)
    assert found["views"]["user_orders"] == {"keys": 60, "values": 60}
    assert found["views"]["inventory_levels"] == {"keys": 1, "values": 1}
    assert (found["signs"], found["warning"]) == ([], None)
    assert filled.state.metadata(CHECKED) is not None


def test_deleted_keys_are_there_again_after_one_cycle(filled: StreamWorld) -> None:
    """Though nothing was committed; the fewer keys are a sign."""
    before = online(filled)
    with filled.redis() as client:
        gone = random.Random(1).sample(keys(client), 20)
        client.delete(*gone)
    filled.cycle(update=True)
    assert online(filled) == before
    found = checked(filled)
    assert sum(view.get("missing", 0) for view in found["views"].values()) >= 20
    assert found["signs"] == ["it holds 20 keys less"]
    assert "missing of user_orders" in status_line(filled)
    filled.cycle(update=True)
    assert checked(filled)["views"]["user_orders"] == {"keys": 60, "values": 60}
    assert "missing" not in status_line(filled)


def test_each_kind_of_damage_is_mended(filled: StreamWorld) -> None:
    """No row, no hash, broken times, an older row, another value; a newer row is left alone."""
    before = online(filled)
    with filled.redis() as client:
        view = "user_orders"
        some = keys_of_view(client, view)
        ts, created, x = f"_ts:{view}", f"_created:{view}", field(view, "orders_7d")
        (later,) = event_times(_times(T + 300 * DAY)).to_pylist()
        (older,) = event_times(_times(T - DAY)).to_pylist()
        client.hdel(some[0], ts)
        client.hset(some[1], ts, b"\xff\xff")
        client.hset(some[2], created, b"garbage")
        client.delete(some[3])
        client.set(some[3], "no hash")
        client.hset(some[4], ts, older)
        client.hset(some[5], x, b"\x20\x63")
        client.hdel(some[6], x)
        client.hset(some[7], ts, later)  # which its created timestamp does not belong to
    filled.cycle(update=True)
    assert online(filled) == before
    found = checked(filled)["views"]["user_orders"]
    assert found == {
        "keys": 60,
        "values": 60,
        "missing": 1,
        "damaged": 4,
        "older": 1,
        "different": 2,
    }


def test_a_newer_row_of_the_stream_stays(filled: StreamWorld) -> None:
    """The batch flow does not know it yet, or computed it earlier."""
    filled.commit("orders", order(1000, T + HOUR, user_id=2))
    filled.stream()
    before = online(filled)
    assert before["user_orders"][(2,)]["orders_7d"] == 2
    with filled.redis() as client:
        _check(filled, client)
    assert online(filled) == before


def test_values_take_turns_and_so_do_many_keys(
    filled: StreamWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many turns each has been looked at, and none that was not wrong was written."""
    monkeypatch.setattr(online_check, "VALUES_AT_ONCE", 10)
    monkeypatch.setattr(online_check, "KEYS_AT_ONCE", 20)
    before = online(filled)
    with filled.redis() as client:
        some = keys_of_view(client, "user_orders")
        for key in some[:15]:
            client.hset(key, field("user_orders", "orders_7d"), b"\x20\x63")
        for key in some[15:30]:
            client.hdel(key, "_ts:user_orders")
        wrong = 0
        for turn in range(8):
            found = _check(filled, client, turn)["user_orders"]
            assert found.values < 30
            assert found.keys < 45
            wrong += sum(found.wrong.values())
    assert online(filled) == before
    assert wrong == 30


def test_rows_that_have_expired_are_not_missed(filled: StreamWorld) -> None:
    """They need not be online."""
    with filled.redis() as client:
        client.delete(*keys_of_view(client, "user_orders"))
        found = _check(filled, client, later=91 * DAY)
        assert "user_orders" not in found
        assert not keys_of_view(client, "user_orders")


def test_an_eviction_policy_is_noticed_and_set_back(
    filled: StreamWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """On a server of ours; what it evicted is mended."""
    before = online(filled)
    with filled.redis() as client:
        assert filled.flow.watch.look()
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory-policy", "allkeys-random")
        client.config_set("maxmemory", used + 1)
        for number in range(50):
            client.set(f"filler {number}", "x" * 10_000)
        client.config_set("maxmemory", 0)
        evicted = client.info("stats")["evicted_keys"]
        assert evicted > 0
        client.config_set("maxmemory", used + 100_000_000)
        filled.cycle(update=True)
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    assert online(filled) == before
    assert "maxmemory-policy allkeys-random" in checked(filled)["warning"]


def test_a_live_streamer_notices_that_everything_is_gone(
    filled: StreamWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the batch flow: what is published is written again, and what only it knows."""
    filled.commit("orders", order(1000, T + HOUR, user_id=2))
    filled.stream()
    before = online(filled)
    assert filled.flow.watch.look()
    assert not filled.flow.watch.look()
    for _ in range(2):
        with filled.redis() as client:
            client.flushall()
        assert filled.flow.watch.look()
        filled.stream()
        assert _features(online(filled)) == _features(before)
        assert filled.flow.report()["pending_writes"] == []
    report = filled.flow.report()["online_check"]
    assert report["emptied"] == 2
    assert report["mended"] >= 2 * 60
    assert len([m for m in caplog.messages if "lost our mark" in m]) == 2
    assert not filled.flow.watch.look()


def test_a_live_streamer_notices_lost_keys(
    filled: StreamWorld, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Five seconds later by what the server says; without a sign after five minutes."""
    before = online(filled)
    assert filled.flow.watch.look()
    with filled.redis() as client:
        client.delete(*keys(client)[:9])
        assert not filled.flow.watch.look()
        filled.seconds += online_repair.FACTS_SECONDS
        assert filled.flow.watch.look()
        filled.stream()
        assert _features(online(filled)) == _features(before)
        client.hdel(keys_of_view(client, "user_orders")[0], "_ts:user_orders")
        filled.seconds += online_repair.FACTS_SECONDS
        assert not filled.flow.watch.look()
        filled.seconds += online_repair.CHECK_SECONDS
        caplog.clear()
        clock.now += timedelta(microseconds=7)
        assert filled.flow.watch.look()
    said = "rows of user_orders online were not as published: 1 missing; mended"
    assert caplog.messages == [said]
    at = filled.flow.report()["online_check"]["last"]["at"]
    assert at == datetime.fromisoformat(at).strftime("%Y-%m-%d %H:%M:%S")
    filled.stream()
    assert _features(online(filled)) == _features(before)


def test_a_streamer_looks_when_it_starts(filled: StreamWorld) -> None:
    """What was lost while none ran is written again."""
    before = online(filled)
    filled.flow.save()
    filled.end()
    with filled.redis() as client:
        client.delete(*keys(client)[:9])
    assert filled.flow.watch.look()
    filled.stream()
    assert _features(online(filled)) == _features(before)


def test_a_server_that_was_killed_is_looked_at_again(
    filled: StreamWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Its last second may be lost."""
    assert filled.flow.watch.look()
    filled.kill_redis()
    with caplog.at_level(logging.WARNING):
        assert not filled.flow.watch.look()
        filled.start_redis()
        assert filled.flow.watch.look()
    assert filled.flow.watch.report()["last"]["signs"] == ["it was started again"]


def status_line(world: StreamWorld) -> str:
    """What `synchrochain status` says of the online store."""
    processor = BatchProcessor(world.batch_config, world.config, clock=world.clock)
    return _online_store(collect_status(processor.config, processor.data)["online_store"])


def _check(
    world: StreamWorld, client: Any, turn: int = 0, later: timedelta = HOUR
) -> dict[str, online_check.Found]:
    ttls = {"user_orders": (90 * DAY).total_seconds(), "inventory_levels": DAY.total_seconds()}
    check = online_check.OnlineCheck(client, "synchrochain", world.state, ttls)
    return check.run(T + later, turn)


def _times(*instants: Any) -> Any:
    import pyarrow as pa

    return pa.array(instants, pa.timestamp("us"))


def _features(found: dict[str, ForKeys]) -> Any:
    """Without created timestamps, which are new of rows that the stream writes again."""
    return {
        view: {
            key: {name: v for name, v in row.items() if name != "created_timestamp"}
            for key, row in rows.items()
        }
        for view, rows in found.items()
    }
