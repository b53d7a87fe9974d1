"""What the status says about the streamer, running or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from live_logs import append_changes, complete_log

from pipelines.batch import BatchProcessor
from pipelines.change_log.offsets import Offset
from pipelines.cli.status_table import print_status
from pipelines.errors import StreamerRunningError
from pipelines.lake.process_lock import held_by, only_one
from pipelines.monitoring.status import collect_status
from pipelines.settings import DATABASE_NAMES, DataConfig

STREAM = {
    "offset": 70,
    "absorbed": 72,
    "changes": 1234,
    "micro_batches": 9,
    "rejected": 3,
    "deferred": 2,
    "late": 1,
    "errors": 0,
    "last_error": None,
}


def note(pid: int, **changed: Any) -> str:
    """A streamer's note as it writes it."""
    return json.dumps(
        {
            "pid": pid,
            "started_at": "2024-04-01 10:00:00.000001",
            "saved_at": "2024-04-01 12:00:00.000001",
            "streams": dict.fromkeys(DATABASE_NAMES, STREAM),
            "rows_written": {"user_intent": 4321},
            "pending_writes": [],
            "online_store": {"mode": "redis", "outages": 0, "last_error": None},
            "cache": {"mode": "redis", "size": 17, "hit_rate": 0.25, "outages": 0},
            "hot_rows": 98_765,
            "clock_steps_back": 0,
            "deferred": {"users": [5, 6], "orders": []},
        }
        | changed
    )


def lock_of(processor: BatchProcessor) -> Path:
    return processor.config.data_dir / "stream.lock"


def said(processor: BatchProcessor, capsys: pytest.CaptureFixture[str]) -> str:
    """The status as people read it, on one line."""
    print_status(collect_status(processor.config, processor.data))
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.cli.console.answers.width", 200)


def test_a_streamer_that_never_ran_is_no_error(
    processor: BatchProcessor, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status says how to start it, and looking makes no lock."""
    found = collect_status(processor.config, processor.data)["streamer"]
    assert found == {"state": "never ran", "pid": None, "deferred": {}}
    assert "`synchrochain stream` starts it" in said(processor, capsys)
    assert not lock_of(processor).exists()


def test_a_running_streamer_is_shown_with_what_it_noted(
    processor: BatchProcessor, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counters, modes and sizes; of what it deferred to the batch flow how much."""
    processor.state.set_metadata("stream", note(os.getpid()))
    with only_one(lock_of(processor), StreamerRunningError):
        found = collect_status(processor.config, processor.data)["streamer"]
        shown = said(processor, capsys)
    assert (found["state"], found["pid"]) == ("running", os.getpid())
    assert found["streams"]["users"] == STREAM
    assert found["deferred"] == {"users": 2, "orders": 0}
    assert found["rows_written"] == {"user_intent": 4321}
    assert f"running in process {os.getpid()} since 2024-04-01 10:00:00" in shown
    for part in ("1,234", "4,321 of user_intent", "17 values, hit rate 25.0 %", "98,765"):
        assert part in shown
    assert "pending_writes" not in shown
    json.dumps(found)


def test_a_streamer_that_warms_up_is_starting(
    processor: BatchProcessor, capsys: pytest.CaptureFixture[str]
) -> None:
    """The note is another one's as yet."""
    processor.state.set_metadata("stream", note(1))
    with only_one(lock_of(processor), StreamerRunningError):
        found = collect_status(processor.config, processor.data)["streamer"]
        assert f"starting in process {os.getpid()}" in said(processor, capsys)
    assert (found["state"], found["pid"]) == ("starting", os.getpid())


def test_a_streamer_that_ended_is_stopped_however_it_ended(
    processor: BatchProcessor, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that was killed holds no lock, even if its number is taken again."""
    program = (
        "import os, sys; from pathlib import Path\n"
        "from pipelines.lake.process_lock import only_one\n"
        "with only_one(Path(sys.argv[1]), ValueError): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, lock_of(processor)], check=False, timeout=60)
    dead = int(lock_of(processor).with_suffix(".pid").read_text())
    processor.state.set_metadata("stream", note(dead))
    assert collect_status(processor.config, processor.data)["streamer"]["state"] == "stopped"
    lock_of(processor).with_suffix(".pid").write_text(str(os.getpid()))
    found = collect_status(processor.config, processor.data)["streamer"]
    assert (found["state"], found["pid"]) == ("stopped", None)
    assert "not running; this is how it stood at 2024-04-01 12:00:00" in said(processor, capsys)


def test_looking_whether_a_lock_is_held_does_not_hold_it(tmp_path: Path) -> None:
    """Whoever comes next gets it."""
    path = tmp_path / "some.lock"
    path.with_suffix(".pid").write_text(str(os.getpid()))
    assert held_by(path) is None
    with only_one(path, StreamerRunningError):
        assert held_by(path) == os.getpid()
    assert held_by(path) is None


def test_trouble_is_reported(processor: BatchProcessor, capsys: pytest.CaptureFixture[str]) -> None:
    """An outage, what is pending, a clock that stepped back, a stream that fails."""
    trouble = note(
        1,
        streams={"users": STREAM | {"errors": 2, "last_error": "users.db is locked"}},
        pending_writes=["user_intent"],
        online_store={"mode": "away", "outages": 3, "last_error": "no Redis at 127.0.0.1"},
        cache={"mode": "memory", "size": 1, "hit_rate": None, "outages": 3},
        clock_steps_back=1,
    )
    processor.state.set_metadata("stream", trouble)
    shown = said(processor, capsys)
    for part in (
        "users.db is locked",
        "pending writes to the online store: user_intent",
        "away, outages: 3, the last one: no Redis at 127.0.0.1",
        "memory, outages: 3, 1 value",
        "stepped back 1 time",
    ):
        assert part in shown


@pytest.mark.parametrize("text", ["{", "[]", '{"deferred": 3}'])
def test_a_damaged_note_does_not_hide_the_rest(
    processor: BatchProcessor, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """Each part of the status stands alone."""
    processor.state.set_metadata("stream", text)
    assert "cannot be read" in collect_status(processor.config, processor.data)["streamer"]["error"]
    assert "cannot be read" in said(processor, capsys)


def test_the_streamers_lag_stands_beside_that_of_the_batch_flow(
    processor: BatchProcessor, data: DataConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """By database; nothing where it never read."""
    append_changes(data, complete_log(1))
    processor.run_cycle(update=False)
    last = processor.state.offsets("batch")
    processor.state.set_offsets("stream", {"users": Offset(last["users"] - 10)})
    found = collect_status(processor.config, processor.data)["databases"]
    assert (found["users"]["lag"], found["users"]["stream_lag"]) == (0, 10)
    assert found["users"]["stream_offset"] == last["users"] - 10
    assert (found["orders"]["lag"], found["orders"]["stream_lag"]) == (0, None)
    assert "streamed" in said(processor, capsys)
