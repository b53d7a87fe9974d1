"""The values of entity keys: plain ones of the key's type, or one line that says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pyarrow as pa
from feast.value_type import ValueType
from google.protobuf.message import Message

from pipelines.errors import UsageError
from pipelines.features.keys import whole_number

BITS: Final = {ValueType.INT64: 64, ValueType.INT32: 32}
_EXACT: Final = 2.0**53
"""Above, a float may stand for several whole numbers."""


def plain_keys(name: str, column: Sequence[Any], kind: ValueType) -> list[Any] | None:
    """The values of a key as Python's own `int` or `str`.

    Whole numbers may be of any type that holds them without doubt: numpy's, Decimal, floats such
    as 42.0, texts as they would be printed. Feast itself takes True for 1 and 1.5 for 1.

    Args:
        name: of the join key.
        column: its values, one per entity row.
        kind: its type.

    Returns:
        None for what is left to Feast: keys of other types, its own messages, texts as bytes.

    Raises:
        UsageError: a value is null, or no key of this type.
    """
    if kind not in BITS and kind != ValueType.STRING:
        return None
    plain = [_unpacked(value) for value in column]
    left = (Message, bytes) if kind == ValueType.STRING else (Message,)
    if any(isinstance(value, left) for value in plain):
        return None
    found: list[Any] = []
    for place, value in enumerate(plain):
        try:
            found.append(_text(value) if kind == ValueType.STRING else _number(value, BITS[kind]))
        except ValueError as error:
            row = f" in entity row {place + 1}" if len(plain) > 1 else ""
            raise UsageError(f"{name} = {value!r}{row} {error}") from None
    return found


def _unpacked(value: Any) -> Any:
    """Without the wrapper of numpy or Arrow."""
    if isinstance(value, pa.Scalar):
        return value.as_py()
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value


def _number(value: Any, bits: int) -> int:
    _refuse_null(value)
    number = None
    if isinstance(value, str):
        with suppress(ValueError):
            number = whole_number(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = int(value)
    elif isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        number = int(value) if isinstance(value, Decimal) or abs(value) <= _EXACT else None
    if number is None:
        raise ValueError("is not a whole number")
    if not -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
        raise ValueError(f"is not a whole number of {bits} bits")
    return number


def _text(value: Any) -> str:
    _refuse_null(value)
    if not isinstance(value, str):
        raise ValueError("is not a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("is no text that UTF-8 can hold") from None
    return str(value)


def _refuse_null(value: Any) -> None:
    """None, NaN, NA and NaT alike."""
    if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:
        raise ValueError("is null: leave such rows out, or fill it")
