"""A streamer under test: started as a user starts it, watched from outside, stopped by its id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from pipelines.benchmarks.freshness_world import last_changes
from pipelines.errors import SynchroChainError
from pipelines.lake.state import STREAM_READER, PipelineState
from pipelines.settings import BatchConfig

START_S: Final = 300.0
STOP_S: Final = 20.0
POLL_S: Final = 0.05


def streamer_command() -> list[str]:
    """`synchrochain stream` of the environment that runs this; `--data-dir` is added."""
    return [str(Path(sys.executable).parent / "synchrochain"), "stream"]


class Streamer:
    """A process that follows the change logs of a data directory."""

    def __init__(self, home: Path, command: Sequence[str]) -> None:
        self._home = home
        self._state = PipelineState(BatchConfig(data_dir=home).state_path)
        self._log = home / "streamer.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--data-dir", str(home)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid
        self.family = family(self.pid)
        """The process and what it has started, as found when it had caught up last."""

    def lag(self) -> int:
        """Changes committed and not yet dealt with, by the stored offsets.

        Raises:
            SynchroChainError: the process has ended.
        """
        if self._process.poll() is not None:
            lines = self._log.read_text("utf-8", "replace").splitlines()
            said = [line for line in lines if any(map(str.isalnum, line))] or ["it said nothing"]
            raise SynchroChainError(
                f"the streamer ended with status {self._process.returncode}: "
                + said[-1].strip(" │")
            )
        done = self._state.offsets(STREAM_READER)
        return sum(last - done.get(name, 0) for name, last in last_changes(self._home).items())

    def catch_up(self, within: float) -> float | None:
        """Wait until nothing is left; the seconds it took, None when time ran out."""
        began = time.monotonic()
        while self.lag():
            if time.monotonic() - began > within:
                return None
            time.sleep(POLL_S)
        took = time.monotonic() - began
        self.family = family(self.pid)
        return took

    def rss_mb(self) -> float:
        """Resident memory, of its children too."""
        held = 0
        for process in self.family:
            with contextlib.suppress(psutil.NoSuchProcess):
                held += process.memory_info().rss
        return held / 1e6

    def stop(self) -> None:
        """Interrupt it as Ctrl-C does; kill it when it does not end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


@dataclass
class Watch:
    """Looks at lag and memory now and then, and adds up the seconds of computing.

    Lag is looked at when `lag_every` seconds have passed, memory every second.
    """

    streamer: Streamer
    others: dict[str, int] = field(default_factory=dict)
    """Process ids whose computing time is reported apart, by name."""
    lag_every: float = 0.5
    clock: Callable[[], float] = time.monotonic
    lags: list[tuple[float, int]] = field(default_factory=list)
    """(seconds since the start, changes)."""
    rss_mb: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._pids = {"prober": os.getpid(), **self.others}
        self._computed = self._seconds()
        self._began = self.clock()

    def __call__(self) -> None:
        """Look, if it is time."""
        now = self.clock() - self._began
        if not self.lags or now - self.lags[-1][0] >= self.lag_every:
            self.lags.append((now, self.streamer.lag()))
        if not self.rss_mb or now - self.rss_mb[-1][0] >= 1.0:
            self.rss_mb.append((now, self.streamer.rss_mb()))

    def cores(self) -> dict[str, float]:
        """How many cores each process has kept busy since the start, 1.0 for one."""
        passed = self.clock() - self._began
        now = self._seconds()
        return {name: round((now[name] - self._computed[name]) / passed, 3) for name in now}

    def _seconds(self) -> dict[str, float]:
        others = {name: [psutil.Process(pid)] for name, pid in self._pids.items()}
        watched = {"streamer": self.streamer.family, **others}
        return {
            name: sum(sum(process.cpu_times()[:2]) for process in processes)
            for name, processes in watched.items()
        }


def family(pid: int) -> list[psutil.Process]:
    """A process and what it has started, as far as they are there."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def is_growing(lags: Sequence[tuple[float, int]], rate: float) -> bool:
    """Whether the lag of the second half grows by a twentieth of the rate or more.

    Its first and second half are compared by their medians, since offsets are stored now and
    then: a lag goes up and down by what comes in meanwhile.
    """
    late = [lag for lag in lags if lag[0] >= lags[-1][0] / 2]
    first, second = late[: len(late) // 2], late[len(late) // 2 :]
    if not first:
        return False
    passed = _middle([at for at, _ in second]) - _middle([at for at, _ in first])
    return _middle([n for _, n in second]) - _middle([n for _, n in first]) > 0.05 * rate * passed


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
