"""Which changes are rejected, and in what words: the rules of each log, a broken row each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import duckdb
import pytest

from pipelines.change_log.parsing import UNEXPLAINED, typed_rows
from pipelines.tables.declare import INTEGER, MONEY, NUMBER, TEXT, TEXTS, TIME, Column, Log
from pipelines.tables.known import BY_NAME

COMMITTED = "2026-01-31 12:00:00.000000"
EARLIER = "2026-01-30 12:00:00.000001"
# A good row of each log, as the triggers write it.
GOOD: dict[str, dict[str, Any]] = {
    "users": {"user_id": 1, "region": "north", "signed_up_at": EARLIER},
    "sessions": {
        "session_id": "s1",
        "user_id": 1,
        "products_viewed": '["p1", "p1"]',
        "actions_performed": '["view"]',
        "session_duration": 30,
        "timestamp": EARLIER,
        "intent_signals": '{"time_on_page": 12.5, "scroll_depth": 0.5, "click_rate": 0.1}',
    },
    "clickstream": {
        "event_id": 1,
        "session_id": "s1",
        "user_id": 1,
        "product_id": "p1",
        "action": "view",
        "time_on_page": 1.5,
        "scroll_depth": 0.25,
        "event_timestamp": EARLIER,
    },
    "warehouses": {
        "warehouse_id": "w1",
        "region": "north",
        "latitude": 48.1,
        "longitude": -11.5,
        "capacity": 100,
    },
    "products": {"product_id": "p1", "category": "c", "unit_price": 9.99, "weight_kg": 0.5},
    "inventory": {
        "warehouse_id": "w1",
        "product_id": "p1",
        "current_stock": 5,
        "reserved_stock": 0,
        "reorder_point": 2,
        "carbon_footprint": 1.25,
        "updated_at": EARLIER,
    },
    "orders": {
        "id": 1,
        "user_id": 1,
        "product_id": "p1",
        "quantity": 2,
        "price": 9.99,
        "warehouse_id": "w1",
        "shipping_method": "express",
        "order_timestamp": EARLIER,
        "status": "placed",
    },
    "suppliers": {"supplier_id": "u1", "region": "north", "lead_time_days": 3.5},
    "routes": {
        "route_id": "r1",
        "origin_id": "w1",
        "destination_id": "north",
        "mode": "rail",
        "distance_km": 10.5,
        "base_hours": 1.5,
        "base_cost": 2.5,
        "carbon_cost": 3.5,
        "delay_risk": 0.5,
        "congestion": 1,
        "updated_at": EARLIER,
    },
    "shipments": {
        "shipment_id": 1,
        "order_id": 1,
        "route_id": "r1",
        "warehouse_id": "w1",
        "product_id": "p1",
        "quantity": 2,
        "shipping_method": "economy",
        "weight_kg": 1.5,
        "cost": 2.5,
        "carbon_kg": 0.5,
        "shipped_at": EARLIER,
        "promised_at": EARLIER,
        "delivered_at": EARLIER,
        "status": "delivered",
    },
}
COLUMNS = [(log, column) for log in BY_NAME.values() for column in log.columns]
ENUMS = {
    ("clickstream", "action"),
    ("orders", "shipping_method"),
    ("orders", "status"),
    ("routes", "mode"),
    ("shipments", "shipping_method"),
    ("shipments", "status"),
}
SHARES = {
    ("sessions", "scroll_depth"),
    ("clickstream", "scroll_depth"),
    ("routes", "delay_risk"),
    ("routes", "congestion"),
}
PLACES = {("warehouses", "latitude"): 90, ("warehouses", "longitude"): 180}
UNITS = {("orders", "quantity"), ("shipments", "quantity")}


def ids(value: Log | Column) -> str:
    return value.name


def those(*types: str) -> list[tuple[Log, Column]]:
    return [(log, column) for log, column in COLUMNS if column.type in types]


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


@pytest.fixture
def typed(connection: duckdb.DuckDBPyConnection) -> Any:
    """Types one change; answers with its columns and the reason of its refusal, or None."""
    typed_rows.cache_clear()  # so that a mutation run sees that each test asks for its SQL

    def one(
        log: Log | str,
        row: dict[str, Any] | str | None,
        op: str | None = "I",
        committed_at: str | None = COMMITTED,
    ) -> dict[str, Any]:
        log = BY_NAME[log] if isinstance(log, str) else log
        text = json.dumps(row) if isinstance(row, dict) else row
        connection.execute(
            "CREATE OR REPLACE TABLE changes AS SELECT 7::BIGINT AS seq, ?::VARCHAR AS op, "
            "?::VARCHAR AS row, ?::VARCHAR AS committed_at",
            [op, text, committed_at],
        )
        # As text: Python has no times before the year 1.
        times = (
            f'CAST("{n}" AS VARCHAR) AS "{n}"' for n, kind in log.types.items() if kind == TIME
        )
        found = connection.execute(
            f"SELECT * REPLACE ({', '.join(times)}) FROM ({typed_rows(log, 'changes')})"
        )
        found = found.to_arrow_table().to_pylist()
        assert [row["seq"] for row in found] == [7]
        return found[0]

    return one


def with_value(log: Log, column: Column, value: Any) -> dict[str, Any]:
    """A good row but for one value, put where the change log has it."""
    name, field = column.source
    if not field:
        return GOOD[log.name] | {name: value}
    nested = json.loads(GOOD[log.name][name]) | {field: value}
    return GOOD[log.name] | {name: json.dumps(nested)}


@pytest.mark.parametrize("log", BY_NAME.values(), ids=ids)
def test_a_good_row_is_accepted_with_its_types(typed: Any, log: Log) -> None:
    """No reason, and every value in place."""
    found = typed(log, GOOD[log.name])
    assert found.pop("reason") is None
    assert list(found) == list(log.types)
    assert all(value is not None for value in found.values())


@pytest.mark.parametrize(("log", "column"), COLUMNS, ids=ids)
def test_a_null_is_refused_unless_it_is_allowed(typed: Any, log: Log, column: Column) -> None:
    """What may be unknown may be null; the rest "is missing"."""
    found = typed(log, with_value(log, column, None))
    assert found["reason"] == (None if column.nullable else f"{column.name} is missing")
    assert found[column.name] is None


def test_what_may_be_null_is_what_may_be_unknown() -> None:
    """The signals of a session, the product of a click, what a shipment is for and its end."""
    assert {(log.name, column.name) for log, column in COLUMNS if column.nullable} == {
        ("sessions", "time_on_page"),
        ("sessions", "scroll_depth"),
        ("sessions", "click_rate"),
        ("clickstream", "product_id"),
        ("shipments", "order_id"),
        ("shipments", "product_id"),
        ("shipments", "quantity"),
        ("shipments", "delivered_at"),
    }


@pytest.mark.parametrize("log", BY_NAME.values(), ids=ids)
def test_a_column_that_is_absent_is_missing(typed: Any, log: Log) -> None:
    """An empty object lacks everything that must be there."""
    reason = typed(log, {})["reason"].split("; ")
    must = {c.source[0] for c in log.columns if not c.nullable or c.source[1]}
    assert set(reason) == {f"{name} is missing" for name in must}


@pytest.mark.parametrize("value", ["x", "", 2.7, "NaN", "inf", True, [1], 2**70, "2026-01-01"])
@pytest.mark.parametrize(("log", "column"), those(INTEGER), ids=ids)
def test_what_is_no_whole_number_is_rejected(
    typed: Any, log: Log, column: Column, value: Any
) -> None:
    """Above all 2.7 is not rounded to 3."""
    found = typed(log, with_value(log, column, value))
    assert found["reason"].startswith(f"{column.name} = ")
    assert found["reason"].endswith(" is not a whole number")


@pytest.mark.parametrize(("value", "number"), [(3, 3), (3.0, 3), ("3", 3), (2**62 + 1, 2**62 + 1)])
def test_a_whole_number_may_be_written_in_several_ways(typed: Any, value: Any, number: int) -> None:
    """As another database's triggers may write it; no digit of a large one is lost."""
    found = typed("users", GOOD["users"] | {"user_id": value})
    assert (found["reason"], found["user_id"]) == (None, number)


