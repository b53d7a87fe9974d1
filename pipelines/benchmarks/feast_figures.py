"""Timings in turns, and what is made of them: medians, ratios, targets met or missed."""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

Figures = dict[str, Any]
Side = TypeVar("Side")

GROWTH_AT_MOST: Final = 11.0


@dataclass(frozen=True)
class Target:
    """A figure, by its path in the JSON, with what it must reach and what it aims at."""

    figure: str
    must: float
    aim: float | None
    at_most: bool

    def result(self, value: float | None) -> str:
        """In words, for a table."""
        if value is None:
            return "not measured"
        reached = operator.le if self.at_most else operator.ge
        if self.aim is not None and reached(value, self.aim):
            return "✓ aim reached"
        return "✓ reached" if reached(value, self.must) else "✗ missed"


TARGETS: Final = (
    Target("materialize.ratio_to_stock", 12, 30, at_most=False),
    Target("materialize.ratio_to_limit", 0.3, 0.6, at_most=False),
    Target("materialize.growth", GROWTH_AT_MOST, None, at_most=True),
    Target("online_1.ratio_to_limit", 2.0, 1.3, at_most=True),
    Target("online_100.ratio_to_stock", 5, 15, at_most=False),
    Target("online_100.ratio_to_limit", 1.3, 0.7, at_most=True),
    Target("online_growth.from_10_to_100", GROWTH_AT_MOST, None, at_most=True),
    Target("online_growth.from_100_to_1000", GROWTH_AT_MOST, None, at_most=True),
    Target("history.ratio_to_stock", 3, 6, at_most=False),
    Target("history.ratio_to_limit", 1.8, 1.1, at_most=True),
    Target("history.growth", GROWTH_AT_MOST, None, at_most=True),
)


def compared(found: Mapping[str, Any]) -> list[Figures]:
    """The targets of the parts that were measured, beside what they came to."""
    rows = []
    for target in TARGETS:
        part, name = target.figure.split(".")
        if part in found:
            value = found[part].get(name)
            rows.append(
                {
                    "figure": target.figure,
                    "value": value,
                    "must": target.must,
                    "aim": target.aim,
                    "at_most": target.at_most,
                    "result": target.result(value),
                }
            )
    return rows


def in_turns(sides: Mapping[str, Side], repeats: int) -> Iterator[tuple[str, Side]]:
    """Every side once per repeat, each repeat beginning with another one."""
    names = list(sides)
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            yield name, sides[name]


def ratio(above: float | None, below: float | None) -> float | None:
    """Rounded to three figures; null where one of them was not measured."""
    if above is None or not below:
        return None
    return rounded(above / below)


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> float | None:
    """The median of the ratios within each repeat: what else the machine does cancels out."""
    pairs = zip(above, below, strict=False)  # none of a limit that was not measured
    return ratio(median([one / other for one, other in pairs]), 1.0)


def rounded(value: float) -> float:
    """To three figures; thousands keep theirs."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, max(0, 2 - math.floor(math.log10(abs(value)))))


def median(values: Sequence[float]) -> float | None:
    """Null of nothing."""
    return statistics.median(values) if values else None


def quantiles_ms(seconds: Sequence[float]) -> tuple[float, float]:
    """The 50th and the 99th percentile in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return round(cuts[49] * 1000, 4), round(cuts[98] * 1000, 4)


def rows_per_s(rows: int, seconds: float | None) -> int | None:
    """Null where nothing was measured."""
    return None if seconds is None else round(rows / seconds)
