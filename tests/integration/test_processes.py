"""What ends the processes of the live jobs: signals, a closed terminal, the end of their parent."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from test_cli import synchrochain

from pipelines.cli.live_job import PART
from pipelines.data_layer.running import BATCH_CHILD
from pipelines.lake.process_lock import STREAM_LOCK, only_one
from pipelines.redis_server import stop_server
from pipelines.redis_server.process import FAKE_SERVER
from pipelines.settings import PROJECT_ROOT, DataConfig

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="only on Unix: signals, terminals")

START_SECONDS = 240.0
END_SECONDS = 10.0
SIZES = ("--users", "50", "--products", "20", "--warehouses", "2", "--days", "1")


@pytest.fixture(scope="module")
def shop() -> Iterator[Path]:
    """A data directory that all of these tests run in, one after the other."""
    folder = Path(tempfile.mkdtemp(prefix="sc-")).resolve()
    yield folder
    stop_server(DataConfig(data_dir=folder))
    shutil.rmtree(folder, ignore_errors=True)


def test_no_package_imports_what_is_run_by_name() -> None:
    """It would be run a second time, with a warning."""
    names = f"{BATCH_CHILD!r}, {PART!r}, {FAKE_SERVER!r}"
    program = "import sys, pipelines.data_layer, pipelines.cli.live_job, pipelines.redis_server\n"
    program += f"print([name for name in ({names}) if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr


@dataclass
class Terminal:
    """A command that runs in a terminal of its own."""

    process: subprocess.Popen[bytes]
    screen: int
    seen: bytes = b""

    def read_until(self, *texts: bytes) -> None:
        """Wait until all of the texts were shown."""
        deadline = time.monotonic() + START_SECONDS
        while not all(text in self.seen for text in texts):
            waiting = deadline - time.monotonic()
            assert waiting > 0, self.seen[-2000:]
            assert select.select([self.screen], [], [], waiting)[0], self.seen[-2000:]
            try:
                self.seen += os.read(self.screen, 65_536)
            except OSError:  # nobody has it open any more
                pytest.fail(self.seen[-2000:].decode(errors="replace"))

    def rest(self) -> bytes:
        """All that was ever shown, when nothing writes to it any more."""
        while select.select([self.screen], [], [], 0)[0]:
            try:
                self.seen += os.read(self.screen, 65_536)
            except OSError:
                break
        return self.seen


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    screen, inside = pty.openpty()

    def take() -> None:
        os.setsid()
        fcntl.ioctl(inside, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *arguments],
        cwd=PROJECT_ROOT,
        stdin=inside,
        stdout=inside,
        stderr=inside,
        preexec_fn=take,
    )
    os.close(inside)
    running = Terminal(process, screen)
    try:
        yield running
    finally:
        for part in psutil.Process(process.pid).children() if process.poll() is None else []:
            if "redis-server" not in part.name():
                part.kill()
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def test_a_taken_port_is_reported_before_anything_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One line: the port, who has it, what to do. No world is made first."""
    monkeypatch.setenv("SYNCHROCHAIN_DATA_DIR", str(tmp_path / "data"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        answer = synchrochain("up", "--port", str(port))
    assert answer.status == 2
    assert f"cannot listen on 127.0.0.1 port {port} (process {os.getpid()}, " in answer.complaint
    assert "choose another --port" in answer.complaint
    assert not (tmp_path / "data" / "simulation.json").exists()


def test_another_streamer_is_reported_before_anything_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not after a world was simulated and processed."""
    monkeypatch.setenv("SYNCHROCHAIN_DATA_DIR", str(tmp_path / "data"))
    with only_one(tmp_path / "data" / STREAM_LOCK, ValueError):
        answer = synchrochain("up", "--port", str(free_port()))
    assert answer.status == 1
    assert f"a streamer is already running in process {os.getpid()}" in answer.complaint
    assert not (tmp_path / "data" / "simulation.json").exists()


@pytest.mark.parametrize("how", ["kill -9", "closed terminal", "kill, and a part hangs"])
def test_nothing_of_a_live_job_outlives_it(shop: Path, how: str) -> None:
    """All of its parts end within ten seconds, and the next job may begin."""
    arguments = ["up", "--data-dir", str(shop), "--port", str(free_port())]
    if not (shop / "simulation.json").exists():
        arguments += SIZES
    with terminal(*arguments) as up:
        up.read_until(b"decisions at", *([] if how.startswith("kill,") else [b"streaming"]))
        parts = {
            part.cmdline()[3]: part
            for part in psutil.Process(up.process.pid).children()
            if "pipelines.cli.part" in part.cmdline()
        }
        assert parts.keys() == {"simulate", "batch", "stream", "serve"}
        assert {os.getpgid(part.pid) for part in parts.values()} == {up.process.pid}
        if how == "kill -9":
            up.process.kill()
        elif how == "closed terminal":
            os.close(up.screen)
        else:
            parts["stream"].suspend()
            up.process.terminate()
        _, left = psutil.wait_procs([*parts.values()], timeout=END_SECONDS)
        assert left == []
        status = up.process.wait(timeout=END_SECONDS)
        if how != "closed terminal":
            assert b"Traceback" not in up.rest()
    assert status == (-signal.SIGKILL if how == "kill -9" else 0)


@pytest.mark.parametrize(
    ("words", "sign", "number", "expected"),
    [
        (["simulate", "--live"], b"simulating", signal.SIGHUP, 0),
        (["batch"], b"cycle", signal.SIGQUIT, 0),
        (["batch", "--once"], b"batch:", signal.SIGTERM, 130),
        (["stream"], b"warming up", signal.SIGINT, 0),
        (["stream"], b"streaming", signal.SIGTERM, 0),
        (["serve", "--port", "0"], b"decisions at", signal.SIGHUP, 0),
    ],
    ids=["simulate", "batch", "one cycle", "stream that warms up", "stream", "serve that imports"],
)
def test_each_of_them_alone_ends_in_order_too(
    shop: Path, words: list[str], sign: bytes, number: int, expected: int
) -> None:
    """At any time, with 0 where that is how to end it, 130 where work is cut off."""
    if not (shop / "simulation.json").exists():
        assert synchrochain("simulate", "--data-dir", str(shop), *SIZES).status == 0
    with terminal(*words, "--data-dir", str(shop)) as running:
        running.read_until(sign)
        running.process.send_signal(number)
        assert running.process.wait(timeout=END_SECONDS) == expected
        assert b"Traceback" not in running.seen
