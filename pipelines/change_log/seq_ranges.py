"""A compact set of change numbers: consecutive ones are stored as a range."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


class SeqRanges:
    """Change numbers, added in the order of the log."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []

    def add(self, seqs: Iterable[int]) -> None:
        """Add the numbers of later changes than all before, in any order."""
        for seq in sorted(seqs):
            first, last = self._ranges[-1] if self._ranges else (seq, seq - 1)
            if seq == last + 1 and self._ranges:
                self._ranges[-1] = (first, seq)
            elif seq > last:
                self._ranges.append((seq, seq))

    def forget(self, upto: int) -> None:
        """Drop the numbers up to `upto`."""
        self._ranges = [(max(a, upto + 1), b) for a, b in self._ranges if b > upto]

    def as_json(self) -> list[list[int]]:
        """First and last number of each range."""
        return [[first, last] for first, last in self._ranges]


def seqs_of(ranges: Iterable[int | Sequence[int]]) -> Iterator[int]:
    """The numbers in the result of `as_json`; a bare number counts as itself."""
    for found in ranges:
        if isinstance(found, int):
            yield found
        else:
            first, last = found
            yield from range(first, last + 1)
