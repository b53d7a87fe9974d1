"""Expressions of declarations: a tree that compilers walk.

A row expression is made of the columns of one log; a feature is an expression over aggregations,
other features and the row's time. Types are inferred as a tree grows, and a wrong one is an error
at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import wraps
from typing import Any, Final, ParamSpec, TypeAlias

from pipelines.errors import DeclarationError
from pipelines.features.language.value_types import (
    FLAG,
    FLOAT,
    INSTANT,
    SPAN,
    STRING,
    WHOLE,
    WORDS,
    Type,
    is_numeric,
)

P = ParamSpec("P")
Value: TypeAlias = "Expression | float | int | str | bool"
_BEYOND: Final = 2**63
_LARGEST: Final = 2**53  # of a whole number that a float holds exactly


class Expression:
    """A value per row; Python's operators build new ones."""

    @property
    def parts(self) -> tuple[Expression, ...]:
        """What it is made of."""
        return ()

    def __add__(self, other: Value) -> Expression:
        return Unresolved(_arithmetic, ("add", self, other))

    def __radd__(self, other: Value) -> Expression:
        return Unresolved(_arithmetic, ("add", other, self))

    def __sub__(self, other: Value) -> Expression:
        return Unresolved(_arithmetic, ("subtract", self, other))

    def __rsub__(self, other: Value) -> Expression:
        return Unresolved(_arithmetic, ("subtract", other, self))

    def __mul__(self, other: Value) -> Expression:
        return Unresolved(_arithmetic, ("multiply", self, other))

    def __rmul__(self, other: Value) -> Expression:
        return Unresolved(_arithmetic, ("multiply", other, self))

    def __truediv__(self, other: Value) -> Expression:
        return Unresolved(_quotient, (self, other))

    def __eq__(self, other: object) -> Expression:  # type: ignore[override]  # builds an expression
        return Unresolved(_comparison, ("equal", self, other))

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]  # builds an expression
        return Unresolved(_comparison, ("not_equal", self, other))

    def __lt__(self, other: Value) -> Expression:
        return Unresolved(_comparison, ("less", self, other))

    def __le__(self, other: Value) -> Expression:
        return Unresolved(_comparison, ("less_equal", self, other))

    def __gt__(self, other: Value) -> Expression:
        return Unresolved(_comparison, ("greater", self, other))

    def __ge__(self, other: Value) -> Expression:
        return Unresolved(_comparison, ("greater_equal", self, other))

    def __and__(self, other: Value) -> Expression:
        return Unresolved(_logic, ("and", self, other))

    def __or__(self, other: Value) -> Expression:
        return Unresolved(_logic, ("or", self, other))

    def __invert__(self) -> Expression:
        return Unresolved(_logic, ("not", self))

    def __hash__(self) -> int:
        return id(self)

    def __bool__(self) -> bool:
        raise DeclarationError(
            "an expression is neither true nor false: write & | ~ for and, or, not, cases(…) for"
            " if, is_in(…) for in, and (a < x) & (x < b) for a < x < b"
        )


@dataclass(frozen=True, eq=False)
class Unresolved(Expression):
    """What was written down: a function that makes a typed value, and its arguments.

    Nothing is checked before a group resolves it, which knows the feature to name.
    """

    build: Callable[..., Expression]
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


class Typed(Expression):
    """A value whose type is known."""

    type: Type


def deferred(build: Callable[P, Expression]) -> Callable[P, Expression]:
    """Write down calls of a function instead of doing them."""

    @wraps(build)
    def written(*arguments: P.args, **options: P.kwargs) -> Expression:
        return Unresolved(build, arguments, options)

    return written


def resolve(value: Any, known: dict[int, Any] | None = None) -> Any:
    """What was written down as typed values; equal objects stay one.

    Args:
        value: an expression, a list of them, or what is none.
        known: results by the identity of what they were made from.

    Raises:
        DeclarationError: it cannot be meant.
    """
    known = {} if known is None else known
    if isinstance(value, (tuple, list)):
        return tuple(resolve(part, known) for part in value)
    if not isinstance(value, Unresolved):
        return value
    if id(value) not in known:
        arguments = resolve(value.arguments, known)
        options = {name: resolve(option, known) for name, option in value.options.items()}
        known[id(value)] = resolve(value.build(*arguments, **options), known), value
    return known[id(value)][0]


