"""An older copy of a live database is put back: both flows refuse it, until a rebuild; after that
offline and online are what the reference says of the copy, as if nothing had been there before."""

from __future__ import annotations

import asyncio
import copy
import sqlite3
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock
from live_logs import TABLES, complete_log, numbered, offline_rows, parts_of
from random_log import Logs
from reference import compute
from stream_batch import BatchProcess
from stream_helpers import FOREVER, StreamWorld, joined, stream_world, unequal
from test_feast_repository import delivered_once, moved
from test_stream_with_batch import served

from pipelines.batch import BatchProcessor
from pipelines.batch.online_removal import MARK
from pipelines.change_log.offsets import Offset
from pipelines.errors import OtherHistoryError
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.lake.clock import utc_now
from pipelines.settings import DATABASE_NAMES


@pytest.fixture
def clock() -> Clock:
    """Times to live online go by the present, so this starts there."""
    return Clock(utc_now())


def histories(seed: int) -> tuple[Logs, Logs, Logs]:
    """What both have, then what the one goes on with, and the other."""
    logs = delivered_once(complete_log(seed))
    parts = parts_of(logs, 3)  # by what the rows refer to, which is the oldest
    seqs = [{(t, row["seq"]) for t, rows in part.items() for row in rows} for part in parts]
    logs = moved(logs, utc_now() - timedelta(hours=1))
    common, first, second = (
        {t: [row for row in rows if (t, row["seq"]) in part] for t, rows in logs.items()}
        for part in seqs
    )
    other = copy.deepcopy(joined([common, second]))
    whole = numbered({**{table: [] for ts in TABLES.values() for table in ts}, **other})
    end = {
        database: max((r["seq"] for t in tables for r in common.get(t, [])), default=0)
        for database, tables in TABLES.items()
    }
    after = {
        table: [row for row in whole[table] if row["seq"] > end[database]]
        for database, tables in TABLES.items()
        for table in tables
    }
    return common, first, after


def copies_of(world: StreamWorld, folder: Path) -> None:
    folder.mkdir()
    for name in DATABASE_NAMES:
        with (
            closing(world.database(name)) as live,
            closing(sqlite3.connect(folder / f"{name}.db")) as to,
        ):
            live.backup(to)


def put_back(world: StreamWorld, folder: Path) -> None:
    """Over the databases that are there, as SQLite's own restore does it."""
    for name in DATABASE_NAMES:
        with (
            closing(sqlite3.connect(folder / f"{name}.db")) as old,
            closing(world.database(name)) as live,
        ):
            old.backup(live)


def rebuild(world: StreamWorld) -> None:
    BatchProcessor(world.batch_config, world.config, clock=world.clock).rebuild()


def refused(world: StreamWorld) -> str:
    """What a batch cycle says."""
    assert world.batch
    return str(world.batch.cycle(world.config.data_dir, world.clock())["error"])


@pytest.mark.parametrize("seed", [71, 72])
def test_after_a_rebuild_nothing_of_the_other_history_is_left(
    clock: Clock, batch: BatchProcess, seed: int, tmp_path: Path
) -> None:
    """Both flows had read on; the shop writes past where they stood; the remedy is what they
    name. A stream that runs knows that it is of the past, and moves no offset any more."""
    common, first, second = histories(seed)
    with stream_world(clock, batch, allowed_lateness=FOREVER, batch_size=50) as world:
        world.append(common)
        world.stream()
        world.cycle(update=True)
        copies_of(world, tmp_path / "copies")
        world.append(first)
        world.stream()
        world.flow.save()
        world.cycle(update=seed % 2 == 0)
        put_back(world, tmp_path / "copies")
        world.append(second)
        assert "OtherHistoryError" in refused(world)
        assert "`synchrochain batch --rebuild`" in refused(world)
        with pytest.raises(OtherHistoryError):
            world.stream()
        running = world.flow
        rebuild(world)
        with world.redis() as client:
            assert client.get(MARK) is None
            assert not list(client.scan_iter("*synchrochain", _type="hash"))
        running.save()
        running.sync_with_batch()
        assert running.outdated
        assert world.state.offsets("stream") == {}
        world.cycle(update=True)
        world.restart(save=False)
        world.stream()
        logs = joined([common, second])
        assert not unequal(world, logs, since=served())
        processor = BatchProcessor(world.batch_config, world.config, clock=world.clock)
        for view in VIEWS_BY_NAME:
            times = {
                (*(r[k] for k in VIEWS_BY_NAME[view].keys), r["event_timestamp"])
                for r in compute(view, logs)
            }
            ours = {
                (*(r[k] for k in VIEWS_BY_NAME[view].keys), r["event_timestamp"])
                for r in offline_rows(processor, view)
            }
            assert ours == times


def test_only_the_stream_had_read_on(clock: Clock, batch: BatchProcess, tmp_path: Path) -> None:
    """What the batch flow has read is in both histories; what is online is not."""
    common, first, second = histories(73)
    with stream_world(clock, batch, allowed_lateness=FOREVER) as world:
        world.append(common)
        world.stream()
        world.flow.save()
        world.cycle()
        copies_of(world, tmp_path / "copies")
        world.append(first)
        world.stream()
        world.flow.save()
        world.end()
        put_back(world, tmp_path / "copies")
        world.append(second)
        assert "OtherHistoryError" in refused(world)
        with pytest.raises(OtherHistoryError):
            assert world.flow
        rebuild(world)
        world.cycle()
        world.stream()


