"""What the integration tests share: a data directory, a clock, a batch processor on them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from live_logs import append_changes, complete_log, parts_of
from pinned_clock import stopped_clock
from stream_batch import BatchProcess, batch_process
from stream_helpers import StreamWorld, stream_world
from stream_rows import furnish

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.batch.update import apply
from pipelines.cli.main_job import simulate_until_now
from pipelines.lake.state import PipelineState
from pipelines.redis_server import stop_server
from pipelines.settings import DataConfig


class Clock:
    """A clock that moves a second at each look, and further only when asked to."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def advance(self, **stretch: float) -> None:
        """Move on by a `timedelta` of these arguments."""
        self.now += timedelta(**stretch)


@pytest.fixture
def clock() -> Clock:
    """Starts after everything that the random logs hold."""
    return Clock(datetime(2024, 4, 1))


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    return DataConfig(data_dir=tmp_path)


@pytest.fixture
def processor(tmp_path: Path, data: DataConfig, clock: Clock) -> BatchProcessor:
    """Keeps everything for thirty years: the logs' parents were committed long ago."""
    config = BatchConfig(data_dir=tmp_path, retention_days=30 * 365)
    return BatchProcessor(config, data, clock=clock)


@pytest.fixture
def processed(processor: BatchProcessor, data: DataConfig) -> BatchProcessor:
    """A processor whose change logs are processed in three cycles."""
    for part in parts_of(complete_log(2), 3):
        append_changes(data, part)
        processor.run_cycle(update=False)
    assert processor.run_cycle(update=False).feature_rows == {}
    return processor


@pytest.fixture(scope="module")
def batch() -> Iterator[BatchProcess]:
    """Runs batch cycles in a process of its own, as beside a streamer they must be."""
    with batch_process() as process:
        yield process


@pytest.fixture
def world(clock: Clock, batch: BatchProcess) -> Iterator[StreamWorld]:
    """A furnished shop with a stream driven by hand, whose hot window is exact for one day."""
    with stream_world(clock, batch, allowed_lateness=86_400) as world:
        furnish(world)
        yield world


@contextmanager
def used_directory(path: Path) -> Iterator[None]:
    """Every part of this process uses a data directory while inside."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "_MLFLOW_SERVER_ARTIFACT_ROOT"):
            patch.setenv(name, "")
            patch.delenv(name)
        patch.delenv("SYNCHROCHAIN_REDIS_HOST", raising=False)
        patch.setenv("SYNCHROCHAIN_DATA_DIR", str(path))
        yield


@contextmanager
def new_directory() -> Iterator[Path]:
    """A new data directory; it ends with its Redis."""
    path = Path(tempfile.mkdtemp(prefix="sc-")).resolve()  # short, for a Unix socket's path is
    try:
        yield path
    finally:
        stop_server(DataConfig(data_dir=path))
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A data directory with an applied repository."""
    with new_directory() as path, used_directory(path):
        config = BatchConfig(data_dir=path)
        apply(config, PipelineState(config.state_path))
        yield path


@pytest.fixture(scope="session")
def small_shop() -> Iterator[Path]:
    """A simulated shop of a week, processed and materialized; tests must leave it as it is."""
    with new_directory() as path:
        with used_directory(path):
            sizes = {"users": 1500, "products": 60, "days": 7, "seed": 7}
            with stopped_clock():
                simulate_until_now(DataConfig(), sizes)
            BatchProcessor(BatchConfig(), DataConfig()).run_cycle()
        yield path


@pytest.fixture
def in_small_shop(small_shop: Path) -> Iterator[Path]:
    """The small shop, with every part of this process looking at it."""
    with used_directory(small_shop):
        yield small_shop