@dataclass(frozen=True, eq=False)
class Literal(Typed):
    """A constant."""

    value: Any
    type: Type


@dataclass(frozen=True, eq=False)
class Call(Typed):
    """An operation on values; `detail` is what it takes besides."""

    operation: str
    arguments: tuple[Typed, ...]
    type: Type
    detail: Any = None

    @property
    def parts(self) -> tuple[Expression, ...]:
        """Its arguments."""
        return self.arguments


def walk(expression: Expression) -> Iterator[Expression]:
    """An expression and all that it is made of."""
    yield expression
    for part in expression.parts:
        yield from walk(part)


def literal(value: Any) -> Typed:
    """A constant as an expression; an expression as it is.

    Raises:
        DeclarationError: there are no such constants.
    """
    if isinstance(value, Typed):
        return value
    for kind, found in ((bool, FLAG), (int, WHOLE), (float, FLOAT), (str, STRING)):
        if isinstance(value, kind):
            if isinstance(value, int) and abs(value) >= _BEYOND:
                raise DeclarationError(f"{value} is too large for a whole number of 64 bits")
            return Literal(value, found)
    raise DeclarationError(
        f"a {type(value).__name__} is no value: columns, aggregations and constants are"
    )


def number(value: Value) -> Typed:
    """A value as a float: whole numbers at scale s divided by 10 ** s, spans in microseconds."""
    found = literal(value)
    if found.type == FLOAT:
        return found
    if isinstance(found, Literal) and found.type.kind == "whole":
        return Literal(float(found.value) / 10**found.type.scale, FLOAT)
    if not (is_numeric(found.type) or found.type == SPAN):
        raise DeclarationError(
            f"a {found.type} is not a number: whole numbers, numbers and spans of time are"
        )
    return Call("to_number", (found,), FLOAT, found.type.scale)


@deferred
def ratio(numerator: Value, denominator: Value) -> Expression:
    """`numerator / denominator` as a float; null where the denominator is 0 or null."""
    return Call("ratio", (number(numerator), number(denominator)), FLOAT)


@deferred
def coalesce(*values: Value) -> Expression:
    """The first value that is not null."""
    found = _alike(values)
    return Call("coalesce", found, found[0].type)


@deferred
def greatest(*values: Value) -> Expression:
    """The largest value; nulls do not count."""
    found = _alike(values)
    return Call("greatest", found, found[0].type)


@deferred
def least(*values: Value) -> Expression:
    """The smallest value; nulls do not count."""
    found = _alike(values)
    return Call("least", found, found[0].type)


@deferred
def cases(*branches: tuple[Expression, Value], otherwise: Value) -> Expression:
    """The value of the first branch whose condition holds.

    Args:
        branches: condition and value.
        otherwise: where none holds.
    """
    values = _alike([*(value for _, value in branches), otherwise])
    arguments: list[Typed] = []
    for (condition, _), value in zip(branches, values[:-1], strict=True):
        _must_be(literal(condition), FLAG)
        arguments += (literal(condition), value)
    return Call("cases", (*arguments, values[-1]), values[-1].type)


@deferred
def is_in(value: Expression, allowed: Sequence[str | int]) -> Expression:
    """Whether the value is one of some constants.

    Raises:
        DeclarationError: what is allowed is no list of constants of the value's type.
    """
    if isinstance(allowed, str) or not isinstance(allowed, Collection) or not allowed:
        raise DeclarationError(f"is_in takes a list of constants, not {allowed!r}")
    found = _alike([value, *allowed])
    constants = tuple(c.value for c in found[1:] if isinstance(c, Literal))
    if len(constants) < len(found) - 1:
        raise DeclarationError("is_in takes constants: compare with others by == and |")
    return Call("is_in", found[:1], FLAG, constants)


@deferred
def is_null(value: Expression) -> Expression:
    """Whether there is no value."""
    return Call("is_null", (literal(value),), FLAG)


@deferred
def distinct(value: Expression) -> Expression:
    """How many distinct values a list has."""
    if literal(value).type.kind not in ("texts", "numbers"):
        raise DeclarationError(
            f"distinct() counts the values of a list, not of a {literal(value).type}"
        )
    return Call("distinct", (literal(value),), WHOLE)


@deferred
def hour_of_day(value: Expression) -> Expression:
    """0–23, UTC."""
    _must_be(literal(value), INSTANT)
    return Call("hour_of_day", (literal(value),), WHOLE)


