"""Declared groups: every plan gives what the words say, and what cannot be meant is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

import duckdb
import ibis
import pytest
from declarations import check_drawn, load, run
from ibis.config import Config

from pipelines.features.compilers.every_row import every_row
from pipelines.features.compilers.newest_row import newest_row
from pipelines.features.compilers.state import GroupState
from pipelines.features.declare import (
    DeclarationError,
    Feature,
    FeatureGroup,
    WhileKnown,
    as_of,
    cases,
    changes,
    coalesce,
    count,
    count_distinct,
    days,
    event_time,
    facts,
    greatest,
    group,
    hour_of_day,
    in_hours,
    in_seconds,
    is_in,
    largest,
    last,
    last_k,
    mean,
    most_frequent,
    ratio,
    reports,
    share,
    since_previous,
    smallest,
    time_since_previous,
    total,
)
from pipelines.features.views import VIEWS, View
from pipelines.tables import shop
from pipelines.tables.declare import Log
from pipelines.tables.known import BY_NAME

CLICKS = facts(shop.CLICKSTREAM, at="event_timestamp")
ORDERS = facts(shop.ORDERS, at="order_timestamp")
DELIVERIES = reports(shop.SHIPMENTS, at="delivered_at")
SESSIONS, USERS, WAREHOUSES = changes(shop.SESSIONS), changes(shop.USERS), changes(shop.WAREHOUSES)
INVENTORY, ROUTES = changes(shop.INVENTORY), changes(shop.ROUTES)


class SparkOptions(Config):
    """What Ibis registers when its Spark back end is imported, which needs pyspark."""

    treat_nan_as_null: bool = False


def declared(value: Any, **changed: Any) -> FeatureGroup:
    """A group of users with one feature, `it`."""
    options: dict[str, Any] = {"keys": ("user_id",), "rows": ORDERS, "entity": USERS}
    return group("shoppers", features=[Feature("it", value, "")], **(options | changed))


def refused(value: Any, **changed: Any) -> str:
    """What is said of a declaration that cannot be meant: one line."""
    with pytest.raises(DeclarationError) as error:
        declared(value() if callable(value) else value, **changed)
    said = str(error.value)
    assert "\n" not in said
    return said


def test_every_plan_gives_what_the_words_say() -> None:
    """2,000 key histories of drawn groups; `python tests/declarations.py` checks more."""
    check_drawn(2_000)


def test_null_is_neither_true_nor_false() -> None:
    """A condition on an unknown value does not hold, its contrary neither."""
    is_fast = last(SESSIONS.click_rate) > 0.5  # unknown
    is_long = last(SESSIONS.session_duration) > 60  # true
    values = {
        "case": cases((is_fast, "yes"), (~is_fast, "no"), otherwise="unknown"),
        "either": is_fast | is_long,
        "both": is_fast & is_long,
        "neither": is_fast & ~is_long,
        "known": coalesce(is_fast, False),
        "largest": greatest(last(SESSIONS.click_rate), 0.25),
        "fast": count(SESSIONS, where=SESSIONS.click_rate > 0.5),
        "slow": count(SESSIONS, where=~(SESSIONS.click_rate > 0.5)),
        "share": share(SESSIONS.click_rate > 0.5),
    }
    features = [Feature(name, value, "") for name, value in values.items()]
    found = group("nulls", keys=("session_id",), rows=SESSIONS, entity=SESSIONS, features=features)
    at = datetime(2024, 3, 1)
    session = {"session_id": "s1", "user_id": 1, "products_viewed": [], "actions_performed": []}
    session |= {"session_duration": 61, "timestamp": at, "time_on_page": None}
    change = {"seq": 1, "op": "I", "committed_at": at, "scroll_depth": None, "click_rate": None}
    expected = {
        "session_id": "s1",
        "event_timestamp": at,
        "case": "unknown",
        "either": True,
        "both": None,
        "neither": False,
        "known": False,
        "largest": 0.25,
        "fast": 0,
        "slow": 0,
        "share": 0.0,
    }
    connection = duckdb.connect()
    load(connection, {"sessions": [session | change]})
    assert run(connection, every_row(found)) == [expected]
    assert run(connection, newest_row(found)) == [expected]
    state = GroupState(found)
    assert state.apply("sessions", session | change) == {("s1",)}
    assert state.newest(("s1",)) == expected


def test_a_mean_is_of_what_is_known() -> None:
    """A row whose value is null counts as a row, but not for the mean."""
    values = {"mean": mean(DELIVERIES.quantity), "count": count(DELIVERIES)}
    features = [Feature(name, value, "") for name, value in values.items()]
    found = group("means", keys=("route_id",), rows=DELIVERIES, entity=ROUTES, features=features)
    at = datetime(2024, 3, 1)
    shipment = dict.fromkeys(BY_NAME["shipments"].types) | {"op": "I", "route_id": "r1"}
    shipment |= {"committed_at": at, "delivered_at": at}
    rows = [
        shipment | {"seq": number, "shipment_id": number, "quantity": quantity}
        for number, quantity in enumerate([4, None, 6])
    ]
    expected = {"route_id": "r1", "event_timestamp": at, "mean": 5.0, "count": 3}
    connection = duckdb.connect()
    load(connection, {"shipments": rows, "routes": []})
    assert run(connection, every_row(found)) == [expected]
    assert run(connection, newest_row(found)) == [expected]
    state = GroupState(found)
    for row in rows:
        state.apply("shipments", row)
    assert state.newest(("r1",)) == expected


@pytest.mark.parametrize("plan", [every_row, newest_row], ids=lambda plan: plan.__name__)
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_group_compiles_for_spark(
    monkeypatch: pytest.MonkeyPatch, view: View, plan: Callable[[FeatureGroup], Any]
) -> None:
    """Both plans have a form there; no index from a list's end, which Ibis gets wrong for Spark."""
    monkeypatch.setattr(ibis.options, "pyspark", SparkOptions())
    statement = str(ibis.to_sql(plan(view.group), dialect="pyspark"))
    assert statement.startswith(("WITH", "SELECT"))
    assert "-1 + 1" not in statement


