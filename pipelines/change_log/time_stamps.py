"""Parses timestamps to UTC, in SQL and in Python.

`2026-01-31`, `2026-01-31 12:00`, `2026-01-31T12:00:00.123456Z`, `2026-01-31 12:00:00+02:00`: a
date; perhaps after a space or `T` a time of day up to 23:59:59 with a fraction of a second, whose
digits beyond the sixth are dropped; perhaps after that `Z` or an offset of hours and minutes, which
is converted. Without one it is UTC. Nothing else is a time stamp: no names of zones, no words such
as `now` or `infinity`, no 24:00, no leap second. Upper and lower case are the same.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

_DAY: Final = r"(?:[1-9]\d{3}|0[1-9]\d\d|00[1-9]\d|000[1-9])-\d\d-\d\d"
_HOUR: Final = r"(?:[01]\d|2[0-3])"
_CLOCK: Final = rf"{_HOUR}:[0-5]\d(?::[0-5]\d(?:\.\d{{0,9}})?)?"
_OFFSET: Final = rf"[Zz]|[+-]{_HOUR}(?::?[0-5]\d)?"
_PATTERN: Final = rf"{_DAY}(?:[Tt ]{_CLOCK}(?: ?(?:{_OFFSET}))?)?"
_PARTS: Final = re.compile(rf"({_DAY})(?:[Tt ]({_CLOCK})(?: ?({_OFFSET}))?)?", re.ASCII)
# The form that the triggers write, without a regular expression, which is three times slower.
_DIGIT: Final = "[0-9]"
_OWN: Final = tuple(
    f"[12]{_DIGIT * 3}-{_DIGIT * 2}-{_DIGIT * 2} {hour}:[0-5]{_DIGIT}:[0-5]{_DIGIT}.{_DIGIT * 6}"
    for hour in (f"[01]{_DIGIT}", "2[0-3]")
)


def own_form_sql(text: str) -> str:
    """SQL, of SQLite or DuckDB, for whether a text has the form that the triggers write: texts of
    that form compare as their times do."""
    return " OR ".join(f"{text} GLOB '{pattern}'" for pattern in _OWN)


def time_stamp_sql(text: str, *, own_form: bool = False) -> str:
    """DuckDB SQL for the TIMESTAMP (UTC) that a text means; null where it is no time stamp.

    Args:
        text: SQL for the text; it is repeated, so it should be a column.
        own_form: recognise only the form that the triggers write. Regular expressions double the
            time to prepare a statement, which matters where rows are few.
    """
    quick = f"CASE WHEN {own_form_sql(text)} THEN TRY_CAST({text} AS TIMESTAMP)"
    if own_form:
        return f"{quick} END"
    clock = rf"nullif(regexp_extract({text}, '^.{{11}}([\d:]+(?:\.\d{{1,6}})?)', 1), '')"
    plain = f"TRY_CAST(left({text}, 10) || coalesce(' ' || {clock}, '') AS TIMESTAMP)"
    offset = r"'^.{16,}([+-])(\d\d):?(\d\d)?$'"  # not the hyphens of the date

    def minutes(group: int, times: int) -> str:
        return f"{times} * coalesce(TRY_CAST(regexp_extract({text}, {offset}, {group}) AS INT), 0)"

    sign = f"CASE WHEN regexp_extract({text}, {offset}, 1) = '-' THEN -1 ELSE 1 END"
    shifted = f"{plain} - to_minutes({sign} * ({minutes(2, 60)} + {minutes(3, 1)}))"
    return f"{quick} WHEN regexp_full_match({text}, '{_PATTERN}') THEN {shifted} END"


def parse_time_stamp(text: str) -> datetime:
    """Parse a timestamp; the result is UTC and naive.

    Raises:
        ValueError: it is not a timestamp.
    """
    found = _PARTS.fullmatch(text)
    try:
        if found:
            return _time(*found.groups())
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{text!r} is not a time stamp")


def _time(day: str, clock: str | None, offset: str | None) -> datetime:
    clock, _, fraction = (clock or "00:00").partition(".")
    time = datetime.fromisoformat(f"{day}T{clock}")
    time += timedelta(microseconds=int(fraction[:6].ljust(6, "0")))
    if offset and offset not in "Zz":
        east = 1 if offset[0] == "+" else -1
        time -= east * timedelta(hours=int(offset[1:3]), minutes=int(offset[3:].strip(":") or 0))
    return time