@pytest.mark.parametrize("value", ["x", "NaN", "-inf", "9e999", True])
@pytest.mark.parametrize(("log", "column"), those(NUMBER), ids=ids)
def test_what_is_no_finite_number_is_rejected(
    typed: Any, log: Log, column: Column, value: Any
) -> None:
    """NaN and infinity would spread through every sum that they enter."""
    reason = typed(log, with_value(log, column, value))["reason"]
    assert reason.startswith(f"{column.name} = ")
    assert reason.endswith(" is not a number")


TEXT_KEYS = [pair for pair in those(TEXT) if pair[1].name in pair[0].key]


@pytest.mark.parametrize(("log", "column"), TEXT_KEYS, ids=ids)
def test_a_key_that_is_no_utf_8_is_rejected(typed: Any, log: Log, column: Column) -> None:
    """What stands for any such byte would make one key of several; in other texts it may stand."""
    reason = typed(log, with_value(log, column, "a\ufffd"))["reason"]
    assert reason == f"{column.name} = a\ufffd is not UTF-8"
    assert typed("users", GOOD["users"] | {"region": "a\ufffd"})["reason"] is None


@pytest.mark.parametrize("name", ["NaN", "Infinity"])
def test_the_bare_words_of_python_are_rejected(typed: Any, name: str) -> None:
    """`json.dumps(float("nan"))` writes NaN without quotes, which is not JSON."""
    row = json.dumps(GOOD["suppliers"] | {"lead_time_days": float(name)})
    assert name in row
    assert typed("suppliers", row)["reason"] is not None


