"""The arithmetic of the consistency audit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cli.audit_table import percent
from pipelines.monitoring.comparison import (
    ROWS_KEPT,
    Comparison,
    FeatureAudit,
    UnequalRow,
    consistency,
    edit_distance,
)

NUMBER, WHOLE, TEXT = pa.float64(), pa.int64(), pa.string()
NUMBERS, TEXTS = pa.list_(pa.float64()), pa.list_(pa.string())
NAN = math.nan


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


def table(kind: pa.DataType, values: dict[int, Any]) -> pa.Table:
    """A side: a row per key that is there, its feature `f`."""
    columns = {"k": pa.array(values.keys(), WHOLE), "f": pa.array(values.values(), kind)}
    return pa.table(columns)


def compared(
    connection: duckdb.DuckDBPyConnection,
    kind: pa.DataType,
    online: dict[int, Any],
    offline: dict[int, Any],
) -> Comparison:
    """Both sides over the keys of either, and key 0 that neither has."""
    comparison = Comparison("view", ("k",), {"f": kind})
    keys = pa.table({"k": pa.array(sorted({0} | online.keys() | offline.keys()), WHOLE)})
    comparison.add(connection, keys, table(kind, online), table(kind, offline))
    return comparison


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (NUMBER, 1.0, 2.0),
        (NUMBER, 0.1 + 0.2, 0.3),
        (NUMBER, NAN, 1.0),
        (WHOLE, 2**62, 2**62 + 1),
        (TEXT, "low", "high"),
        (pa.bool_(), True, False),
        (pa.timestamp("us"), 1, 2),
        (TEXTS, ["view"], ["view", "view"]),
        (TEXTS, [], [""]),
        (NUMBERS, [1.0, 2.0], [2.0, 1.0]),
    ],
)
def test_each_key_is_counted_once(
    connection: duckdb.DuckDBPyConnection, kind: pa.DataType, one: Any, other: Any
) -> None:
    """As equal, unequal, on one side alone, or on neither; a null is as good as no row."""
    found = compared(
        connection,
        kind,
        {1: one, 2: one, 3: one, 4: one, 5: None, 6: None},
        {1: one, 2: other, 4: None, 5: other, 6: None},
    )
    figures = found.features["f"]
    assert (figures.total, figures.both_null, figures.mismatch) == (7, 2, 1)
    assert (figures.left_null, figures.right_null) == (2, 1)
    assert figures.unequal == 4
    assert [row.keys["k"] for row in found.rows] == [2, 3, 4, 5]
    assert consistency([figures]) == 1 - 4 / 7


@pytest.mark.parametrize(
    ("kind", "value"),
    [(NUMBER, NAN), (NUMBER, math.inf), (NUMBERS, [1.0, NAN]), (TEXTS, [""]), (TEXTS, [])],
)
def test_a_value_equals_itself(
    connection: duckdb.DuckDBPyConnection, kind: pa.DataType, value: Any
) -> None:
    """Even one that is not a number."""
    found = compared(connection, kind, {1: value}, {1: value})
    assert found.features["f"].unequal == 0
    assert found.rows == []
    assert consistency(found.features.values()) == 1.0


@pytest.mark.parametrize(
    ("online", "offline", "smape"),
    [
        ([1.0, 5.0], [1.0, 5.0], 0.0),
        ([1.0], [3.0], 1.0),
        ([1.0, 2.0], [3.0, 2.0], 0.5),
        ([0.0], [0.0], 0.0),
        ([0.0], [7.0], 2.0),
        ([-1.0], [1.0], 2.0),
        ([NAN], [1.0], 2.0),
        ([math.inf], [1.0], 2.0),
    ],
)
def test_smape_is_the_mean_over_the_pairs(
    connection: duckdb.DuckDBPyConnection, online: list[float], offline: list[float], smape: float
) -> None:
    """Of 2|a−b| / (|a|+|b|); a key without a pair does not count."""
    left, right = dict(enumerate(online, 1)), dict(enumerate(offline, 1))
    figures = compared(connection, NUMBER, {**left, 90: 4.0}, {**right, 91: 4.0}).features["f"]
    assert figures.smape == smape
    assert figures.edit_distance is None


def test_without_pairs_there_is_no_distance(connection: duckdb.DuckDBPyConnection) -> None:
    """Nor for a type that has none."""
    assert compared(connection, NUMBER, {1: 1.0}, {}).features["f"].smape is None
    assert compared(connection, TEXTS, {1: []}, {}).features["f"].edit_distance is None
    text = compared(connection, TEXT, {1: "a"}, {1: "b"}).features["f"]
    assert (text.smape, text.edit_distance) == (None, None)


def test_edit_distance_is_the_mean_over_the_pairs(connection: duckdb.DuckDBPyConnection) -> None:
    """Equal pairs count as 0."""
    online = {1: ["view", "search", "purchase"], 2: ["view"], 3: ["view"], 4: ["view"]}
    offline = {1: ["search", "purchase", "checkout"], 2: ["view"], 3: ["search"]}
    figures = compared(connection, TEXTS, online, offline).features["f"]
    assert figures.edit_distance == (2 + 0 + 1) / 3
    assert figures.smape is None


@pytest.mark.parametrize(
    ("left", "right", "edits"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("abc", "abc", 0),
        ("ab", "ba", 2),
    ],
)
def test_edits_are_counted_by_levenshtein(left: str, right: str, edits: int) -> None:
    """In either direction."""
    assert edit_distance(left, right) == edit_distance(right, left) == edits


def test_edits_of_numbers_take_nan_for_equal() -> None:
    """As everywhere in the audit."""
    assert edit_distance([NAN, 1.0], [NAN, 2.0]) == 1


@given(st.text("ab", max_size=8), st.text("ab", max_size=8))
def test_edits_agree_with_duckdb(left: str, right: str) -> None:
    """Which knows them for texts."""
    found = duckdb.execute("SELECT levenshtein(?, ?)", [left, right]).fetchone()
    assert found == (edit_distance(left, right),)


def test_portions_add_up(connection: duckdb.DuckDBPyConnection) -> None:
    """To the same figures as all at once; rows are kept up to a number, and all are counted."""
    online = {k: float(k) for k in range(300)}
    offline = {k: float(k) if k % 2 else 3.0 * k + 1 for k in range(300)}
    whole = compared(connection, NUMBER, online, offline)
    parts = Comparison("view", ("k",), {"f": NUMBER})
    for first in range(0, 300, 70):
        keys = pa.table({"k": pa.array(range(first, min(first + 70, 300)), WHOLE)})
        parts.add(connection, keys, table(NUMBER, online), table(NUMBER, offline))
    ours, theirs = parts.features["f"], whole.features["f"]
    assert ours.smape == pytest.approx(theirs.smape)
    assert (ours.total, ours.mismatch) == (theirs.total, theirs.mismatch) == (300, 150)
    assert parts.unequal_rows == whole.unequal_rows == 150
    assert len(parts.rows) == len(whole.rows) == ROWS_KEPT


def test_an_unequal_row_shows_what_differs(connection: duckdb.DuckDBPyConnection) -> None:
    """And nothing else, under all of its keys."""
    comparison = Comparison("view", ("k", "p"), {"f": NUMBER, "g": NUMBERS})
    row = {"k": [1], "p": ["p1"], "f": [1.0]}
    online, offline = pa.table(row | {"g": [[1.0, NAN]]}), pa.table(row | {"g": [[2.0, NAN]]})
    comparison.add(connection, online.select(["k", "p"]), online, offline)
    (found,) = comparison.rows
    assert found.keys == {"k": 1, "p": "p1"}
    assert found.online.keys() == found.offline.keys() == {"g"}
    assert (found.online["g"][0], found.offline["g"][0]) == (1.0, 2.0)
    assert isinstance(found, UnequalRow)


def test_nothing_compared_is_not_consistent() -> None:
    """It is not inconsistent either."""
    assert consistency([]) is None
    assert consistency([FeatureAudit(0, 0, 0, 0, 0, None, None)]) is None


@pytest.mark.parametrize(
    ("share", "shown"),
    [(1.0, "100 %"), (1 - 1e-9, "99.99999 %"), (0.5, "50 %"), (0.0, "0 %"), (None, "–")],
)
def test_only_what_is_whole_is_called_whole(share: float | None, shown: str) -> None:
    """One wrong value in a million shows."""
    assert percent(share) == shown
