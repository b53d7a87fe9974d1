"""DataStreamer: it reacts to commits, outlives what fails in one stream, and ends when asked to."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
from conftest import Clock
from stream_helpers import StreamWorld, stream_world
from stream_rows import SECOND, T, click, furnish, order, product

from pipelines.cache import RealtimeCache
from pipelines.errors import ConfigurationError
from pipelines.lake.clock import utc_now
from pipelines.streaming import DataStreamer, data_streamer
from pipelines.streaming.flow import StreamingFlow

LONG = 3600
GUARD = 60.0
"""Seconds after which a test has failed."""


@pytest.fixture
def world(clock: Clock) -> Iterator[StreamWorld]:
    """A furnished shop; intervals are so long that only commits are reacted to."""
    settings = {"processing_interval": LONG, "busy_timeout": 0.1, "allowed_lateness": 86_400}
    with stream_world(clock, **settings) as world:
        furnish(world)
        world.flow.save()
        world.end()
        yield world


@asynccontextmanager
async def streaming(world: StreamWorld, **given: Any) -> AsyncIterator[DataStreamer]:
    """A streamer that is ready, and is stopped in the end."""
    streamer = DataStreamer(config=world.config, clock=world.clock, **given)
    ready = asyncio.Event()
    async with asyncio.timeout(GUARD):
        running = asyncio.create_task(streamer.start_streaming(ready=ready.set))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        try:
            yield streamer
        finally:
            streamer.stop()
            await running


async def until(condition: Callable[[], object]) -> None:
    """Wait for it, as long as the test's guard allows."""
    while not await asyncio.to_thread(condition):
        await asyncio.sleep(0)


def stream_of(streamer: DataStreamer, name: str) -> dict[str, Any]:
    """What the streamer says of one stream."""
    found = streamer.statistics()
    assert found
    counters: dict[str, Any] = found["streams"][name]
    return counters


def orders_of(world: StreamWorld) -> int:
    """How many orders of the user are online."""
    found: int = world.online("user_orders").get((1,), {}).get("orders_30d", 0)
    return found


def commit_elsewhere(world: StreamWorld, number: int) -> None:
    """Let another process commit an order, and end."""
    statement = (
        "INSERT INTO orders (id, user_id, product_id, quantity, price, warehouse_id, "
        "shipping_method, order_timestamp, status) VALUES (?, 1, 'p1', 1, 2.5, 'w1', 'standard', "
        f"'{utc_now():%Y-%m-%d %H:%M:%S.%f}', 'placed')"
    )
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
        "c.execute(sys.argv[2], (int(sys.argv[3]),)); c.commit(); c.close()"
    )
    path = world.config.db_path / "orders.db"
    subprocess.run([sys.executable, "-c", code, str(path), statement, str(number)], check=True)


def test_it_follows_the_folder_of_the_live_databases(world: StreamWorld) -> None:
    """As the README has it: `await DataStreamer(db_path).start_streaming(cache)`."""

    async def run() -> Any:
        with RealtimeCache(world.config) as cache:
            streamer = DataStreamer(world.config.db_path)
            world.commit("orders", order(1))
            async with asyncio.timeout(GUARD):
                running = asyncio.create_task(streamer.start_streaming(cache))
                await until(lambda: cache.get_features(["user_orders:1"])["user_orders:1"])
                streamer.stop()
                await running
            assert streamer.statistics() is None
            return cache.latest("orders")

    assert asyncio.run(run())
    assert orders_of(world) == 1


def test_a_commit_of_another_process_is_reacted_to(world: StreamWorld) -> None:
    """At once, though the interval is an hour; again and again."""

    async def run() -> None:
        async with streaming(world):
            for number in range(1, 13):
                await asyncio.to_thread(commit_elsewhere, world, number)
                await until(lambda wanted=number: orders_of(world) == wanted)

    asyncio.run(run())


