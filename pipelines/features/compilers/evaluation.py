"""What the operations of row and feature expressions are, on single Python values: for `state`.

Null is None, and logic has three values, as in SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from pipelines.features.language.expressions import Call, Literal, Typed

_MICROSECOND: Final = timedelta(microseconds=1)
_OPERATIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "ratio": lambda a, b: a / b if b else None,
    "span": lambda a, b: (a - b) // _MICROSECOND,
    "equal": lambda a, b: a == b,
    "not_equal": lambda a, b: a != b,
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "not": lambda a: not a,
    "distinct": lambda values: len({value for value in values if value is not None}),
    "hour_of_day": lambda time: time.hour,
    "day_of_week": lambda time: time.weekday(),
}
"""Null, where an argument is null."""


def evaluate(expression: Typed, leaf: Callable[[Typed], Any]) -> Any:
    """The value of an expression.

    Args:
        expression: of a row or of a feature.
        leaf: gives the value of what is no operation and no constant.
    """
    if isinstance(expression, Literal):
        return expression.value
    if not isinstance(expression, Call):
        return leaf(expression)
    values = [evaluate(argument, leaf) for argument in expression.arguments]
    return _called(expression, values)


def _called(call: Call, values: Sequence[Any]) -> Any:
    if call.operation == "coalesce":
        return next((value for value in values if value is not None), None)
    if call.operation in ("greatest", "least"):
        known = [value for value in values if value is not None]
        return (max if call.operation == "greatest" else min)(known) if known else None
    if call.operation == "cases":
        pairs = zip(values[:-1:2], values[1:-1:2], strict=True)
        return next((value for condition, value in pairs if condition), values[-1])
    if call.operation in ("and", "or"):
        decides = call.operation == "or"
        if decides in values:
            return decides
        return None if None in values else not decides
    if call.operation == "is_null":
        return values[0] is None
    if None in values:
        return None
    if call.operation == "to_number":
        return float(values[0]) / 10.0**call.detail if call.detail else float(values[0])
    if call.operation == "is_in":
        return values[0] in call.detail
    return _OPERATIONS[call.operation](*values)


def microseconds(time: datetime) -> int:
    """Since 1970, of a naive UTC time."""
    return (time - datetime(1970, 1, 1)) // _MICROSECOND