def test_the_old_database_may_be_put_back(world: StreamWorld, tmp_path: Path) -> None:
    """The other remedy that the message names; nothing was taken in meanwhile."""
    from stream_rows import order

    copies_of(world, tmp_path / "before")
    world.commit("orders", order(1))
    world.stream()
    copies_of(world, tmp_path / "right")
    put_back(world, tmp_path / "before")
    world.commit("orders", order(2))
    for _ in range(2):
        with pytest.raises(OtherHistoryError, match="has another change 1 than was read before"):
            world.run("orders")
    put_back(world, tmp_path / "right")
    world.commit("orders", order(3))
    world.run("orders")
    assert world.counters("orders")["offset"] == 2
    assert world.online("user_orders")[(1,)]["orders_30d"] == 2


@pytest.mark.parametrize("update_waits", [True, False])
def test_a_copy_is_noticed_though_the_stream_could_not_move_its_position(
    world: StreamWorld, tmp_path: Path, update_waits: bool
) -> None:
    """What it has read may be online in part: before the first update of the batch flow, and while
    Redis refuses rows."""
    from stream_rows import order, session

    world.cycle(update=not update_waits)
    copies_of(world, tmp_path / "copies")
    if not update_waits:
        assert world.flow
        world.flow.save()
        with world.redis() as client:
            client.execute_command("ACL", "SETUSER", "default", "-@write")
    world.commit("sessions", session("s9"))
    world.commit("orders", order(1))
    world.stream()
    world.flow.save()
    if not update_waits:
        with world.redis() as client:
            client.execute_command("ACL", "SETUSER", "default", "+@all")
    assert world.state.offsets("stream").get("orders", 0) == 0
    world.end()
    put_back(world, tmp_path / "copies")
    world.commit("orders", order(2, user_id=1), order(3))
    with pytest.raises(OtherHistoryError):
        assert world.flow
    assert "OtherHistoryError" in refused(world)
    rebuild(world)
    world.cycle(update=True)
    assert world.flow
    assert world.state.offsets("stream seen").get("orders", 0) <= 2


def test_a_rebuild_without_redis_empties_it_in_the_next_cycle(
    world: StreamWorld, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rebuild itself succeeds; what is pending is noted until it is done."""
    from stream_rows import order

    world.commit("orders", order(1))
    world.stream()
    world.cycle()
    away = world.config.model_copy(update={"redis_host": "127.0.0.1", "redis_port": 1})
    BatchProcessor(world.batch_config, away, clock=world.clock).rebuild()
    assert "the online store is emptied by the next cycle" in caplog.text
    assert world.online("user_orders")
    world.end()
    world.cycle(update=True)
    assert world.state.metadata("stale online store") is None


def test_offsets_of_an_older_format_are_bound_at_the_next_cycle(world: StreamWorld) -> None:
    """Though there is nothing new to read."""
    world.cycle()
    bound = world.state.bound_offsets("batch")
    world.state.set_offsets("batch", {n: Offset(at.seq) for n, at in bound.items()})
    world.cycle()
    assert world.state.bound_offsets("batch") == bound
    assert all(at.identity and at.nonce for at in bound.values())


def began(streamer: Any) -> str | None:
    """When the flow that streams just now began."""
    found = streamer.statistics()
    return str(found["started_at"]) if found else None


def test_a_streamer_that_runs_goes_on_after_a_rebuild(
    clock: Clock, batch: BatchProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says in one line that another history lies there; after the rebuild it warms up anew, in
    the same process."""
    from stream_rows import furnish, order
    from test_stream_asyncio import orders_of, stream_of, streaming, until

    with stream_world(clock, batch, processing_interval=1, allowed_lateness=86_400) as world:
        furnish(world)
        world.stream()
        world.flow.save()
        world.end()
        world.cycle()
        copies_of(world, tmp_path / "copies")

        async def run() -> None:
            async with streaming(world) as streamer:
                world.commit("orders", order(1), order(2), order(3))
                await until(lambda: orders_of(world) == 3)
                await until(lambda: world.state.offsets("stream").get("orders") == 3)
                put_back(world, tmp_path / "copies")
                world.commit("orders", *(order(n) for n in range(11, 16)))
                await until(lambda: stream_of(streamer, "orders")["last_error"])
                first: Any = streamer.statistics()
                rebuild(world)
                await asyncio.to_thread(partial(world.cycle, update=True))
                await until(lambda: orders_of(world) == 5)
                await until(lambda: began(streamer) not in (None, first["started_at"]))
                world.commit("orders", order(16))
                await until(lambda: orders_of(world) == 6)
                assert stream_of(streamer, "orders")["last_error"] is None

        asyncio.run(run())
    said = [line for line in caplog.messages if "another change" in line]
    assert len(set(said)) == len(said) == 1
    assert "everything was started over: the stream warms up anew" in caplog.messages
