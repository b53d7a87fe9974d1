"""The whole layer in one process: a commit shows among the latest features; it starts and stops."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from documented import python_blocks
from pydantic import SecretStr

from pipelines.cache import DATA_TYPES
from pipelines.cli.status_table import print_status
from pipelines.data_layer import DataLayerOrchestrator, LatestFeatures
from pipelines.data_layer import running as running_layer
from pipelines.errors import ConfigurationError, StreamerRunningError, UsageError
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.lake.clock import utc_now
from pipelines.lake.process_lock import held_by, only_one
from pipelines.live_databases import LiveDatabases, clickstream, products, user_sessions, users
from pipelines.monitoring.status import collect_status
from pipelines.redis_server import stop_server
from pipelines.settings import (
    DATABASE_NAMES,
    PROJECT_ROOT,
    BatchConfig,
    DataConfig,
    check_environment,
)

GUARD_SECONDS = 30.0


class Shop:
    """Live databases with one user, who clicks."""

    def __init__(self, data: DataConfig) -> None:
        self.databases = LiveDatabases.open(data)
        self.databases.create()
        self._clicks = 0
        session = {
            "session_id": "s1",
            "user_id": 1,
            "products_viewed": ["p1"],
            "actions_performed": ["view"],
            "session_duration": 10,
            "timestamp": utc_now(),
            "intent_signals": {"time_on_page": 30.0, "scroll_depth": 0.5, "click_rate": 0.1},
        }
        product = {"product_id": "p1", "category": "c", "unit_price": 1, "weight_kg": 1.0}
        self.insert("inventory", products, product)
        self.insert("users", users, {"user_id": 1, "region": "north", "signed_up_at": utc_now()})
        self.insert("users", user_sessions, session)

    def insert(self, database: str, table: sa.Table, row: dict[str, Any]) -> None:
        with self.databases[database].begin() as connection:
            connection.execute(table.insert().values(row))

    def click(self) -> None:
        """One more click of the user's only session."""
        self._clicks += 1
        row = {
            "event_id": self._clicks,
            "session_id": "s1",
            "user_id": 1,
            "product_id": "p1",
            "action": "add_to_cart",
            "time_on_page": 3.0,
            "scroll_depth": 0.5,
            "event_timestamp": utc_now(),
        }
        self.insert("users", clickstream, row)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A data directory with a Redis of its own, for the module."""
    made = Path(tempfile.mkdtemp(prefix="sc-")).resolve()  # short, as a socket's path must be
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "_MLFLOW_SERVER_ARTIFACT_ROOT"):
            patch.setenv(name, "")  # so that what Feast's plug-in sets is undone
            patch.delenv(name)
        patch.delenv("SYNCHROCHAIN_REDIS_HOST", raising=False)
        patch.setenv("SYNCHROCHAIN_DATA_DIR", str(made))
        try:
            yield made
        finally:
            stop_server(DataConfig())
            shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def shop(folder: Path) -> Iterator[Shop]:
    made = Shop(DataConfig())
    yield made
    made.databases.dispose()


@pytest.fixture(scope="module")
def layer(shop: Shop) -> Iterator[DataLayerOrchestrator]:
    """A data layer that runs as long as the module needs it."""
    made = DataLayerOrchestrator()
    yield made
    made.stop()


@pytest.fixture
def running(layer: DataLayerOrchestrator) -> DataLayerOrchestrator:
    """The same, started if it does not run."""
    if not threads():
        layer.start_data_pipeline()
    return layer


@pytest.fixture
def stopped(layer: DataLayerOrchestrator) -> DataLayerOrchestrator:
    """The same, stopped."""
    layer.stop()
    return layer


def latest(layer: DataLayerOrchestrator, data_type: str, since: datetime) -> LatestFeatures:
    """The first features of the type that were computed after a time."""
    deadline = time.monotonic() + GUARD_SECONDS
    while time.monotonic() < deadline:
        found = layer.get_latest_features()[data_type]
        if found is not None and found.timestamp > since:
            return found
        time.sleep(0.005)
    raise AssertionError(f"nothing of {data_type} after {since}")


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & {"batch", "stream"}


def child() -> psutil.Process:
    """The process that runs the batch flow."""
    (found,) = (
        process
        for process in psutil.Process().children()
        if "pipelines.data_layer.batch_child" in process.cmdline()
    )
    return found


def test_a_commit_shows_among_the_latest_features(
    running: DataLayerOrchestrator, shop: Shop
) -> None:
    """With its age, and of each view just the columns that are its own."""
    before = utc_now()
    shop.click()
    found = latest(running, "sessions", before)
    assert found.data_type == "sessions"
    assert 0.0 <= found.age_seconds <= GUARD_SECONDS
    assert set(found.views) == {"session_events", "user_intent"}
    for view, rows in found.views.items():
        assert [set(row) for row in rows] == [set(VIEWS_BY_NAME[view].schema.names)]
    (session,) = found.views["session_events"]
    assert (session["session_id"], session["actions"]) == ("s1", ["add_to_cart"])
    assert session["event_timestamp"] >= before
    assert session["created_timestamp"] == found.timestamp
    (user,) = found.views["user_intent"]
    assert (user["user_id"], user["carts_7d"]) == (1, 0)  # as of the session's row, before it


def test_the_status_shows_what_runs(
    running: DataLayerOrchestrator, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the streamer itself has noted it."""
    found = collect_status(running.batch.config, running.batch.data)
    streamer = found["streamer"]
    assert (streamer["state"], streamer["pid"]) == ("running", os.getpid())
    assert set(streamer["streams"]) == set(DATABASE_NAMES)
    assert streamer["online_store"]["mode"] == streamer["cache"]["mode"] == "redis"
    assert all(database["stream_lag"] is not None for database in found["databases"].values())
    print_status(found)
    assert f"streamer: running in process {os.getpid()}" in capsys.readouterr().out


