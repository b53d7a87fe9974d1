"""The server's process: start it detached, recognise it without doubt, end it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from pipelines.redis_server.state import ServerState

CONFIG_NAME: Final = "server.conf"
"""The stand-in's configuration, and what servers of earlier versions were started with."""
FROM_STDIN: Final = "-"
"""The argument by which a real server reads its configuration from standard input."""
FAKE_SERVER: Final = "pipelines.redis_server.fake_server"
PROGRAM_NAMES: Final = {"redis-server", "valkey-server", FAKE_SERVER}
CREATED_TOLERANCE: Final = 1.0
TERMINATE_SECONDS: Final = 5.0
KILL_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.01
COMMAND_LINE_SECONDS: Final = 2.0

# Kept, so that a server which ends before us is reaped and not left as a zombie.
_children: list[subprocess.Popen[bytes]] = []


def launch(
    command: Sequence[str], directory: Path, log_path: Path, given: bytes
) -> psutil.Process | None:
    """Start a server that outlives us and does not get our Ctrl-C; its output goes to the log.

    Args:
        command: program and arguments.
        directory: its working directory.
        log_path: gets its output.
        given: its standard input.

    Returns:
        The server; None if it has ended at once.
    """
    descriptor = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with open(descriptor, "ab") as log:
        if sys.platform == "win32":
            flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
            child = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                creationflags=flags,
            )
        else:
            child = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
            )
    _children[:] = [*(child for child in _children if child.poll() is None), child]
    assert child.stdin is not None  # a pipe, see above
    with suppress(BrokenPipeError), child.stdin:  # it has ended; its log says why
        child.stdin.write(given)
    try:
        process = psutil.Process(child.pid)
        process.create_time()  # psutil keeps it from here on
    except psutil.NoSuchProcess:
        return None
    return process


def find_process(root: Path, state: ServerState | None) -> psutil.Process | None:
    """The live private server of this Redis directory, recorded or not.

    A process counts only when its command line is one of ours and it works in a directory of
    `root`, so a recycled process id is never taken for the server. Without a valid record all
    processes are looked through: a lost `server.json` must not lead to a second server.
    """
    if state is not None and state.pid is not None and state.created is not None:
        try:
            process = psutil.Process(state.pid)
            same_start = abs(process.create_time() - state.created) < CREATED_TOLERANCE
        except psutil.Error:
            same_start = False
        if same_start and _serves(process, root):
            return process
    candidates = [process for process in psutil.process_iter() if _serves(process, root)]
    pids = {process.pid for process in candidates}
    # A server that rewrites its append-only file has a child that looks like itself.
    parents = [process for process in candidates if _parent_pid(process) not in pids]
    return parents[0] if parents else None


def _parent_pid(process: psutil.Process) -> int | None:
    try:
        parent: int = process.ppid()
        return parent
    except psutil.Error:
        return None


def _serves(process: psutil.Process, root: Path) -> bool:
    try:
        if Path(process.cwd()).parent != root:
            return False
        command = _command_line(process)
        if FROM_STDIN not in command[1:] and Path(command[-1]).name != CONFIG_NAME:
            return False
        return any(Path(part).name in PROGRAM_NAMES for part in command)
    except (psutil.Error, OSError):
        return False


def _command_line(process: psutil.Process) -> list[str]:
    """A process' command line; one that has only just begun is given the time to get it."""
    deadline = time.monotonic() + COMMAND_LINE_SECONDS
    while True:
        command: list[str] = process.cmdline()
        if command or is_gone(process) or time.monotonic() > deadline:
            return command or [""]
        time.sleep(POLL_SECONDS)


def is_gone(process: psutil.Process) -> bool:
    """Whether the process has ended; a zombie, whose parent has not looked yet, has."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def age_of(process: psutil.Process) -> float:
    """How long the process has been there, seconds, also when the clock was set meanwhile."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        started = process.create_time() - psutil.boot_time()
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started, 0.0)
    age: float = time.time() - process.create_time()
    return max(age, 0.0)


def wait_until_gone(process: psutil.Process, seconds: float) -> bool:
    """Wait for the end of a process, at most so many seconds; whether it came."""
    deadline = time.monotonic() + seconds
    while not is_gone(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def end_process(process: psutil.Process) -> bool:
    """Ask the process to end, then make it; whether it ended.

    psutil compares the creation time before it signals: another process that was given the same
    id meanwhile is left alone.
    """
    try:
        # A stopped process cannot answer a request.
        if process.status() != psutil.STATUS_STOPPED:
            process.terminate()
            if wait_until_gone(process, TERMINATE_SECONDS):
                return True
        process.kill()
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
    return wait_until_gone(process, KILL_SECONDS)
