"""Change numbers kept as ranges."""

from __future__ import annotations

import json
import random

from pipelines.change_log.seq_ranges import SeqRanges, seqs_of


def test_numbers_that_follow_each_other_are_one_range() -> None:
    """However many they are."""
    ranges = SeqRanges()
    ranges.add([3, 1, 2])
    ranges.add(range(4, 1_000_001))
    assert ranges.as_json() == [[1, 1_000_000]]


def test_the_numbers_are_those_that_were_added_and_not_forgotten() -> None:
    """In any order within a step, also twice; from the state's JSON as well."""
    rng = random.Random(1)
    for _ in range(200):
        ranges, kept, at = SeqRanges(), set[int](), 0
        for _ in range(rng.randint(1, 6)):
            step = [at + rng.randint(1, 12) for _ in range(rng.randint(0, 9))]
            ranges.add(step)
            kept |= set(step)
            at = max([at, *step])
            if rng.random() < 0.3:
                upto = rng.randint(0, at)
                ranges.forget(upto)
                kept = {seq for seq in kept if seq > upto}
        assert list(seqs_of(json.loads(json.dumps(ranges.as_json())))) == sorted(kept)


def test_numbers_that_an_earlier_version_noted_are_read() -> None:
    """Each stood for itself."""
    assert list(seqs_of([3, 4, 9])) == [3, 4, 9]
