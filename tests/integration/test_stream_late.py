"""Events older than the hot window, sessions whose clicks were forgotten, and the batch flow."""

from __future__ import annotations

from typing import Any

from stream_helpers import StreamWorld
from stream_rows import (
    DAY,
    HOUR,
    SECOND,
    T,
    click,
    order,
    product,
    route,
    session,
    shipment,
    stock,
    user,
)
from stream_rows import warehouse as house


def count(world: StreamWorld, session: str = "s1") -> Any:
    """How many events of a session are online."""
    return world.online("session_events").get((session,), {}).get("event_count")


def test_an_event_older_than_the_window_is_left_to_the_batch_flow(world: StreamWorld) -> None:
    """Its user's row is not written; it is counted, and named until the batch flow has read it."""
    world.commit("users", user(2))
    world.commit("orders", order(1, T))
    world.stream()
    world.flow.evict()  # which moves the watermark
    (late,) = world.commit("orders", order(2, T - 2 * DAY, user_id=2))
    world.stream()
    assert (2,) not in world.online("user_orders")
    assert world.counters("orders")["late"] == 1
    assert world.deferred()["orders"] == [late]


def test_what_was_late_is_not_named_for_ever(world: StreamWorld) -> None:
    """Once the batch flow has read it, it is no longer deferred."""
    world.commit("users", user(2))
    world.commit("orders", order(1, T))
    world.stream()
    world.flow.evict()
    world.commit("orders", order(3, T - 2 * DAY, user_id=2))
    world.stream()
    assert world.deferred()["orders"]
    world.cycle(update=True)
    world.flow.sync_with_batch()
    assert world.deferred()["orders"] == []


def test_an_event_older_than_all_windows_is_not_even_kept(world: StreamWorld) -> None:
    """Whether it comes twice only the batch flow can tell."""
    world.commit("orders", order(1, T))
    world.stream()
    world.flow.evict()
    (late,) = world.commit("orders", order(2, T - 40 * DAY))
    world.stream()
    assert world.counters("orders")["deferred"] == 1
    assert world.deferred()["orders"] == [late]
    world.commit("orders", order(3, T + HOUR))
    world.stream()
    assert world.online("user_orders")[(1,)]["orders_30d"] == 2


def test_a_late_event_corrects_the_newest_row(world: StreamWorld) -> None:
    """As long as that is not older than the window itself."""
    world.commit("orders", order(1, T))
    world.stream()
    world.commit("orders", order(2, T - 3 * DAY))
    world.commit("orders", order(3, T - 8 * DAY))
    world.stream()
    found = world.online("user_orders")[(1,)]
    assert (found["orders_7d"], found["orders_30d"], found["event_timestamp"]) == (2, 3, T)


def test_a_delivery_that_is_reported_on_another_route(world: StreamWorld) -> None:
    """The route that it was reported on before is computed anew as well."""
    delivered = shipment(1, T + HOUR)
    world.commit("routes", route("r1"), route("r2"))
    world.commit("shipments", delivered)
    world.commit("routes", *({**route(name, T + 2 * HOUR), "op": "U"} for name in ("r1", "r2")))
    world.stream()
    found = world.online("route_conditions")
    assert [found[(name,)]["deliveries_24h"] for name in ("r1", "r2")] == [1, 0]
    world.commit("shipments", {**delivered, "op": "U", "route_id": "r2"})
    world.stream()
    found = world.online("route_conditions")
    assert [found[(name,)]["deliveries_24h"] for name in ("r1", "r2")] == [0, 1]


def test_a_session_that_resumes_after_its_clicks_were_forgotten(world: StreamWorld) -> None:
    """It is not computed from half of its history; the batch flow knows the whole."""
    world.commit("clickstream", click(1, T), click(2, T + SECOND))
    world.stream()
    assert count(world) == 2
    world.commit("sessions", session("s2", T + 3 * DAY))
    world.commit("clickstream", click(3, T + 3 * DAY, session_id="s2"))
    world.stream()
    world.flow.evict()
    (resumed,) = world.commit("clickstream", click(4, T + 3 * DAY))
    world.stream()
    assert count(world) == 2
    assert world.deferred()["users"] == [resumed]
    assert world.counters("users")["deferred"] == 1
    world.cycle()
    world.restart(save=True)
    world.commit("clickstream", click(5, T + 3 * DAY + SECOND))
    world.stream()
    assert count(world) == 4
    assert count(world, "s2") == 1


def test_a_session_that_begins_within_the_window_is_computed(world: StreamWorld) -> None:
    """Its insertion comes before all of its clicks, so these are all there are."""
    world.commit("sessions", session("s2", T))
    world.commit("clickstream", click(1, T, session_id="s2"))
    world.stream()
    world.flow.evict()
    world.commit("clickstream", click(2, T + SECOND, session_id="s2"))
    world.stream()
    assert count(world, "s2") == 2


def test_a_reused_session_is_not_computed_from_half_of_its_history(world: StreamWorld) -> None:
    """Deleted, forgotten and inserted again: its clicks are facts that stay."""
    world.commit("clickstream", click(1, T), click(2, T + SECOND))
    world.commit("sessions", {**session("s1", T + SECOND), "op": "D", "committed_at": T + SECOND})
    world.commit("sessions", session("s2", T + 11 * DAY))
    world.commit("clickstream", click(3, T + 11 * DAY, session_id="s2"))
    world.stream()
    world.flow.evict()
    world.commit("sessions", session("s1", T + 11 * DAY))
    world.commit("clickstream", click(4, T + 11 * DAY))
    world.stream()
    assert count(world) != 1


def test_old_and_new_events_of_one_micro_batch(world: StreamWorld) -> None:
    """What is too old beside the other changes is written, or named as deferred."""
    world.commit("users", user(2))
    old = world.commit("orders", order(1, T, user_id=2))
    world.commit("orders", order(2, T + 5 * DAY))
    world.stream()
    assert (2,) in world.online("user_orders") or world.deferred()["orders"] == old


def test_an_event_too_old_for_one_of_its_views(world: StreamWorld) -> None:
    """Orders are quiet while stock changes: a late order may be news for the one view only."""
    world.commit("products", product("p2"))
    world.commit("inventory", stock(T))
    world.stream()
    world.commit("inventory", stock(T + 3 * DAY, product_id="p2"))
    world.stream()
    (late,) = world.commit("orders", order(1, T - SECOND))
    world.stream()
    row = world.online("inventory_levels")[("w1", "p1")]
    assert row["demand_24h"] == 1 or world.deferred()["orders"] == [late]


def test_a_warehouse_that_moves(world: StreamWorld) -> None:
    """Rows from then on say where it is; the row before says where it was."""
    world.commit("inventory", stock(T))
    world.stream()
    world.commit("warehouses", {**house("w1", "south"), "op": "U"})
    world.stream()
    assert world.online("inventory_levels")[("w1", "p1")]["warehouse_region"] == "north"
    world.commit("inventory", {**stock(world.clock()), "op": "U"})
    world.stream()
    assert world.online("inventory_levels")[("w1", "p1")]["warehouse_region"] == "south"
