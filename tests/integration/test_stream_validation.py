"""What the stream does with changes that break a rule, come twice, or refer to nothing yet."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from typing import Any

import pytest
from stream_helpers import StreamWorld
from stream_rows import DAY, HOUR, SECOND, T, click, order, product, route, stock, user


def quarantined(world: StreamWorld, table: str) -> list[int]:
    """The changes of a table in quarantine."""
    folder = world.batch_config.quarantine_path / table
    lines = [line for file in sorted(folder.glob("*")) for line in file.read_text().splitlines()]
    return [json.loads(line)["seq"] for line in lines]


def count(world: StreamWorld, session: str = "s1") -> Any:
    """How many events of a session are online."""
    return world.online("session_events").get((session,), {}).get("event_count")


REJECTIONS = ("rejected", "deferred")


def orders(world: StreamWorld, user_id: int = 1) -> Any:
    """How many orders of a user are online."""
    return world.online("user_orders").get((user_id,), {}).get("orders_7d")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"action": "dance"}, "action = dance must be one of"),
        ({"time_on_page": "soon"}, "time_on_page = soon is not a number"),
        ({"scroll_depth": 2.0}, "scroll_depth = 2.0 must lie in 0–1"),
        ({"user_id": None}, "user_id is missing"),
        ({"event_timestamp": T + 3650 * DAY}, "lies in the future"),
    ],
)
def test_a_rejected_row_does_not_stop_the_stream(
    world: StreamWorld, caplog: pytest.LogCaptureFixture, changed: dict[str, Any], reason: str
) -> None:
    """It is counted and logged, and the batch flow puts it into quarantine once."""
    bad = world.commit("clickstream", click(1, **changed))
    world.commit("clickstream", click(2))
    with caplog.at_level(logging.WARNING):
        world.stream()
    assert count(world) == 1
    assert world.counters("users")["rejected"] == 1
    assert [line for line in caplog.messages if reason in line]
    for _ in range(2):
        world.cycle()
        world.flow.evict()
        world.restart(save=True)
        world.stream()
    assert quarantined(world, "clickstream") == bad
    assert count(world) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE change_log SET row = '{' WHERE seq = ?",
        "UPDATE change_log SET row = CAST(row AS BLOB) WHERE seq = ?",
        pytest.param(
            "UPDATE change_log SET row = CAST(x'ff7b7d' AS TEXT) WHERE seq = ?",
        ),
        pytest.param(
            "UPDATE change_log SET row = replace(row, 'view', CAST(x'ff' AS TEXT)) WHERE seq = ?",
        ),
        pytest.param(
            "UPDATE change_log SET row = x'ff00' WHERE seq = ?",
        ),
        "UPDATE change_log SET row = 5 WHERE seq = ?",
        "UPDATE change_log SET committed_at = 12345 WHERE seq = ?",
        "UPDATE change_log SET committed_at = 1.5 WHERE seq = ?",
        "UPDATE change_log SET table_name = 'unheard_of' WHERE seq = ?",
        pytest.param(
            "UPDATE change_log SET table_name = x'ff' WHERE seq = ?",
        ),
    ],
)
def test_a_broken_entry_of_the_change_log_does_not_stop_the_stream(
    world: StreamWorld, statement: str
) -> None:
    """Whatever lies in its columns; what the batch flow accepts the stream accepts too."""
    (bad,) = world.commit("clickstream", click(1))
    with closing(world.database("users")) as connection, connection:
        connection.execute(statement, (bad,))
    world.commit("clickstream", click(2))
    world.stream()
    rejected = world.cycle().get("clickstream", 0)
    assert world.counters("users")["offset"] == bad + 1
    assert world.counters("users")["rejected"] == rejected
    wanted = {"rejected": 1, "unheard_of": 1, "accepted": 2}
    kind = "rejected" if rejected else "unheard_of" if "table_name" in statement else "accepted"
    assert count(world) == wanted[kind]


def test_a_reference_to_nothing_is_left_to_the_batch_flow(
    world: StreamWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Which refuses it; the stream does not ask for it for ever."""
    (orphan,) = world.commit("clickstream", click(1, product_id="unheard_of"))
    with caplog.at_level(logging.WARNING):
        world.stream()
    assert world.counters("users")["deferred"] == 1
    assert world.deferred()["users"] == [orphan]
    assert [r for r in caplog.messages if "product_id = unheard_of is not known in products" in r]
    world.cycle(update=True)
    world.flow.sync_with_batch()
    assert quarantined(world, "clickstream") == [orphan]
    assert world.deferred()["users"] == []
    assert count(world) is None