def test_starting_twice_is_refused(running: DataLayerOrchestrator) -> None:
    """What runs is not disturbed."""
    with pytest.raises(UsageError, match=r"runs already: call stop\(\)"):
        running.start_data_pipeline()
    assert threads() == {"batch", "stream"}
    assert child().is_running()


def test_asking_for_the_latest_features_imports_no_feast(
    running: DataLayerOrchestrator, shop: Shop
) -> None:
    """It would take seconds; another process sees what the streamer wrote."""
    program = (
        "import json, sys, dataclasses\n"
        "from pipelines.data_layer import DataLayerOrchestrator\n"
        "layer = DataLayerOrchestrator()\n"
        "found = layer.get_latest_features()['sessions']\n"
        "layer.stop()\n"
        "print(json.dumps([dataclasses.asdict(found), 'feast' in sys.modules], default=str))"
    )
    before = utc_now()
    shop.click()
    here = latest(running, "sessions", before)
    answer = python(program)
    assert answer.returncode == 0, answer.stderr
    there, imported = json.loads(answer.stdout)
    assert not imported
    expected = json.loads(json.dumps(dataclasses.asdict(here), default=str))
    assert there.pop("age_seconds") >= expected.pop("age_seconds")
    assert there == expected


def test_stopping_ends_everything_and_twice_is_no_error(
    running: DataLayerOrchestrator, shop: Shop
) -> None:
    """The child has ended, the lock is free and the offsets are kept."""
    before = utc_now()
    shop.click()
    latest(running, "sessions", before)
    batch = child()
    running.stop()
    running.stop()
    assert threads() == set()
    assert not batch.is_running()
    assert held_by(running.data.data_dir / "stream.lock") is None
    with shop.databases["users"].connect() as connection:
        last = connection.scalar(sa.text("SELECT max(seq) FROM change_log"))
    assert running.batch.state.offsets("stream")["users"] == last
    assert (
        collect_status(running.batch.config, running.batch.data)["streamer"]["state"] == "stopped"
    )


def test_it_runs_inside_of_a_with_statement(stopped: DataLayerOrchestrator, shop: Shop) -> None:
    """One that ran before too; it ends with the statement."""
    with stopped as layer:
        before = utc_now()
        shop.click()
        assert latest(layer, "sessions", before).views["session_events"]
    assert threads() == set()


