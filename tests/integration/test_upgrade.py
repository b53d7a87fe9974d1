"""A data directory of an earlier version upgrades in place: nothing is lost, nothing doubled."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from conftest import Clock, new_directory, used_directory
from live_logs import offline_rows
from old_directory import NOW, restore_redis, unpack

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.monitoring.audit import audit
from pipelines.monitoring.status import collect_status
from pipelines.registry.store import CHAMPION, ModelRegistry
from pipelines.settings import DataConfig

OFFSETS = {"orders": 25, "users": 790, "inventory": 27, "supply_chain": 1282}
STREAMED = {"orders": 25, "users": 790, "inventory": 27, "supply_chain": 1303}
LATER = NOW + timedelta(minutes=1)


@pytest.fixture
def old() -> Iterator[Path]:
    """The directory that commit dde52cb has left, with its rows in Redis."""
    with new_directory() as path, used_directory(path):
        unpack(path)
        restore_redis(DataConfig())
        yield path


def processor_of(path: Path) -> BatchProcessor:
    config = BatchConfig(data_dir=path, retention_days=3650)
    return BatchProcessor(config, DataConfig(data_dir=path), clock=Clock(LATER))


def features_of(processor: BatchProcessor) -> dict[str, list[dict[str, Any]]]:
    return {view: offline_rows(processor, view) for view in VIEWS_BY_NAME}


def test_an_old_directory_is_what_it_was_and_the_next_cycle_goes_on(old: Path) -> None:
    """Offsets, files, marks, the champion; then offline and online say what a processing of the
    same live databases from scratch says."""
    processor = processor_of(old)
    assert processor.state.offsets("batch") == OFFSETS
    assert processor.state.offsets("stream") == STREAMED
    assert sum(file.rows for file in processor.state.files("log", "clickstream")) == 493
    status = collect_status(processor.config, processor.data)
    assert status["quarantined"] == {"orders": 2}
    assert [cycle["id"] for cycle in status["last_cycles"]] == [2, 1]
    with tiny_model.known():
        champion = ModelRegistry(BatchConfig()).with_alias("supply_gnn", CHAMPION)
        assert champion is not None
        assert champion.version == 1
        ModelRegistry(BatchConfig()).load(champion)

    report = processor.run_cycle()
    assert report.changes > 30
    assert report.quarantined == {"orders": 1}
    assert audit(DataConfig(), BatchConfig(), sample=0, now=Clock(LATER)).consistency == 1.0
    ours = features_of(processor)

    with new_directory() as fresh:
        shutil.copytree(old / "live_databases", fresh / "live_databases")
        scratch = processor_of(fresh)
        scratch.run_cycle(update=False)
        theirs = features_of(scratch)
    assert ours == theirs
