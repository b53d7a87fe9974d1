"""Merging, retention, trimming, rebuilding and the schedule of the batch flow."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import schedule
from conftest import Clock
from live_logs import TABLES, append_changes, complete_log, offline_rows, parts_of
from random_log import Logs, Row

from pipelines.batch import BatchConfig, BatchProcessor, CycleReport
from pipelines.change_log.offsets import Offset
from pipelines.errors import CorruptFileError, LiveDatabaseError
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.settings import DataConfig


class WithoutUpdate(BatchProcessor):
    """Leaves Feast and Redis for later, in scheduled cycles too."""

    def run_cycle(self, *, update: bool = False) -> CycleReport:
        return super().run_cycle(update=update)


def run_in_parts(processor: BatchProcessor, data: DataConfig, count: int, seed: int = 1) -> None:
    for part in parts_of(complete_log(seed, size=120), count):
        append_changes(data, part)
        processor.run_cycle(update=False)


def everything(processor: BatchProcessor) -> dict[str, list[dict[str, Any]]]:
    return {view: offline_rows(processor, view) for view in VIEWS_BY_NAME}


def changes_left(data: DataConfig, database: str) -> int:
    with sqlite3.connect(data.db_path / f"{database}.db") as connection:
        return int(connection.execute("SELECT count(*) FROM change_log").fetchone()[0])


@pytest.fixture
def merging(tmp_path: Path, data: DataConfig, clock: Clock) -> BatchProcessor:
    """Merges as soon as there are four small files."""
    config = BatchConfig(data_dir=tmp_path, retention_days=30 * 365, merge_files=4)
    return BatchProcessor(config, data, clock=clock)


def test_many_small_files_become_one_and_say_the_same(
    processor: BatchProcessor, merging: BatchProcessor, data: DataConfig
) -> None:
    """Merging bounds the number of files; rows neither vanish nor double."""
    run_in_parts(processor, data, 6)
    before = everything(processor)
    rows = {view: summary.rows for view, summary in processor.get_feature_summary().items()}
    assert len(processor.state.files("view", "session_events")) > 3
    merging.run_cycle(update=False)
    assert len(processor.state.files("view", "session_events")) == 1
    assert len(processor.state.files("log", "clickstream")) == 1
    assert everything(processor) == before
    assert {v: s.rows for v, s in processor.get_feature_summary().items()} == rows


def test_merged_sources_stay_on_disk_for_a_while(
    processor: BatchProcessor, merging: BatchProcessor, data: DataConfig, clock: Clock
) -> None:
    """A reader that has just listed the folder can still open what it saw."""
    run_in_parts(processor, data, 6)
    merging.run_cycle(update=False)
    folder = processor.config.processed_data_path
    live = {file.path for file in processor.state.files("log", "clickstream")}
    assert live < set(folder.glob("clickstream_*.parquet"))
    clock.advance(hours=1)
    merging.run_cycle(update=False)
    assert live == set(folder.glob("clickstream_*.parquet"))


def test_an_altered_file_is_not_merged(
    processor: BatchProcessor, merging: BatchProcessor, data: DataConfig
) -> None:
    """A flipped bit is found by the checksum before it would be copied into a merged file."""
    run_in_parts(processor, data, 6)
    victim = processor.state.files("log", "clickstream")[0].path
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(CorruptFileError, match=victim.name):
        merging.run_cycle(update=False)


def test_retention_keeps_what_features_still_need(
    tmp_path: Path, data: DataConfig, clock: Clock
) -> None:
    """Expired changes go, the newest state of each route and every order stay."""
    processor = BatchProcessor(BatchConfig(data_dir=tmp_path, retention_days=1), data, clock=clock)
    logs = complete_log(2)
    append_changes(data, logs)
    processor.run_cycle(update=False)
    clock.advance(days=32)
    processor.run_cycle(update=False)
    rows = {
        log: sum(file.rows for file in processor.state.files("log", log))
        for log in ("clickstream", "routes", "orders", "warehouses")
    }
    assert rows == {
        "clickstream": 0,
        "routes": len({row["route_id"] for row in logs["routes"]}),
        "orders": len(logs["orders"]),
        "warehouses": 3,
    }


def test_expired_changes_are_expired_once(tmp_path: Path, data: DataConfig, clock: Clock) -> None:
    """What was kept of the past is not written again cycle after cycle."""
    processor = BatchProcessor(BatchConfig(data_dir=tmp_path, retention_days=1), data, clock=clock)
    append_changes(data, complete_log(2))
    processor.run_cycle(update=False)
    clock.advance(days=32)
    processor.run_cycle(update=False)
    kept = processor.state.files("log", "routes")
    processor.run_cycle(update=False)
    assert processor.state.files("log", "routes") == kept


def lasting_changes(rows: list[Row], key: str, upto: int = 2**60) -> set[int]:
    """The `seq` of the changes that a trimmed log keeps of a table that others refer to."""
    kept: set[int] = set()
    newest: dict[Any, int] = {}
    for row in sorted(rows, key=lambda row: row["seq"]):
        if row["op"] == "D":
            kept |= {row["seq"], newest.pop(row[key], row["seq"])}
        else:
            newest[row[key]] = row["seq"]
        if row["op"] == "I":
            kept.add(row["seq"])
    return {seq for seq in kept.union(newest.values()) if seq <= upto}


def last_of(logs: Logs) -> int:
    """The last change of the users' database."""
    return max(row["seq"] for table in TABLES["users"] for row in logs[table])


