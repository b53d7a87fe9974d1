"""Aggregations of declarations: what a feature says of a log's rows up to its own time.

A window of width w is (t − w, t] in event time, exact to the microsecond; without one, all rows up
to t count. Names are those of Feast's `Aggregation` and of Chronon's operations where they mean
the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Final

from pipelines.errors import DeclarationError
from pipelines.features.language.expressions import (
    Expression,
    Typed,
    deferred,
    in_units_of,
    is_null,
    literal,
    ratio,
    walk,
)
from pipelines.features.language.rows import CHANGES, Column, Rows, SincePrevious, may_be_null
from pipelines.features.language.value_types import (
    FLAG,
    FLOATS,
    INSTANT,
    SPAN,
    STRING,
    STRINGS,
    WHOLE,
    Type,
)

MICROSECOND: Final = 1
SECOND: Final = 1_000_000
HOUR: Final = 3600 * SECOND
DAY: Final = 24 * HOUR
WIDEST: Final = 36_525 * DAY


class Width(int):
    """The width of a window in microseconds, said in a unit."""


AT_ONCE: Final = Width(MICROSECOND)
"""The window that holds the rows of the very time of the feature row."""


@dataclass(frozen=True, eq=False)
class Aggregation(Typed):
    """An operation over the rows of a log, per entity key and time.

    Attributes:
        operation: count, sum, min, max, count_distinct, most_frequent, last, last_k or
            time_since_previous.
        rows: what is aggregated.
        of: the value per row; None for `count` and `time_since_previous`.
        where: which rows count.
        within: the window's width in microseconds; None for all rows so far.
        size: how many values `last_k` keeps.
    """

    operation: str
    rows: Rows
    type: Type
    of: Typed | None = None
    where: Typed | None = None
    within: int | None = None
    size: int = 0


@dataclass(frozen=True, eq=False)
class AsOf(Typed):
    """A column of another log's record, as it was at the time of the feature row.

    Of the record whose key is among the entity keys: its newest state at or before the time; before
    its first one, that one; null where it was deleted.
    """

    column: Column

    @property
    def type(self) -> Type:  # type: ignore[override]  # it follows from the column
        """The column's type."""
        return self.column.type


@dataclass(frozen=True, eq=False)
class RowTime(Typed):
    """The event time of the feature row."""

    type: Type = INSTANT


def seconds(count: float) -> Width:
    """A width in microseconds."""
    return _width(count * SECOND)


def hours(count: float) -> Width:
    """A width in microseconds."""
    return _width(count * HOUR)


def days(count: float) -> Width:
    """A width in microseconds."""
    return _width(count * DAY)


@deferred
def count(rows: Rows, *, where: Expression | None = None, within: int | None = None) -> Expression:
    """How many rows.

    Args:
        rows: what is counted.
        where: which of them count.
        within: the width of the window, `days(7)`; None for all rows so far.
    """
    return _aggregation("count", rows, WHOLE, None, where, within)


@deferred
def total(
    of: Expression, *, where: Expression | None = None, within: int | None = None
) -> Expression:
    """The sum of whole numbers, exact in any order; 0 without rows.

    Args:
        of: the value per row: a whole number, money or a span of time.
        where: which rows count.
        within: the width of the window; None for all rows so far.

    Raises:
        DeclarationError: sums of such values depend on their order, or there are none.
    """
    value = literal(of)
    if value.type.kind not in ("whole", "span"):
        raise DeclarationError(
            f"a sum of {value.type}s is not exact: sum whole numbers, money or spans of time"
        )
    return _aggregation("sum", _rows_of(value), value.type, value, where, within)


@deferred
def mean(
    of: Expression, *, where: Expression | None = None, within: int | None = None
) -> Expression:
    """The mean of whole numbers or spans as a float; null if none is known.

    Args:
        of: the value per row, as for `total`.
        where: which rows count.
        within: the width of the window; None for all rows so far.
    """
    value = literal(of)
    known = where
    if may_be_null(value):
        known = ~is_null(value) if where is None else where & ~is_null(value)
    sum_ = total(of, where=where, within=within)
    return ratio(sum_, count(_rows_of(value), where=known, within=within))


@deferred
def share(condition: Expression, *, within: int | None = None) -> Expression:
    """The share of rows for which a condition holds; null without rows."""
    rows = _rows_of(literal(condition))
    return ratio(count(rows, where=condition, within=within), count(rows, within=within))


@deferred
def smallest(
    of: Expression, *, where: Expression | None = None, within: int | None = None
) -> Expression:
    """The smallest value; null without rows.

    Args:
        of: the value per row.
        where: which rows count.
        within: the width of the window; None for all rows so far.
    """
    value = _ordered("smallest", of)
    return _aggregation("min", _rows_of(value), value.type, value, where, within)


@deferred
def largest(
    of: Expression, *, where: Expression | None = None, within: int | None = None
) -> Expression:
    """The largest value; null without rows.

    Args:
        of: the value per row.
        where: which rows count.
        within: the width of the window; None for all rows so far.
    """
    value = _ordered("largest", of)
    return _aggregation("max", _rows_of(value), value.type, value, where, within)


