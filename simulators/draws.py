"""Random numbers that depend on what they are for, never on when they are asked for.

Every draw is keyed by (seed, kind, index…). A world that stops and goes on later therefore draws
what it would have drawn in one go, and no generator state has to be saved.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Kind(IntEnum):
    """What a generator is for; the numbers are part of every world's identity."""

    PLACES = 1
    PRODUCTS = 2
    USERS = 3
    ROUTES = 4
    CONGESTION = 5
    OBSERVATION = 6
    TRENDS = 7
    SESSIONS = 8
    LINE_HAUL = 9
    TRANSIT = 10
    HANDLING = 11
    SUPPLY = 12
    COUNTING = 13
    FIRST_STOCK = 14


def generator(seed: int, kind: Kind, *index: int) -> np.random.Generator:
    """A generator for one purpose; the same key gives the same numbers on every machine."""
    return np.random.default_rng([seed, int(kind), *index])


class Uniforms:
    """Row `index` of an endless table of uniform numbers, made in blocks because that is cheap.

    Args:
        seed: of the world.
        kind: what the numbers are for.
        width: numbers in a row.
    """

    _BLOCK = 512

    def __init__(self, seed: int, kind: Kind, width: int) -> None:
        self._seed = seed
        self._kind = kind
        self._width = width
        self._number = -1
        self._rows: list[list[float]] = []

    def row(self, index: int) -> list[float]:
        """`width` numbers in [0, 1)."""
        number, offset = divmod(index, self._BLOCK)
        if number != self._number:
            block = generator(self._seed, self._kind, number).random((self._BLOCK, self._width))
            self._rows, self._number = block.tolist(), number
        return self._rows[offset]
