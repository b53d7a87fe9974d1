"""Prefetching: a thread produces the next items while the caller processes the last one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar, cast

Item = TypeVar("Item")
AHEAD: Final = 2
_END: Final = object()


def prefetched(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, produced by a thread that is at most `AHEAD` items in front.

    This pays where producing and using an item both release the GIL: one reads a database or
    computes in DuckDB while the other writes Parquet. Errors in the thread are raised here; when
    the caller stops early, the thread does too.
    """
    made: queue.Queue[object] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def offer(item: object) -> bool:
        while not stopped.is_set():
            try:
                made.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not offer(item):
                    return
            offer(_END)
        except BaseException as error:
            offer(_Failure(error))

    worker = threading.Thread(target=work, name="prefetch", daemon=True)
    worker.start()
    try:
        while (item := made.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield cast("Item", item)
    finally:
        stopped.set()
        worker.join()


class _Failure:
    """An exception on its way from the thread to the caller."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
