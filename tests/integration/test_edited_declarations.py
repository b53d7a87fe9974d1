"""Declarations are edited in a copy of the package; the flows, Feast and Redis follow."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import new_directory
from documented import python_blocks
from edited_copy import EditedCopy
from live_logs import append_changes, complete_log

from pipelines.cache import FeatureEntry, RealtimeCache
from pipelines.feast_plugins.writing.encoding import field
from pipelines.lake.state import STALE_VIEWS, PipelineState
from pipelines.lake.workspace import read_files
from pipelines.redis_server import connect, ensure_server, stop_server
from pipelines.settings import BatchConfig, DataConfig

PAGE = "pipelines/features/user_intent.py"
GROUPS = "pipelines/features/groups.py"
SOURCES = "feature_repo/data_sources.py"
REPOSITORY = "feature_repo/feature_views.py"
NOW = datetime(2024, 3, 10)
USERS = (1, 2, 3, 4)


class Shop:
    """A data directory with a processed history, and a copy of the package."""

    def __init__(self, data_dir: Path, copy: EditedCopy) -> None:
        self.data = DataConfig(data_dir=data_dir, redis_host=None)
        self.config = BatchConfig(data_dir=data_dir)
        self.copy = copy

    @property
    def state(self) -> PipelineState:
        return PipelineState(self.config.state_path)

    def fields(self) -> set[bytes]:
        """Every field of every row online."""
        with connect(ensure_server(self.data)) as client:
            keys = client.scan_iter(b"*synchrochain", _type="hash", count=10_000)
            return {name for key in keys for name in client.hkeys(key)}

    def newest(self, view: str, **keys: Any) -> dict[str, Any]:
        """The newest published row of a key, with its event time."""
        files = read_files(self.state.files("view", view))
        same = " AND ".join(f"{name} = {value!r}" for name, value in keys.items())
        found = duckdb.sql(
            f"SELECT * EXCLUDE (created_timestamp) FROM {files} WHERE {same} "
            "ORDER BY event_timestamp DESC, created_timestamp DESC LIMIT 1"
        )
        row: dict[str, Any]
        (row,) = found.to_arrow_table().to_pylist()
        return row

    def served(self, view: str, user: int) -> dict[str, Any]:
        """What should be served of a user: the newest published row, nulls if that has expired."""
        row = self.newest(view, user_id=user)
        fresh = row.pop("event_timestamp") > NOW - timedelta(days=7)
        return {name: value if fresh or name == "user_id" else None for name, value in row.items()}

    def stream(self) -> subprocess.Popen[str]:
        """A streamer with the declarations as they are now, once it streams."""
        started = self.copy.start("-c", STREAMER, str(self.data.data_dir), stderr=subprocess.PIPE)
        assert started.stdout
        line = started.stdout.readline()
        if line != "ready\n":
            started.wait(60)
        return started


STREAMER = """
import asyncio, sys
from pipelines.errors import SynchroChainError
from pipelines.settings import BatchConfig, DataConfig
from pipelines.stopping import on_stop
from pipelines.streaming import DataStreamer

streamer = DataStreamer(config=DataConfig(), batch=BatchConfig())
with on_stop(streamer.stop):
    try:
        asyncio.run(streamer.start_streaming(ready=lambda: print("ready", flush=True)))
    except SynchroChainError as error:
        sys.exit(f"error: {error}")
"""


LAYER = """
import sys
from pipelines.data_layer import DataLayerOrchestrator
with DataLayerOrchestrator():
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def processed_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory, processed and online with the declarations of the package."""
    with new_directory() as data_dir:
        append_changes(DataConfig(data_dir=data_dir, redis_host=None), complete_log(4))
        with EditedCopy(tmp_path_factory.mktemp("copy"), data_dir).process() as process:
            assert "error" not in process.cycle(NOW)
        stop_server(DataConfig(data_dir=data_dir, redis_host=None))
        yield data_dir


@pytest.fixture
def shop(processed_once: Path, tmp_path: Path) -> Iterator[Shop]:
    """A copy of that directory, and one of the package."""
    with new_directory() as data_dir:
        shutil.copytree(processed_once, data_dir, dirs_exist_ok=True)
        yield Shop(data_dir, EditedCopy(tmp_path, data_dir))


def with_searches(copy: EditedCopy) -> None:
    """The documentation's line, in its page."""
    line = python_blocks("docs/features.md")[0]
    copy.edit(PAGE, "    features=(\n", f"    features=(\n{line.rstrip()},\n")


