"""When two feature values count as equal."""

from __future__ import annotations

import math
from typing import Any


def same(ours: Any, theirs: Any) -> bool:
    """Equal, numbers up to the rounding of a few operations."""
    if isinstance(ours, float) and isinstance(theirs, float | int):
        return math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The columns in which two rows differ, with both values."""
    return {
        name: (ours.get(name), theirs.get(name))
        for name in ours | theirs
        if not same(ours.get(name), theirs.get(name))
    }