def test_a_change_log_is_trimmed_up_to_its_slowest_reader(
    tmp_path: Path, data: DataConfig, clock: Clock
) -> None:
    """What one reader has not seen is kept for it, however old."""
    processor = BatchProcessor(BatchConfig(data_dir=tmp_path, retention_days=1), data, clock=clock)
    logs = complete_log(3)
    append_changes(data, logs)
    first = processor.state.begin_cycle(clock())
    processor.state.commit_pending(first, clock(), reader="export", offsets={"users": Offset(50)})
    before = changes_left(data, "users")
    processor.run_cycle(update=False)
    lasting = len(lasting_changes(logs["users"], "user_id", upto=50))
    # And the one at which the reader stands, which says that it is this log.
    assert changes_left(data, "users") == before - 50 + lasting + 1


def test_many_changes_in_a_row_from_a_clock_that_was_ahead_hold_no_trimming_up(
    tmp_path: Path, data: DataConfig, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even more of them than are looked at together: they go with those around them."""
    monkeypatch.setattr("pipelines.batch.trimming.ROWS_PER_LOOK", 3)
    processor = BatchProcessor(BatchConfig(data_dir=tmp_path, retention_days=1), data, clock=clock)
    logs = complete_log(3)
    append_changes(data, logs)
    with closing(sqlite3.connect(data.db_path / "users.db")) as live, live:
        live.execute(
            "UPDATE change_log SET committed_at = '2200-01-01 00:00:00.000000' "
            "WHERE seq BETWEEN 5 AND 20"
        )
    processor.run_cycle(update=False)
    lasting = lasting_changes(logs["users"], "user_id") | {last_of(logs)}
    assert changes_left(data, "users") == len(lasting)


def test_a_streamer_that_was_stopped_for_good_holds_nothing_up(
    tmp_path: Path, data: DataConfig, clock: Clock
) -> None:
    """It warms from the processed logs, so what the batch flow has read is kept for it there."""
    processor = BatchProcessor(BatchConfig(data_dir=tmp_path, retention_days=1), data, clock=clock)
    logs = complete_log(3)
    append_changes(data, logs)
    processor.state.set_offsets("stream", {"users": Offset(50)})
    processor.run_cycle(update=False)
    # The users, the last change, and the one that says which log the streamer has read.
    assert changes_left(data, "users") == len(
        lasting_changes(logs["users"], "user_id") | {50, last_of(logs)}
    )


def test_a_trimmed_log_still_rebuilds_what_it_holds(
    tmp_path: Path, data: DataConfig, clock: Clock
) -> None:
    """Insertions that others refer to are kept, so the rest is no orphan; and their deletions, so
    that nothing comes back."""
    processor = BatchProcessor(BatchConfig(data_dir=tmp_path, retention_days=1), data, clock=clock)
    logs = complete_log(3)
    append_changes(data, logs)
    processor.run_cycle(update=False)
    last = max(row["seq"] for row in logs["orders"])
    assert changes_left(data, "orders") == len(lasting_changes(logs["orders"], "id") | {last})
    processor.rebuild()
    report = processor.run_cycle(update=False)
    assert report.accepted["users"] == len(lasting_changes(logs["users"], "user_id"))
    assert not report.quarantined
    assert offline_rows(processor, "user_orders")


def test_offsets_survive_a_trimmed_log(tmp_path: Path, data: DataConfig, clock: Clock) -> None:
    """An empty change log that was read to its end is no gap."""
    processor = BatchProcessor(BatchConfig(data_dir=tmp_path, retention_days=1), data, clock=clock)
    logs = complete_log(3)
    append_changes(data, logs)
    processor.run_cycle(update=False)
    assert changes_left(data, "users") == len(
        lasting_changes(logs["users"], "user_id") | {last_of(logs)}
    )
    assert processor.run_cycle(update=False).changes == 0


def test_rebuilding_makes_the_same_again(processor: BatchProcessor, data: DataConfig) -> None:
    """Everything published is derived, so it can be made anew from the change logs."""
    run_in_parts(processor, data, 3)
    before = everything(processor)
    processor.rebuild()
    assert all(not rows for rows in everything(processor).values())
    processor.run_cycle(update=False)
    again = everything(processor)
    # A delivery that was reported again at another time had left its first event time behind.
    assert all(row in before["route_conditions"] for row in again.pop("route_conditions"))
    del before["route_conditions"]
    assert again == before


def test_progress_is_reported_by_one_thread_at_a_time(
    tmp_path: Path, data: DataConfig, clock: Clock
) -> None:
    """Steps work with several threads; a progress bar need not."""
    inside, together = threading.Lock(), []

    def report(_step: str, _rows: int) -> None:
        together.append(not inside.acquire(blocking=False))
        os.sched_yield()  # for another thread to come along
        if not together[-1]:
            inside.release()

    append_changes(data, complete_log(1))
    config = BatchConfig(data_dir=tmp_path, batch_size=5)
    BatchProcessor(config, data, clock=clock, progress=report).run_cycle(update=False)
    assert len(together) > 20
    assert not any(together)


def test_a_summary_tells_rows_keys_age_and_nulls(
    processor: BatchProcessor, data: DataConfig, clock: Clock
) -> None:
    """The age is that of the newest event, not of the last run."""
    append_changes(data, complete_log(4))
    processor.run_cycle(update=False)
    rows = offline_rows(processor, "user_orders")
    summary = processor.get_feature_summary()["user_orders"]
    newest = max(row["event_timestamp"] for row in rows)
    assert (summary.rows, summary.keys) == (len(rows), len({row["user_id"] for row in rows}))
    assert summary.newest_event == newest
    assert summary.age_seconds == (clock.now - newest).total_seconds()
    firsts = sum(row["days_since_previous_order"] is None for row in rows)
    assert summary.null_share["days_since_previous_order"] == pytest.approx(firsts / len(rows))


def test_the_schedule_survives_a_failing_cycle(tmp_path: Path, data: DataConfig) -> None:
    """The first cycle finds no databases; the next one, five minutes later, finds them."""
    stop, scheduler = threading.Event(), schedule.Scheduler()
    outcomes: list[object] = []

    def report(outcome: object) -> None:
        outcomes.append(outcome)
        if len(outcomes) == 2:
            stop.set()

    def five_minutes(_idle: float) -> None:
        append_changes(data, complete_log(5))
        (job,) = scheduler.jobs
        assert job.interval == 300
        assert job.next_run is not None
        job.next_run -= timedelta(minutes=5)

    processor = WithoutUpdate(
        BatchConfig(data_dir=tmp_path), data, clock=lambda: datetime(2024, 4, 1)
    )
    processor.start_scheduled_processing(
        stop, scheduler=scheduler, sleep=five_minutes, on_cycle=report
    )
    assert isinstance(outcomes[0], LiveDatabaseError)
    assert isinstance(outcomes[1], CycleReport)