def test_any_number_of_changes_may_be_left_to_the_batch_flow(world: StreamWorld) -> None:
    """Each of them comes back when it was accepted, and the audit knows of each meanwhile."""
    count = 10_500
    orders = world.commit("orders", *(order(n, user_id=2) for n in range(1, count + 1)))
    world.stream()
    assert world.deferred()["orders"] == orders
    world.commit("users", user(2))
    world.stream()
    world.cycle(update=True)
    world.flow.sync_with_batch()
    world.commit("orders", order(count + 1, T + SECOND, user_id=2))
    world.stream()
    assert world.online("user_orders")[(2,)]["orders_30d"] == count + 1
    assert world.deferred()["orders"] == []


def test_a_parent_in_another_database_is_waited_for(world: StreamWorld) -> None:
    """Nothing is taken in until its stream has caught up; then the child is good."""
    world.commit("products", product("p2"))
    world.commit("clickstream", click(1, product_id="p2"))
    step = world.flow.step("users")
    assert step.waits_for == {"inventory"}
    assert count(world) is None
    world.run("inventory")
    assert not world.flow.step("users", final=True).waits_for
    assert count(world) == 1
    assert world.counters("users")["deferred"] == 0


def test_a_parent_in_the_same_micro_batch_is_known(world: StreamWorld) -> None:
    """A user's first order is in another database than the user."""
    world.commit("users", user(2))
    world.commit("orders", order(1, user_id=2))
    world.stream()
    assert world.online("user_orders")[(2,)]["orders_7d"] == 1


def test_what_the_batch_flow_accepts_comes_back(world: StreamWorld) -> None:
    """The parent came after the child, but before the batch cycle."""
    world.commit("clickstream", click(1, product_id="p2"))
    world.commit("clickstream", click(2, T + SECOND))
    world.stream()
    assert count(world) == 1
    world.commit("products", product("p2"))
    world.stream()
    assert world.flow.apply_batch("users") == 0
    assert not world.cycle()
    assert world.flow.apply_batch("users") == 1
    assert world.flow.apply_batch("users") == 0
    assert count(world) == 2
    world.cycle(update=True)
    world.flow.sync_with_batch()
    assert world.deferred()["users"] == []
    world.commit("clickstream", click(3, T + 2 * SECOND))
    world.stream()
    assert count(world) == 3


@pytest.mark.parametrize("apart", [False, True])
def test_a_second_insertion_is_an_update(world: StreamWorld, apart: bool) -> None:
    """In the same micro-batch, in another one and after a restart: the fact is the first."""
    world.commit("clickstream", click(1))
    world.commit("orders", order(1))
    if apart:
        world.stream()
    world.commit("clickstream", click(1, T + SECOND))
    world.commit("orders", order(1, T + SECOND))
    world.stream()
    assert (count(world), orders(world)) == (1, 1)
    world.cycle()
    world.restart(save=True)
    world.commit("clickstream", click(1, T + 2 * SECOND))
    world.commit("orders", order(1, T + 2 * SECOND))
    world.stream()
    assert (count(world), orders(world)) == (1, 1)
    assert [world.counters(n)[c] for n in ("users", "orders") for c in REJECTIONS] == [0] * 4


