"""A cycle that is killed anywhere while rows are rejected, wait, are let in or given up: none is
lost, none doubled, in what is kept, in the processed logs, and in what people read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import duckdb
from conftest import Clock
from killing import files_on_disk, kill_at_random
from live_logs import offline_rows
from test_bad_input import ORDER, change
from test_row_lives import CLICK, PRODUCT, SESSION, START, USER, WAREHOUSE

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.lake.workspace import read_files
from pipelines.live_databases import LiveDatabases
from pipelines.settings import DataConfig

SEEDS: Final = 8


def processor_of(path: Path) -> BatchProcessor:
    """With a clock a day after everything."""
    config = BatchConfig(data_dir=path, retention_days=30)
    return BatchProcessor(config, DataConfig(data_dir=path), clock=Clock(START))


def cycle(path: Path) -> None:
    """The cycle that is killed."""
    processor_of(path).run_cycle(update=False)


def state_of(path: Path) -> dict[str, Any]:
    """What counts and what people see, cycles' numbers aside."""
    state = processor_of(path).state
    logs = state.files("log")
    kept = state.files("rejected")
    lines = [
        json.loads(line)
        for file in sorted((path / "quarantine").rglob("*.jsonl"))
        for line in file.read_text("utf-8").splitlines()
    ]
    return {
        "logs": {
            name: sorted(
                duckdb.sql(
                    f"SELECT seq, op FROM {read_files([f for f in logs if f.name == name])}"
                ).fetchall()
            )
            for name in {file.name for file in logs}
        },
        "kept": sorted(
            (file.name, *row)
            for file in kept
            for row in duckdb.sql(f"SELECT seq, waits FROM {read_files([file])}").fetchall()
        ),
        "people see": sorted(
            (line["table"], line["seq"], line["reason"].partition(" in cycle ")[0])
            for line in lines
        ),
        "rows": {v: offline_rows(processor_of(path), v) for v in ("user_orders", "session_events")},
        "offsets": state.offsets("batch"),
    }


def test_a_cycle_killed_anywhere_loses_and_doubles_no_rejected_row(tmp_path: Path) -> None:
    """New rejected rows, parents that let others in, an update that mends one, deletions that end
    the waiting of others: the next cycle ends where one that nobody killed does."""
    whole, *folders = (tmp_path / f"{number}" for number in range(SEEDS + 1))
    data = DataConfig(data_dir=whole)
    with LiveDatabases.open(data) as databases:
        databases.create()
    change(data, "users", USER | {"user_id": 1})
    change(data, "products", PRODUCT)
    change(data, "warehouses", WAREHOUSE)
    for number in range(10, 20):
        change(data, "orders", ORDER | {"id": number, "user_id": 70 + number % 3})
    change(data, "orders", ORDER | {"id": 20, "quantity": 0})
    change(data, "user_sessions", SESSION)
    change(data, "clickstream", CLICK)
    cycle(whole)
    assert len(state_of(whole)["kept"]) == 13
    change(data, "users", USER | {"user_id": 70})
    change(data, "users", USER | {"user_id": 72, "region": None})
    change(data, "orders", ORDER | {"id": 20, "quantity": 2}, op="U")
    change(data, "orders", ORDER | {"id": 21, "user_id": 79})
    change(data, "orders", ORDER | {"id": 22, "price": -1})
    change(data, "user_sessions", SESSION, op="D")
    for folder in folders:
        shutil.copytree(whole, folder)
    killed = kill_at_random("test_rejected_killed:cycle", whole, folders)
    expected = state_of(whole)
    assert len(expected["logs"]["orders"]) == 4
    for at, folder in zip(killed, folders, strict=True):
        cycle(folder)
        assert state_of(folder) == expected, at
        assert files_on_disk(folder) <= processor_of(folder).state.known_paths(), at