@pytest.mark.parametrize("value", ["x", "NaN", 1e8, -1e8])
@pytest.mark.parametrize(("log", "column"), those(MONEY), ids=ids)
def test_what_is_no_amount_is_rejected(typed: Any, log: Log, column: Column, value: Any) -> None:
    """DECIMAL(10,2): eight digits before the point."""
    reason = typed(log, with_value(log, column, value))["reason"]
    assert reason.endswith("is not an amount with at most 8 digits before the point")


def test_an_amount_is_exact_to_the_cent(typed: Any) -> None:
    """SQLite keeps a price as a float; its noise does not reach the log."""
    found = typed("orders", GOOD["orders"] | {"price": 0.1 + 0.2})
    assert (found["reason"], found["price"]) == (None, Decimal("0.30"))


@pytest.mark.parametrize(
    "value",
    [
        *("yesterday", 5, "2026-02-30 00:00:00", "2026-01-30 25:00:00", [EARLIER]),
        *("epoch", "now", "-infinity", "0044-03-15 (BC)", "2026-01-30 24:00:00"),
    ],
)
@pytest.mark.parametrize(("log", "column"), those(TIME), ids=ids)
def test_what_is_no_time_stamp_is_rejected(
    typed: Any, log: Log, column: Column, value: Any
) -> None:
    """Neither words nor numbers nor days that do not exist."""
    reason = typed(log, with_value(log, column, value))["reason"]
    assert f"{column.name} = " in reason
    assert "is not a time stamp" in reason


@pytest.mark.parametrize("value", ["1969-12-31", "2262-01-02", "9999-12-31", "0001-01-01"])
def test_a_time_that_other_systems_cannot_hold_is_rejected(typed: Any, value: str) -> None:
    """Before 1970 and after 2261, Parquet, pandas or protobuf would bend it or fail."""
    reason = typed("shipments", GOOD["shipments"] | {"promised_at": value})["reason"]
    assert reason == f"promised_at = {value} lies outside of 1970–2261"


