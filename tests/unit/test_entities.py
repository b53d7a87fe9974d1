"""Entities as people have them at hand, for both kinds of Feast's reads."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast.protos.feast.types.Value_pb2 import Value
from feast.value_type import ValueType

from pipelines.errors import UsageError
from pipelines.feast_plugins.entities import entity_dataframe, entity_rows
from pipelines.feast_plugins.reading.key_values import plain_keys

AT = [datetime(2026, 1, 31, 12, tzinfo=UTC), datetime(2026, 1, 31, 13, tzinfo=UTC)]
TEXTS = ["2026-01-31T12:00:00", "2026-01-31T14:00:00+01:00"]
FRAME = pd.DataFrame({"user_id": [1, 2], "event_timestamp": pd.to_datetime(AT)})
TABLE = pa.table({"user_id": [1, 2], "event_timestamp": pa.array(AT, pa.timestamp("us", "UTC"))})


class Stream:
    """Data frames of other libraries are known by this method alone."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return TABLE.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize(
    "given",
    [
        FRAME,
        TABLE,
        Stream(),
        TABLE.to_batches()[0],
        TABLE.to_reader,
        {"user_id": [1, 2], "event_timestamp": AT},
        {"user_id": np.array([1, 2]), "event_timestamp": TEXTS},
        [{"user_id": n + 1, "event_timestamp": at} for n, at in enumerate(AT)],
        tuple({"user_id": n + 1, "event_timestamp": at} for n, at in enumerate(TEXTS)),
    ],
    ids=[
        "pandas",
        "table",
        "stream",
        "batch",
        "reader",
        "columns",
        "arrays and texts",
        "rows",
        "texts",
    ],
)
def test_a_training_set_s_entities_may_be_held_by_anything(given: Any) -> None:
    """The same frame comes of them."""
    if callable(given):  # a reader can be read once
        given = given()
    found = entity_dataframe(given)
    assert found["user_id"].tolist() == [1, 2]
    assert [at.to_pydatetime() for at in found["event_timestamp"]] == AT


def test_numbers_stay_whole_where_some_are_null() -> None:
    """A float matches no key."""
    found = entity_dataframe(pa.table({"user_id": pa.array([2**53 + 1, None])}))
    assert found["user_id"].tolist()[0] == 2**53 + 1
    assert found["user_id"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (42, "the entity dataframe is a int; it can be a pandas DataFrame, an Arrow table"),
        ({"user_id": [1, 2], "event_timestamp": AT[:1]}, "cannot be read: All arrays must be of"),
        *(
            ({"user_id": [1, 2], "event_timestamp": [AT[0], no_time]}, f"is {no_time!r} in ")
            for no_time in ("noon", "now", "today", "", "epoch", "infinity", 1769860800, True)
        ),
        ([1, 2], "an entity row is a dict such as"),
        ([(1, AT[0])], "an entity row is a dict such as"),
    ],
)
def test_what_is_no_entity_dataframe_is_one_line(given: Any, complaint: str) -> None:
    """With what can be one."""
    with pytest.raises(UsageError) as error:
        entity_dataframe(given)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


COLUMNS = {"user_id": [1, 2], "quantity": [3, None]}
NULLABLE = pd.DataFrame({"user_id": [1, 2], "quantity": pd.array([3, None], "Int64")})


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        (NULLABLE, COLUMNS),
        (pa.table(COLUMNS), COLUMNS),
        (COLUMNS, COLUMNS),
        ({"user_id": 1}, [{"user_id": 1}]),
        (({"user_id": 1}, {"user_id": 2}), [{"user_id": 1}, {"user_id": 2}]),
        ([{"user_id": 1}], [{"user_id": 1}]),
    ],
    ids=["pandas", "arrow", "columns", "one row", "tuple", "rows"],
)
def test_online_rows_may_be_held_by_anything(given: Any, rows: Any) -> None:
    """They become what Feast knows, of plain Python values."""
    found = entity_rows(given)
    assert found == rows
    if isinstance(found, dict):
        assert {type(value) for column in found.values() for value in column} <= {int, type(None)}


@pytest.mark.parametrize(
    "given", [[], (), {}, pd.DataFrame()], ids=["list", "tuple", "dict", "frame"]
)
def test_no_rows_at_all_are_one_line(given: Any) -> None:
    """Feast would end in an IndexError."""
    with pytest.raises(UsageError, match="there are no entity rows: give at least one, such as"):
        entity_rows(given)


def test_rows_are_handed_on_as_they_are() -> None:
    """Without a copy: the usual case costs nothing."""
    rows = [{"user_id": 1}, {"user_id": 2}]
    assert entity_rows(rows) is rows


@pytest.mark.parametrize("given", [42, "user_id=42", [42], [("user_id", 42)], None])
def test_what_are_no_rows_is_one_line(given: Any) -> None:
    """With what can be some."""
    with pytest.raises(UsageError, match="can be a pandas DataFrame, an Arrow table, a dict"):
        entity_rows(given)


@pytest.mark.parametrize(
    "value",
    [
        *(42, np.int8(42), np.uint64(42), np.array(42), pa.scalar(42)),
        *(42.0, np.float32(42), Decimal("42.00"), "42", np.str_("42")),
    ],
    ids=repr,
)
def test_a_whole_number_may_be_of_any_type_that_holds_it(value: Any) -> None:
    """Python's own int comes of it, which has one entity key."""
    (found,) = plain_keys("user_id", [value], ValueType.INT64) or [None]
    assert (found, type(found)) == (42, int)


def test_a_zero_below_zero_is_zero() -> None:
    """It has no other key."""
    assert str(plain_keys("user_id", [-0.0], ValueType.INT64)) == "[0]"


@pytest.mark.parametrize(
    ("value", "reason"),
    [(value, "is not a whole number") for value in (True, np.bool_(False), 1.5, Decimal("1.5"))]
    + [(value, "is not a whole number") for value in (" 42", "+42", "42.0", "4_2", "٤٢", "", b"42")]
    + [(value, "is not a whole number") for value in (1j, [42], {}, AT[0], float("inf"), 2.0**54)]
    + [(value, "is not a whole number of 64 bits") for value in (2**63, -(2**63) - 1, str(2**64))]
    + [(value, "is null") for value in (None, pd.NA, pd.NaT, float("nan"), Decimal("nan"))],
    ids=repr,
)
def test_what_is_no_whole_number_is_refused(value: Any, reason: str) -> None:
    """Feast takes True for 1, 1.5 for 1, and ends in tracebacks of its conversion."""
    with pytest.raises(UsageError, match=rf"^user_id = .* in entity row 2 {reason}"):
        plain_keys("user_id", [1, value], ValueType.INT64)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        *((None, "is null"), (pd.NA, "is null"), (5, "is not a text"), (True, "is not a text")),
        ("\ud800", "is no text that UTF-8 can hold"),
    ],
)
def test_what_is_no_text_is_refused(value: Any, reason: str) -> None:
    """A number is not the text that it would be printed as."""
    with pytest.raises(UsageError, match=rf"^product_id = .* {reason}"):
        plain_keys("product_id", [value], ValueType.STRING)


def test_messages_of_feast_and_other_types_are_left_to_it() -> None:
    """Only keys of whole numbers and texts are looked at."""
    assert plain_keys("user_id", [Value(int64_val=1)], ValueType.INT64) is None
    assert plain_keys("at", [1], ValueType.UNIX_TIMESTAMP) is None
