"""The machine's clock steps back: what is computed later still counts as newer."""

from __future__ import annotations

import logging

import pytest
from conftest import Clock
from stream_helpers import StreamWorld
from stream_rows import DAY, SECOND, T, order, user


def orders_of(world: StreamWorld, number: int) -> int | None:
    """How many orders of a user are online."""
    found: int | None = world.online("user_orders").get((number,), {}).get("orders_30d")
    return found


@pytest.mark.parametrize("restart", [False, True])
def test_a_correction_after_a_step_back_wins(
    world: StreamWorld, clock: Clock, caplog: pytest.LogCaptureFixture, restart: bool
) -> None:
    """It has the event time of the row that it corrects, so its created timestamp decides."""
    world.commit("orders", order(1, T))
    world.stream()
    first = world.online("user_orders")[(1,)]
    clock.advance(hours=-2)
    if restart:
        world.restart(save=True)
    with caplog.at_level(logging.WARNING):
        for late in range(2, 5):
            world.commit("orders", order(late, T - late * SECOND))
            world.stream()
    second = world.online("user_orders")[(1,)]
    assert second["orders_30d"] == 4
    assert second["event_timestamp"] == first["event_timestamp"]
    assert second["created_timestamp"] > first["created_timestamp"]
    assert world.flow.report()["clock_steps_back"] == 1
    assert len([r for r in caplog.messages if "the clock stepped back" in r]) == 1


def test_the_stream_goes_on_from_what_the_batch_flow_has_created(
    world: StreamWorld, clock: Clock
) -> None:
    """A batch cycle ran before the step, and the streamer starts after it."""
    world.commit("orders", order(1, T))
    world.stream()
    clock.advance(hours=5)
    world.commit("users", user(2))
    world.commit("orders", order(2, T, user_id=2))
    world.cycle()
    clock.advance(hours=-5)
    world.restart(save=True)
    world.commit("orders", order(3, T - SECOND, user_id=2))
    world.stream()
    assert orders_of(world, 2) == 2
    assert world.online("user_orders")[(2,)]["created_timestamp"] > clock.now + DAY / 6