def with_a_group(copy: EditedCopy) -> None:
    """The documentation's group, in its page, the registry of views and the repository."""
    page, source, view = python_blocks("docs/features.md")[1:4]
    copy.write("pipelines/features/user_searches.py", f'"""Searches."""\n\n{page}')
    copy.edit(
        GROUPS,
        "from pipelines.features.user_orders import USER_ORDERS\n",
        "from pipelines.features.user_orders import USER_ORDERS\n"
        "from pipelines.features.user_searches import USER_SEARCHES\n",
    )
    copy.edit(GROUPS, "OWN: Final = (USER_INTENT,", "OWN: Final = (USER_SEARCHES, USER_INTENT,")
    copy.edit(SOURCES, "order_request = ", f"{source}\norder_request = ")
    copy.edit(
        REPOSITORY,
        "    user_orders_source,\n",
        "    user_orders_source,\n    user_searches_source,\n",
    )
    copy.edit(REPOSITORY, "session_events = ", f"{view}\nsession_events = ")


def without_the_group(copy: EditedCopy, *, in_feast: bool = False) -> None:
    """As the package is; or still in the feature repository."""
    for name in (GROUPS, *(() if in_feast else (SOURCES, REPOSITORY))):
        copy.restore(name)


def test_a_feature_is_added_changed_and_taken_away_by_one_edit(shop: Shop) -> None:
    """Each is computed for all of history, and online are the new values, types and all; what went
    is nowhere; no other group is touched."""
    before = {view: shop.state.files("view", view) for view in ("session_events", "user_orders")}
    gone = field("user_intent", "carts_7d")
    assert gone in shop.fields()
    with_searches(shop.copy)
    shop.copy.edit(
        PAGE,
        'Feature("session_duration", last(SESSIONS.session_duration, within=WEEK), "seconds"),',
        'Feature("session_duration", last(SESSIONS.session_id, within=WEEK), "a text by now"),',
    )
    shop.copy.edit(PAGE, '"carts_7d",\n', '"baskets_7d",\n')
    plan = shop.copy.command("features", "plan", "--json")
    (planned,) = (g for g in json.loads(plan.stdout)["groups"] if g["change"] != "unchanged")
    assert planned["group"] == "user_intent"
    assert planned["features"] == {
        "added": ["searches_7d", "baskets_7d"],
        "removed": ["carts_7d"],
        "changed": ["session_duration"],
    }
    status = json.loads(shop.copy.command("status", "--json").stdout)
    assert status["declared_otherwise"] == ["user_intent"]
    assert status["offline_views"]["user_intent"]["rows"] == planned["rows"]
    for words in (["features", "user_intent", "user_id=1"], ["audit"]):
        said = shop.copy.command(*words)
        assert said.returncode == 1
        assert said.stderr.startswith("error: user_intent: what is published was declared")
    with RealtimeCache(shop.data) as cache:
        entry = FeatureEntry({"carts_7d": 1}, NOW, NOW)
        cache.put_features({"user_intent:1": entry, "user_orders:1": entry})
        cache.put_batch("sessions", NOW, [{"view": "user_intent", "carts_7d": 1}])
        cache.put_batch("orders", NOW, [{"view": "user_orders"}])
    with shop.copy.process() as process:
        report = process.cycle(NOW)
        assert list(report["feature_rows"]) == ["user_intent"]
        assert list(report["materialized"]) == ["user_intent"]
        every = [shop.served("user_intent", user) for user in USERS]
        assert [process.online("user_intent", NOW, user_id=user) for user in USERS] == every
        some = next(row for row in every if row["session_duration"] is not None)
        assert isinstance(some["session_duration"], str)
        assert "searches_7d" in some
        history = process.history("user_intent", NOW, user_id=some["user_id"])
        assert {"user_id": some["user_id"], **history} == some
        assert set(process.views()["user_intent"]) == some.keys() - {"user_id"}
        latest = process.latest()
    with RealtimeCache(shop.data) as cache:
        found = cache.get_features(["user_intent:1", "user_orders:1"])
        assert [entry is None for entry in found.values()] == [True, False]
        assert cache.latest("sessions") is None
        assert cache.latest("orders") is not None
    # Those rows have not the columns that a streamer of this process' declarations writes.
    assert latest["error"].startswith("DeclaredAnewError: user_orders: another process")
    assert gone not in shop.fields()
    after = {view: shop.state.files("view", view) for view in ("session_events", "user_orders")}
    assert after == before
    assert shop.state.metadata(STALE_VIEWS) is None


def test_a_row_that_is_due_at_no_time_any_more_is_not_served(shop: Shop) -> None:
    """Newer wins, so an online row that is later than all that are due now has to go first."""
    before = [shop.newest("user_intent", user_id=user) for user in USERS]
    shop.copy.edit(PAGE, "    rows=SESSIONS,\n", "    rows=CLICKS,\n")
    with shop.copy.process() as process:
        assert "error" not in process.cycle(NOW)
        for user in USERS:
            assert process.online("user_intent", NOW, user_id=user) == shop.served(
                "user_intent", user
            )
    after = [shop.newest("user_intent", user_id=user) for user in USERS]
    earlier = [
        new["event_timestamp"] < old["event_timestamp"]
        for new, old in zip(after, before, strict=True)
    ]
    assert any(earlier)