@deferred
def count_distinct(of: Expression, *, within: int | None = None) -> Expression:
    """How many distinct values.

    Of changes, how many records that changed in the window and are still there.
    """
    column = _column("count_distinct", of)
    if column.type.kind in ("texts", "numbers"):
        raise DeclarationError(f"count_distinct counts values, not {column.type}s")
    if column.rows.kind == CHANGES and column.name not in column.rows.log.key:
        raise DeclarationError(
            "of changes, count_distinct counts records: give it"
            f" {' or '.join(column.rows.log.key)} of {column.rows.log.name}, not {column.name}"
        )
    return _aggregation("count_distinct", column.rows, WHOLE, column, None, within)


@deferred
def most_frequent(of: Expression, *, within: int | None = None) -> Expression:
    """The most frequent text; of equally frequent ones the one that came last."""
    column = _column("most_frequent", of)
    if column.type != STRING:
        raise DeclarationError(f"most_frequent takes a column of texts, not of {column.type}s")
    return _aggregation("most_frequent", column.rows, column.type, column, None, within)


@deferred
def last(of: Expression, *, within: int | None = None) -> Expression:
    """The value of the newest row; of changes, of the newest record that is still there."""
    value = literal(of)
    return _aggregation("last", _rows_of(value), value.type, value, None, within)


@deferred
def last_k(of: Expression, k: int) -> Expression:
    """The values of the newest k rows, oldest first.

    Raises:
        DeclarationError: k is below 1, or there are no lists of such values.
    """
    value = literal(of)
    if type(k) is not int or k < 1:
        raise DeclarationError(f"last_k keeps at least 1 value, a whole number of them, not {k}")
    kinds = {"text": STRINGS, "number": FLOATS}
    if value.type.kind not in kinds:
        raise DeclarationError(f"last_k keeps texts or numbers, not {value.type}s")
    if may_be_null(value):
        instead = '""' if value.type.kind == "text" else "0.0"
        raise DeclarationError(
            "the values of last_k cannot be null, which lists do not hold online: give them one"
            f" instead, as coalesce(…, {instead})"
        )
    found = _aggregation("last_k", _rows_of(value), kinds[value.type.kind], value, None, None)
    return replace(found, size=k)


@deferred
def time_since_previous(rows: Rows) -> Expression:
    """The time since the newest earlier row; null for the first."""
    return _aggregation("time_since_previous", rows, SPAN, None, None, None)


@deferred
def as_of(column: Expression) -> Expression:
    """A column of another record, as it was at the time of the feature row."""
    found = _column("as_of", column)
    if found.rows.kind != CHANGES:
        raise DeclarationError(f"as_of looks into changes, not into {found.rows.kind}")
    return AsOf(found)


def in_hours(span: Expression) -> Expression:
    """A span, or a mean of spans, in hours."""
    return in_units_of(span, HOUR)


def in_days(span: Expression) -> Expression:
    """A span, or a mean of spans, in days."""
    return in_units_of(span, DAY)


def in_seconds(span: Expression) -> Expression:
    """A span, or a mean of spans, in seconds."""
    return in_units_of(span, SECOND)


def _width(microseconds: float) -> Width:
    if not isfinite(microseconds):
        raise DeclarationError("a window has a width: leave within out for all of history")
    return Width(round(microseconds))


def _check_width(within: Any) -> None:
    if type(within) not in (int, Width) or within < 1:
        raise DeclarationError(
            f"a window of {within} microseconds is none: its width is above 0, as of days(7)"
        )
    if within > WIDEST:
        raise DeclarationError(
            "a window is at most a hundred years wide: leave within out for all of history"
        )
    if within < SECOND and not isinstance(within, Width):
        raise DeclarationError(
            f"within={within} is a number of microseconds: say days({within}), hours({within}) or"
            f" seconds({within})"
        )


def _ordered(operation: str, of: Expression) -> Typed:
    value = literal(of)
    if value.type.kind not in ("whole", "number", "text", "time", "span"):
        raise DeclarationError(
            f"{operation} compares numbers, texts, times or spans of time, not {value.type}s"
        )
    return value


def _column(operation: str, value: Expression) -> Column:
    if not isinstance(value, Column):
        raise DeclarationError(f"{operation} takes a column of a log, not a computed value")
    return value


def _rows_of(expression: Typed) -> Rows:
    """The rows whose columns an expression is made of."""
    found = {part.rows for part in walk(expression) if isinstance(part, (Column, SincePrevious))}
    if len(found) != 1:
        logs = " and ".join(sorted(rows.log.name for rows in found)) or "none"
        raise DeclarationError(f"a row's value is made of the columns of one log, not of {logs}")
    return found.pop()


def _aggregation(
    operation: str,
    rows: Rows,
    made: Type,
    of: Typed | None,
    where: Expression | None,
    within: int | None,
) -> Aggregation:
    if not isinstance(rows, Rows):
        raise DeclarationError(f"{operation} takes rows of a log: facts(…), changes(…), reports(…)")
    condition = None if where is None else literal(where)
    if condition is not None:
        if condition.type != FLAG:
            raise DeclarationError(f"where is a condition, not a {condition.type}")
        if _rows_of(condition) != rows:
            raise DeclarationError(f"where looks at rows of {rows.log.name}, as {operation} does")
    for part in (p for tree in (of, condition) if tree is not None for p in walk(tree)):
        if isinstance(part, (Aggregation, AsOf, RowTime)):
            raise DeclarationError(f"{operation} takes a value of one row, not another feature")
        if isinstance(part, SincePrevious) and operation != "last_k":
            raise DeclarationError(f"since_previous is for last_k, not for {operation}")
    if within is not None:
        _check_width(within)
    return Aggregation(operation, rows, made, of, condition, within)