@deferred
def day_of_week(value: Expression) -> Expression:
    """Monday is 0, UTC."""
    _must_be(literal(value), INSTANT)
    return Call("day_of_week", (literal(value),), WHOLE)


@deferred
def in_units_of(value: Expression, microseconds: int) -> Expression:
    """A span of time, or a number of microseconds, as a number of longer units."""
    return Call("divide", (number(value), Literal(float(microseconds), FLOAT)), FLOAT)


def _must_be(value: Typed, wanted: Type) -> None:
    if value.type != wanted:
        raise DeclarationError(f"a {value.type} stands where a {wanted} is wanted")


def _alike(values: Sequence[Any]) -> tuple[Typed, ...]:
    """Values brought to one type."""
    found = [literal(value) for value in values]
    if any(value.type == SPAN for value in found):  # a whole number beside it is microseconds
        found = [_as_span(v) for v in found]
    types = {value.type for value in found}
    if len(types) == 1:
        return tuple(found)
    if all(is_numeric(kind) for kind in types):
        if FLOAT in types:
            return tuple(number(value) for value in found)
        scale = max(kind.scale for kind in types)
        return tuple(_scaled(value, scale) for value in found)
    raise DeclarationError("these have no type in common: " + ", ".join(sorted(map(str, types))))


def _as_span(value: Typed) -> Typed:
    if isinstance(value, Literal) and value.type == WHOLE:
        return Literal(value.value, SPAN)
    return value


def _scaled(value: Typed, scale: int) -> Typed:
    """A whole number with more digits behind the point."""
    if value.type.scale == scale:
        return value
    factor = 10 ** (scale - value.type.scale)
    made = Type("whole", scale)
    if isinstance(value, Literal):
        return Literal(value.value * factor, made)
    return Call("multiply", (value, Literal(factor, WHOLE)), made)


def _exact(value: Typed, beside: Typed) -> Typed:
    """A decimal constant beside a whole number, exactly: 9.99 beside cents is 999."""
    if isinstance(value, Literal) and value.type == FLOAT and beside.type.kind == "whole":
        scaled = Decimal(str(value.value)).scaleb(beside.type.scale)
        if scaled == scaled.to_integral_value() and abs(scaled) < _LARGEST:
            return Literal(int(scaled), beside.type)
    return value


def _quotient(left: Value, right: Value) -> Expression:
    divisor = literal(right)
    if not isinstance(divisor, Literal) or not divisor.value:
        raise DeclarationError("divide by a number that is not 0, or use ratio(a, b)")
    return Call("divide", (number(left), number(divisor)), FLOAT)


def _arithmetic(operation: str, left: Value, right: Value) -> Expression:
    a, b = literal(left), literal(right)
    kinds = (a.type.kind, b.type.kind)
    if operation == "subtract" and kinds == ("time", "time"):
        return Call("span", (a, b), SPAN)
    if "span" in kinds and operation != "multiply":
        a, b = (
            Literal(v.value, SPAN) if isinstance(v, Literal) and v.type == WHOLE else v
            for v in (a, b)
        )
        if a.type == b.type == SPAN:
            return Call(operation, (a, b), SPAN)
    if not (is_numeric(a.type) and is_numeric(b.type)):
        raise DeclarationError(
            f"one can {operation} numbers and spans of time, not a {a.type} and a {b.type}"
        )
    if "number" in kinds:
        return Call(operation, (number(a), number(b)), FLOAT)
    if operation == "multiply":
        return Call(operation, (a, b), Type("whole", a.type.scale + b.type.scale))
    a, b = _alike((a, b))
    return Call(operation, (a, b), a.type)


def _comparison(operation: str, left: Any, right: Any) -> Expression:
    a, b = literal(left), literal(right)
    a, b = _exact(a, b), _exact(b, a)
    try:
        found = _alike((a, b))
    except DeclarationError:
        raise DeclarationError(
            f"a {WORDS[a.type.kind]} is not compared with a {WORDS[b.type.kind]}:"
            " both sides have one type, or are numbers"
        ) from None
    return Call(operation, found, FLAG)


def _logic(operation: str, *values: Value) -> Expression:
    found = tuple(literal(value) for value in values)
    for value in found:
        _must_be(value, FLAG)
    return Call(operation, found, FLAG)
