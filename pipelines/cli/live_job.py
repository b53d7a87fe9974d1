"""The live jobs: the streamer by itself, and everything together, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, Final

from pipelines.batch import BatchProcessor
from pipelines.cli.console import messages, progress_of_steps
from pipelines.cli.main_job import simulate_until_now
from pipelines.errors import StreamerRunningError, SynchroChainError
from pipelines.lake.process_lock import STREAM_LOCK, held_by
from pipelines.printable import counted
from pipelines.serving.server import listen
from pipelines.settings import BatchConfig, DataConfig
from pipelines.stopping import PART_SECONDS, on_stop
from pipelines.streaming import DataStreamer

PATIENCE: Final = PART_SECONDS + 1
"""Seconds that all parts have to end by themselves before they are made to."""
LOOK_SECONDS: Final = 0.5
HOST: Final = "127.0.0.1"
PART: Final = "pipelines.cli.part"
STREAMER: Final = "streamer"


def stream_until_interrupted(data: DataConfig, batch: BatchConfig) -> None:
    """Stream until a signal asks to end."""
    asyncio.run(_stream(DataStreamer(config=data, batch=batch)))


def run_everything(
    processor: BatchProcessor, sizes: dict[str, Any], speed: float, port: int
) -> None:
    """Fill the shop up to now, run a batch cycle, then simulate, stream, batch and serve.

    Each is a process of its own, so that none keeps another waiting, and this one hears at once
    when it is asked to end. When one of them ends by itself, everything is stopped; whatever ends
    this process ends them too.

    Args:
        processor: of the data directory.
        sizes: of a new world, by option; None where not given.
        speed: simulated seconds a second while the world lags behind.
        port: of the decisions API.

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
        STREAMER: ["stream"],
        "simulator": ["simulate", "--live", "--speed", str(speed)],
        "batch flow": ["batch"],
        "server of decisions": ["serve", "--host", HOST, "--port", str(port)],
    }
    _run_parts(commands, processor.config)


async def _stream(streamer: DataStreamer) -> None:
    with on_stop(streamer.stop), messages.status("warming up") as line:
        running = asyncio.create_task(
            streamer.start_streaming(ready=lambda: line.update("streaming; Ctrl-C ends it"))
        )
        while not running.done():
            await asyncio.wait([running], timeout=LOOK_SECONDS)
            changes, rows, away = streamer.done
            if changes:
                where = ", Redis is away" if away else ""
                line.update(
                    f"streaming: {counted(changes, 'change')}, {counted(rows, 'feature row')}"
                    f"{where}; Ctrl-C ends it"
                )
        await running


def _run_parts(commands: Mapping[str, list[str]], config: BatchConfig) -> None:
    """Run commands of ours as processes until one of them ends, which is an error.

    Each holds the end of a pipe that is closed when this process is asked to end, or is no more.
    """
    parts: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, words in commands.items():
            # The line at the bottom is the streamer's.
            plain = {} if name == STREAMER else {"TTY_COMPATIBLE": "0"}
            parts[name] = subprocess.Popen(
                [sys.executable, "-m", PART, *words, "--data-dir", str(config.data_dir)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=os.environ | plain,
            )
        while all(part.poll() is None for part in parts.values()):
            time.sleep(LOOK_SECONDS)
        name, part = next((n, p) for n, p in parts.items() if p.returncode is not None)
        raise SynchroChainError(
            f"the {name} ended with exit status {part.returncode}: everything was stopped"
        )
    finally:
        _end(parts.values())


def _end(parts: Collection[subprocess.Popen[bytes]]) -> None:
    """Ask all of them at once to end, and end by force who is there when the time is over."""
    deadline = time.monotonic() + PATIENCE
    for part in parts:
        assert part.stdin is not None  # a pipe, see above
        part.stdin.close()
    try:
        for part in parts:
            with suppress(subprocess.TimeoutExpired):
                part.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for part in parts:
            part.kill()
        for part in parts:
            part.wait()
