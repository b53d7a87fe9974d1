"""What is damaged, gone or full in a data directory: the right line, and its command works."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import new_directory, used_directory
from live_logs import offline_rows
from old_directory import NOW, unpack
from test_cli import synchrochain
from test_upgrade import processor_of

from pipelines.batch import BatchConfig
from pipelines.errors import (
    NewerFormatError,
    PipelineStateError,
    RegistryFileError,
    StorageFullError,
)
from pipelines.feast_plugins.registry_file import FORMAT, seal_of, sealed
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.lake.state import PipelineState
from pipelines.lake.state_rescue import state_error
from pipelines.lake.workspace import remove_dead_workspaces
from pipelines.live_databases.engines import live_database_error
from pipelines.live_databases.triggers import trigger_name

LATER = NOW + timedelta(minutes=1)


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A data directory with an applied registry and all changes taken in."""
    with new_directory() as path, used_directory(path):
        unpack(path)
        processor_of(path).run_cycle()
        yield path


@pytest.fixture
def shop(template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it that a test may damage."""
    monkeypatch.setenv("SYNCHROCHAIN_BATCH_RETENTION_DAYS", "3650")
    with new_directory() as path, used_directory(path):
        shutil.copytree(
            template, path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("redis", "staging")
        )
        yield path


def rows_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    processor = processor_of(path)
    return {view: offline_rows(processor, view) for view in VIEWS_BY_NAME}


def follow(advice: str) -> None:
    """Run the last command that a message names, as it stands there."""
    *_, command = re.findall(r"`synchrochain ([^`]+)`", advice)
    answer = synchrochain(*command.split())
    assert answer.status == 0, answer.err


def published(path: Path) -> dict[str, bytes]:
    """The published files, as they are."""
    folders = (path / "processed", path / "feature_store" / "offline")
    found = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return {str(file): file.read_bytes() for file in found}


def away(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * 5000)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE offsets RENAME TO places")


def torn_page(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'files'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as stream:
        stream.seek((page - 1) * size)
        stream.write(b"\xff" * size)


def a_time_that_is_none(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE files SET min_time = 'soon' WHERE kind = 'view'")
        connection.commit()


DAMAGES: list[Callable[[Path], None]] = [
    away,
    emptied,
    garbage,
    cut,
    without_a_table,
    torn_page,
    a_time_that_is_none,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: str(damage.__name__))
def test_a_damaged_state_is_mended_by_the_command_in_the_message(
    shop: Path, damage: Callable[[Path], None]
) -> None:
    """Afterwards each row is there once, and no file of before."""
    expected = rows_of(shop)
    for name in ("pipeline_state.db-wal", "pipeline_state.db-shm"):
        (shop / name).unlink(missing_ok=True)
    damage(shop / "pipeline_state.db")
    answer = synchrochain("batch", "--once")
    assert (answer.status, answer.out) == (1, "")
    assert "pipeline_state.db" in answer.complaint
    assert "\n" not in answer.complaint.strip()
    follow(answer.complaint)
    assert rows_of(shop) == expected
    processor = processor_of(shop)
    assert sum(file.rows for file in processor.state.files("log", "clickstream")) == 493
    assert sum(file.rows for file in processor.state.files("quarantine")) == 3
    assert processor.run_cycle(update=False).changes == 0
    folders = ("processed", "feature_store/offline", "quarantine")
    on_disk = {p for f in folders for p in (shop / f).rglob("*") if p.is_file()}
    assert on_disk == processor.state.known_paths()


def test_a_rebuild_leaves_what_is_not_ours(shop: Path) -> None:
    """It removes files with names such as ours only; what readers would read is set aside."""
    theirs = shop / "feature_store" / "offline" / "user_orders" / "notes.txt"
    theirs.write_text("mine")
    for folder in ("processed", "feature_store/offline/user_intent"):
        (shop / folder / "export.parquet").write_bytes(folder.encode())
    away(shop / "pipeline_state.db")
    processor_of(shop).rebuild()
    assert theirs.read_text() == "mine"
    kept = {path.name: path.read_bytes() for path in (shop / "set_aside").iterdir()}
    assert kept == {
        "export.parquet": b"processed",
        "export.parquet.1": b"feature_store/offline/user_intent",
    }
    assert not list((shop / "processed").glob("*.parquet"))


def a_stranger(path: Path) -> None:
    path.with_name("copy.parquet").write_bytes(path.read_bytes())


def a_folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "notes.txt").write_text("mine")


def a_pipe_in_its_place(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [a_stranger, a_folder_in_its_place, a_pipe_in_its_place])
def test_what_lies_among_published_files_is_mended_by_the_command_in_the_message(
    shop: Path, damage: Callable[[Path], None]
) -> None:
    """What is somebody's is set aside; each row is there once afterwards."""
    expected = rows_of(shop)
    damage(processor_of(shop).state.files("view", "user_intent")[0].path)
    answer = synchrochain("batch", "--once")
    assert answer.status == 1
    follow(answer.complaint)
    assert rows_of(shop) == expected
    assert synchrochain("status").status == 0
    assert (shop / "set_aside").exists() == (damage is not a_pipe_in_its_place)


def without_triggers(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"DROP TRIGGER {trigger_name('orders', 'INSERT')}")


@pytest.mark.parametrize(
    ("damage", "state"),
    [
        (away, None),
        (garbage, None),
        (without_triggers, None),
        (a_folder_in_its_place, None),
        (away, garbage),
    ],
)
def test_a_rebuild_that_cannot_be_done_drops_nothing(
    shop: Path, damage: Callable[[Path], None], state: Callable[[Path], None] | None
) -> None:
    """What is published stays as it is, and the damaged state where it is."""
    before = published(shop)
    damage(shop / "live_databases" / "orders.db")
    if state is not None:
        state(shop / "pipeline_state.db")
    answer = synchrochain("batch", "--rebuild", "--once")
    assert (answer.status, "orders.db" in answer.complaint) == (1, True)
    assert published(shop) == before
    assert not list(shop.glob("*.damaged-*"))
    if state is None:
        assert processor_of(shop).state.offsets("batch")["orders"] > 0
        assert "orders.db" in synchrochain("status").err.splitlines()[-1]


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("pipeline_state.db", Path.mkdir),
        ("pipeline_state.db-wal", os.mkfifo),
        ("batch.pid", os.mkfifo),
        ("feature_store/registry.db", Path.mkdir),
        ("feature_store/registry.db", os.mkfifo),
        ("feature_store/offline", Path.touch),
        ("feature_store/offline/user_orders", Path.touch),
        ("processed", os.mkfifo),
        ("processed/rejected", Path.touch),
        ("quarantine/orders", Path.touch),
        ("staging", Path.touch),
        ("live_databases/users.db", os.mkfifo),
    ],
)
def test_what_is_in_the_place_of_ours_is_named_by_every_command(
    shop: Path, place: str, what: Callable[[Path], None]
) -> None:
    """In one line, which says to move it away; when that is done all is well again."""
    path, elsewhere = shop / place, shop / "elsewhere"
    if path.exists():
        path.rename(elsewhere)
    what(path)
    for command in (("batch", "--once"), ("batch", "--rebuild", "--once"), ("status",)):
        if place == "batch.pid" and command == ("status",):
            continue  # it does not ask who runs a cycle
        complaint = synchrochain(*command).err.splitlines()[-1]
        assert complaint.startswith(f"error: {path} is a "), (command, complaint)
        assert complaint.endswith("belongs: move it away and run the command again")
    path.rmdir() if path.is_dir() else path.unlink()
    if elsewhere.exists():
        elsewhere.rename(path)
    assert processor_of(shop).run_cycle(update=False).changes == 0