def test_the_documented_layer_runs_and_stops(stopped: DataLayerOrchestrator, shop: Shop) -> None:
    """The second block of the page about architecture."""
    shop.click()
    names: dict[str, Any] = {}
    exec(python_blocks("docs/architecture.md")[1], names)
    assert "latest" in names
    assert threads() == set()


def test_the_documented_streamer_streams_until_ctrl_c(
    stopped: DataLayerOrchestrator, folder: Path, tmp_path: Path
) -> None:
    """The first block, in a process whose `data/` is this directory."""
    (tmp_path / "data").symlink_to(folder)
    command = [sys.executable, "-c", python_blocks("docs/architecture.md")[0]]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + GUARD_SECONDS
        while held_by(folder / "stream.lock") != process.pid:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate()[1]
    assert held_by(folder / "stream.lock") is None


def test_a_second_streamer_is_refused_and_nothing_is_left_running(
    stopped: DataLayerOrchestrator,
) -> None:
    """The error is raised where it was started."""
    with (
        only_one(stopped.data.data_dir / "stream.lock", StreamerRunningError),
        pytest.raises(StreamerRunningError),
    ):
        stopped.start_data_pipeline()
    assert threads() == set()


def test_what_keeps_the_streamer_from_starting_is_raised(
    stopped: DataLayerOrchestrator, tmp_path: Path
) -> None:
    """Here a feature repository that is not there."""
    layer = DataLayerOrchestrator(DataConfig(), BatchConfig(feature_repo_path=tmp_path))
    with pytest.raises(ConfigurationError, match=r"feature_store\.yaml is not there"):
        layer.start_data_pipeline()
    assert threads() == set()


def test_a_batch_flow_that_ends_by_itself_is_reported(
    stopped: DataLayerOrchestrator, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """The streamer goes on."""
    stopped.start_data_pipeline()
    child().kill()
    before = utc_now()
    shop.click()
    assert latest(stopped, "sessions", before)
    stopped.stop()
    assert "the batch flow ended with exit status -9" in caplog.text


def test_a_cycle_that_does_not_end_is_killed(
    stopped: DataLayerOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work is repeated by the next one."""
    frozen = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    monkeypatch.setattr(running_layer, "PATIENCE", 0.01)
    monkeypatch.setattr(running_layer, "_batch_flow", lambda *_: frozen)
    stopped.start_data_pipeline()
    stopped.stop()
    assert frozen.returncode == -9


def test_a_child_has_the_configuration_of_its_parent(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the environment says, and Feast's plug-ins have it too."""
    monkeypatch.setenv("SYNCHROCHAIN_REDIS_HOST", "elsewhere.example")
    monkeypatch.setenv("SYNCHROCHAIN_BATCH_RETENTION_DAYS", "99")
    data = DataConfig(redis_host=None, redis_password=SecretStr("secret"), batch_size=17)
    batch = BatchConfig(retention_days=5, merge_files=3)
    environment = running_layer._environment(data, batch)
    for name in [name for name in os.environ if name.startswith("SYNCHROCHAIN_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        if name.startswith("SYNCHROCHAIN_"):
            monkeypatch.setenv(name, value)
    check_environment()
    assert DataConfig() == data
    assert BatchConfig() == batch


def test_what_is_no_longer_fresh_is_none(folder: Path) -> None:
    """Or was never computed: an empty cache knows nothing, and starting is not needed to ask."""
    made = DataLayerOrchestrator(DataConfig(redis_db=1), BatchConfig())
    found = made.get_latest_features()
    made.stop()
    assert found == dict.fromkeys(DATA_TYPES)


def test_a_process_ends_although_it_forgot_to_stop(stopped: DataLayerOrchestrator) -> None:
    """Neither its threads hold it up nor does its child outlive it for long."""
    answer = python(
        "import psutil\n"
        "from pipelines.data_layer import DataLayerOrchestrator\n"
        "layer = DataLayerOrchestrator()\n"
        "layer.start_data_pipeline()\n"
        "print(*(p.pid for p in psutil.Process().children() if 'python' in p.name()))"
    )
    assert answer.returncode == 0, answer.stderr
    (pid,) = map(int, answer.stdout.split())
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(GUARD_SECONDS)


def python(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, which sees the same data directory."""
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
