"""Changes that are gone, databases that were replaced, and two streamers at once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from stream_helpers import StreamWorld
from stream_rows import SECOND, T, click, order

from pipelines.errors import ChangeLogGapError, StreamerRunningError, SynchroChainError
from pipelines.streaming import DataStreamer


def remove(world: StreamWorld, name: str, seqs: list[int]) -> None:
    """Delete entries of a change log."""
    with closing(world.database(name)) as connection, connection:
        for seq in seqs:
            connection.execute("DELETE FROM change_log WHERE seq = ?", (seq,))


def test_a_gap_is_an_error_that_says_what_to_do(world: StreamWorld) -> None:
    """Nothing behind it is taken in, and other streams are not concerned."""
    world.commit("orders", order(1))
    world.stream()
    gone = world.commit("orders", order(2), order(3))
    world.commit("orders", order(4, T + SECOND))
    world.commit("clickstream", click(1))
    remove(world, "orders", gone)
    for _ in range(2):
        with pytest.raises(ChangeLogGapError, match=r"orders\.db: changes 2 to 3 are gone .*batch"):
            world.run("orders")
    world.run("users")
    assert world.online("session_events")[("s1",)]["event_count"] == 1
    assert world.online("user_orders")[(1,)]["orders_30d"] == 1
    assert world.counters("orders")["offset"] == 1


def test_a_gap_that_the_batch_flow_has_read_is_closed_by_a_restart(world: StreamWorld) -> None:
    """The processed logs hold what is gone from the change log."""
    world.commit("orders", order(1))
    world.stream()
    gone = world.commit("orders", order(2), order(3))
    world.cycle()
    remove(world, "orders", gone)
    world.commit("orders", order(4, T + SECOND))
    with pytest.raises(ChangeLogGapError):
        world.run("orders")
    world.restart(save=True)
    world.stream()
    assert world.online("user_orders")[(1,)]["orders_30d"] == 4


def test_a_gap_between_changes_that_are_read_together(world: StreamWorld) -> None:
    """It is noticed however many changes a micro-batch takes."""
    gone = world.commit("orders", order(1), order(2), order(3))
    remove(world, "orders", gone[1:2])
    with pytest.raises(ChangeLogGapError):
        world.run("orders")


def test_a_database_that_was_replaced_while_streaming(world: StreamWorld) -> None:
    """Another file in its place is not read on as if it were the same."""
    world.commit("orders", *(order(n) for n in range(1, 6)))
    world.stream()
    path = world.config.db_path / "orders.db"
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    from pipelines.live_databases import LiveDatabases

    with LiveDatabases.open(world.config) as databases:
        databases.create()
    world.commit("orders", order(9))
    with pytest.raises(ChangeLogGapError, match="the change log ends at 1"):
        world.run("orders")


def test_published_files_that_are_gone_are_an_error_of_ours(world: StreamWorld) -> None:
    """One line that names the file, as for the batch flow."""
    world.commit("orders", order(1))
    world.cycle()
    world.end()
    for file in world.state.files("log", "orders"):
        file.path.unlink()
    with pytest.raises(SynchroChainError, match="orders_"):
        assert world.flow


HOLDER = """
import sys
from pathlib import Path
from pipelines.errors import StreamerRunningError
from pipelines.lake.process_lock import only_one
with only_one(Path(sys.argv[1]), StreamerRunningError):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_streamer_refuses(world: StreamWorld) -> None:
    """With the process id of the first one, which goes on."""

    async def both() -> None:
        first = DataStreamer(config=world.config)
        ready = asyncio.Event()
        async with asyncio.timeout(60):
            running = asyncio.create_task(first.start_streaming(ready=ready.set))
            await ready.wait()
            with pytest.raises(StreamerRunningError, match=str(os.getpid())) as caught:
                await DataStreamer(config=world.config).start_streaming()
            assert caught.value.pid == os.getpid()
            assert first.statistics()
            assert not running.done()
            first.stop()
            await running

    world.end()
    asyncio.run(both())


def test_a_streamer_in_another_process_is_named(world: StreamWorld) -> None:
    """And once it has ended, however, the next one may start."""
    lock = world.config.data_dir / "stream.lock"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdin
    assert other.stdout
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(StreamerRunningError, match=f"process {other.pid}: stop it first"):
        asyncio.run(DataStreamer(config=world.config).start_streaming())
    other.kill()
    other.wait(10)
    other.stdin.close()
    other.stdout.close()

    async def start() -> None:
        streamer = DataStreamer(config=world.config)
        async with asyncio.timeout(60):
            await streamer.start_streaming(ready=streamer.stop)

    asyncio.run(start())
