"""What the declared groups need of the logs: it follows from them; here it is written down once."""

from __future__ import annotations

import pytest

from pipelines.features.declare import (
    Feature,
    changes,
    count,
    count_distinct,
    days,
    facts,
    group,
    in_seconds,
    last,
    last_k,
    time_since_previous,
    total,
)
from pipelines.features.language.aggregations import DAY
from pipelines.features.language.rows import Rows
from pipelines.features.needs import Source, is_streamed, sources_of
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.tables import shop

CLICKS = facts(shop.CLICKSTREAM, at="event_timestamp")
ORDERS = facts(shop.ORDERS, at="order_timestamp")
SESSIONS = changes(shop.SESSIONS)
USERS = changes(shop.USERS)
GONE = Source("users", ("user_id",), "committed_at", only="op = 'D'")
EXPECTED = {
    "user_intent": {
        Source("sessions", ("user_id",), "timestamp", 7 * DAY, member="session_id"),
        Source(
            "clickstream",
            ("user_id",),
            "event_timestamp",
            7 * DAY,
            only="op = 'I' AND ((\"action\" = 'add_to_cart') OR (\"action\" = 'purchase'))",
        ),
        GONE,
    },
    "session_events": {
        Source(
            "clickstream",
            ("session_id",),
            "event_timestamp",
            None,
            only="op = 'I'",
            begun_by="sessions",
        ),
        Source("sessions", ("session_id",), "timestamp", only="op = 'D'"),
    },
    "user_orders": {
        Source(
            "orders",
            ("user_id",),
            "order_timestamp",
            30 * DAY,
            newest_before=True,
            only="op = 'I'",
        ),
        GONE,
    },
    "inventory_levels": {
        Source("inventory", ("warehouse_id", "product_id"), "updated_at"),
        Source("orders", ("warehouse_id", "product_id"), "order_timestamp", DAY, only="op = 'I'"),
    },
    "route_conditions": {
        Source("routes", ("route_id",), "updated_at", newest_before=True),
        Source(
            "shipments",
            ("route_id",),
            "delivered_at",
            7 * DAY,
            only="(delivered_at IS NOT NULL OR op IN ('D', 'M'))",
            identity="shipment_id",
            unnoticed="op = 'D'",
        ),
    },
}


@pytest.mark.parametrize("view", EXPECTED)
def test_the_needs_of_the_dictionary(view: str) -> None:
    """As they were written by hand before they followed from the declarations."""
    assert set(VIEWS_BY_NAME[view].sources) == EXPECTED[view]


def test_only_inventory_looks_something_up() -> None:
    """A warehouse's region, whose log is read whole."""
    found = {name: view.tables for name, view in VIEWS_BY_NAME.items() if view.tables}
    assert found == {"inventory_levels": ("warehouses",)}


def needs_of(*values: object, rows: Rows = ORDERS) -> dict[str, Source]:
    """By log, what a group of users' orders, or other rows, needs for such features."""
    features = [Feature(f"f{number}", value, "") for number, value in enumerate(values)]
    made = group("g", keys=("user_id",), rows=rows, entity=USERS, features=features)
    return {source.log: source for source in sources_of(made)}


def test_the_longest_window_says_how_far_back() -> None:
    """Of each log by itself; one feature without a window needs the whole history."""
    found = needs_of(count(CLICKS, within=days(2)), total(ORDERS.quantity, within=days(5)))
    assert (found["clickstream"].lookback, found["orders"].lookback) == (2 * DAY, 5 * DAY)
    found = needs_of(count(CLICKS, within=days(2)), last_k(CLICKS.action, 3))
    assert (found["clickstream"].lookback, found["orders"].lookback) == (None, 0)


def test_a_state_between_its_own_times_needs_the_row_before() -> None:
    """The last click before an order may lie long before it."""
    found = needs_of(last(CLICKS.action))["clickstream"]
    assert (found.lookback, found.newest_before) == (0, True)


def test_rows_that_no_feature_counts_are_not_needed() -> None:
    """Conditions narrow a log down, unless a feature row is due at its rows."""
    found = needs_of(count(CLICKS, where=CLICKS.action == "search", within=days(1)))
    assert found["clickstream"].only == "op = 'I' AND (\"action\" = 'search')"
    found = needs_of(
        count(CLICKS, where=CLICKS.action == "search", within=days(1)), count(CLICKS, within=DAY)
    )
    assert found["clickstream"].only == "op = 'I'"
    found = needs_of(count(ORDERS, where=ORDERS.quantity > 1, within=DAY))
    assert found["orders"].only == "op = 'I'"


def test_of_distinct_records_only_the_newest_rows_matter() -> None:
    """Unless something else is asked of them too."""
    distinct = count_distinct(SESSIONS.session_id, within=days(1))
    assert needs_of(distinct, rows=SESSIONS)["sessions"].member == "session_id"
    more = needs_of(distinct, count(SESSIONS, within=DAY), rows=SESSIONS)
    assert more["sessions"].member is None
    assert needs_of(distinct)["sessions"].member is None  # an order may lie between two rows


def test_a_span_since_the_row_before_looks_back_over_deletions() -> None:
    """Of facts the row before is enough; of changes it may be a deletion, which does not count."""
    facts_before = needs_of(in_seconds(time_since_previous(CLICKS)))["clickstream"]
    assert (facts_before.lookback, facts_before.newest_before) == (0, True)
    assert needs_of(in_seconds(time_since_previous(SESSIONS)))["sessions"].lookback is None


def test_what_looks_back_without_a_limit_is_streamed_where_a_key_can_be_seen_to_begin() -> None:
    """One log that refers to the entity, and nothing else beside it but deletions."""
    assert is_streamed([*needs_of(count(ORDERS)).values()])
    assert is_streamed(
        [*needs_of(last(CLICKS.action), total(ORDERS.quantity, within=DAY)).values()]
    )
    assert not is_streamed([*needs_of(count(CLICKS)).values()])
    assert not is_streamed([*needs_of(count(ORDERS), last(CLICKS.action)).values()])
