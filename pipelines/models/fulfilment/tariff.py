"""What a way of shipping costs and promises: the shop's tariff, alike in training and serving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

MODES_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "economy": ("rail", "road"),
    "standard": ("road",),
    "express": ("air", "road"),
    "overnight": ("air", "road"),
}
"""First choice of mode by shipping method; where there is no such route, the next."""
METHODS: Final = tuple(MODES_OF)
"""Slowest first: the order in which agents know them."""
MODES: Final = frozenset(mode for modes in MODES_OF.values() for mode in modes)
"""By which orders go out; goods may come in by others."""
FIXED_COST: Final = 1.5
"""$ a shipment, whatever it weighs."""
COST_FACTOR: Final[Mapping[str, float]] = {
    "overnight": 1.6,
    "express": 1.0,
    "standard": 1.0,
    "economy": 0.8,
}
"""On the route's $ per kg."""
PROMISE_FACTOR: Final[Mapping[str, float]] = {
    "overnight": 0.85,
    "express": 1.0,
    "standard": 1.1,
    "economy": 1.3,
}
"""Hours promised, as a multiple of the route's base hours."""


def mode_of(method: str, modes: Mapping[str, object] | set[str]) -> str | None:
    """The mode by which a method goes where `modes` are on offer; None if by none of them."""
    return next((mode for mode in MODES_OF[method] if mode in modes), None)


def distance(km: Mapping[str, float]) -> float:
    """How far a warehouse is from a region, by which it is chosen: by road where there is one.

    Else by the shortest mode that an order can go by; infinite if there is none.

    Args:
        km: length of its routes there by mode.
    """
    if "road" in km:
        return km["road"]
    return min((length for mode, length in km.items() if mode in MODES), default=math.inf)


def ship_cost(method: str, base_cost: float, weight_kg: float) -> float:
    """$ for one shipment.

    Args:
        method: of shipping.
        base_cost: the route's $ per kg.
        weight_kg: of all units together.
    """
    return FIXED_COST + weight_kg * base_cost * COST_FACTOR[method]


def promised_hours(method: str, base_hours: float) -> float:
    """Hours to the door as promised, on a route of `base_hours`."""
    return base_hours * PROMISE_FACTOR[method]
