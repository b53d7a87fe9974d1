"""Deletions that the streamer meets late, early, in crowds, or without knowing what they delete."""

from __future__ import annotations

from typing import Any

from deletion_cases import gone, put
from reference import FEATURES
from stream_helpers import StreamWorld
from stream_rows import DAY, HOUR, SECOND, T, order, route, session, stock, user

from pipelines.features.views import VIEWS_BY_NAME


def is_null(world: StreamWorld, view: str, *key: Any) -> bool:
    """Whether a key's row is there and has no value."""
    row = world.online(view)[key]
    return all(row[name] is None for name in FEATURES[view])


def test_a_position_that_has_left_the_window_is_null_at_once(world: StreamWorld) -> None:
    """It is known to have been there, which is all that its deletion needs; after a restart too."""
    world.commit(
        "inventory", put(stock(T)), put(stock(T, product_id="p1", warehouse_id="w1"), op="U")
    )
    world.commit("sessions", put(session("s2", T + 5 * DAY)))
    world.commit("orders", put(order(1, T + 5 * DAY)))
    world.stream()
    world.flow.evict()
    world.cycle()
    world.restart(save=True)
    with world.flow.window.cursor() as cursor:
        assert cursor.execute("SELECT count(*) FROM inventory_levels.hot_inventory").fetchone() == (
            0,
        )
    world.commit("inventory", gone(stock(T), T + 6 * DAY))
    world.stream()
    assert is_null(world, "inventory_levels", "w1", "p1")
    assert world.deferred()["inventory"] == []


def test_a_deletion_of_what_never_was_is_left_to_the_batch_flow(world: StreamWorld) -> None:
    """Which refuses it: no row appears, and none is waited for."""
    deleted = world.commit("inventory", gone(stock(T), T + HOUR))
    deleted_user = world.commit("users", gone(user(7), T + HOUR))
    world.stream()
    assert world.online("inventory_levels") == {}
    assert (7,) not in world.online("user_intent")
    assert world.deferred()["inventory"] == deleted
    assert world.deferred()["users"] == deleted_user
    refused = world.cycle(update=True)
    assert (refused["inventory"], refused["users"]) == (1, 1)
    world.flow.sync_with_batch()
    assert not any(world.deferred().values())
    assert world.online("inventory_levels") == {}


def test_a_deletion_older_than_the_window_is_left_to_the_batch_flow(world: StreamWorld) -> None:
    """As other late changes are; it is online when the batch flow has materialized it."""
    world.commit("users", put(user(2)))
    world.commit("orders", put(order(1, T)), put(order(2, T + 5 * DAY, user_id=2)))
    world.stream()
    world.flow.evict()
    late = world.commit("users", gone(user(1), T + DAY))
    world.stream()
    assert not is_null(world, "user_orders", 1)
    assert world.deferred()["users"] == late
    world.cycle(update=True)
    assert is_null(world, "user_orders", 1)


def test_a_deletion_turns_no_clock_on(world: StreamWorld) -> None:
    """It goes by the database's clock; by the shop's own an event of an hour ago is not late."""
    world.commit("inventory", put(stock(T)))
    world.commit("inventory", gone(stock(T), T + 300 * DAY))
    world.stream()
    world.flow.evict()
    world.commit("orders", put(order(1, T + HOUR)))
    world.commit("routes", put(route("r1", T + HOUR)))
    world.stream()
    assert (1,) in world.online("user_orders")
    assert not any(world.deferred().values())


def test_thousands_of_deletions_at_once(world: StreamWorld) -> None:
    """And the rows that are there again behind them, in the same micro-batches."""
    count = 3_000
    rows = [stock(T, product_id="p1", warehouse_id="w1")]
    sessions = [session(f"t{n}", T + n * SECOND / 100) for n in range(count)]
    world.commit("inventory", *map(put, rows))
    world.commit("sessions", *map(put, sessions))
    world.stream()
    assert world.online("user_intent")[(1,)]["sessions_7d"] == count + 1
    world.commit("sessions", *(gone(row, T + HOUR + SECOND) for row in sessions))
    world.commit("sessions", *(put(row, T + HOUR + 2 * SECOND) for row in sessions[:10]))
    world.stream()
    assert world.online("user_intent")[(1,)]["sessions_7d"] == 11
    found = world.online("session_events")
    assert len(found) == count
    assert all(row["event_count"] is None for row in found.values())


def test_what_a_deletion_needs_of_each_view_is_kept(world: StreamWorld) -> None:
    """No view's tables hold what only another one reads."""
    world.commit("users", gone(user(1), T + HOUR))
    world.stream()
    with world.flow.window.cursor() as cursor:
        for view in VIEWS_BY_NAME.values():
            for source in view.sources:
                if source.only == "op = 'D'":
                    query = f"SELECT count(*) FROM {view.name}.hot_{source.log} WHERE op <> 'D'"
                    assert cursor.execute(query).fetchone() == (0,)
