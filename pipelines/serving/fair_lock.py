"""A lock that is given in the order in which it was asked for."""

from __future__ import annotations

import threading


class FairLock:
    """An ordinary lock goes to whoever is quickest: a thread that decides one order after another
    would never let the one that renews the snapshot in."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._next = 0
        self._turn = 0

    def __enter__(self) -> None:
        with self._changed:
            mine = self._next
            self._next += 1
            while self._turn != mine:
                self._changed.wait()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._turn += 1
            self._changed.notify_all()
