"""What the stream puts online is what the reference says, however the changes come."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest
from conftest import Clock
from live_logs import LONG_AGO, complete_log, numbered, parts_of
from random_log import Logs, with_changed_keys
from reference import VIEWS
from stream_batch import BatchProcess
from stream_helpers import FOREVER, StreamWorld, joined, stream_world, unequal
from test_feast_repository import delivered_once

from pipelines.features.views import VIEWS_BY_NAME
from pipelines.settings import DATABASE_NAMES
from pipelines.tables.known import BY_NAME


def cut(seed: int, count: int, size: int = 60) -> list[Logs]:
    """A random log in so many parts, late and out-of-order events and ties among its changes."""
    return parts_of(delivered_once(complete_log(seed, size)), count)


@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize("seed", range(8))
def test_after_each_part_the_reference_is_online(clock: Clock, seed: int, parts: int) -> None:
    """Features and event times of every key of every view, and no other keys."""
    with stream_world(clock, allowed_lateness=FOREVER) as world:
        done: list[Logs] = []
        for part in cut(seed, parts):
            done.append(part)
            world.stream(part)
            assert not unequal(world, joined(done))
        for name in DATABASE_NAMES:
            counters = world.counters(name)
            assert counters["offset"] == counters["absorbed"] == counters["changes"]
            assert counters["rejected"] == counters["deferred"] == counters["errors"] == 0


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_the_micro_batch_size_does_not_matter(clock: Clock, batch_size: int) -> None:
    """One change at a time, a few, or all at once."""
    with stream_world(clock, allowed_lateness=FOREVER, batch_size=batch_size) as world:
        logs = joined(cut(30, 1, size=40))
        world.stream(logs)
        assert not unequal(world, logs)


@pytest.mark.parametrize("seed", range(20, 26))
def test_a_restart_loses_and_doubles_nothing(clock: Clock, batch: BatchProcess, seed: int) -> None:
    """At random points, with offsets saved before or not, batch cycles between or not."""
    rng = random.Random(seed)
    size = rng.choice([7, 1000])
    with stream_world(clock, batch, allowed_lateness=FOREVER, batch_size=size) as world:
        done: list[Logs] = []
        for part in cut(seed, 6):
            done.append(part)
            world.stream(part)
            if rng.random() < 0.5:
                world.cycle()
            if rng.random() < 0.5:
                world.flow.evict()
            if rng.random() < 0.6:
                world.restart(save=rng.random() < 0.5)
            world.stream()
            assert not unequal(world, joined(done))


@pytest.mark.parametrize("seed", range(40, 44))
def test_what_came_while_no_stream_ran_is_caught_up(
    clock: Clock, batch: BatchProcess, seed: int
) -> None:
    """The batch flow has read it; the stream writes it at its start."""
    with stream_world(clock, batch, allowed_lateness=FOREVER) as world:
        first, second, third = cut(seed, 3)
        world.stream(first)
        world.flow.save()
        world.end()
        world.append(second)
        world.cycle()
        world.stream(third)
        assert not unequal(world, joined([first, second, third]))


@pytest.mark.parametrize("batch_size", [1, 1000])
def test_shipments_whose_ids_are_changed_deliver_once(
    clock: Clock, batch: BatchProcess, batch_size: int
) -> None:
    """Both halves of a changed key come in one micro-batch, however small; after restarts too."""
    logs = delivered_once(complete_log(60))
    logs = numbered(with_changed_keys(logs, 60, routes=False, share=0.4))
    assert sum("old_key" in row for row in logs["shipments"]) > 5
    with stream_world(clock, batch, allowed_lateness=FOREVER, batch_size=batch_size) as world:
        done: list[Logs] = []
        for number, part in enumerate(parts_of(logs, 3)):
            done.append(part)
            world.stream(part)
            assert not unequal(world, joined(done))
            if number:
                world.cycle()
                world.restart(save=number == 1)
                world.stream()
                assert not unequal(world, joined(done))


def begun_once(parts: list[Logs]) -> list[Logs]:
    """The same, each session inserted before its clicks and never again."""
    for part in parts:
        for row in part.get("sessions", []):
            if row["op"] == "I" and row["committed_at"] != LONG_AGO:
                row["op"] = "U"
    return parts


def edges(world: StreamWorld) -> dict[str, datetime]:
    """By view, from when on its rows are exact."""
    return {view: world.flow.window.watermarks.of(VIEWS_BY_NAME[view]) for view in VIEWS}


@pytest.mark.parametrize("batch_size", [5, 1000])
@pytest.mark.parametrize("days", [0.5, 3, 10])
@pytest.mark.parametrize("seed", range(50, 55))
def test_evictions_keep_what_comes_later_exact(
    clock: Clock, seed: int, days: float, batch_size: int
) -> None:
    """Every key whose newest row lies behind the watermark: nothing of it was deferred."""
    lateness = timedelta(days=days) // timedelta(seconds=1)
    with stream_world(clock, allowed_lateness=lateness, batch_size=batch_size) as world:
        done: list[Logs] = []
        for part in begun_once(cut(seed, 5)):
            done.append(part)
            world.stream(part)
            world.flow.evict()
            deferred = {name: set(seqs) for name, seqs in world.deferred().items()}
            wrong = unequal(world, joined(done), since=edges(world))
            assert not {
                k: v for k, v in wrong.items() if k[1:] not in excused(done, deferred, k[0])
            }


def excused(done: list[Logs], deferred: dict[str, set[int]], view: str) -> set[tuple[object, ...]]:
    """The keys of a view that changes deferred to the batch flow touch."""
    found: set[tuple[object, ...]] = set()
    for source in VIEWS_BY_NAME[view].sources:
        seqs = deferred[BY_NAME[source.log].database]
        for row in joined(done).get(source.log, []):
            if row["seq"] in seqs:
                found.add(tuple(row[key] for key in source.keys))
    return found
