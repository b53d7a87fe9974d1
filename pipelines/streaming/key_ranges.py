"""A large set of whole numbers in little memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class KeyRanges:
    """A set of whole numbers, kept as sorted ranges without a common or neighbouring number.

    Keys that are counted upwards take next to nothing, others 16 bytes each.

    Args:
        kind: of the numbers, `np.int64` or `np.uint64`.
    """

    def __init__(self, kind: type[np.int64] | type[np.uint64]) -> None:
        self._kind = kind
        self._first: NDArray[Any] = np.empty(0, kind)
        self._last: NDArray[Any] = np.empty(0, kind)

    def __contains__(self, value: int) -> bool:
        place = int(np.searchsorted(self._first, self._kind(value), "right")) - 1
        return place >= 0 and value <= int(self._last[place])

    @property
    def largest(self) -> int | None:
        """The largest number; None if there is none."""
        return int(self._last[-1]) if len(self._last) else None

    @property
    def count(self) -> int:
        """How many ranges there are."""
        return len(self._first)

    def add(self, values: Any) -> None:
        """Add numbers."""
        new = np.unique(np.asarray(values, self._kind))
        if len(new) == 0:
            return
        first, last = np.concatenate([self._first, new]), np.concatenate([self._last, new])
        order = np.argsort(first, kind="stable")
        first, last = first[order], np.maximum.accumulate(last[order])
        begins = np.ones(len(first), bool)
        begins[1:] = (first[1:] > last[:-1]) & (first[1:] - self._kind(1) > last[:-1])
        self._first, self._last = first[begins], last[np.append(begins[1:], True)]

    def remove(self, values: Any) -> None:
        """Take numbers out, as far as they are there."""
        asked = np.unique(np.asarray(values, self._kind))
        places = np.searchsorted(self._first, asked, "right") - 1
        inside = places >= 0
        inside[inside] = asked[inside] <= self._last[places[inside]]
        gone = asked[inside]
        if len(gone) == 0:
            return
        after, before = gone[~np.isin(gone, self._last)] + 1, gone[~np.isin(gone, self._first)] - 1
        self._first = np.sort(np.append(_without(self._first, gone), _without(after, gone)))
        self._last = np.sort(np.append(_without(self._last, gone), _without(before, gone)))


def _without(values: NDArray[Any], gone: NDArray[Any]) -> NDArray[Any]:
    return values[~np.isin(values, gone)]
