"""Entities as people have them at hand, for both kinds of Feast's reads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipelines.errors import UsageError
from pipelines.feast_plugins.entities import entity_frame, entity_rows

AT = [datetime(2026, 1, 31, 12, tzinfo=UTC), datetime(2026, 1, 31, 13, tzinfo=UTC)]
TEXTS = ["2026-01-31T12:00:00", "2026-01-31T14:00:00+01:00"]
FRAME = pd.DataFrame({"user_id": [1, 2], "event_timestamp": pd.to_datetime(AT)})
TABLE = pa.table({"user_id": [1, 2], "event_timestamp": pa.array(AT, pa.timestamp("us", "UTC"))})


@pytest.mark.parametrize(
    "given",
    [
        FRAME,
        TABLE,
        TABLE.to_batches()[0],
        TABLE.to_reader,
        {"user_id": [1, 2], "event_timestamp": AT},
        {"user_id": np.array([1, 2]), "event_timestamp": TEXTS},
        [{"user_id": n + 1, "event_timestamp": at} for n, at in enumerate(AT)],
        tuple({"user_id": n + 1, "event_timestamp": at} for n, at in enumerate(TEXTS)),
    ],
    ids=["pandas", "table", "batch", "reader", "columns", "arrays and texts", "rows", "texts"],
)
def test_a_training_set_s_entities_may_be_held_by_anything(given: Any) -> None:
    """The same frame comes of them."""
    if callable(given):  # a reader can be read once
        given = given()
    found = entity_frame(given)
    assert found["user_id"].tolist() == [1, 2]
    assert [at.to_pydatetime() for at in found["event_timestamp"]] == AT


def test_numbers_stay_whole_where_some_are_null() -> None:
    """A float matches no key."""
    found = entity_frame(pa.table({"user_id": pa.array([2**53 + 1, None])}))
    assert found["user_id"].tolist()[0] == 2**53 + 1
    assert found["user_id"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (42, "the entity dataframe is a int; it can be a pandas DataFrame, an Arrow table"),
        ({"user_id": [1, 2], "event_timestamp": AT[:1]}, "cannot be read: All arrays must be of"),
        ({"user_id": [1], "event_timestamp": ["noon"]}, "cannot be read: "),
        ([1, 2], None),
    ],
)
def test_what_is_no_entity_dataframe_is_one_line(given: Any, complaint: str | None) -> None:
    """With what can be one."""
    if complaint is None:
        assert "event_timestamp" not in entity_frame(given)
        return
    with pytest.raises(UsageError) as error:
        entity_frame(given)
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


def test_rows_are_handed_on_as_they_are() -> None:
    """Without a copy: the usual case costs nothing."""
    rows = [{"user_id": 1}, {"user_id": 2}]
    assert entity_rows(rows) is rows


@pytest.mark.parametrize("given", [42, "user_id=42", [42], [("user_id", 42)], None])
def test_what_are_no_rows_is_one_line(given: Any) -> None:
    """With what can be some."""
    with pytest.raises(UsageError, match="can be a pandas DataFrame, an Arrow table, a dict"):
        entity_rows(given)
