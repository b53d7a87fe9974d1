"""The documentation's worked example does what it says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import duckdb
import ibis
import pytest
from documented import declarations_forgotten, python_blocks
from live_logs import complete_log
from log_tables import load_logs

from pipelines.features import declare, shop_rows
from pipelines.features.compilers.every_row import every_row
from pipelines.features.compilers.newest_row import newest_row
from pipelines.features.language.aggregations import DAY
from pipelines.features.user_intent import USER_INTENT
from pipelines.features.views import VIEWS_BY_NAME, View
from pipelines.settings import PROJECT_ROOT


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    """The Python of the section that adds a feature, block by block."""
    return python_blocks("docs/features.md")


@pytest.fixture(scope="module")
def view(blocks: list[str]) -> View:
    """The view of the group that the second block declares."""
    names: dict[str, Any] = {}
    exec(blocks[1], names)
    return View(names["USER_SEARCHES"])


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The declarations of the feature repository can be imported, and are forgotten after."""
    monkeypatch.syspath_prepend(str(PROJECT_ROOT / "feature_repo"))
    with declarations_forgotten():
        yield


def test_the_example_line_is_a_feature_of_its_group(blocks: list[str]) -> None:
    """One line more in the page, and the group has it, in its plans, its schema and its needs."""
    feature = eval(blocks[0], {**vars(declare), **vars(shop_rows)})
    group = declare.group(
        "user_intent",
        keys=USER_INTENT.keys,
        rows=USER_INTENT.rows,
        entity=USER_INTENT.entity,
        features=[*USER_INTENT.features.values(), feature],
    )
    made = View(group)
    assert made.features == (*VIEWS_BY_NAME["user_intent"].features, "searches_7d")
    (clicks,) = (source for source in made.sources if source.log == "clickstream")
    assert "search" in clicks.only
    assert "searches_7d" in every_row(group).columns


def test_the_example_feature_counts_searches(view: View) -> None:
    """Each row says how often the user searched in the seven days up to it; the newest too."""
    clicks = [row for row in complete_log(3, size=200)["clickstream"] if row["op"] == "I"]
    with duckdb.connect() as connection:
        load_logs(connection, {"clickstream": clicks})
        sql = ibis.to_sql(every_row(view.group), dialect="duckdb")
        found = connection.sql(str(sql)).to_arrow_table().to_pylist()
        sql = ibis.to_sql(newest_row(view.group), dialect="duckdb")
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


def test_the_example_view_needs_a_week_of_clicks(view: View) -> None:
    """It follows from the declaration; of users only the deletions."""
    clicks, users = view.sources
    assert (clicks.log, clicks.lookback, clicks.only) == ("clickstream", 7 * DAY, "op = 'I'")
    assert (users.log, users.only) == ("users", "op = 'D'")


def test_the_example_declaration_is_accepted_by_feast(
    blocks: list[str],
    view: View,
    repository: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The Feast part has the view's keys and features."""
    monkeypatch.setenv("SYNCHROCHAIN_DATA_DIR", str(tmp_path))
    monkeypatch.setitem(cast("dict[str, View]", VIEWS_BY_NAME), view.name, view)
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