REFUSED: dict[str, tuple[Any, str]] = {
    "an unknown column": (
        last(ORDERS.colour),
        "shoppers.it: orders has no column colour: it has id, user_id, product_id, quantity, price,"
        " warehouse_id, shipping_method, order_timestamp, status",
    ),
    "a sum of texts": (
        total(ORDERS.status),
        "shoppers.it: a sum of texts is not exact: sum whole numbers, money or spans of time",
    ),
    "a sum of floats": (
        total(CLICKS.time_on_page),
        "shoppers.it: a sum of numbers is not exact: sum whole numbers, money or spans of time",
    ),
    "a mean of floats": (
        mean(ORDERS.price * 0.5),
        "shoppers.it: a sum of numbers is not exact: sum whole numbers, money or spans of time",
    ),
    "a window into the future": (
        count(ORDERS, within=days(-7)),
        "shoppers.it: a window of -604800000000 microseconds is none: its width is above 0, as of"
        " days(7)",
    ),
    "an empty window": (
        count(ORDERS, within=0),
        "shoppers.it: a window of 0 microseconds is none: its width is above 0, as of days(7)",
    ),
    "a window without a unit": (
        count(ORDERS, within=0.5),  # type: ignore[arg-type]  # the mistake that is tested
        "shoppers.it: a window of 0.5 microseconds is none: its width is above 0, as of days(7)",
    ),
    "a span without a unit": (
        time_since_previous(ORDERS),
        "shoppers.it: a span needs a unit: in_seconds(…), in_hours(…) or in_days(…)",
    ),
    "a time stamp": (
        last(ORDERS.order_timestamp),
        "shoppers.it: a time stamp is no feature: take hour_of_day(…), or in_hours(event_time - …)",
    ),
    "a text beside a number": (
        last(ORDERS.status) > 5,
        "shoppers.it: a text is not compared with a whole number: both sides have one type, or are"
        " numbers",
    ),
    "arithmetic with texts": (
        last(ORDERS.status) + 1,
        "shoppers.it: one can add numbers and spans of time, not a text and a whole number",
    ),
    "a ratio of texts": (
        ratio(last(ORDERS.status), count(ORDERS)),
        "shoppers.it: a text is not a number: whole numbers, numbers and spans of time are",
    ),
    "division by 0": (
        count(ORDERS) / 0,
        "shoppers.it: divide by a number that is not 0, or use ratio(a, b)",
    ),
    "a value of two logs": (
        last(ORDERS.quantity - SESSIONS.session_duration),
        "shoppers.it: a row's value is made of the columns of one log, not of orders and sessions",
    ),
    "a condition on another log": (
        count(ORDERS, where=CLICKS.action == "view"),
        "shoppers.it: where looks at rows of orders, as count does",
    ),
    "a condition that is none": (
        count(ORDERS, where=ORDERS.quantity),
        "shoppers.it: where is a condition, not a whole number",
    ),
    "a feature of features in a row's value": (
        total(ORDERS.quantity * count(ORDERS)),
        "shoppers.it: sum takes a value of one row, not another feature",
    ),
    "a list of none": (
        last_k(ORDERS.status, 0),
        "shoppers.it: last_k keeps at least 1 value, a whole number of them, not 0",
    ),
    "a list of two and a half": (
        last_k(ORDERS.status, 2.5),  # type: ignore[arg-type]  # the mistake that is tested
        "shoppers.it: last_k keeps at least 1 value, a whole number of them, not 2.5",
    ),
    "a list with nulls": (
        last_k(CLICKS.product_id, 3),
        "shoppers.it: the values of last_k cannot be null, which lists do not hold online: give"
        ' them one instead, as coalesce(…, "")',
    ),
    "a list of times since the row before": (
        last_k(in_seconds(since_previous(ORDERS)), 3),
        "shoppers.it: the values of last_k cannot be null, which lists do not hold online: give"
        " them one instead, as coalesce(…, 0.0)",
    ),
    "letters for constants": (
        count(ORDERS, where=is_in(ORDERS.status, "placed")),
        "shoppers.it: is_in takes a list of constants, not 'placed'",
    ),
    "columns for constants": (
        count(ORDERS, where=is_in(ORDERS.quantity, cast("list[int]", [ORDERS.id, 3]))),
        "shoppers.it: is_in takes constants: compare with others by == and |",
    ),
    "a number of more than 64 bits": (
        count(ORDERS, where=ORDERS.quantity < 10**30),
        f"shoppers.it: {10**30} is too large for a whole number of 64 bits",
    ),
    "a width without a unit": (
        count(ORDERS, within=7),
        "shoppers.it: within=7 is a number of microseconds: say days(7), hours(7) or seconds(7)",
    ),
    "a width that is true": (
        count(ORDERS, within=True),
        "shoppers.it: a window of True microseconds is none: its width is above 0, as of days(7)",
    ),
    "a window of a thousand years": (
        count(ORDERS, within=days(365 * 1000)),
        "shoppers.it: a window is at most a hundred years wide: leave within out for all of"
        " history",
    ),
    "a list of whole numbers": (
        last_k(ORDERS.quantity, 3),
        "shoppers.it: last_k keeps texts or numbers, not whole numbers",
    ),
    "the gap to the row before outside a list": (
        largest(since_previous(ORDERS)),
        "shoppers.it: since_previous is for last_k, not for max",
    ),
    "a column without an aggregation": (
        ORDERS.quantity,
        "shoppers.it: a column of orders has many values: choose by last(…), total(…) or another"
        " aggregation",
    ),
    "rows for a value": (
        ORDERS,
        "shoppers.it: a Rows is no value: columns, aggregations and constants are",
    ),
    "a value for rows": (
        count(ORDERS.quantity),  # type: ignore[arg-type]  # the mistake that is tested
        "shoppers.it: count takes rows of a log: facts(…), changes(…), reports(…)",
    ),
    "the smallest of flags": (
        smallest(ORDERS.quantity > 1),
        "shoppers.it: smallest compares numbers, texts, times or spans of time, not flags",
    ),
    "the most frequent number": (
        most_frequent(ORDERS.quantity),
        "shoppers.it: most_frequent takes a column of texts, not of whole numbers",
    ),
    "the most frequent computed value": (
        most_frequent(ORDERS.quantity + 1),
        "shoppers.it: most_frequent takes a column of a log, not a computed value",
    ),
    "distinct values of records": (
        count_distinct(SESSIONS.session_duration),
        "shoppers.it: of changes, count_distinct counts records: give it session_id of sessions,"
        " not session_duration",
    ),
    "an hour of a number": (
        hour_of_day(count(ORDERS)),
        "shoppers.it: a whole number stands where a time stamp is wanted",
    ),
    "a record that the keys do not name": (
        as_of(WAREHOUSES.region),
        "shoppers.it: as_of finds a record of warehouses by warehouse_id, which is not among the"
        " keys user_id",
    ),
    "a lookup into facts": (
        as_of(ORDERS.status),
        "shoppers.it: as_of looks into changes, not into facts",
    ),
    "a log without the key": (
        count(ROUTES),
        "shoppers.it: routes has no column user_id for the key user_id: name one of its columns"
        " with by(user_id=…): route_id, origin_id, destination_id, mode, distance_km, base_hours,"
        " base_cost, carbon_cost, delay_risk, congestion, updated_at",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_feature_that_cannot_be_meant_is_refused_in_one_line(what: str) -> None:
    """It names the group, the feature, and what is allowed."""
    value, said = REFUSED[what]
    assert refused(value) == said


def test_python_words_between_conditions_are_refused() -> None:
    """`and`, `or`, `not` and `if` would silently drop one of them."""
    said = (
        "an expression is neither true nor false: write & | ~ for and, or, not, cases(…) for if,"
        " is_in(…) for in, and (a < x) & (x < b) for a < x < b"
    )
    assert refused(lambda: last((ORDERS.quantity > 1) and (ORDERS.quantity < 5))) == said
    assert refused(lambda: 1 if count(ORDERS) > 1 else 0) == said
    assert refused(lambda: last(1 < ORDERS.quantity < 5)) == said


@pytest.mark.parametrize("name", ["it", "user_id", "event_timestamp", "created_timestamp"])
def test_two_columns_of_one_name_are_refused(name: str) -> None:
    """Of two features, or of a feature and what every row has."""
    features = [Feature("it", count(ORDERS), ""), Feature(name, count(CLICKS), "")]
    with pytest.raises(DeclarationError) as error:
        group("shoppers", keys=("user_id",), rows=ORDERS, entity=USERS, features=features)
    said = f"shoppers.{name}: there are two columns of this name: it must be its own"
    assert str(error.value) == said


def test_a_group_that_cannot_be_meant_is_refused_in_one_line() -> None:
    """It names the group, and what is allowed."""
    of = count(ORDERS)
    assert refused(of, keys=()) == "shoppers: it needs at least one key, and each once"
    assert refused(of, keys=("user_id", "user_id")) == refused(of, keys=())
    assert refused(of, rows=()) == "shoppers: it needs rows at whose times a feature row is due"
    said = refused(of, rows=ROUTES)
    assert said.startswith(
        "shoppers: routes has no column user_id for the key user_id: name one of"
    )
    assert refused(of, entity=ORDERS) == (
        "shoppers: its entity is known by changes(…), not by facts"
    )
    assert refused(of, entity=SESSIONS) == (
        "shoppers: its entity is a record of sessions, whose key is session_id, not user_id"
    )
    with pytest.raises(DeclarationError, match=r"^shoppers: it has no features; it needs at least"):
        group("shoppers", keys=("user_id",), rows=ORDERS, entity=USERS, features=[])


@pytest.mark.parametrize("rows", [(WhileKnown(ORDERS),), (USERS, WhileKnown(ORDERS), CLICKS)])
def test_rows_while_an_entity_is_known_stand_beside_its_changes_alone(rows: Any) -> None:
    """Else one could not say which row is the newest of a deleted entity."""
    assert refused(count(ORDERS), rows=rows) == (
        "shoppers: beside WhileKnown(…), rows are due at changes of users and at no others: wrap"
        " these too"
    )


def test_records_are_counted_where_one_column_tells_them_apart() -> None:
    """A stock is of a warehouse and a product; neither alone says of a depot's which it is."""
    products, of = changes(shop.PRODUCTS), INVENTORY.warehouse_id
    found = declared(count_distinct(of), keys=("product_id",), rows=products, entity=products)
    assert len(found.aggregations) == 1
    stocks = changes(shop.INVENTORY).by(sku="warehouse_id")
    skus = products.by(sku="product_id")
    assert refused(count_distinct(stocks.warehouse_id), keys=("sku",), rows=skus, entity=skus) == (
        "shoppers.it: count_distinct counts records of inventory, which warehouse_id alone does not"
        " tell apart: product_id is not among the keys"
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            lambda: facts(cast("Log", "returns"), at="at"),
            "'returns' is no declared log: take one of pipelines.tables.shop, such as ORDERS, or"
            " one of your own",
        ),
        (
            lambda: facts(shop.USERS, at="signed_up_at"),
            "users is no append-only log: use changes() of it",
        ),
        (
            lambda: facts(shop.ORDERS, at="placed_at"),
            "orders has no column placed_at: it has id, user_id, product_id, quantity, price,"
            " warehouse_id, shipping_method, order_timestamp, status",
        ),
        (
            lambda: facts(shop.ORDERS, at="price"),
            "orders.price is no time stamp, which a row's time must be",
        ),
        (
            lambda: changes(shop.USERS, at="signed_up_at"),
            "deletions from users have no time in signed_up_at: changes() are at committed_at",
        ),
        (
            lambda: changes(shop.SHIPMENTS, at="shipped_at"),
            "deletions from shipments have no time in shipped_at: changes() are at committed_at",
        ),
        (
            lambda: reports(shop.ORDERS, at="order_timestamp"),
            "orders does not say which records have other keys now, as reports() must know: declare"
            " it with marks_moves=True",
        ),
    ],
)
def test_rows_that_a_log_has_not_are_refused_in_one_line(
    rows: Callable[[], object], said: str
) -> None:
    """At once, where they are declared: it names the log and what is allowed."""
    with pytest.raises(DeclarationError) as error:
        rows()
    assert str(error.value) == said


def test_rows_that_are_declared_twice_are_the_same() -> None:
    """Two pages may each say `facts(shop.ORDERS, …)`, and a value may be of both."""
    again = facts(shop.ORDERS, at="order_timestamp")
    found = declared(total(ORDERS.quantity * again.quantity, where=again.status == "placed"))
    assert len(found.aggregations) == 1


def test_a_unit_makes_a_span_a_feature() -> None:
    """Hours since, as a number."""
    assert declared(in_hours(event_time - last(CLICKS.event_timestamp))).features["it"]
