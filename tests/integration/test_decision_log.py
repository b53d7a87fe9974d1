"""The decision log: appends, finds, forgets the oldest, and says so when it cannot be written."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipelines.serving.decision_log import (
    FORMAT,
    DecisionLog,
    DecisionLogError,
    Record,
    UnknownDecisionError,
)

NAN = float("nan")


def log_at(folder: Path, keep: int = 100) -> DecisionLog:
    return DecisionLog(folder / "data" / "decisions.db", keep, busy=0.01)


def record(decision: str, network: int | None = None, **content: Any) -> Record:
    return Record(decision, network, content)


def test_a_decision_is_found_again_as_it_was(tmp_path: Path) -> None:
    """Numbers to the last digit, and what is no number too."""
    log = log_at(tmp_path)
    log.add([record("one", score=[0.1 + 0.2, NAN, None], name="Łódź")])
    found = log.get("one").content
    assert found["score"][0] == 0.1 + 0.2
    assert found["score"][1] != found["score"][1]
    assert (found["score"][2], found["name"]) == (None, "Łódź")


def test_another_process_reads_what_was_logged(tmp_path: Path) -> None:
    """While the first one goes on writing."""
    first, second = log_at(tmp_path), log_at(tmp_path)
    first.add([record("one")])
    assert second.get("one").id == "one"
    first.add([record("two")])
    second.add([record("three")])
    assert first.get("three").id == "three"


def test_the_newest_come_first(tmp_path: Path) -> None:
    """As many as are asked for."""
    log = log_at(tmp_path)
    log.add([record(str(n), n=n) for n in range(5)])
    assert [content["n"] for content in log.newest(3)] == [4, 3, 2]


def test_the_oldest_give_way(tmp_path: Path) -> None:
    """With the networks that no decision refers to any more."""
    log = log_at(tmp_path, keep=3)
    for n in range(6):
        network = log.add_network({"delay_risk": [float(n)]})
        log.add([record(str(n), network)])
    with pytest.raises(UnknownDecisionError):
        log.get("2")
    kept = log.get("3").network
    assert kept == {"delay_risk": [3.0]}
    log.add_network({})
    with closing(sqlite3.connect(log.path)) as connection:
        assert connection.execute("SELECT count(*) FROM decisions").fetchone() == (3,)
        assert connection.execute("SELECT count(*) FROM networks").fetchone() == (4,)


def test_it_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    """It says who has bought what."""
    log = log_at(tmp_path)
    log.add([record("one")])
    for path in log.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_asking_a_log_that_was_never_written_makes_no_file(tmp_path: Path) -> None:
    """It is empty."""
    log = log_at(tmp_path)
    assert log.newest(5) == []
    with pytest.raises(UnknownDecisionError, match="no decision 'x'"):
        log.get("x")
    assert not log.path.exists()


def test_a_locked_log_is_reported_at_once_and_written_again_later(tmp_path: Path) -> None:
    """Nothing of the call is written."""
    log = log_at(tmp_path)
    log.add([record("one")])
    with closing(sqlite3.connect(log.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DecisionLogError, match=r"decisions\.db: database is locked"):
            log.add([record("two"), record("three")])
        other.execute("ROLLBACK")
    log.add([record("three")])
    assert log.get("three").id == "three"
    with pytest.raises(UnknownDecisionError):
        log.get("two")


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    """Here the file may not grow; decisions that are there stay."""
    log = log_at(tmp_path)
    log.add([record("one")])
    connection = log._opened()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DecisionLogError, match="full"):
        log.add_network({"delay_risk": [n / 7 for n in range(20_000)]})
    assert log.get("one").id == "one"


def test_what_is_no_database_is_reported(tmp_path: Path) -> None:
    """And left alone: somebody has to look at it."""
    log = log_at(tmp_path)
    log.path.parent.mkdir()
    log.path.write_bytes(b"no database at all" * 100)
    with pytest.raises(DecisionLogError, match="not a database"):
        log.add([record("one")])
    with pytest.raises(DecisionLogError, match="not a database"):
        log.newest(1)


@pytest.mark.parametrize("version", [0, FORMAT + 1])
def test_a_log_of_before_is_read_on_and_one_of_a_newer_version_is_refused(
    tmp_path: Path, version: int
) -> None:
    """In one line; decisions are made all the same, as when the log cannot be written."""
    log = log_at(tmp_path)
    log.add([record("one")])
    log.close()
    with closing(sqlite3.connect(log.path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    if version > FORMAT:
        with pytest.raises(DecisionLogError, match=f"format {version}, this one knows up to"):
            log.get("one")
    else:
        assert log.get("one").id == "one"


@pytest.mark.parametrize(
    ("damage", "advice"),
    [
        (lambda path: path.write_bytes(b"\xff" * 4096), "move it away, and a new one begins"),
        (Path.mkdir, "is a folder where a file belongs: move it away"),
        (os.mkfifo, "is a named pipe where a file belongs: move it away"),
    ],
    ids=["garbage", "a folder", "a pipe"],
)
def test_the_advice_for_a_damaged_log_works(
    tmp_path: Path, damage: Callable[[Path], Any], advice: str
) -> None:
    """Once it is moved away, a new one begins."""
    log = log_at(tmp_path)
    log.path.parent.mkdir()
    damage(log.path)
    with pytest.raises(DecisionLogError, match=advice):
        log.newest(1)
    with pytest.raises(DecisionLogError, match=advice):
        log.add([record("one")])
    log.path.rename(tmp_path / "elsewhere")
    log.add([record("two")])
    assert log.get("two").id == "two"


def test_a_damaged_record_is_reported(tmp_path: Path) -> None:
    """Its neighbours are read."""
    log = log_at(tmp_path)
    log.add([record("one"), record("two")])
    with closing(sqlite3.connect(log.path)) as connection, connection:
        connection.execute("UPDATE decisions SET record = x'00' WHERE id = 'one'")
    with pytest.raises(DecisionLogError, match=r"decisions\.db"):
        log.get("one")
    assert log.get("two").id == "two"


def test_a_closed_log_opens_again(tmp_path: Path) -> None:
    """Closing twice is no error."""
    log = log_at(tmp_path)
    log.add([record("one")])
    log.close()
    log.close()
    assert log.get("one").id == "one"