def test_a_group_is_added_and_taken_out_again(shop: Shop) -> None:
    """First for all of history, then nothing is left of it: files, rows, entries, registry."""
    with_a_group(shop.copy)
    with shop.copy.process() as process:
        report = process.cycle(NOW)
        assert list(report["feature_rows"]) == ["user_searches"]
        assert list(report["materialized"]) == ["user_searches"]
        every = [shop.served("user_searches", user) for user in USERS]
        assert [process.online("user_searches", NOW, user_id=user) for user in USERS] == every
        assert any(row["searches_7d"] is not None for row in every)
        assert process.views()["user_searches"] == ["searches_7d"]
    marks = {b"_ts:user_searches", b"_created:user_searches", field("user_searches", "searches_7d")}
    assert marks <= shop.fields()
    before = shop.fields() - marks
    without_the_group(shop.copy)
    (planned,) = (
        g
        for g in json.loads(shop.copy.command("features", "plan", "--json").stdout)["groups"]
        if g["change"] != "unchanged"
    )
    assert (planned["group"], planned["change"]) == ("user_searches", "removed")
    with shop.copy.process() as process:
        report = process.cycle(NOW)
        assert report["feature_rows"] == {}
        assert report["materialized"] == {}
        assert "user_searches" not in process.views()
        assert "error" in process.history("user_searches", NOW, user_id=1)
        assert "error" not in process.cycle(NOW)
    assert shop.fields() == before
    assert shop.state.files("view", "user_searches") == []
    assert shop.copy.command("status").returncode == 0


def test_a_group_that_feast_still_knows_is_named_in_one_line(shop: Shop) -> None:
    """Its rows are gone all the same; and one that Feast does not know is named too."""
    with_a_group(shop.copy)
    shop.copy.restore(REPOSITORY)
    with shop.copy.process() as process:
        said = process.cycle(NOW)["error"]
        assert "user_searches is declared, and" in said
        assert "has no feature view of this name" in said
    with_the_view = python_blocks("docs/features.md")[3]
    shop.copy.edit(
        REPOSITORY,
        "    user_orders_source,\n",
        "    user_orders_source,\n    user_searches_source,\n",
    )
    shop.copy.edit(REPOSITORY, "session_events = ", f"{with_the_view}\nsession_events = ")
    with shop.copy.process() as process:
        assert "error" not in process.cycle(NOW)
    assert b"_ts:user_searches" in shop.fields()
    without_the_group(shop.copy, in_feast=True)
    with shop.copy.process() as process:
        for _ in range(2):
            said = process.cycle(NOW)["error"]
            assert "the feature repository has a view user_searches, and no group" in said
            assert "\n" not in said
    assert b"_ts:user_searches" not in shop.fields()
    without_the_group(shop.copy)
    with shop.copy.process() as process:
        assert "error" not in process.cycle(NOW)
        assert "user_searches" not in process.views()


def test_processes_with_older_declarations_notice_those_of_a_newer_one(shop: Shop) -> None:
    """The streamer ends and a loop's next cycle refuses, in one line each; neither writes. What is
    started before the cycle of the new declarations refuses too; after it, all of it works."""
    with_searches(shop.copy)
    early = shop.stream()
    assert early.returncode == 1
    assert early.stderr
    said = early.stderr.read()
    assert "user_intent: what is published was declared otherwise: run `synchrochain" in said
    assert "Traceback" not in said
    shop.copy.restore(PAGE)
    streamer = shop.stream()
    with shop.copy.process() as older:
        assert older.cycle(NOW)["feature_rows"] == {}
        assert streamer.poll() is None
        with_searches(shop.copy)
        with shop.copy.process() as newer:
            assert list(newer.cycle(NOW)["feature_rows"]) == ["user_intent"]
            streamer.wait(60)
            assert streamer.returncode == 1
            assert streamer.stderr
            said = streamer.stderr.read()
            line = "user_intent: another process has declared this anew"
            assert f"error: {line}" in said
            assert "Traceback" not in said
            assert line in older.cycle(NOW)["error"]
            assert newer.cycle(NOW)["feature_rows"] == {}
            for user in USERS:
                served = shop.served("user_intent", user)
                assert newer.online("user_intent", NOW, user_id=user) == served
    again = shop.stream()
    try:
        assert again.poll() is None
    finally:
        os.kill(again.pid, signal.SIGTERM)
        again.communicate(timeout=60)
    assert again.returncode == 0


def test_a_data_layer_starts_with_new_declarations_and_says_when_there_are_newer_ones(
    shop: Shop,
) -> None:
    """Its first cycle comes before its streamer; later the streamer ends, in one line."""
    with_searches(shop.copy)
    layer = shop.copy.start("-c", LAYER, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert layer.stdout
    assert layer.stdout.readline() == "ready\n"
    shop.copy.restore(PAGE)
    assert shop.copy.command("batch", "--once").returncode == 0
    _, said = layer.communicate("end\n", timeout=60)
    assert layer.returncode == 0
    assert "the streamer has ended: user_intent: another process has declared this anew" in said
    assert "Traceback" not in said
