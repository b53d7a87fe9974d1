"""Published files are what was published, or every reader says which one is not."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import Clock, new_directory, used_directory
from old_directory import NOW, unpack

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.batch.update import apply
from pipelines.cache import RealtimeCache
from pipelines.data_layer import DataLayerOrchestrator
from pipelines.errors import CorruptFileError, NewerFormatError, SynchroChainError
from pipelines.feast_plugins.repository import open_store
from pipelines.features.views import VIEWS
from pipelines.lake import verification as module
from pipelines.lake.state import PipelineState, PublishedFile
from pipelines.lake.verification import (
    FILE_FORMAT,
    FORMAT_KEY,
    check_contents,
    identity_of,
    verified,
)
from pipelines.monitoring.audit import audit
from pipelines.monitoring.status import collect_status, first_alarm
from pipelines.settings import DataConfig
from pipelines.streaming.flow import StreamingFlow
from pipelines.training.source import TrainingSource

LATER = NOW + timedelta(minutes=1)
REMEDY = "synchrochain batch --rebuild --once"


@pytest.fixture(scope="module")
def shop() -> Iterator[Path]:
    """A data directory with two cycles behind it, applied; every file was verified."""
    with new_directory() as path, used_directory(path):
        unpack(path)
        processor_of(path).run_cycle()
        yield path


@pytest.fixture
def unharmed(shop: Path) -> Iterator[Path]:
    """The same; what a test does to its files and its state is undone afterwards."""
    saved = shop.with_name(f"{shop.name}-saved")
    for name in ("processed", "feature_store"):
        shutil.copytree(shop / name, saved / name)
    with closing(sqlite3.connect(shop / "pipeline_state.db")) as connection:
        connection.execute("VACUUM INTO ?", (str(saved / "pipeline_state.db"),))
    yield shop
    for name in ("processed", "feature_store"):
        shutil.rmtree(shop / name)
        shutil.copytree(saved / name, shop / name)
    for path in shop.glob("pipeline_state.db*"):
        path.unlink()
    shutil.copy(saved / "pipeline_state.db", shop)
    shutil.rmtree(saved)


def processor_of(path: Path) -> BatchProcessor:
    config = BatchConfig(data_dir=path, retention_days=3650)
    return BatchProcessor(config, DataConfig(data_dir=path), clock=Clock(LATER))


def live(path: Path, kind: str) -> list[PublishedFile]:
    return PipelineState(path / "pipeline_state.db").files(kind)


def one_of(path: Path, kind: str, name: str) -> Path:
    return next(file.path for file in live(path, kind) if file.name == name)


def flip(path: Path, bit: int) -> None:
    """Flip one bit in place, and leave the time of the last change as it was."""
    before = path.stat()
    with path.open("r+b") as stream:
        stream.seek(bit // 8)
        byte = stream.read(1)[0]
        stream.seek(bit // 8)
        stream.write(bytes([byte ^ 1 << bit % 8]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def history(_path: Path) -> Any:
    frame = pd.DataFrame({"user_id": [1, 4, 7], "event_timestamp": [LATER.replace(tzinfo=UTC)] * 3})
    features = ["user_orders:orders_30d"]
    return open_store(BatchConfig()).get_historical_features(frame, features).to_arrow()


def materialize(_path: Path) -> None:
    store = open_store(BatchConfig())
    store.materialize(NOW - timedelta(days=9), LATER, feature_views=["user_orders"])


def pulled(_path: Path) -> Any:
    store = open_store(BatchConfig())
    source = store.get_feature_view("user_orders").batch_source
    job = store._get_provider().offline_store.pull_all_from_table_or_query(
        store.config, source, ["user_id"], ["orders_30d"], "event_timestamp"
    )
    return job.to_arrow()


def features_at(_path: Path) -> Any:
    return DataLayerOrchestrator().features("user_orders", {"user_id": "1"}, at=LATER)


def streamer(path: Path) -> None:
    data = DataConfig(data_dir=path)
    cache = RealtimeCache(data)
    try:
        StreamingFlow(data, BatchConfig(data_dir=path), cache, Clock(LATER))
    finally:
        cache.close()


def training_log(_path: Path) -> None:
    with TrainingSource(BatchConfig()).logs("orders") as connection:
        connection.execute("SELECT * FROM orders").fetchall()


def cycle(path: Path) -> None:
    processor_of(path).run_cycle()


def summary(path: Path) -> None:
    found = collect_status(BatchConfig(data_dir=path), DataConfig(data_dir=path))
    alarm = first_alarm(found)  # for which the command exits 1
    if alarm:
        raise CorruptFileError(alarm)


def audited(_path: Path) -> None:
    audit(DataConfig(), BatchConfig(), sample=5, now=Clock(LATER))


READERS: dict[str, list[Callable[[Path], Any]]] = {
    "view": [history, materialize, pulled, features_at, cycle, summary, audited],
    "log": [streamer, training_log, cycle, summary, audited],
}
PAIRS = [(kind, reader) for kind, readers in READERS.items() for reader in readers]


@pytest.mark.parametrize(("kind", "reader"), PAIRS, ids=[f"{k}-{r.__name__}" for k, r in PAIRS])
@pytest.mark.parametrize("damage", ["flipped", "deleted", "exchanged"])
def test_no_reader_takes_a_damaged_file_for_a_good_one(
    unharmed: Path, kind: str, reader: Callable[[Path], Any], damage: str
) -> None:
    """It stops with one line that names the file and the command that mends it."""
    reader(unharmed)
    victim = one_of(unharmed, kind, {"view": "user_orders", "log": "orders"}[kind])
    if damage == "flipped":
        flip(victim, 8 * (victim.stat().st_size // 3))
    elif damage == "deleted":
        victim.unlink()
    else:
        shutil.copy(one_of(unharmed, kind, {"view": "user_intent", "log": "routes"}[kind]), victim)
    with pytest.raises(SynchroChainError, match=REMEDY) as raised:
        reader(unharmed)
    assert victim.name in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("reader", READERS["view"], ids=lambda reader: str(reader.__name__))
def test_a_file_that_is_not_ours_is_not_read_as_if_it_were(
    unharmed: Path, reader: Callable[[Path], Any]
) -> None:
    """One that was put beside the published ones."""
    victim = one_of(unharmed, "view", "user_orders")
    strange = victim.with_name("strange.parquet")
    shutil.copy(victim, strange)
    with pytest.raises(CorruptFileError, match=f"strange.parquet is not among .*{REMEDY}"):
        reader(unharmed)


def test_every_flipped_bit_is_noticed(unharmed: Path) -> None:
    """Header, pages, dictionaries, statistics, footer: in each of 120 places all over the files."""
    state = PipelineState(unharmed / "pipeline_state.db")
    choose = random.Random(120)
    files = [file for kind in ("log", "view") for file in state.files(kind)]
    check_contents(state, files)
    unnoticed = []
    for number in range(120):
        file = files[number % len(files)]
        bit = choose.randrange(8 * file.bytes)
        flip(file.path, bit)
        with suppress(CorruptFileError):
            check_contents(state, state.files(file.kind, file.name))
            unnoticed.append((file.path.name, bit))
        flip(file.path, bit)
    assert unnoticed == []
    check_contents(state, files)  # back to what they were, they are good again


def test_duckdb_alone_reads_other_values(unharmed: Path) -> None:
    """Which is why it is not left to DuckDB; should this fail one day, it need not be."""
    file = next(file for file in live(unharmed, "log") if file.name == "routes")
    choose = random.Random(1)
    query = f"SELECT * FROM read_parquet('{file.path}')"
    before = duckdb.sql(query).fetchall()
    unnoticed = 0
    for _ in range(20):
        bit = choose.randrange(8 * 100, 8 * (file.bytes // 2))
        flip(file.path, bit)
        with suppress(duckdb.Error):
            unnoticed += duckdb.sql(query).fetchall() != before
        flip(file.path, bit)
    assert unnoticed


def test_a_file_is_read_through_once(unharmed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first process that reads it, and by none after it, until the file changes."""
    state = PipelineState(unharmed / "pipeline_state.db")
    read: list[Path] = []

    def counted(path: Path, original: Callable[[Path], str] = module.sha256_of) -> str:
        read.append(path)
        return original(path)

    monkeypatch.setattr(module, "sha256_of", counted)
    monkeypatch.setattr(module, "_TICK_NS", -(10**18))  # whatever the clock says
    files = state.files("view")
    for file in files:
        os.utime(file.path, ns=(1, 1))
    check_contents(state, files)
    assert sorted(read) == sorted(file.path for file in files)
    check_contents(state, files)
    module._seen_whole.clear()  # as in another process
    check_contents(state, state.files("view"))
    assert len(read) == len(files)
    check_contents(state, state.files("view"), afresh=True)
    assert len(read) == 2 * len(files)


