"""Conversion of values to and from the columns of data/pipeline_state.db."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

_TIME_FORMAT: Final = "%Y-%m-%d %H:%M:%S.%f"


@dataclass(frozen=True)
class Cycle:
    """One run of the batch flow."""

    id: int
    started_at: datetime
    finished_at: datetime | None
    pid: int
    status: str
    step: str | None
    error: str | None
    report: Mapping[str, Any]


def as_text(time: datetime) -> str:
    """A time (UTC, naive) as text that sorts by time."""
    # As `_TIME_FORMAT`, but strftime omits the leading zeros of early years.
    return time.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def as_time(text: str) -> datetime:
    """The inverse of `as_text`.

    Raises:
        ValueError: the text is not such a time.
    """
    return datetime.strptime(text, _TIME_FORMAT)


def as_document(text: str | None) -> dict[str, Any] | None:
    """The JSON object that a text holds; None if it holds none."""
    try:
        found = json.loads(text or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
