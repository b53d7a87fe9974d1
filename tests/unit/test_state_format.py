"""pipeline_state.db carries a format: an older file is upgraded whole, a newer one is refused."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipelines.change_log.offsets import Offset
from pipelines.errors import NewerFormatError, PipelineStateError
from pipelines.lake.state import STREAM_STATUS, PipelineState
from pipelines.lake.state_migrations import _DECLARED_BY_FEATURE, FORMAT, STEPS

KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from pipelines.lake.state_migrations import upgrade

def upgrade_until_killed(path, left):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")

    def count(statement):
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    connection.set_trace_callback(count)
    upgrade(connection, path)
    os._exit(0)

for left, name in enumerate(sys.argv[1:]):
    child = os.fork()
    if not child:
        upgrade_until_killed(Path(name), left)
    print(os.waitpid(child, 0)[1])
"""
"""Upgrades each of the files it is given, and is killed at one statement later in each."""


def unnumbered(path: Path) -> Path:
    """A state as it was before formats had numbers, with a row in two of its tables."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in STEPS[0]:
            connection.execute(statement)
        connection.execute("INSERT INTO positions VALUES ('batch', 'orders', 7)")
        connection.execute("INSERT INTO notes VALUES ('trimmed orders', '3')")
    return path


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def set_version(path: Path, number: int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA user_version = {number}")


def schema(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return sorted(row[0] or "" for row in connection.execute("SELECT sql FROM sqlite_master"))


def test_a_new_file_has_the_newest_format(tmp_path: Path) -> None:
    """And opening it again changes nothing."""
    path = tmp_path / "state.db"
    PipelineState(path)
    made = schema(path)
    PipelineState(path)
    assert version(path) == FORMAT
    assert schema(path) == made


def test_a_file_without_a_number_is_upgraded_with_all_it_holds(tmp_path: Path) -> None:
    """It ends up the same as a new one, and its offsets are those that it had."""
    path = unnumbered(tmp_path / "state.db")
    state = PipelineState(path)
    PipelineState(tmp_path / "new.db")
    assert version(path) == FORMAT
    assert schema(path) == schema(tmp_path / "new.db")
    assert state.offsets("batch") == {"orders": 7}
    assert state.metadata("trimmed orders") == "3"


def test_every_older_format_is_upgraded(tmp_path: Path) -> None:
    """From each number that there was, to the same tables as in a new file."""
    PipelineState(tmp_path / "new.db")
    for number in range(1, FORMAT):
        path = tmp_path / f"format-{number}.db"
        with closing(sqlite3.connect(path)) as connection, connection:
            for step in STEPS[:number]:
                for statement in step:
                    connection.execute(statement)
        set_version(path, number)
        PipelineState(path)
        assert schema(path) == schema(tmp_path / "new.db")


REPORTS = [
    (
        {
            "pid": 1,
            "left": {"users": [[5, 6]]},
            "streams": {"users": {"refused": 3, "left_to_batch": 2}, "orders": {"refused": 0}},
        },
        {
            "pid": 1,
            "deferred": {"users": [[5, 6]]},
            "streams": {
                "users": {"rejected": 3, "deferred": 2},
                "orders": {"rejected": 0, "deferred": None},
            },
        },
    ),
    ({"pid": 1}, {"pid": 1}),
    ({"pid": 1, "left": 3, "streams": []}, {"pid": 1, "left": 3, "streams": []}),
]


@pytest.mark.parametrize(("before", "after"), REPORTS, ids=["whole", "short", "odd"])
def test_the_streamers_last_report_gets_the_new_words(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any]
) -> None:
    """What it had deferred is known to an audit before a streamer runs again."""
    path = unnumbered(tmp_path / "state.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO notes VALUES ('stream', ?)", (json.dumps(before),))
        connection.execute("INSERT INTO notes VALUES ('other', '{\"left\": {}}')")
    state = PipelineState(path)
    assert state.document(STREAM_STATUS) == after
    assert state.document("other") == {"left": {}}


def test_a_report_that_is_no_document_does_not_hinder_the_upgrade(tmp_path: Path) -> None:
    """It stays as it is, and whoever reads it says so."""
    path = unnumbered(tmp_path / "state.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO notes VALUES ('stream', '{')")
    assert PipelineState(path).metadata(STREAM_STATUS) == "{"


def test_rows_resolved_under_an_earlier_format_are_still_to_be_taken_in(tmp_path: Path) -> None:
    """A streamer that starts after the upgrade learns of them; they were called late changes."""
    path = unnumbered(tmp_path / "state.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        for step in STEPS[1:8]:
            for statement in step:
                connection.execute(statement)
        connection.execute("INSERT INTO late_changes VALUES (4, 'orders', 17), (2, 'users', 5)")
    set_version(path, 8)
    state = PipelineState(path)
    assert state.last_resolved_cycle() == 4
    assert state.resolved_changes(2) == (4, {"orders": [17]})


def test_records_of_cycles_get_the_new_names_of_stages(tmp_path: Path) -> None:
    """The status shows earlier cycles as it shows new ones; odd records stay as they are."""
    path = unnumbered(tmp_path / "state.db")
    report = {"extracted": 7, "seconds": {"extract": 0.1, "check": 0.2, "load": 0.3, "update": 4.0}}
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO cycles (started_at, finished_at, pid, status, step, report) "
            "VALUES ('2026-01-01 00:00:00', '2026-01-01 00:00:01', 1, 'failed', ?, ?)",
            [("load", json.dumps(report)), ("update", "{"), ("check", None)],
        )
    PipelineState(path)
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT step, report FROM cycles ORDER BY id").fetchall()
    assert [step for step, _ in found] == ["publish", "update", "validate"]
    assert json.loads(found[0][1]) == {
        "changes": 7,
        "seconds": {"read": 0.1, "validate": 0.2, "publish": 0.3, "update": 4.0},
    }
    assert [report for _, report in found[1:]] == ["{", None]


def test_a_newer_file_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    """Also when another process upgrades it while this one uses it."""
    path = tmp_path / "state.db"
    state = PipelineState(path)
    set_version(path, FORMAT + 1)
    said = f"format {FORMAT + 1}, this one knows up to {FORMAT}"
    with pytest.raises(NewerFormatError, match=said) as refused:
        PipelineState(path)
    assert "\n" not in str(refused.value)
    with pytest.raises(NewerFormatError):
        state.set_offsets("batch", {"orders": Offset(1)})
    assert version(path) == FORMAT + 1


@pytest.mark.parametrize(
    ("table", "numbered"),
    [
        *((name, True) for name in ("offsets", "files", "metadata")),
        *((name, False) for name in ("positions", "files", "notes")),
    ],
)
def test_a_renamed_table_is_not_an_empty_one(tmp_path: Path, table: str, numbered: bool) -> None:
    """Or all would be read again in silence."""
    path = unnumbered(tmp_path / "state.db")
    if numbered:
        PipelineState(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO other")

    def read() -> None:
        state = PipelineState(path)
        state.offsets("batch")
        state.files("log")
        state.metadata("x")

    with pytest.raises(PipelineStateError, match=table):
        read()


@pytest.mark.parametrize("removed", [True, False], ids=["removed", "emptied"])
def test_a_state_taken_from_a_running_process_is_not_made_anew(
    tmp_path: Path, removed: bool
) -> None:
    """It would go on with no offsets at all."""
    path = tmp_path / "state.db"
    state = PipelineState(path)
    state.set_offsets("stream", {"orders": Offset(5)})
    for file in tmp_path.iterdir():
        file.unlink()
    if not removed:
        path.touch()
    with pytest.raises(PipelineStateError):
        state.set_offsets("stream", {"orders": Offset(6)})
    assert path.exists() != removed


def test_an_upgrade_killed_at_any_statement_is_whole_or_has_not_begun(tmp_path: Path) -> None:
    """The next opener finds the old file or the new one, and nothing is lost."""
    paths = [unnumbered(tmp_path / f"{n}.db") for n in range(4 + sum(map(len, STEPS)))]
    command = [sys.executable, "-c", KILLED, *map(str, paths)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert ended[0] == str(int(signal.SIGKILL))
    assert ended[-1] == "0"
    assert {version(path) for path in paths} == {0, FORMAT}
    for path in paths:
        assert PipelineState(path).offsets("batch") == {"orders": 7}
        assert version(path) == FORMAT


def test_many_open_an_old_file_at_the_same_time(tmp_path: Path) -> None:
    """The streamer and the batch flow: one upgrades, the others wait, all write."""
    for attempt in range(5):
        path = unnumbered(tmp_path / f"{attempt}.db")

        def use(number: int, path: Path = path) -> None:
            PipelineState(path).set_offsets(f"reader {number}", {"orders": Offset(number)})

        with ThreadPoolExecutor(4) as pool:  # each waits for the others' disk, 5 s at most
            list(pool.map(use, range(4)))
        state = PipelineState(path)
        assert [state.offsets(f"reader {n}") for n in range(4)] == [{"orders": n} for n in range(4)]
        assert state.offsets("batch") == {"orders": 7}


DECLARATIONS = [
    ('{"a": "1f", "b": "2e"}', '{"a":{"whole":"1f"},"b":{"whole":"2e"}}'),
    ('{"a": {"whole": "1f", "features": {"x": "3d"}}, "b": 7}', None),
    ("{}", "{}"),
    ("[]", "[]"),
    ("{", "{"),
]


@pytest.mark.parametrize(("before", "after"), DECLARATIONS)
def test_declarations_become_entries_that_can_hold_features(
    tmp_path: Path, before: str, after: str | None
) -> None:
    """One hash by view was recorded; entries that know their features stay as they are."""
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        for step in STEPS[: STEPS.index(_DECLARED_BY_FEATURE)]:
            for statement in step:
                connection.execute(statement)
        connection.execute("INSERT INTO metadata VALUES ('declarations', ?)", (before,))
    set_version(path, STEPS.index(_DECLARED_BY_FEATURE))
    found = PipelineState(path).metadata("declarations")
    assert found == (after or '{"a":{"whole":"1f","features":{"x":"3d"}}}')
