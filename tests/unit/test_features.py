"""Every feature against the slow, obvious reference, over logs full of ties and edges."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest
from comparing import differences
from log_tables import load_logs
from random_log import random_log, with_changed_keys
from reference import VIEWS, compute, event_times

from pipelines.features import FeatureEngineer
from pipelines.features.views import VIEWS_BY_NAME


def in_order(view: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    keys = (*VIEWS_BY_NAME[view].keys, "event_timestamp")
    return sorted(rows, key=lambda row: tuple(row[key] for key in keys))


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_equals_the_reference(
    connection: duckdb.DuckDBPyConnection, view: str, seed: int
) -> None:
    """Whatever the log holds, ties and window edges included, both give the same rows."""
    logs = with_changed_keys(random_log(seed), seed)
    load_logs(connection, event_times(logs))
    ours = in_order(view, FeatureEngineer(connection).compute(view).to_pylist())
    theirs = in_order(view, compute(view, logs))
    assert [list(row) for row in ours[:1]] == [list(row) for row in theirs[:1]]
    for mine, reference in zip(ours, theirs, strict=True):
        assert not differences(mine, reference), (view, seed, reference)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("view", VIEWS)
def test_the_newest_rows_equal_the_reference(
    connection: duckdb.DuckDBPyConnection, view: str, seed: int
) -> None:
    """Asked for each key's newest row alone, another plan gives the same values."""
    logs = with_changed_keys(random_log(seed), seed)
    load_logs(connection, event_times(logs))
    ours = in_order(view, FeatureEngineer(connection).compute(view, newest=True).to_pylist())
    every = in_order(view, compute(view, logs))
    last = {tuple(row[key] for key in VIEWS_BY_NAME[view].keys): row for row in every}
    for mine, reference in zip(ours, in_order(view, list(last.values())), strict=True):
        assert not differences(mine, reference), (view, seed, reference)


def test_the_views_are_those_of_the_reference() -> None:
    """No view is left unchecked."""
    assert set(VIEWS) == set(FeatureEngineer.views)


@pytest.mark.parametrize("view", VIEWS)
def test_an_empty_log_gives_no_rows(connection: duckdb.DuckDBPyConnection, view: str) -> None:
    """Nothing happened: no rows, but the schema stands."""
    load_logs(connection, {})
    table = FeatureEngineer(connection).compute(view)
    assert table.num_rows == 0
    assert table.schema.names == [
        n for n in VIEWS_BY_NAME[view].schema.names if n != "created_timestamp"
    ]
