"""An upgrade that is killed anywhere, by batch or stream: nothing is lost, nothing doubled.

What a process leaves that is killed with -9 at a random time is then upgraded as ever.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from conftest import Clock, new_directory
from killing import files_on_disk, kill_at_random
from live_logs import offline_rows
from old_directory import restore_redis, unpack
from stream_helpers import StreamWorld
from test_upgrade import LATER, OFFSETS, processor_of

from pipelines.batch import BatchConfig
from pipelines.cache import RealtimeCache
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.redis_server import stop_server
from pipelines.settings import DATABASE_NAMES, DataConfig
from pipelines.streaming.flow import StreamingFlow

SEEDS: Final = 8
STREAMS: Final = 4


def state_of(path: Path) -> dict[str, Any]:
    processor = processor_of(path)
    return {
        "rows": {view: offline_rows(processor, view) for view in VIEWS_BY_NAME},
        "logs": sorted(
            (log, sum(f.rows for f in processor.state.files("log", log)))
            for log in {file.name for file in processor.state.files("log")}
        ),
        "quarantined": sum(file.rows for file in processor.state.files("quarantine")),
        "offsets": dict(processor.state.offsets("batch")),
        "streamed": processor.state.offsets("stream"),
    }


def cycle(path: Path) -> None:
    """A cycle, which upgrades first."""
    processor_of(path).run_cycle(update=False)


def test_an_upgrade_killed_anywhere_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """The next cycle ends where one that nobody killed does."""
    folders = [tmp_path / f"{number}" for number in range(SEEDS + 1)]
    unpack(folders[0])
    for folder in folders[1:]:
        shutil.copytree(folders[0], folder)
    killed = kill_at_random("test_upgrade_killed:cycle", folders[0], folders[1:])
    expected = state_of(folders[0])
    assert not expected["streamed"]  # all views are computed anew, so a streamer begins anew
    assert expected["offsets"].keys() == OFFSETS.keys()
    for at, folder in zip(killed, folders[1:], strict=True):
        cycle(folder)
        assert state_of(folder) == expected, at
        assert files_on_disk(folder) == processor_of(folder).state.known_paths(), at


def stream(path: Path) -> None:
    """A stream that upgrades, takes in all there is and ends."""
    config = DataConfig(data_dir=path, redis_host=None, batch_size=10)
    flow = StreamingFlow(config, BatchConfig(data_dir=path), RealtimeCache(config), lambda: LATER)
    flow.catch_up()
    for name in (*DATABASE_NAMES, *DATABASE_NAMES):
        while flow.step(name, final=True).changes:
            flow.save()
    flow.save(final=True)
    flow.close()


def streamed(path: Path) -> dict[str, Any]:
    """What is online and how far the stream has come, created timestamps aside."""
    world = StreamWorld(path, Clock(LATER))
    online = {view: world.online(view) for view in VIEWS_BY_NAME}
    for row in (row for rows in online.values() for row in rows.values()):
        del row["created_timestamp"]
    return {"online": online, "offsets": world.state.bound_offsets("stream")}


@pytest.fixture
def directories() -> Iterator[list[Path]]:
    """Old directories, each with a Redis of its own."""
    with new_directory() as home:
        folders = [home / f"{number}" for number in range(STREAMS + 1)]
        try:
            for folder in folders:
                unpack(folder)
                restore_redis(DataConfig(data_dir=folder, redis_host=None))
            yield folders
        finally:
            for folder in folders:
                stop_server(DataConfig(data_dir=folder, redis_host=None))


def test_an_upgrade_of_the_stream_killed_anywhere_loses_nothing(directories: list[Path]) -> None:
    """The next stream ends where one that nobody killed does."""
    killed = kill_at_random("test_upgrade_killed:stream", directories[0], directories[1:])
    expected = streamed(directories[0])
    assert all(at.identity for at in expected["offsets"].values())
    for at, folder in zip(killed, directories[1:], strict=True):
        stream(folder)
        found = streamed(folder)
        for name, offset in found["offsets"].items():  # each log has its own identity
            assert offset.seq == expected["offsets"][name].seq, at
        assert found["online"] == expected["online"], at
