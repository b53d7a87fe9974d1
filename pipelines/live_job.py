"""The live jobs: the streamer by itself, and everything together, until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from pipelines.batch import BatchProcessor
from pipelines.console import messages, progress_of_steps
from pipelines.errors import SynchroChainError
from pipelines.main_job import simulate_until_now
from pipelines.settings import BatchConfig, DataConfig
from pipelines.streaming import DataStreamer

PATIENCE: Final = 20.0
"""Seconds that a part has to end by itself before it is made to."""
LOOK_SECONDS: Final = 0.5


def stream_until_interrupted(
    data: DataConfig, batch: BatchConfig, *, look: Callable[[], None] = lambda: None
) -> None:
    """Stream until Ctrl-C or SIGTERM; `look` is called twice a second and may raise."""
    streamer = DataStreamer(config=data, batch=batch)
    asyncio.run(_stream(streamer, look))


def run_everything(
    processor: BatchProcessor, sizes: dict[str, Any], speed: float, port: int
) -> None:
    """Fill the shop up to now, run a batch cycle, then simulate, stream, batch and serve.

    All but the streamer are processes of their own, so that none keeps it waiting. When one of
    them ends by itself, everything is stopped.
    """
    simulate_until_now(processor.data, sizes)
    with progress_of_steps("batch") as progress:
        BatchProcessor(processor.config, processor.data, progress=progress).run_cycle()
    commands = {
        "simulator": ["simulate", "--live", "--speed", str(speed)],
        "batch flow": ["batch"],
        "server of decisions": ["serve", "--port", str(port)],
    }
    with _parts(commands, processor.config) as look:
        stream_until_interrupted(processor.data, processor.config, look=look)


async def _stream(streamer: DataStreamer, look: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, streamer.stop)
    with messages.status("warming up") as line:
        running = asyncio.create_task(
            streamer.start_streaming(ready=lambda: line.update("streaming; Ctrl-C ends it"))
        )
        while not running.done():
            await asyncio.wait([running], timeout=LOOK_SECONDS)
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
    """Run commands of ours as processes; yields a function that raises when one has ended."""
    parts = {
        name: subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *words, "--data-dir", str(config.data_dir)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process, which tells them
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
            if part.poll() is None:
                part.send_signal(signal.SIGINT)
        for part in parts.values():
            try:
                part.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                part.kill()
                part.wait()
