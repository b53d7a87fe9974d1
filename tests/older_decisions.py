"""A decision log that older code has written, and which of its decisions came about how."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Final

from pipelines.serving.decision_log import DecisionLog

_FILE: Final = Path(__file__).parent / "fixtures" / "decisions_format_1.db.xz"
DECISIONS: Final = {
    "by the models, a route read afresh": ("519ac994dffe0644", ("W1", "express")),
    "one of six, with a network of their own": ("4653511ccfdecc52", ("W2", "economy")),
    "a backorder": ("38a8f748a93beb1a", ("W1", "economy")),
    "without the intent model": ("74ad94f2023d4561", ("W1", "express")),
    "without the delay model": ("45cd3c3c44dd9b8e", ("W1", "express")),
    "by the greedy rule": ("22231d7ab7b68dbf", ("W1", "standard")),
}
"""Id and choice."""


def open_older_log(folder: Path) -> DecisionLog:
    """The log, unpacked into a folder."""
    path = folder / "decisions.db"
    path.write_bytes(lzma.decompress(_FILE.read_bytes()))
    return DecisionLog(path, 100, 0.05)
