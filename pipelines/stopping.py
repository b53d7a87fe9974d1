"""When a process is asked to end: by a signal, a closed terminal, or the end of who started it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import Any, Final

from pipelines.errors import SynchroChainError

SIGNALS: Final = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
    if hasattr(signal, name)
)
END_SECONDS: Final = 8.0
"""How long a process takes at most to end after it was asked to."""
PART_SECONDS: Final = END_SECONDS - 2
"""The same for one that was started by another, which waits for it."""
SAME_REQUEST_SECONDS: Final = 1.0
"""Shells and `timeout` send a signal twice; a person who insists takes longer."""
AGAIN_SECONDS: Final = 0.1
INTERRUPTED: Final = 130


def _interrupt() -> None:
    raise KeyboardInterrupt


def leave(status: int = INTERRUPTED) -> None:
    """End at once. Nothing is lost: all that is written is written in transactions."""
    with suppress(OSError, ValueError):  # closed by who reads it, or by us
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), b"\x1b[?25h\n")  # a progress bar hides the cursor
        sys.stdout.flush()
    os._exit(status)


@contextmanager
def on_stop(
    stop: Callable[[], None] = _interrupt,
    *,
    status: int | None = None,
    last: bool = False,
    leave: Callable[[int], None] = leave,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Let the signals that ask this process to end call `stop`, while inside.

    Ctrl-C, SIGTERM, a closed terminal and SIGQUIT mean the same: to end in order, within
    `END_SECONDS`. Who asks again wants it at once. A signal that was ignored before stays ignored,
    as `nohup` wants it. Outside of the main thread nothing is changed.

    Args:
        stop: by default it raises KeyboardInterrupt.
        status: of a process that is ended by its limit; by default that of who called what is
            running now, at last 130.
        last: whether the process ends after this, so that the limit holds for its end too.
        leave: ends the process at once, with a status.
        clock: seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer = signal.getsignal(signal.SIGTERM)
    handler = _Handler(stop, status, leave, clock, outer if isinstance(outer, _Handler) else None)
    before: dict[int, Any] = {
        number: signal.signal(number, handler)
        for number in SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        with handler.insisting():
            yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
        if not last:
            handler.limit.cancel()


def loading(status: int = INTERRUPTED) -> AbstractContextManager[None]:
    """While code is loaded: who asks to end is obeyed at once, for nothing has begun.

    An exception in the middle of an import is swallowed by some libraries, and reported as a
    defect by others.

    Args:
        status: the process' exit status then.
    """
    return on_stop(lambda: leave(status), status=status)


def ending() -> None:
    """The work is done: who asks to end from now on is obeyed at once; at the very end, where
    Python puts the system's own handlers back, the status is that of the work."""
    _handle(lambda _number, _frame: leave())
    atexit.register(_handle, signal.SIG_IGN)


def _handle(how: Any) -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, how)


@contextmanager
def until_asked() -> Iterator[None]:
    """For what goes on until it is asked to end: that is its right end, whenever it comes.

    The exit status is 0 then, also if its limit ends it.
    """
    try:
        with on_stop(status=0), interruptible():
            yield
    except KeyboardInterrupt:
        return


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the KeyboardInterrupt of `on_stop` be one still where a library has renamed it: DuckDB
    does in a query, pydantic while a class is made."""
    try:
        yield
    except SynchroChainError:  # worded for who reads it, also if it came while ending
        raise
    except Exception as error:
        if _was_interruption(error):
            raise KeyboardInterrupt from error
        raise


def _was_interruption(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        said = str(seen)
        if isinstance(seen, KeyboardInterrupt) or KeyboardInterrupt.__name__ in said:
            return True
        if isinstance(seen, RuntimeError) and "Query interrupted" in said:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


class _Handler:
    def __init__(
        self,
        stop: Callable[[], None],
        status: int | None,
        leave: Callable[[int], None],
        clock: Callable[[], float],
        outer: _Handler | None,
    ) -> None:
        self._stop, self._leave, self._clock, self._outer = stop, leave, clock, outer
        self._terminals = [fd for fd in (1, 2) if os.isatty(fd)]
        by_default: int = INTERRUPTED if outer is None else outer.status
        self.status: int = by_default if status is None else status
        self.asked: float | None = None
        self._swallowed = False
        self.limit = threading.Timer(END_SECONDS, self.leave)
        self.limit.daemon = True

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.asked is None:
            self._let_go_of_terminal()
            self.ask()
            self._stop()
            return
        if self._swallowed:
            self._swallowed = False
            self._stop()
            return
        # A terminal that is closed does not insist: shells hang up on their jobs once more.
        insists = number != getattr(signal, "SIGHUP", None)
        if insists and self._clock() - self.asked >= SAME_REQUEST_SECONDS:
            self.leave()

    def _let_go_of_terminal(self) -> None:
        """Words to a terminal that was closed would be errors in the middle of ending in order."""
        for descriptor in self._terminals:
            if not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)

    @contextmanager
    def insisting(self) -> Iterator[None]:
        """Interrupt again when Python swallows the exception: it does so in weak references' calls,
        of which imports make many."""
        before = sys.unraisablehook

        def hook(unraisable: Any) -> None:
            if self.asked is None or not isinstance(unraisable.exc_value, KeyboardInterrupt):
                before(unraisable)
                return
            again = threading.Timer(AGAIN_SECONDS, self._again)
            again.daemon = True
            again.start()

        sys.unraisablehook = hook
        try:
            yield
        finally:
            sys.unraisablehook = before

    def _again(self) -> None:
        self._swallowed = True
        _tell_main_thread()

    def leave(self) -> None:
        """End the process at once."""
        self._leave(self.status)

    def ask(self) -> None:
        """Note the request, also for who called what is running now."""
        if self.asked is None:
            self.asked = self._clock()
            self.limit.start()
            if self._outer is not None:
                self._outer.status = self.status
                self._outer.ask()


def end_with_parent(
    stop: Callable[[], None] | None = None, *, seconds: float = PART_SECONDS
) -> None:
    """End this process when the one that started it has ended, however that came about.

    It holds the other end of a pipe, this one's standard input, and writes nothing.

    Args:
        stop: asks this process to end; by default it is sent SIGTERM unless it is ending already.
        seconds: that it has before it is ended all the same.
    """

    def watch() -> None:
        # Not `sys.stdin.read`: it holds a lock of the pipe's that the end of the interpreter wants.
        while os.read(sys.stdin.fileno(), 1024):
            pass
        (stop or ask)()
        time.sleep(seconds)
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def ask() -> None:
    """Ask this process to end, unless it was asked before."""
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, _Handler) and handler.asked is not None:
        return
    _tell_main_thread()


def _tell_main_thread() -> None:
    if hasattr(signal, "pthread_kill"):  # to the main thread: a call that it waits in returns
        ident = threading.main_thread().ident
        assert ident is not None
        signal.pthread_kill(ident, signal.SIGTERM)
    else:
        signal.raise_signal(signal.SIGTERM)
