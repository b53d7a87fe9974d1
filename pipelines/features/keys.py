"""Parsing of entity keys and numbers from text."""

from __future__ import annotations

import re
from typing import Final

_WHOLE_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,99}", re.ASCII)
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)


def whole_number(text: str) -> int:
    """Parse an integer in its canonical form only.

    `int` also accepts `4_2`, `+42`, ` 42` and non-ASCII digits: several texts would name one key.

    Raises:
        ValueError: it is not a whole number.
    """
    if not _WHOLE_NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def key_number(text: str) -> int:
    """Parse an entity key: a signed 64-bit integer.

    Raises:
        ValueError: it is not a whole number, or too large.
    """
    number = whole_number(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{text} has more than 64 bits")
    return number


def decimal_number(text: str) -> float:
    """Parse a number in JSON's notation.

    Raises:
        ValueError: it is not a number.
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number")
    return float(text)