@pytest.mark.parametrize(
    ("value", "utc"),
    [
        ("2026-01-30T12:00:00Z", "2026-01-30 12:00:00"),
        ("2026-01-30T12:00:00.000001+00:00", "2026-01-30 12:00:00.000001"),
        ("2026-01-30 12:00:00+02:00", "2026-01-30 10:00:00"),
        ("2026-01-30T12:00:00.5-0530", "2026-01-30 17:30:00.5"),
    ],
)
def test_a_time_with_an_offset_is_converted(typed: Any, value: str, utc: str) -> None:
    """Read as it stands it would be hours off, and nobody would notice."""
    found = typed("users", GOOD["users"] | {"signed_up_at": value})
    assert (found["reason"], found["signed_up_at"]) == (None, utc)
    found = typed("users", GOOD["users"], committed_at="2026-01-31T14:00:00+02:00")
    assert (found["reason"], found["committed_at"]) == (None, "2026-01-31 12:00:00")


def test_the_future_is_reported_in_utc(typed: Any) -> None:
    """Event and commit may be written with different offsets."""
    row = GOOD["users"] | {"signed_up_at": "2026-01-31T14:00:00+02:00"}
    assert typed("users", row, committed_at="2026-01-31T07:00:00-05:00")["reason"] is None
    late = typed("users", row, committed_at="2026-01-31T12:54:59+01:00")["reason"]
    assert late.endswith("lies in the future: it was committed at 2026-01-31 11:54:59")


@pytest.mark.parametrize("value", [EARLIER, "2026-01-30T12:00:00Z", "epoch", "2026-13-01"])
@pytest.mark.parametrize("op", ["I", "D"])
def test_the_quick_statement_passes_no_row_that_it_does_not_understand(
    connection: duckdb.DuckDBPyConnection, op: str, value: str
) -> None:
    """It knows our own form of a time stamp alone: of another the slow one has to say."""
    row = json.dumps(GOOD["routes"] | {"updated_at": value})
    connection.execute(
        "CREATE OR REPLACE TABLE changes AS SELECT 7::BIGINT AS seq, ?::VARCHAR AS op, "
        "?::VARCHAR AS row, ?::VARCHAR AS committed_at",
        [op, row, COMMITTED],
    )
    query = typed_rows(BY_NAME["routes"], "changes", explained=False)
    ((reason,),) = connection.execute(f"SELECT reason FROM ({query})").fetchall()
    assert reason == (None if value == EARLIER else UNEXPLAINED)


@pytest.mark.parametrize(
    "value", [EARLIER, "2026-01-30", "2026-01-30 12:00:00", "2026-01-30T12:00:00Z"]
)
def test_a_time_may_be_written_in_several_ways(typed: Any, value: str) -> None:
    """With or without a time of day, a T, a Z, fractions of a second."""
    assert typed("users", GOOD["users"] | {"signed_up_at": value})["reason"] is None


@pytest.mark.parametrize(
    ("log", "column"), [pair for pair in those(TIME) if pair[1].name != "promised_at"], ids=ids
)
def test_an_event_in_the_future_is_rejected(typed: Any, log: Log, column: Column) -> None:
    """It cannot have happened after it was committed; five minutes are left to the clocks."""
    later = {"promised_at": "2026-03-01"} if log.name == "shipments" else {}
    if column.name == "shipped_at":
        later["delivered_at"] = None
    on_time = with_value(log, column, "2026-01-31 12:05:00.000000") | later
    too_late = with_value(log, column, "2026-01-31 12:05:00.000001") | later
    assert typed(log, on_time)["reason"] is None
    assert typed(log, too_late)["reason"] == (
        f"{column.name} = 2026-01-31 12:05:00.000001 lies in the future: it was committed at "
        "2026-01-31 12:00:00"
    )


def test_a_promise_may_lie_in_the_future(typed: Any) -> None:
    """That is what a promise is."""
    assert typed("shipments", GOOD["shipments"] | {"promised_at": "2026-03-01"})["reason"] is None


