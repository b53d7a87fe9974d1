"""What the operations of row and feature expressions are, as Ibis expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import ibis
import ibis.expr.types as ir

from pipelines.features.language.expressions import Call, Literal, Typed
from pipelines.features.language.rows import Column
from pipelines.features.language.value_types import IBIS

Build = Callable[[Sequence[Any], Any], ir.Value]

_OPERATIONS: Final[Mapping[str, Build]] = {
    "add": lambda v, _: v[0] + v[1],
    "subtract": lambda v, _: v[0] - v[1],
    "multiply": lambda v, _: v[0] * v[1],
    "divide": lambda v, _: v[0] / v[1],
    "ratio": lambda v, _: v[0] / v[1].nullif(0.0),
    "span": lambda v, _: v[0].delta(v[1], unit="microsecond"),
    "to_number": lambda v, scale: (
        v[0].cast("float64") / 10.0**scale if scale else v[0].cast("float64")
    ),
    "equal": lambda v, _: v[0] == v[1],
    "not_equal": lambda v, _: v[0] != v[1],
    "less": lambda v, _: v[0] < v[1],
    "less_equal": lambda v, _: v[0] <= v[1],
    "greater": lambda v, _: v[0] > v[1],
    "greater_equal": lambda v, _: v[0] >= v[1],
    "and": lambda v, _: v[0] & v[1],
    "or": lambda v, _: v[0] | v[1],
    "not": lambda v, _: ~v[0],
    "coalesce": lambda v, _: ibis.coalesce(*v),
    "greatest": lambda v, _: ibis.greatest(*v),
    "least": lambda v, _: ibis.least(*v),
    "cases": lambda v, _: ibis.cases(*zip(v[:-1:2], v[1:-1:2], strict=True), else_=v[-1]),
    "is_in": lambda v, constants: v[0].isin(constants),
    "is_null": lambda v, _: v[0].isnull(),
    "distinct": lambda v, _: v[0].filter(lambda value: value.notnull()).unique().length(),
    "hour_of_day": lambda v, _: v[0].hour(),
    "day_of_week": lambda v, _: v[0].day_of_week.index(),
}


def as_ibis(expression: Typed, leaf: Callable[[Typed], ir.Value]) -> ir.Value:
    """An expression as one of Ibis.

    Args:
        expression: of a row or of a feature.
        leaf: gives the value of what is no operation and no constant.
    """
    if isinstance(expression, Literal):
        return ibis.literal(expression.value, IBIS[expression.type.kind])
    if not isinstance(expression, Call):
        return leaf(expression)
    values = [as_ibis(argument, leaf) for argument in expression.arguments]
    made = _OPERATIONS[expression.operation](values, expression.detail)
    wanted = IBIS[expression.type.kind]
    return made if expression.type.kind in ("flag", "text", "time", "number") else made.cast(wanted)


def column_value(table: ir.Table, column: Column) -> ir.Value:
    """A column of a log's table; money in whole cents."""
    value = table[column.name]
    scale = column.type.scale
    return (value * 10**scale).round().cast("int64") if scale else value