@pytest.mark.parametrize(("apart", "published"), [(False, False), (True, False), (True, True)])
def test_a_reused_id_is_another_order(world: StreamWorld, apart: bool, published: bool) -> None:
    """The highest one is given again after its row was deleted; the first order stays a fact."""
    for change in (order(1), {**order(1), "op": "D"}, order(1, T + SECOND)):
        world.commit("orders", change)
        if apart:
            world.stream()
        if published:
            world.cycle()
            world.restart(save=True)
    world.stream()
    assert orders(world) == 2
    world.commit("orders", order(1, T + 2 * SECOND))
    world.stream()
    assert orders(world) == 2
    assert [world.counters("orders")[name] for name in REJECTIONS] == [0, 0]


@pytest.mark.parametrize("apart", [False, True])
def test_an_update_of_a_rejected_order_is_its_insertion(world: StreamWorld, apart: bool) -> None:
    """It counts at once, and once."""
    world.commit("orders", order(1, quantity=0))
    if apart:
        world.stream()
    world.commit("orders", order(1, op="U"), order(1, op="U", status="shipped"))
    world.stream()
    assert orders(world) == 1
    world.cycle(update=True)
    world.flow.sync_with_batch()
    world.restart(save=True)
    world.commit("orders", order(2, T + SECOND))
    world.stream()
    assert orders(world) == 2


def test_a_row_that_waited_comes_when_the_batch_flow_lets_it_in(world: StreamWorld) -> None:
    """The parent came cycles later; another change of the waiting row is left alone until then."""
    world.commit("orders", order(1, user_id=2))
    world.stream()
    assert world.cycle() == {"orders": 1}
    world.flow.sync_with_batch()
    world.commit("orders", order(1, user_id=2, op="U", status="shipped"))
    world.commit("users", user(2))
    world.stream()
    assert (2,) not in world.online("user_orders")
    assert not world.cycle()
    world.flow.sync_with_batch()
    assert world.online("user_orders")[(2,)]["orders_7d"] == 1
    world.commit("orders", order(2, T + SECOND, user_id=2))
    world.stream()
    assert world.online("user_orders")[(2,)]["orders_7d"] == 2
    world.cycle(update=True)
    world.flow.sync_with_batch()
    world.commit("orders", order(1, T + 2 * SECOND, user_id=2))
    world.stream()
    assert world.online("user_orders")[(2,)]["orders_7d"] == 2


def test_a_row_that_was_taken_in_sooner_is_not_taken_in_twice(world: StreamWorld) -> None:
    """The stream saw the parent before the batch flow did, which let the row in later."""
    world.commit("orders", order(1, user_id=2))
    world.cycle()
    world.restart(save=False)
    world.commit("users", user(2))
    world.stream()
    world.cycle()
    world.flow.sync_with_batch()
    world.flow.sync_with_batch()
    assert world.online("user_orders")[(2,)]["orders_7d"] == 1


def test_a_deleted_and_inserted_stock_goes_on(world: StreamWorld) -> None:
    """Of a mutable row every insertion is a change like any other."""
    world.commit("inventory", stock(), {**stock(), "op": "D"})
    world.commit("inventory", stock(T + HOUR, current_stock=7))
    world.stream()
    assert world.online("inventory_levels")[("w1", "p1")]["stock_level"] == 7
    assert world.counters("inventory")["rejected"] == 0


@pytest.mark.parametrize("text", ["{:%FT%T}Z", "{:%F %T.%f}+00:00", "{:%FT%T}.0000001-0000"])
def test_a_time_stamp_may_carry_an_offset(world: StreamWorld, text: str) -> None:
    """The quick look knows our own form alone; the close one makes no fault of it."""
    world.commit("clickstream", click(1, event_timestamp=text.format(T)), click(2, T + SECOND))
    world.stream()
    assert count(world) == 2
    assert world.counters("users")["rejected"] == 0
    assert not world.cycle()


def test_a_deletion_dates_nothing(world: StreamWorld) -> None:
    """A row with a mistaken time is rejected; that it is deleted does not turn the clock on."""
    mistaken = route("r1", T + 3650 * DAY)
    world.commit("routes", mistaken, {**mistaken, "op": "D"})
    world.stream()
    world.commit("routes", route("r1", T + HOUR))
    world.stream()
    assert world.online("route_conditions")[("r1",)]["event_timestamp"] == T + HOUR