def test_the_status_shows_a_cycle_whose_report_cannot_be_read(shop: Path) -> None:
    """Without the figures; it is only a report."""
    with closing(sqlite3.connect(shop / "pipeline_state.db")) as connection:
        connection.execute("UPDATE cycles SET report = '{'")
        connection.commit()
    answer = synchrochain("status", "--json")
    assert (answer.status, answer.document["last_cycles"][0]["report"]) == (0, {})
    assert synchrochain("status").status == 0


def test_notes_that_cannot_be_read_stop_nothing(shop: Path) -> None:
    """It is as if they had not been written."""
    for note in ("online_check", "times_to_live", "stream"):
        processor_of(shop).state.set_metadata(note, "{")
    assert synchrochain("status").status == 0
    assert synchrochain("batch", "--once").status == 0


def test_a_state_that_is_only_locked_is_not_called_damaged(shop: Path) -> None:
    """Nobody is sent to a backup for that."""
    state = PipelineState(shop / "pipeline_state.db")
    with closing(sqlite3.connect(shop / "pipeline_state.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(PipelineStateError, match="locked by another process"):
            state.set_metadata("a", "b")


def test_a_streamer_does_not_start_on_a_state_that_lost_its_files(shop: Path) -> None:
    """It would take the shop for a new one."""
    away(shop / "pipeline_state.db")
    answer = synchrochain("stream")
    assert answer.status == 1
    assert "is not among the files that" in answer.complaint
    assert "`synchrochain batch --rebuild --once`" in answer.complaint


def full(path: Path) -> sqlite3.Error:
    """What SQLite says when there is no room left."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.OperationalError) as raised:
            connection.execute("CREATE TABLE t AS SELECT zeroblob(100000)")
    return raised.value


def test_a_full_disk_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor when SQLite calls it an I/O error, as it does without room for its -shm file."""
    path = tmp_path / "pipeline_state.db"
    error = full(path)
    assert isinstance(state_error(path, error), StorageFullError)
    assert "free some and run the command again" in str(state_error(path, error))
    failed = sqlite3.OperationalError("disk I/O error")
    failed.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    assert type(state_error(path, failed)) is PipelineStateError
    assert not isinstance(live_database_error(str(path), str(failed)), StorageFullError)
    nothing_free = shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: nothing_free)
    assert isinstance(state_error(path, failed), StorageFullError)
    assert isinstance(live_database_error(str(path), str(failed)), StorageFullError)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def sealed_garbage(path: Path) -> None:
    path.write_bytes(sealed(b"\xff" * 500))


@pytest.mark.parametrize("damage", [emptied, garbage, cut, flipped, sealed_garbage])
def test_a_damaged_registry_is_named_and_made_anew(
    shop: Path, damage: Callable[[Path], None]
) -> None:
    """By the command that the message names; also one of an earlier version without a checksum."""
    registry = BatchConfig().registry_path
    damage(registry)
    answer = synchrochain("features", "user_orders", "user_id=1", "--at", "2026-03-02T12:00")
    assert answer.status == 1
    assert "registry.db is damaged" in answer.complaint
    follow(answer.complaint)
    assert seal_of(registry) is not None
    answer = synchrochain("features", "user_orders", "user_id=1", "--at", "2026-03-02T12:00")
    assert answer.status == 0, answer.err


def test_a_registry_of_a_newer_version_is_refused(shop: Path) -> None:
    """In one line, and it is left alone."""
    registry = BatchConfig().registry_path
    content = sealed(b"x")
    at = content.index(bytes([33, FORMAT])) + 1
    registry.write_bytes(content[:at] + bytes([FORMAT + 1]) + content[at + 1 :])
    with pytest.raises(NewerFormatError, match="upgrade, or use another data directory"):
        processor_of(shop).run_cycle()


def test_every_flipped_bit_of_a_registry_is_noticed(template: Path) -> None:
    """Or a view would be read with another time to live."""
    from pipelines.feast_plugins.registry_file import unsealed

    path = template / "feature_store" / "registry.db"
    whole = path.read_bytes()
    for at in range(0, len(whole) - 37, 97):
        content = bytearray(whole)
        content[at] ^= 1 << at % 8
        with pytest.raises(RegistryFileError):
            unsealed(path, bytes(content))


def test_workspaces_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    """A cycle is dead when another one holds the lock, an audit when its process is gone."""
    names = ("cycle-3", "cleanup", "audit-999999999-ab", f"audit-{os.getpid()}-ab", "mine")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "spilled").touch()
    remove_dead_workspaces(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"audit-{os.getpid()}-ab", "mine"}


def test_a_cycle_sweeps_up_after_a_killed_one(shop: Path) -> None:
    """Its empty folder goes with the next cycle."""
    (shop / "staging" / "cycle-2").mkdir(parents=True)
    processor_of(shop).run_cycle(update=False)
    assert list((shop / "staging").iterdir()) == []
