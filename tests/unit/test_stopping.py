"""Ending on request: each signal means the same, and a part ends with who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from pipelines.errors import SynchroChainError
from pipelines.settings import PROJECT_ROOT
from pipelines.stopping import SIGNALS, interruptible, on_stop

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")

GUARD_SECONDS = 30.0
WAITS = """
import sys, threading
from pipelines.stopping import end_with_parent, on_stop
{lifeline}
try:
    with on_stop({stop}):
        print("ready", flush=True)
        for line in {lines}:
            print("still here", flush=True)
        threading.Event().wait()
except KeyboardInterrupt:
    print("ended in order", flush=True)
    sys.exit(130)
"""


def waiting(prepare: str = "", stop: str = "", lines: str = "()") -> str:
    """A program that waits until it is asked to end, and answers to `lines` before."""
    return WAITS.format(lifeline=prepare, stop=stop, lines=lines)


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)
child.wait()
"""


@contextmanager
def started(
    program: str, *arguments: str, ignored: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has said that it is ready."""

    def ignore() -> None:
        if ignored is not None:
            signal.signal(ignored, signal.SIG_IGN)

    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=ignore,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_every_signal_ends_a_process_in_order(number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM, a closed terminal and SIGQUIT alike: cleanup runs, exit status 130."""
    with started(waiting()) as process:
        process.send_signal(number)
        said, _ = process.communicate(timeout=GUARD_SECONDS)
    assert (said, process.returncode) == ("ended in order\n", 130)


def test_an_ignored_signal_stays_ignored() -> None:
    """Under nohup a closed terminal ends nothing."""
    with started(waiting(lines="sys.stdin"), ignored=signal.SIGHUP) as process:
        process.send_signal(signal.SIGHUP)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("?\n")
        process.stdin.flush()
        assert process.stdout.readline() == "still here\n"


def test_only_who_insists_ends_a_process_at_once() -> None:
    """The same signal again within a second is the same request; hanging up never insists."""
    stopped: list[float] = []
    left: list[float] = []
    now = 100.0
    handlers = [signal.getsignal(number) for number in SIGNALS]
    with on_stop(lambda: stopped.append(now), leave=lambda _: left.append(now), clock=lambda: now):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        now = 105.0
        signal.raise_signal(signal.SIGHUP)
        assert (stopped, left) == ([100.0], [])
        signal.raise_signal(signal.SIGTERM)
        assert (stopped, left) == ([100.0], [105.0])
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_outside_of_the_main_thread_nothing_changes() -> None:
    """A program of somebody else's keeps its own handlers."""
    found: list[object] = []

    def look() -> None:
        with on_stop():
            found.extend(signal.getsignal(number) for number in SIGNALS)

    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == before


@pytest.mark.parametrize("ignored", [None, signal.SIGHUP])
def test_a_part_ends_in_order_when_its_parent_is_killed(ignored: int | None) -> None:
    """Nothing tells it but the end of the pipe that the parent held."""
    part = waiting("end_with_parent()")
    with started(PARENT, part, ignored=ignored) as parent:
        parent.kill()
        assert parent.stdout is not None
        assert parent.stdout.read() == "ended in order\n"  # to the end: the part is gone


def test_a_part_that_does_not_listen_is_ended_all_the_same() -> None:
    """When its time is over."""
    part = waiting("end_with_parent(lambda: None, seconds=0.01)")
    with started(PARENT, part) as parent:
        parent.kill()
        assert parent.stdout is not None
        assert parent.stdout.read() == ""


@pytest.mark.parametrize("hangs", [False, True])
def test_what_goes_on_until_it_is_asked_ends_with_0(hangs: bool) -> None:
    """Also when its limit ends it, whatever the commands around it make of an interruption."""
    program = """
import sys, threading
import pipelines.stopping as s
s.END_SECONDS = 0.01 if {hangs} else s.END_SECONDS
with s.on_stop(last=True), s.until_asked():
    try:
        print("ready", flush=True)
        threading.Event().wait()
    finally:
        if {hangs}:
            threading.Event().wait()
print("ended in order")
"""
    with started(program.format(hangs=hangs)) as process:
        os.kill(process.pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=GUARD_SECONDS)
    assert (said, process.returncode) == ("" if hangs else "ended in order\n", 0)


def test_while_code_is_loaded_a_process_ends_at_once() -> None:
    """No exception is raised in the middle of an import, where libraries swallow it."""
    program = """
import threading
from pipelines.stopping import loading, on_stop
with on_stop(), loading(3):
    try:
        print("ready", flush=True)
        threading.Event().wait()
    except BaseException as error:
        print(repr(error))
"""
    with started(program) as process:
        os.kill(process.pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=GUARD_SECONDS)
    assert (said, process.returncode) == ("", 3)


def test_a_process_that_is_ending_anyway_ends_with_a_status_of_ours() -> None:
    """While its threads are waited for it ends at once; later its own status stays."""
    program = """
import os, signal, threading
from pipelines.stopping import ending
ending()
print("ready", flush=True)
threading.Thread(target=threading.Event().wait).start()
"""
    with started(program) as process:
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=GUARD_SECONDS)
    assert process.returncode == 130


