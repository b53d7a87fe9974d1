"""Work that goes on behind the decisions' back, in threads that end together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from pipelines.errors import SynchroChainError, said

logger = logging.getLogger(__name__)

STOP_SECONDS: Final = 1.0


class BackgroundTasks:
    """Runs tasks until `stop`; one that fails is logged and tried again."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def repeat(self, name: str, work: Callable[[], None], seconds: float) -> None:
        """Do something again and again.

        Args:
            name: of the thread, and in messages.
            work: does it once.
            seconds: to wait before each time.
        """

        def run() -> None:
            while not self._stopping.wait(seconds):
                try:
                    work()
                except Exception:  # the next time may do better
                    logger.exception("keeping the %s up to date failed", name)

        self._in_thread(name, run)

    def until_done(self, name: str, work: Callable[[], None], seconds: float) -> None:
        """Do something once, as often as it takes.

        Args:
            name: of the thread.
            work: does it, or raises.
            seconds: to wait after a failure.
        """

        def run() -> None:
            problem = ""
            while not self._stopping.is_set():
                try:
                    work()
                except SynchroChainError as error:
                    if said(error) != problem:  # said once, not with each attempt
                        problem = said(error)
                        logger.warning("not ready: %s", problem)
                except Exception:
                    logger.exception("not ready")
                else:
                    return
                self._stopping.wait(seconds)

        self._in_thread(name, run)

    def stop(self) -> None:
        """End all threads; may be called twice.

        A thread that cannot be interrupted, for example in an import, gets a second; see
        `have_ended`."""
        self._stopping.set()
        until = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    @property
    def have_ended(self) -> bool:
        """Whether none of them runs any more."""
        return not any(thread.is_alive() for thread in self._threads)

    def _in_thread(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=f"serving {name}", daemon=True)
        self._threads.append(thread)
        thread.start()