def test_a_result_within_the_same_tick_of_the_clock_is_not_kept(
    unharmed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another write might leave the same time stamps."""
    state = PipelineState(unharmed / "pipeline_state.db")
    (file,) = state.files("log", "users")
    os.utime(file.path, ns=(2, 2))
    monkeypatch.setattr(module, "_TICK_NS", 10**18)
    check_contents(state, [file])
    (again,) = state.files("log", "users")
    assert again.identity != identity_of(file.path)
    assert module._seen_whole.get(file.path) != (file.sha256, identity_of(file.path))


def test_a_view_without_files_yet_is_empty() -> None:
    """Before the first cycle there is nothing to know, which is no error."""
    with new_directory() as path, used_directory(path):
        config = BatchConfig()
        apply(config, PipelineState(config.state_path))
        assert history(path)["orders_30d"].null_count == 3


def test_merging_during_a_read_is_no_damage(unharmed: Path) -> None:
    """A reader that begins while files are being replaced sees the ones or the others."""
    config = BatchConfig(data_dir=unharmed, retention_days=3650, merge_files=2)
    processor = BatchProcessor(config, DataConfig(data_dir=unharmed), clock=Clock(LATER))
    before = history(unharmed)
    processor.run_cycle(update=False)
    state = PipelineState(unharmed / "pipeline_state.db")
    assert state.files("view", "user_orders", status="superseded")
    assert history(unharmed).equals(before)
    assert verified(state, "view", folder=config.offline_path / "user_orders")


def test_files_and_rows_of_a_newer_version_are_refused(unharmed: Path) -> None:
    """By what the state says of them, or by what they say themselves."""
    state = PipelineState(unharmed / "pipeline_state.db")
    (file,) = state.files("log", "users")
    (made,) = state.files("view", "user_orders")
    assert pq.read_schema(file.path).metadata is None  # an old one
    assert int(pq.read_schema(made.path).metadata[FORMAT_KEY]) == FILE_FORMAT
    table = pq.read_table(file.path)
    newer = {FORMAT_KEY: str(FILE_FORMAT + 1).encode()}
    pq.write_table(table.replace_schema_metadata(newer), file.path)
    found = PublishedFile(
        file.path,
        file.kind,
        file.name,
        file.rows,
        file.path.stat().st_size,
        module.sha256_of(file.path),
    )
    with pytest.raises(NewerFormatError, match=f"format {FILE_FORMAT + 1}, this one knows"):
        check_contents(state, [found])


def test_a_moved_directory_is_not_a_view_without_rows(
    unharmed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Until it is applied again, the registry points to where the files lay."""
    shutil.copytree(unharmed, tmp_path / "moved", ignore=shutil.ignore_patterns("redis"))
    monkeypatch.setenv("SYNCHROCHAIN_DATA_DIR", str(tmp_path / "moved"))
    with pytest.raises(SynchroChainError, match="synchrochain batch --once"):
        history(unharmed)


def test_what_a_rebuild_makes_is_good_again(unharmed: Path) -> None:
    """The command in the message mends a flipped, a deleted and a strange file at once."""
    expected = history(unharmed)
    one_of(unharmed, "log", "orders").unlink()
    victim = one_of(unharmed, "view", "user_orders")
    shutil.copy(victim, victim.with_name("user_orders_99999999.parquet"))
    flip(victim, 800)
    with pytest.raises(CorruptFileError):
        cycle(unharmed)
    processor = processor_of(unharmed)
    processor.rebuild()
    processor.run_cycle(update=False)
    assert history(unharmed).equals(expected)
    assert sum(file.rows for file in live(unharmed, "log") if file.name == "users") == 200
    folders = [unharmed / "processed", *(BatchConfig().offline_path / v.name for v in VIEWS)]
    on_disk = {path for folder in folders for path in folder.glob("*.parquet")}
    assert on_disk == {file.path for kind in ("log", "view") for file in live(unharmed, kind)}