def test_an_interruption_that_python_swallows_comes_again() -> None:
    """An exception in the call of a weak reference is printed and forgotten; not this one."""
    program = """
import os, signal, sys, threading, weakref
from pipelines.stopping import on_stop
class Thing: pass
def ask(_): os.kill(os.getpid(), signal.SIGTERM)
try:
    with on_stop():
        thing = Thing()
        reference = weakref.ref(thing, ask)
        print("ready", flush=True)
        del thing
        threading.Event().wait()
except KeyboardInterrupt:
    print("ended in order", flush=True)
    sys.exit(130)
"""
    with started(program) as process:
        said, complaints = process.communicate(timeout=GUARD_SECONDS)
    assert (said, complaints, process.returncode) == ("ended in order\n", "", 130)


def test_an_interrupted_query_is_an_interruption() -> None:
    """DuckDB raises a RuntimeError of its own instead, which would look like a defect of ours."""
    program = """
import sys
import duckdb
from pipelines.stopping import interruptible, on_stop
connection = duckdb.connect()
connection.execute("SET threads = 1")
try:
    with on_stop(), interruptible():
        print("ready", flush=True)
        connection.execute("SELECT sum(hash(range)) FROM range(1000000000000)").fetchall()
except KeyboardInterrupt:
    print("ended in order", flush=True)
    sys.exit(130)
"""
    with started(program) as process:
        # While DuckDB plans, it may swallow an interruption, which then ends by its time limit.
        working = psutil.Process(process.pid).cpu_times
        planned = working().user + 0.1
        while working().user < planned:
            assert process.poll() is None
        os.kill(process.pid, signal.SIGTERM)
        said, complaints = process.communicate(timeout=GUARD_SECONDS)
    assert (said, complaints, process.returncode) == ("ended in order\n", "", 130)


def renamed(text: str, cause: BaseException | None = None) -> Exception:
    error = ValueError(text)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [renamed("in a class", KeyboardInterrupt()), renamed("in a class: KeyboardInterrupt: ")],
    ids=["its cause", "its text"],
)
def test_an_interruption_that_a_library_renames_is_one(error: Exception) -> None:
    """pydantic's SchemaError, for instance, when a module is being imported."""
    with pytest.raises(KeyboardInterrupt), interruptible():
        raise error


def test_an_error_of_ours_is_said_also_while_ending() -> None:
    """What could not be saved at the end is not lost in silence."""
    unsaved = SynchroChainError("the offset was not saved")
    unsaved.__context__ = KeyboardInterrupt()
    with pytest.raises(SynchroChainError), interruptible():
        raise unsaved


def test_a_process_that_cannot_end_in_order_is_ended_by_its_limit() -> None:
    """A cleanup that hangs holds nobody up for ever."""
    hangs = waiting("import pipelines.stopping as s; s.END_SECONDS = 0.01", "lambda: None")
    with started(hangs) as process:
        os.kill(process.pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=GUARD_SECONDS)
    assert (said, process.returncode) == ("", 130)
