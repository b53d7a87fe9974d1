"""The live jobs: the streamer by itself, and everything together, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from pipelines.batch import BatchProcessor
from pipelines.console import messages, progress_of_steps
from pipelines.errors import StreamerRunningError, SynchroChainError
from pipelines.main_job import simulate_until_now
from pipelines.process_lock import held_by
from pipelines.serving.server import listen
from pipelines.settings import BatchConfig, DataConfig
from pipelines.stopping import PART_SECONDS, on_stop
from pipelines.streaming import DataStreamer
from pipelines.streaming.data_streamer import STREAM_LOCK

PATIENCE: Final = PART_SECONDS + 1
"""Seconds that all parts have to end by themselves before they are made to."""
LOOK_SECONDS: Final = 0.5
HOST: Final = "127.0.0.1"
PART: Final = "pipelines.cli_part"


def stream_until_interrupted(
    data: DataConfig, batch: BatchConfig, *, look: Callable[[], None] = lambda: None
) -> None:
    """Stream until a signal asks to end; `look` is called twice a second and may raise."""
    streamer = DataStreamer(config=data, batch=batch)
    asyncio.run(_stream(streamer, look))


def run_everything(
    processor: BatchProcessor, sizes: dict[str, Any], speed: float, port: int
) -> None:
    """Fill the shop up to now, run a batch cycle, then simulate, stream, batch and serve.

    All but the streamer are processes of their own, so that none keeps it waiting. When one of
    them ends by itself, everything is stopped; whatever ends this process ends them too.

    Raises:
        UsageError: the port is taken; nothing was begun.
        StreamerRunningError: another streamer runs; nothing was begun.
        SynchroChainError: a part has ended.
    """
    listen(HOST, port).close()
    streaming = held_by(processor.data.data_dir / STREAM_LOCK)
    if streaming is not None:
        raise StreamerRunningError(streaming)
    simulate_until_now(processor.data, sizes)
    with progress_of_steps("batch") as progress:
        BatchProcessor(processor.config, processor.data, progress=progress).run_cycle()
    commands = {
        "simulator": ["simulate", "--live", "--speed", str(speed)],
        "batch flow": ["batch"],
        "server of decisions": ["serve", "--host", HOST, "--port", str(port)],
    }
    with _parts(commands, processor.config) as look:
        stream_until_interrupted(processor.data, processor.config, look=look)


async def _stream(streamer: DataStreamer, look: Callable[[], None]) -> None:
    asked = asyncio.Event()

    def stop() -> None:
        asked.set()
        streamer.stop()

    with on_stop(stop), messages.status("warming up") as line:
        running = asyncio.create_task(
            streamer.start_streaming(ready=lambda: line.update("streaming; Ctrl-C ends it"))
        )
        while not running.done():
            await asyncio.wait([running], timeout=LOOK_SECONDS)
            if asked.is_set():
                continue  # a signal that came to this process came to its parts too
            try:
                look()
            except SynchroChainError:
                streamer.stop()
                await running
                raise
            changes, rows, away = streamer.done
            if changes:
                where = ", Redis is away" if away else ""
                line.update(
                    f"streaming: {changes:,} changes, {rows:,} feature rows{where}; Ctrl-C ends it"
                )
        await running


@contextmanager
def _parts(commands: Mapping[str, list[str]], config: BatchConfig) -> Iterator[Callable[[], None]]:
    """Run commands of ours as processes; yields a function that raises when one has ended.

    Each holds the end of a pipe that is closed when this process asks it to end, or is no more.
    """
    parts = {
        name: subprocess.Popen(
            [sys.executable, "-m", PART, *words, "--data-dir", str(config.data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "TTY_COMPATIBLE": "0"},  # the line at the bottom is this process's
        )
        for name, words in commands.items()
    }

    def look() -> None:
        for name, part in parts.items():
            if part.poll() is not None:
                raise SynchroChainError(
                    f"the {name} ended with exit status {part.returncode}: everything was stopped"
                )

    try:
        yield look
    finally:
        for part in parts.values():
            assert part.stdin is not None  # a pipe, see above
            part.stdin.close()
        deadline = time.monotonic() + PATIENCE
        for part in parts.values():
            try:
                part.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                part.kill()
                part.wait()
