"""Deletions that an earlier version processed without tombstones get them by the next cycle."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from live_logs import offline_rows
from old_directory import unpack
from test_live_audit import AT, Shop, shop

from pipelines.batch.transform import table_of
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.lake.publishing import publish, stage
from pipelines.lake.state import PipelineState
from pipelines.lake.state_migrations import DELETIONS_UNCHECKED
from pipelines.lake.workspace import read_files

__all__ = ["shop"]
Row = dict[str, Any]
STOCK = "INSERT INTO inventory VALUES ('w1', ?, 5, 0, 2, 1.5, ?)"


def without_tombstones(shop: Shop, view: str, feature: str) -> None:
    """Publish a view as the earlier version would have left it."""
    state, cycle = shop.processor.state, shop.processor.state.begin_cycle(shop.now)
    files = state.files("view", view)
    rows = duckdb.sql(f"SELECT * FROM {read_files(files)} WHERE {feature} IS NOT NULL")
    replaced = [file.path for file in files]
    batches = rows.to_arrow_reader(1_000)
    file_name = f"{view}_{cycle:08d}.parquet"
    staged = stage([table_of(shop.processor.config, "view", view, file_name, batches, replaced)])
    assert staged.files
    publish(state, cycle, staged, shop.now)


def newest(shop: Shop, view: str) -> dict[Any, Row]:
    key = VIEWS_BY_NAME[view].keys[-1]
    return {row[key]: row for row in offline_rows(shop.processor, view)}


@pytest.fixture
def upgraded(shop: Shop) -> Shop:
    """Of four stock positions one stays, one is deleted, one is there again, and one is deleted and
    comes again after the upgrade; a session is deleted, and a user who has ordered."""
    for product in ("p2", "p3", "p4"):
        shop.execute("inventory", f"INSERT INTO products VALUES ('{product}', 'c', 0.1, 1)")
        shop.execute("inventory", STOCK, product, AT)
    shop.cycle()
    shop.now += timedelta(hours=1)
    for product in ("p2", "p3", "p4"):
        shop.execute("inventory", f"DELETE FROM inventory WHERE product_id = '{product}'")
    shop.execute("inventory", STOCK, "p3", f"{shop.now + timedelta(minutes=1)}.000000")
    shop.execute("users", "DELETE FROM user_sessions")
    shop.execute("users", "DELETE FROM users WHERE user_id = 1")
    shop.cycle()
    without_tombstones(shop, "inventory_levels", "stock_level")
    without_tombstones(shop, "user_orders", "order_value")
    without_tombstones(shop, "user_intent", "session_duration")
    shop.processor.state.set_metadata(DELETIONS_UNCHECKED, "")
    shop.now += timedelta(hours=1)
    shop.execute("inventory", STOCK, "p4", f"{shop.now}.000000")
    return shop


def test_what_was_deleted_before_the_upgrade_is_not_served_on(upgraded: Shop) -> None:
    """Its tombstone has the time of the deletion; what is there again is left alone."""
    deleted = upgraded.now - timedelta(hours=1)
    assert newest(upgraded, "inventory_levels")["p2"]["stock_level"] == 5
    upgraded.cycle()
    found = newest(upgraded, "inventory_levels")
    assert (found["p2"]["stock_level"], found["p2"]["event_timestamp"]) == (None, deleted)
    assert {product: found[product]["stock_level"] for product in ("p1", "p3", "p4")} == {
        "p1": 5,
        "p3": 5,
        "p4": 5,
    }
    assert newest(upgraded, "user_orders")[1]["order_value"] is None
    assert newest(upgraded, "user_intent")[1]["session_duration"] is None
    assert upgraded.audit().unexplained == 0


def test_deletions_are_logged_again_once(upgraded: Shop) -> None:
    """Also if the cycle that did so did not come to its end."""

    def count() -> list[int]:
        query = "SELECT count(*) FROM change_log WHERE op = 'D'"
        return [upgraded.rows(name, query)[0][0] for name in ("inventory", "users")]

    before = count()
    upgraded.cycle()
    assert count() == [before[0] + 1, before[1] + 2]
    upgraded.processor.state.set_metadata(DELETIONS_UNCHECKED, "")
    upgraded.cycle()
    upgraded.cycle()
    assert count() == [before[0] + 1, before[1] + 2]


def test_an_older_state_is_checked_and_a_new_one_is_not(tmp_path: Path) -> None:
    """Only where something was processed there may be deletions of before."""
    unpack(tmp_path / "old")
    assert PipelineState(tmp_path / "old" / "pipeline_state.db").metadata(DELETIONS_UNCHECKED) == ""
    assert (
        PipelineState(tmp_path / "new" / "pipeline_state.db").metadata(DELETIONS_UNCHECKED) is None
    )
