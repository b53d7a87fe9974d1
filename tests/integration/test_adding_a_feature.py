"""The documentation's worked example does what it says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import ibis
import pytest
from documented import declarations_forgotten, python_blocks
from live_logs import complete_log
from log_tables import load_logs

from pipelines.features.views import Source, View, log_table
from pipelines.features.windows import DAY
from pipelines.settings import PROJECT_ROOT


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    """The Python of the section that adds a feature, block by block."""
    return python_blocks("docs/features.md")


@pytest.fixture(scope="module")
def view(blocks: list[str]) -> View:
    """The view that the first two blocks define."""
    names: dict[str, Any] = {"View": View, "Source": Source, "DAY": DAY}
    exec(blocks[0], names)
    made = eval(blocks[1], names)
    assert isinstance(made, View)
    return made


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The declarations of the feature repository can be imported, and are forgotten after."""
    monkeypatch.syspath_prepend(str(PROJECT_ROOT / "feature_repo"))
    with declarations_forgotten():
        yield


def test_the_example_feature_counts_searches(view: View) -> None:
    """Each row says how often the user searched in the seven days up to it; the newest too."""
    clicks = [row for row in complete_log(3, size=200)["clickstream"] if row["op"] == "I"]
    with duckdb.connect() as connection:
        load_logs(connection, {"clickstream": clicks})
        sql = ibis.to_sql(view.function(log_table("clickstream")), dialect="duckdb")
        found = connection.sql(str(sql)).to_arrow_table().to_pylist()
        sql = ibis.to_sql(view.function(log_table("clickstream"), newest=True), dialect="duckdb")
        newest = connection.sql(str(sql)).to_arrow_table().to_pylist()
    searches: dict[tuple[int, datetime], int] = {}
    for row in clicks:
        user, t = row["user_id"], row["event_timestamp"]
        searches[user, t] = sum(
            other["user_id"] == user
            and other["action"] == "search"
            and t - timedelta(days=7) < other["event_timestamp"] <= t
            for other in clicks
        )
    assert {(r["user_id"], r["event_timestamp"]): r["searches_7d"] for r in found} == searches
    assert len(set(searches.values())) > 2
    last = dict(sorted(searches))
    assert {row["user_id"]: row["event_timestamp"] for row in newest} == last
    assert all(row in found for row in newest)


def test_the_example_view_names_a_log_that_exists(view: View) -> None:
    """What it writes into VIEWS fits the logs' columns."""
    (source,) = view.sources
    columns = set(log_table(source.log).columns)
    assert {source.time, *source.keys} <= columns
    assert source.lookback == 7 * DAY


def test_the_example_declaration_is_accepted_by_feast(
    blocks: list[str], repository: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Feast part has the view's keys and features."""
    monkeypatch.setenv("SYNCHROCHAIN_DATA_DIR", str(tmp_path))
    import data_sources
    import feature_views

    names = {**vars(data_sources), **vars(feature_views)}
    exec(blocks[2], names)
    exec(blocks[3], names)
    declared = names["user_searches"]
    assert [feature.name for feature in declared.features] == ["searches_7d"]
    assert declared.entities == ["user"]
    assert declared.batch_source.path == str(
        tmp_path / "feature_store" / "offline" / "user_searches" / "*.parquet"
    )