@pytest.mark.parametrize("name", ["promised_at", "delivered_at"])
def test_a_shipment_ends_after_it_began(typed: Any, name: str) -> None:
    """The same time will do."""
    reason = typed("shipments", GOOD["shipments"] | {name: "2026-01-30 12:00:00"})["reason"]
    assert reason == f"{name} = 2026-01-30 12:00:00 must not be before shipped_at"


@pytest.mark.parametrize(("log", "column"), those(INTEGER, NUMBER, MONEY), ids=ids)
def test_amounts_are_not_negative(typed: Any, log: Log, column: Column) -> None:
    """Keys may be, and places on earth; shares have bounds of their own."""
    where = (log.name, column.name)
    found = typed(log, with_value(log, column, -1))["reason"]
    if where in PLACES or column.name.endswith("_id") or column.name == "id":
        assert found is None
    elif where in SHARES:
        assert found == f"{column.name} = -1 must lie in 0–1"
    elif where in UNITS:
        assert found == f"{column.name} = -1 must lie in 1–1000000"
        assert typed(log, with_value(log, column, 0))["reason"] is not None
    else:
        assert found == f"{column.name} = -1 must not be negative"
        assert typed(log, with_value(log, column, 0))["reason"] is None


@pytest.mark.parametrize(("log", "column"), sorted(SHARES))
def test_a_share_lies_between_0_and_1(typed: Any, log: str, column: str) -> None:
    """Both ends included."""
    (found,) = (c for c in BY_NAME[log].columns if c.name == column)
    for value in (0, 0.0, 1, 1.0):
        assert typed(log, with_value(BY_NAME[log], found, value))["reason"] is None
    reason = typed(log, with_value(BY_NAME[log], found, 1.001))["reason"]
    assert reason == f"{column} = 1.001 must lie in 0–1"


@pytest.mark.parametrize(("where", "bound"), PLACES.items())
def test_a_warehouse_stands_on_earth(typed: Any, where: tuple[str, str], bound: int) -> None:
    """Degrees of latitude and longitude."""
    log, column = where
    for value in (-bound, bound):
        assert typed(log, GOOD[log] | {column: value})["reason"] is None
        reason = typed(log, GOOD[log] | {column: value * 1.01})["reason"]
        assert reason.endswith(f"must lie in -{bound}–{bound}")


@pytest.mark.parametrize(("log", "column"), sorted(ENUMS))
def test_a_word_that_is_not_on_the_list_is_rejected(typed: Any, log: str, column: str) -> None:
    """With the words that are."""
    for value in ("teleport", "", GOOD[log][column].upper()):
        reason = typed(log, GOOD[log] | {column: value})["reason"]
        assert reason.startswith(f"{column} = {value} must be one of ")
        assert GOOD[log][column] in reason


@pytest.mark.parametrize(
    "row", ["", "{", "[]", "5", '"x"', "null", '{"user_id": 1', "{'user_id': 1}", None]
)
def test_a_row_that_is_no_json_object_is_rejected(typed: Any, row: str | None) -> None:
    """The batch goes on: malformed JSON is that row's fault alone."""
    assert typed("users", row)["reason"] == "the row is not a JSON object"


@pytest.mark.parametrize(("log", "column"), those(TEXTS), ids=ids)
@pytest.mark.parametrize("value", ['["p1"', "", "{}", '{"a": 1}', "5", '"p1"', "null", "[null]"])
def test_a_list_that_is_none_is_rejected(typed: Any, log: Log, column: Column, value: str) -> None:
    """Malformed, or JSON of another shape."""
    reason = typed(log, GOOD[log.name] | {column.name: value})["reason"]
    assert reason == f"{column.name} = {value} is not a JSON list of texts"


@pytest.mark.parametrize("value", ['{"scroll_depth": 1', "", "[]", "[1]", "5", "null", '"x"'])
def test_signals_that_are_no_object_are_rejected(typed: Any, value: str) -> None:
    """They are not taken for signals that nobody measured."""
    reason = typed("sessions", GOOD["sessions"] | {"intent_signals": value})["reason"]
    assert reason == f"intent_signals = {value} is not a JSON object"


