"""Stream and batch write the same online store at the same time, and agree."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest
from conftest import Clock
from live_logs import complete_log, parts_of
from random_log import Logs
from stream_batch import BatchProcess
from stream_helpers import FOREVER, StreamWorld, joined, stream_world, unequal
from stream_rows import DAY, HOUR, SECOND, click, furnish, order, session, user
from test_feast_repository import delivered_once, moved

from pipelines.lake.clock import utc_now

TIMES_TO_LIVE = {
    "user_intent": 7 * DAY,
    "session_events": DAY,
    "user_orders": 90 * DAY,
    "inventory_levels": 14 * DAY,
    "route_conditions": 2 * DAY,
}
"""As feature_views.py has them; the batch flow does not write what has expired."""


@pytest.fixture
def clock() -> Clock:
    """Times to live online go by the present, so this starts there."""
    return Clock(utc_now())


def served() -> dict[str, datetime]:
    """By view, the event time of the oldest row that has not expired."""
    return {view: utc_now() - width for view, width in TIMES_TO_LIVE.items()}


@pytest.mark.parametrize("seed", range(60, 63))
def test_both_flows_and_restarts_at_random_points(
    clock: Clock, batch: BatchProcess, seed: int
) -> None:
    """After each stretch of the stream the reference is online, whoever wrote last."""
    rng = random.Random(seed)
    logs = moved(delivered_once(complete_log(seed)), utc_now() - timedelta(hours=1))
    with stream_world(clock, batch, allowed_lateness=FOREVER, batch_size=50) as world:
        done: list[Logs] = []
        for part in parts_of(logs, 5):
            done.append(part)
            world.append(part)
            order = ["stream", "cycle", "restart", "tidy", "crash"]
            for deed in rng.sample(order, 3):
                if deed == "stream":
                    world.stream()
                elif deed == "cycle":
                    world.cycle(update=True)
                elif deed == "tidy":
                    world.flow.evict()
                else:
                    world.restart(save=deed == "restart")
            world.stream()
            assert not unequal(world, joined(done), since=served())
        world.cycle(update=True)
        assert not unequal(world, joined(done), since=served())


def test_what_is_too_late_for_the_stream_is_right_after_the_next_cycle(world: StreamWorld) -> None:
    """A late order of another user, and a session that resumes."""
    now = utc_now() - HOUR
    at = {"committed_at": now}
    old = now - 5 * DAY
    world.commit("users", user(2))
    world.commit("sessions", session("s2", old, **at))
    world.commit("clickstream", click(1, old, session_id="s2", **at))
    world.stream()
    world.commit("orders", order(1, now, **at))
    world.commit("clickstream", click(2, now, **at))
    world.commit("sessions", session("s3", now, **at))
    world.stream()
    world.flow.evict()
    world.commit("orders", order(2, now - 3 * DAY, user_id=2, **at))
    world.commit("clickstream", click(3, now, session_id="s2", **at))
    world.stream()
    assert (2,) not in world.online("user_orders")
    assert world.online("session_events")[("s2",)]["event_count"] == 1
    assert sum(len(seqs) for seqs in world.deferred().values()) >= 2
    world.cycle(update=True)
    assert world.online("user_orders")[(2,)]["orders_7d"] == 1
    assert world.online("session_events")[("s2",)]["event_count"] == 2
    world.commit("clickstream", click(4, now + SECOND, session_id="s2", **at))
    world.stream()
    world.cycle(update=True)
    assert world.online("session_events")[("s2",)]["event_count"] == 3


def test_a_stream_that_lags_behind_the_batch_flow(clock: Clock, batch: BatchProcess) -> None:
    """The batch flow has read more; what it knows is not overwritten for good."""
    now = utc_now() - HOUR
    with stream_world(clock, batch, allowed_lateness=86_400, batch_size=1) as world:
        furnish(world)
        world.commit("orders", order(1, now - 2 * DAY, committed_at=now - 2 * DAY))
        world.commit("users", user(2))
        world.run("users")
        world.commit("orders", order(2, now, user_id=2, committed_at=now))
        world.commit("orders", order(3, now - 3 * DAY, committed_at=now))
        world.cycle(update=True)
        assert world.online("user_orders")[(1,)]["orders_7d"] == 2
        world.flow.step("orders")
        world.flow.step("orders")
        world.flow.evict()  # the watermark moves while the third order is yet to come
        world.stream()
        world.cycle(update=True)
        assert world.online("user_orders")[(1,)]["orders_7d"] == 2


def test_a_correction_after_a_step_back_wins_by_the_batch_flow_too(
    world: StreamWorld, clock: Clock
) -> None:
    """The stream deferred it; the batch flow's row is newer than its own, whatever the clock."""
    now = utc_now() - HOUR
    at = {"committed_at": now}
    world.commit("orders", order(1, now, **at))
    world.stream()
    world.flow.save()
    clock.advance(hours=-5)
    world.commit("orders", order(2, now - 40 * DAY, **at), order(3, now - SECOND, **at))
    world.end()  # no stream runs
    world.cycle(update=True)
    assert world.online("user_orders")[(1,)]["orders_30d"] == 2
