"""The whole layer, run by one process: a streamer in a thread of its own, batch cycles in a child.

The batch flow reads SQLite files with a library of its own, the streamer with Python's. Two SQLite
libraries in one process undo each other's locks, and commits can be lost; so they never share one.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Final

from pydantic import SecretStr

from pipelines.batch import BatchProcessor
from pipelines.cache import RealtimeCache
from pipelines.errors import SynchroChainError
from pipelines.lake.declarations import declared_otherwise
from pipelines.lake.state import BATCH_READER
from pipelines.settings import ENV_PREFIX, BatchConfig, DataConfig, foreign_environment
from pipelines.stopping import PART_SECONDS
from pipelines.streaming import DataStreamer

logger = logging.getLogger(__name__)

BATCH_CHILD: Final = "pipelines.data_layer.batch_child"
"""Run by name: a module that was imported already would be run a second time."""
LOOK_SECONDS: Final = 0.1
PATIENCE: Final = PART_SECONDS
"""Seconds that a cycle has to end by itself; one that is killed is repeated by the next."""


class RunningLayer:
    """Starts once and stops once.

    Nothing of it keeps a process from ending. One that ends without `stop` repeats a little the
    next time and loses nothing, and its child ends with it, within seconds.

    Args:
        batch: its configuration is that of the child's.
        streamer: runs in a thread.
        cache: what the streamer writes to.
    """

    def __init__(self, batch: BatchProcessor, streamer: DataStreamer, cache: RealtimeCache) -> None:
        self._batch = batch
        self._streamer = streamer
        self._cache = cache
        self._child: subprocess.Popen[str] | None = None
        self._stopped = threading.Event()
        self._cycled = threading.Event()
        self._ready: Future[None] = Future()
        self._watching = threading.Thread(target=self._watch, name="batch", daemon=True)
        self._streaming = threading.Thread(target=self._stream, name="stream", daemon=True)

    def start(self) -> None:
        """Return when the streamer is warm and has written what was missed.

        Raises:
            StreamerRunningError: another streamer runs on this data directory.
            SynchroChainError: the streamer cannot start. Nothing is left running.
        """
        state = self._batch.state
        processed = bool(state.offsets(BATCH_READER)) and not declared_otherwise(state)
        try:
            self._child = _batch_flow(self._batch.data, self._batch.config)
            self._watching.start()
            if (
                not processed
            ):  # or declared otherwise; a cycle takes in a history faster than a streamer
                self._cycled.wait()
            self._streaming.start()
            self._ready.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End both after the cycle and the micro-batches at hand; a second time does nothing."""
        self._stopped.set()
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()
        while self._streaming.is_alive():
            self._streamer.stop()  # again and again, for it may not have begun to listen
            self._streaming.join(LOOK_SECONDS)
        if self._child is not None and self._watching.is_alive():
            self._watching.join(PATIENCE)
            self._child.kill()
            self._watching.join()

    def _watch(self) -> None:
        """Tell when the child has run its first cycle, and if it ends by itself."""
        assert self._child is not None
        assert self._child.stdout is not None
        with self._child.stdout as said:
            said.readline()
            self._cycled.set()
            status = self._child.wait()
        if not self._stopped.is_set():
            logger.error("the batch flow ended with exit status %d: start it again", status)

    def _stream(self) -> None:
        try:
            asyncio.run(
                self._streamer.start_streaming(
                    self._cache, ready=lambda: self._ready.set_result(None)
                )
            )
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            elif isinstance(error, SynchroChainError):
                logger.error("the streamer has ended: %s", error)
            else:
                logger.exception("the streamer has ended: start it again")


def _batch_flow(data: DataConfig, batch: BatchConfig) -> subprocess.Popen[str]:
    """The batch flow in a process of its own, which ends when its standard input does."""
    return subprocess.Popen(
        [sys.executable, "-m", BATCH_CHILD],
        env=_environment(data, batch),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process, which ends it
    )


def _environment(data: DataConfig, batch: BatchConfig) -> dict[str, str]:
    """The environment in which the configuration by default, Feast's included, is this one."""
    given = {f"{ENV_PREFIX}{name}": value for name, value in data}
    given |= {f"{ENV_PREFIX}BATCH_{name}": value for name, value in batch if name != "data_dir"}
    return foreign_environment() | {
        name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in given.items()
        if value is not None
    }