def test_a_stream_that_fails_does_not_stop_the_others(
    world: StreamWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """A gap in one log is counted and logged once; commits elsewhere are served."""
    world.commit("orders", order(1), order(2))
    world.stream()
    world.flow.save()
    world.end()
    world.commit("orders", order(3), order(4))
    with closing(world.database("orders")) as connection, connection:
        connection.execute("DELETE FROM change_log WHERE seq = 3")

    async def run() -> None:
        async with streaming(world, intervals={"orders": 0.2}) as streamer:
            await until(lambda: stream_of(streamer, "orders")["errors"] >= 3)
            world.commit("clickstream", click(1))
            await until(lambda: world.online("session_events").get(("s1",)))
            counters = stream_of(streamer, "orders")
            assert "changes 3 to 3 are gone" in counters["last_error"]
            assert counters["offset"] == 2
            assert stream_of(streamer, "users")["last_error"] is None

    asyncio.run(run())
    logged = [r for r in caplog.messages if "stream orders goes on trying" in r]
    assert len(logged) == len(set(logged)) <= 2  # when it is read, and when it is checked


def test_a_missing_database_is_picked_up_when_it_appears(world: StreamWorld) -> None:
    """The other streams do not wait for it."""
    path = world.config.db_path / "orders.db"
    world.commit("orders", order(1))
    aside = path.with_name("aside.db")
    path.rename(aside)

    async def run() -> None:
        async with streaming(world, intervals={"orders": 0.2}) as streamer:
            await until(lambda: stream_of(streamer, "orders")["errors"])
            assert "does not exist" in stream_of(streamer, "orders")["last_error"]
            world.commit("clickstream", click(1))
            await until(lambda: world.online("session_events").get(("s1",)))
            aside.rename(path)
            await until(lambda: orders_of(world) == 1)
            await until(lambda: stream_of(streamer, "orders")["last_error"] is None)

    asyncio.run(run())


def test_a_child_does_not_wait_for_a_database_that_is_missing(world: StreamWorld) -> None:
    """A reference that cannot be looked up is deferred, and the stream goes on."""
    path = world.config.db_path / "inventory.db"
    path.rename(path.with_name("aside.db"))

    async def run() -> None:
        given = {"users": 0.2, "inventory": 0.2}
        async with streaming(world, intervals=given) as streamer:
            await until(lambda: stream_of(streamer, "inventory")["errors"])
            world.commit("clickstream", click(1, product_id="unheard_of"), click(2))
            await until(
                lambda: (
                    stream_of(streamer, "users")["changes"] == 2
                    or stream_of(streamer, "users")["errors"] > 3
                )
            )
            assert stream_of(streamer, "users")["last_error"] is None

    asyncio.run(run())


def test_a_locked_database_is_read_when_it_is_free(world: StreamWorld) -> None:
    """A writer that locks even readers out, from before the start."""
    world.commit("orders", order(1))
    writer = world.database("orders")
    writer.execute("PRAGMA locking_mode = EXCLUSIVE")
    writer.execute("BEGIN EXCLUSIVE")

    async def run() -> None:
        async with streaming(world, intervals={"orders": 0.2}) as streamer:
            await until(lambda: stream_of(streamer, "orders")["errors"])
            assert "locked" in stream_of(streamer, "orders")["last_error"]
            world.commit("clickstream", click(1))
            await until(lambda: world.online("session_events").get(("s1",)))
            writer.close()
            await until(lambda: orders_of(world) == 1)
            await until(lambda: stream_of(streamer, "orders")["last_error"] is None)

    asyncio.run(run())


def test_a_child_waits_for_its_parent_in_another_database(world: StreamWorld) -> None:
    """Both are committed while it streams; nothing is deferred to the batch flow."""

    async def run() -> None:
        async with streaming(world) as streamer:
            for number in range(1, 20):
                world.commit("products", product(f"n{number}"))
                world.commit(
                    "clickstream", click(number, T + number * SECOND, product_id=f"n{number}")
                )
            await until(lambda: stream_of(streamer, "users")["changes"] == 19)
            assert stream_of(streamer, "users")["deferred"] == 0

    asyncio.run(run())
    assert world.online("session_events")[("s1",)]["event_count"] == 19


def test_a_cancelled_task_ends_cleanly(world: StreamWorld) -> None:
    """What was streamed is saved, and the next one may start."""

    async def run() -> None:
        streamer = DataStreamer(config=world.config, clock=world.clock)
        ready = asyncio.Event()
        async with asyncio.timeout(GUARD):
            running = asyncio.create_task(streamer.start_streaming(ready=ready.set))
            await ready.wait()
            world.commit("orders", order(1))
            await until(lambda: orders_of(world) == 1)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        async with streaming(world) as second:
            assert stream_of(second, "orders")["offset"] == 1

    asyncio.run(run())
    assert world.state.offsets("stream")["orders"] == 1


def test_who_asks_for_statistics_while_it_ends_gets_none(
    world: StreamWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being closed is not reported on: the answer is None, no error."""
    finish = data_streamer._finish
    answers: list[dict[str, Any] | None] = []

    async def run() -> None:
        async with streaming(world) as streamer:

            def finish_and_ask(flow: StreamingFlow) -> None:
                finish(flow)
                answers.append(streamer.statistics())

            monkeypatch.setattr(data_streamer, "_finish", finish_and_ask)
            assert streamer.statistics()

    asyncio.run(run())
    assert answers == [None]


def test_a_state_that_cannot_be_kept_is_reported_once_and_kept_later(
    world: StreamWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Four lines a second would fill the disk that is full; what is streamed goes on."""
    save = StreamingFlow.save
    attempts: list[StreamingFlow] = []

    def counted(flow: StreamingFlow, **given: Any) -> None:
        attempts.append(flow)
        save(flow, **given)

    monkeypatch.setattr(StreamingFlow, "save", counted)
    monkeypatch.setattr(data_streamer, "SAVE_SECONDS", 0.0)

    def state(statement: str) -> None:
        with closing(sqlite3.connect(world.batch_config.state_path)) as connection, connection:
            connection.execute(statement)

    async def run() -> None:
        async with streaming(world) as streamer:
            state(
                "CREATE TRIGGER full BEFORE INSERT ON offsets "
                "BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
            )
            world.commit("orders", order(1))
            await until(lambda: orders_of(world) == 1)
            before = len(attempts)
            await until(lambda: len(attempts) > before + 5)
            assert stream_of(streamer, "orders")["offset"] == 1
            assert world.state.offsets("stream")["orders"] == 0
            state("DROP TRIGGER full")
            await until(lambda: world.state.offsets("stream")["orders"] == 1)
            await until(lambda: "kept again" in caplog.text)

    asyncio.run(run())
    assert caplog.text.count("the stream's state is not kept, it goes on trying: ") == 1
    assert caplog.text.count("the stream's state is kept again") == 1


def test_the_loop_is_left_as_it_was(world: StreamWorld) -> None:
    """Threads for other tasks of the user's process are still to be had."""

    async def run() -> None:
        async with streaming(world):
            pass
        assert await asyncio.to_thread(lambda: 7) == 7

    asyncio.run(run())


@pytest.mark.parametrize(
    ("intervals", "words"),
    [
        ({"shop": 1.0}, "there is no live database 'shop'; there are: orders, users"),
        ({"orders": 0}, "the interval of orders must be above 0: 0"),
        ({"orders": -1.5}, "the interval of orders must be above 0: -1.5"),
        ({"orders": float("nan")}, "the interval of orders must be above 0: nan"),
    ],
)
def test_wrong_intervals_are_refused(
    world: StreamWorld, intervals: dict[str, float], words: str
) -> None:
    """Before anything runs."""
    with pytest.raises(ConfigurationError, match=words):
        DataStreamer(config=world.config, intervals=intervals)


def test_a_path_and_a_configuration_are_one_too_many(world: StreamWorld) -> None:
    """Which of them counts would be a guess."""
    with pytest.raises(ConfigurationError, match="not both"):
        DataStreamer(world.config.db_path, config=world.config)
