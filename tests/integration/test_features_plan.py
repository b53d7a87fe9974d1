"""`synchrochain features plan` says beforehand what the next cycle does, and touches nothing."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Clock
from documented import python_blocks
from live_logs import append_changes, complete_log
from old_directory import unpack
from redeclared import (
    CHANGES,
    GONE,
    Recorded,
    not_at_all,
    of_another_meaning,
    publish_undeclared,
    record,
    recorded,
    started_again,
    unpublish,
)

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.errors import ConfigurationError, DamagedStateError, NewerFormatError
from pipelines.features.views import VIEWS
from pipelines.lake.state_migrations import FORMAT
from pipelines.monitoring.feature_plan import feature_plan
from pipelines.settings import DataConfig

NOW = datetime(2024, 4, 1)
CRASHED = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("INSERT OR REPLACE INTO metadata VALUES ('declarations', ?)", (sys.argv[2],))
connection.commit()
os._exit(0)
"""


def features(folder: Path, *arguments: str, **environment: str) -> str:
    """What a command on features prints, at 80 columns."""
    found = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "features", *arguments],
        env={"COLUMNS": "80", "SYNCHROCHAIN_DATA_DIR": str(folder), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stderr == ""
    assert max(map(len, found.stdout.splitlines())) <= 80 or "--json" in arguments
    return found.stdout


def plan(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(features(folder, "plan", "--json"))
    return found


def differing(folder: Path) -> dict[str, dict[str, Any]]:
    """The plan's groups that are not as they were."""
    return {g["group"]: g for g in plan(folder)["groups"] if g["change"] != "unchanged"}


def content(folder: Path) -> dict[str, bytes]:
    """All that lies in a folder, to the byte; but for the index of a log that was left behind."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files if not path.name.endswith("-shm")}


@pytest.mark.parametrize("change", [c for c, _ in CHANGES], ids=[c.__name__ for c, _ in CHANGES])
def test_the_next_cycle_does_what_the_plan_says(
    processed: BatchProcessor, change: Callable[[Recorded], object]
) -> None:
    """The group, the features, the files that go, and no other group."""
    state, folder = processed.state, processed.config.data_dir
    record(state, change)
    files = state.files("view", "user_intent")
    (found,) = differing(folder).values()
    assert found["group"] == "user_intent"
    assert found["why"] == dict(CHANGES)[change]
    assert (found["change"], found["computed"]) == ("changed", True)
    assert (found["rows"], found["files"]) == (sum(file.rows for file in files), len(files))
    assert found["log_rows"] == {
        log: sum(file.rows for file in state.files("log", log))
        for log in ("sessions", "users", "clickstream")
    }
    said = features(folder, "plan")
    assert "user_intent" in said
    assert "nothing" not in said
    assert list(started_again(processed).run_cycle(update=False).feature_rows) == ["user_intent"]
    assert differing(folder) == {}


def test_the_plan_names_the_features(processed: BatchProcessor) -> None:
    """Which were added, which are gone and which mean something else."""
    known = recorded(processed.state)["user_intent"]["features"]

    def change(recorded: Recorded) -> None:
        features = {name: hash_ for name, hash_ in known.items() if name != "carts_7d"}
        features |= {"sessions_7d": "another", "searches_7d": "gone"}
        recorded["user_intent"] |= {"features": features, "rows": "another"}

    record(processed.state, change)
    (found,) = differing(processed.config.data_dir).values()
    assert found["features"] == {
        "added": ["carts_7d"],
        "removed": ["searches_7d"],
        "changed": ["sessions_7d"],
    }
    assert found["rows_changed"]
    assert found["models"] == ["intent_transformer", "ppo_agent"]
    said = " ".join(features(processed.config.data_dir, "plan").split())
    assert "added: carts_7d; removed: searches_7d; changed: sessions_7d" in said


def test_a_plan_with_nothing_to_do_says_so(processed: BatchProcessor) -> None:
    """In one line; every group is there in the document."""
    folder = processed.config.data_dir
    assert features(folder, "plan").startswith("nothing to recompute: every group is declared as")
    found = plan(folder)
    assert not found["first_cycle"]
    assert [group["group"] for group in found["groups"]] == [view.name for view in VIEWS]
    assert {(group["change"], group["computed"]) for group in found["groups"]} == {
        ("unchanged", False)
    }


def test_before_the_first_cycle_the_plan_is_everything(tmp_path: Path, data: DataConfig) -> None:
    """It says so, be there a directory or not, and makes none."""
    folder = tmp_path / "none"
    assert plan(folder) == {"first_cycle": True, "groups": []}
    assert "no batch cycle has run here yet" in features(folder, "plan")
    assert not folder.exists()
    append_changes(data, complete_log(2))
    BatchProcessor(BatchConfig(data_dir=data.data_dir), data)
    assert plan(data.data_dir) == {"first_cycle": True, "groups": []}


def test_a_new_group_and_one_that_is_gone_are_in_the_plan(processed: BatchProcessor) -> None:
    """The one is computed, the other's files are removed."""
    unpublish(processed, "user_intent")
    file = publish_undeclared(processed, like="user_orders")

    def change(known: Recorded) -> None:
        not_at_all(known)
        known[GONE] = known["user_orders"]

    record(processed.state, change)
    found = differing(processed.config.data_dir)
    assert list(found) == ["user_intent", GONE]
    new, gone = found.values()
    assert (new["change"], new["computed"], new["rows"], new["seconds"]) == ("new", True, 0, None)
    assert new["log_rows"].keys() == {"sessions", "users", "clickstream"}
    assert (gone["change"], gone["computed"], gone["rows"]) == ("removed", False, file.rows)
    assert gone["log_rows"] == {}
    said = " ".join(features(processed.config.data_dir, "plan").split())
    assert (
        f"{GONE}: not declared any more, in the package or by SYNCHROCHAIN_FEATURES; its rows are"
        in said
    )


def test_a_group_over_a_table_of_ones_own_is_in_the_plan(
    processed: BatchProcessor, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The table's log is read from its beginning; without the setting it would be given up, which
    the plan refuses as the cycle does."""
    modules, folder = tmp_path_factory.mktemp("modules"), processed.config.data_dir
    (modules / "shop_returns.py").write_text(python_blocks("docs/features.md")[-1], "utf-8")
    outside = {"SYNCHROCHAIN_FEATURES": "shop_returns", "PYTHONPATH": str(modules)}
    groups = json.loads(features(folder, "plan", "--json", **outside))["groups"]
    (new,) = (group for group in groups if group["change"] != "unchanged")
    assert (new["group"], new["change"], new["computed"]) == ("user_returns", "new", True)
    assert new["unread_logs"] == ["returns"]
    said = " ".join(features(folder, "plan", **outside).split())
    assert "all that the change log holds of returns" in said
    record(
        processed.state,
        lambda known: known.update({"user_returns": known["user_orders"] | {"module": "shop"}}),
    )
    with pytest.raises(ConfigurationError, match="user_returns: declared by shop, and"):
        feature_plan(processed.config, NOW)


def crashed(processed: BatchProcessor) -> None:
    """Its last commit lies in a log beside the state."""
    known = recorded(processed.state)
    of_another_meaning(known)
    path = processed.config.state_path
    subprocess.run([sys.executable, "-c", CRASHED, str(path), json.dumps(known)], check=True)
    assert path.with_name(f"{path.name}-wal").stat().st_size


def at_rest(processed: BatchProcessor) -> None:
    """Nothing but the state."""
    record(processed.state, of_another_meaning)


def without_live_databases(processed: BatchProcessor) -> None:
    """There is nothing that could be opened."""
    at_rest(processed)
    shutil.rmtree(processed.data.db_path)


@pytest.mark.parametrize("state", [at_rest, crashed, without_live_databases])
def test_a_plan_writes_nothing(
    processed: BatchProcessor, state: Callable[[BatchProcessor], None]
) -> None:
    """Neither into the state nor beside it, however it stands; live databases are not opened."""
    state(processed)
    folder = processed.config.data_dir
    before = content(folder)
    assert list(differing(folder)) == ["user_intent"]
    assert content(folder) == before


def test_a_directory_of_an_earlier_version_is_planned_and_left_as_it_is(tmp_path: Path) -> None:
    """The next cycle upgrades it and computes every group; the plan only says so."""
    unpack(tmp_path)
    before = content(tmp_path)
    found = differing(tmp_path)
    assert list(found) == [view.name for view in VIEWS]
    assert {(group["change"], group["computed"]) for group in found.values()} == {("changed", True)}
    assert {group["why"] for group in found.values()} == {dict(CHANGES)[not_at_all]}
    assert content(tmp_path) == before


@pytest.mark.parametrize("number", [FORMAT + 1, -1])
def test_a_state_that_cannot_be_read_is_said_with_its_own_path(
    processed: BatchProcessor, number: int
) -> None:
    """And not with that of a copy."""
    path = processed.config.state_path
    if number < 0:
        path.write_bytes(b"SQLite format 3\0" + b"\xff" * 8192)
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA user_version = {number}")
            connection.commit()
    with pytest.raises((NewerFormatError, DamagedStateError), match=str(path)):
        feature_plan(processed.config, NOW)


def test_the_time_is_that_of_the_cycle_that_computed_most(
    processed: BatchProcessor, clock: Clock
) -> None:
    """By its rows; what was never measured, or only on little, is not guessed."""
    state, config = processed.state, processed.config
    record(state, of_another_meaning)
    rows = sum(file.rows for file in state.files("view", "user_intent"))

    def cycle(rows: int, seconds: float, error: str | None = None) -> int:
        number = state.begin_cycle(clock())
        measured = {
            "feature_rows": {"user_intent": rows},
            "feature_seconds": {"user_intent": seconds},
        }
        state.end_cycle(number, clock(), measured, error=error)
        return number

    def estimate() -> tuple[float | None, int | None]:
        (group,) = feature_plan(config, NOW).differing
        return group.seconds, group.measured_in

    state.forget_cycles(NOW + timedelta(days=3650))
    assert estimate() == (None, None)
    cycle(rows // 20, 1.0)
    assert estimate() == (None, None)
    number = cycle(2 * rows, 50.0)
    cycle(rows, 1.0)
    cycle(9 * rows, 1.0, error="failed")
    assert estimate() == (25.0, number)


def test_a_cycle_measures_each_group_that_it_computes(
    processor: BatchProcessor, data: DataConfig
) -> None:
    """In its record; a group without rows has no time."""
    append_changes(data, complete_log(2))
    report = processor.run_cycle(update=False)
    assert report.feature_seconds.keys() == report.feature_rows.keys()
    assert processor.run_cycle(update=False).feature_seconds == {}
    (last,) = processor.state.last_cycles(2)[1:]
    assert last.report["feature_seconds"] == report.feature_seconds


def test_rows_whose_logs_have_expired_are_announced(processed: BatchProcessor) -> None:
    """They are computed from what is left, which somebody may not want."""
    record(processed.state, of_another_meaning)
    (group,) = feature_plan(processed.config, NOW).differing
    assert group.expired_before is None
    short = processed.config.model_copy(update={"retention_days": 1})
    later = NOW + timedelta(days=365)
    (group,) = feature_plan(short, later).differing
    assert group.expired_before is not None
    assert group.expired_before < later - timedelta(days=1)


def test_the_declared_features_are_listed(tmp_path: Path) -> None:
    """With what a reader of the dictionary finds there; no data directory is needed."""
    found = json.loads(features(tmp_path / "none", "list", "--json"))["groups"]
    assert [group["group"] for group in found] == [view.name for view in VIEWS]
    for group, view in zip(found, VIEWS, strict=True):
        assert group["keys"] == list(view.keys)
        assert [feature["name"] for feature in group["features"]] == list(view.features)
    intent = {feature["name"]: feature for feature in found[0]["features"]}
    assert intent["sessions_1d"]["window_seconds"] == [86_400]
    assert intent["conversion_rate_7d"]["type"] == "Float64"
    said = features(tmp_path / "none", "list")
    assert all(name in said for view in VIEWS for name in (view.name, *view.features))


def test_what_is_no_command_is_a_view(tmp_path: Path) -> None:
    """`features user_intent …` goes on to mean what it meant; an option may come first."""
    for words in (["nosuch", "a=1"], ["show", "nosuch", "a=1"], ["--json", "nosuch", "a=1"]):
        found = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", "features", *words],
            env={"SYNCHROCHAIN_DATA_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (found.returncode, found.stdout) == (2, "")
        assert "there is no feature view 'nosuch'" in found.stderr
