"""Entity keys and numbers that somebody typed."""

from __future__ import annotations

import re
from typing import Final

_WHOLE_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,99}", re.ASCII)
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)


def whole_number(text: str) -> int:
    """The number that a text is, written as it would be printed.

    Python itself also takes `4_2`, `+42`, ` 42` and the digits of every script: other texts would
    name the same key.

    Raises:
        ValueError: it is not one.
    """
    if not _WHOLE_NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def key_number(text: str) -> int:
    """A whole number that a key can be: of 64 bits.

    Raises:
        ValueError: it is not one.
    """
    number = whole_number(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{text} has more than 64 bits")
    return number


def decimal_number(text: str) -> float:
    """The number that a text is, written as JSON writes one.

    Raises:
        ValueError: it is not one.
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number")
    return float(text)
