"""Ranges of numbers are the set that they stand for."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pipelines.streaming.key_ranges import KeyRanges


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
@pytest.mark.parametrize("seed", range(5))
def test_adding_and_removing_is_that_of_a_set(
    kind: type[np.int64] | type[np.uint64], seed: int
) -> None:
    """Neighbours, gaps, repetitions, both ends of what fits into 64 bits."""
    rng = random.Random(seed)
    least, most = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    numbers = [least, least + 1, least + 2, most - 2, most - 1, most, *range(1, 30)]
    ranges, obvious = KeyRanges(kind), set[int]()
    for _ in range(200):
        some = rng.choices(numbers, k=rng.randrange(0, 8))
        if rng.random() < 0.6:
            ranges.add(some)
            obvious.update(some)
        else:
            ranges.remove(some)
            obvious.difference_update(some)
        assert {n for n in numbers if n in ranges} == obvious
        assert ranges.largest == max(obvious, default=None)


def test_numbers_counted_upwards_take_next_to_nothing() -> None:
    """A million of them are one range."""
    ranges = KeyRanges(np.int64)
    for start in range(0, 1_000_000, 100_000):
        ranges.add(np.arange(start, start + 100_000))
    assert ranges.count == 1
    ranges.remove([5, 6, 500])
    assert ranges.count == 3
    assert 4 in ranges
    assert 5 not in ranges