def test_a_signal_that_was_not_measured_is_null(typed: Any) -> None:
    """An object may lack any of them."""
    found = typed("sessions", GOOD["sessions"] | {"intent_signals": '{"click_rate": 2}'})
    assert found["reason"] is None
    assert (found["time_on_page"], found["scroll_depth"], found["click_rate"]) == (None, None, 2.0)


def test_json_columns_may_be_real_json(typed: Any) -> None:
    """A database with a JSON type nests them instead of quoting them."""
    row = GOOD["sessions"] | {
        "products_viewed": ["p2"],
        "intent_signals": {"click_rate": 1, "scroll_depth": 0, "time_on_page": 0},
    }
    found = typed("sessions", row)
    assert found["reason"] is None
    assert (found["products_viewed"], found["click_rate"]) == (["p2"], 1.0)


@pytest.mark.parametrize("op", ["X", "", "i", None])
def test_an_unknown_operation_is_rejected(typed: Any, op: str | None) -> None:
    """Only insertions, updates and deletions have a meaning."""
    found = typed("users", GOOD["users"], op=op)
    assert found["reason"] == f"op {'null' if op is None else op} is not I, U or D"


@pytest.mark.parametrize("committed_at", ["soon", None, "0044-03-15 (BC)", "epoch", "1969-12-31"])
@pytest.mark.parametrize("op", ["I", "D"])
def test_a_change_without_a_time_is_rejected(typed: Any, op: str, committed_at: str | None) -> None:
    """Nothing can be said of when it became known."""
    found = typed("users", GOOD["users"], op=op, committed_at=committed_at)
    assert found["reason"] == f"committed_at = {committed_at or 'null'} is not a time stamp"


@pytest.mark.parametrize("op", ["U", "D"])
def test_other_operations_are_accepted_too(typed: Any, op: str) -> None:
    """A deletion carries the old row."""
    assert typed("orders", GOOD["orders"], op=op)["reason"] is None


def test_a_row_that_broke_a_rule_can_still_be_deleted(typed: Any) -> None:
    """A rule made later must not keep a deletion from being seen; an update it does refuse."""
    row = GOOD["orders"] | {"quantity": -1}
    assert typed("orders", row, op="D")["reason"] is None
    assert typed("orders", row, op="U")["reason"] == "quantity = -1 must lie in 1–1000000"


@pytest.mark.parametrize(
    ("own", "dated"),
    [
        ("2026-01-30 13:00:00", "2026-01-31 12:00:00"),
        ("2026-02-01 11:59:59", "2026-02-01 11:59:59"),
        ("2026-02-01 12:00:01", "2026-01-31 12:00:00"),
        ("2261-12-31 00:00:00", "2026-01-31 12:00:00"),
    ],
)
def test_a_deletion_is_later_than_the_row_it_deletes(typed: Any, own: str, dated: str) -> None:
    """Also if the clock was set back in between; but a row that was rejected may say anything."""
    row = GOOD["routes"] | {"updated_at": own}
    found = typed("routes", row, op="D")
    assert (found["reason"], found["updated_at"]) == (None, dated)


def test_all_broken_rules_are_named(typed: Any) -> None:
    """Whoever mends the row wants to mend it once."""
    row = GOOD["orders"] | {
        "user_id": "nobody",
        "quantity": 2.7,
        "price": None,
        "status": "lost",
        "order_timestamp": "2027-01-01",
    }
    assert typed("orders", row)["reason"].split("; ") == [
        "user_id = nobody is not a whole number",
        "quantity = 2.7 is not a whole number",
        "price is missing",
        "order_timestamp = 2027-01-01 lies in the future: it was committed at 2026-01-31 12:00:00",
        "status = lost must be one of placed, shipped, delivered, cancelled, backordered",
    ]


def test_a_long_value_is_cut_in_the_reason(typed: Any) -> None:
    """The row itself is kept in the quarantine; the reason is to be read."""
    reason = typed("users", GOOD["users"] | {"user_id": "x" * 5000})["reason"]
    assert reason == f"user_id = {'x' * 60} is not a whole number"
