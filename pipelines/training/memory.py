"""How much memory a data set would take, asked before it is made.

What is too large is thinned out where fewer rows mean the same shop, and refused in one line where
they do not. Costs per row were measured as peaks of resident memory, and rounded up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import psutil

_SHARE: Final = 0.6
"""Of what is free: batch cycles and the server go on beside a training."""
_CGROUP: Final = Path("/sys/fs/cgroup")


def room() -> int:
    """Bytes that a training may take now: of what the machine, or its container, has free."""
    free = int(psutil.virtual_memory().available)
    try:  # a container's own limit; there are no such files elsewhere
        limit = int((_CGROUP / "memory.max").read_text())
        free = min(free, limit - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return max(0, int(free * _SHARE))


def amount(size: float) -> str:
    """A number of bytes, formatted."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def too_large(what: str, needed: float, free: float) -> str:
    """The error message: the data, the estimate, and what to do.

    Args:
        what: the data, in words.
        needed: bytes, estimated.
        free: bytes that may be used.
    """
    return (
        f"{what} would take about {amount(needed)} of memory to train on, and {amount(free)} may "
        "be used here: train on a machine with more memory"
    )
