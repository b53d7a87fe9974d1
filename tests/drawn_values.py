"""Random expressions of declarations, each with what it means in plain Python.

The two are built side by side, so the meaning knows nothing of the tree that a declaration becomes.
Money is a `Decimal` here and whole cents there; both are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any, Final, TypeAlias

from reference_groups import Of

from pipelines.features.language import aggregations as agg
from pipelines.features.language import expressions as exp

WORDS: Final = ("a", "b", "c")
KINDS: Final = ("whole", "money", "number", "text", "flag", "span")
"""The kinds of values that expressions are made of, but times."""
_CONSTANTS: Final[dict[str, Sequence[Any]]] = {
    "whole": [0, 1, 2, 50, -1],
    "number": [0.0, 0.5, 12.5, 300.0, -1.0],
    "text": WORDS,
}
_BESIDE: Final[dict[str, Sequence[Any]]] = {
    "whole": [0, 1, 2, 50, 0.5, 2.0],
    "money": [0, 1, 9.99, 0.01, 0.005, 100],
    "number": [0, 1, 0.5, 12.5, 300.0],
    "text": WORDS,
    "span": [0, 1, agg.HOUR, agg.DAY],
}
"""Constants that are compared with values of a kind."""
_COMPARED: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_CALCULATED: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}
_UNITS: Final = {
    "in_seconds": (agg.in_seconds, agg.SECOND),
    "in_hours": (agg.in_hours, agg.HOUR),
    "in_days": (agg.in_days, agg.DAY),
}


@dataclass(frozen=True, eq=False)
class Drawn:
    """An expression.

    Attributes:
        written: as a declaration has it.
        of: its value for a row or an instant; None is null.
        kind: whole, money, number, text, time, span, flag, texts or numbers.
        text: as one writes it down.
    """

    written: Any
    of: Of
    kind: str
    text: str

    @property
    def is_constant(self) -> bool:
        """Whether Python itself knows its value."""
        return not isinstance(self.written, exp.Expression)

    def __repr__(self) -> str:
        return self.text


def constant(value: Any) -> Drawn:
    """A number or text."""
    kinds = {int: "whole", float: "number", str: "text"}
    return Drawn(value, lambda _: value, kinds[type(value)], repr(value))


def called(kind: str, name: str, written: Any, do: Callable[..., Any], *parts: Drawn) -> Drawn:
    """An operation on expressions."""
    text = f"{name}({', '.join(part.text for part in parts)})"
    return Drawn(written, _applied(do, parts), kind, text)


def nulls(do: Callable[..., Any]) -> Callable[..., Any]:
    """The same; null where an argument is."""
    return lambda *values: None if any(v is None for v in values) else do(*values)


def makeable(leaves: Sequence[Drawn]) -> list[str]:
    """The kinds of which there are expressions over some leaves."""
    have = {leaf.kind for leaf in leaves}
    need = {"money": {"money"}, "span": {"span", "time"}}
    return [kind for kind in KINDS if kind not in need or have & need[kind]]


def expression(rng: Random, leaves: Sequence[Drawn], kind: str, depth: int) -> Drawn:
    """An expression of a kind; constants only where they have that very kind.

    Args:
        rng: where chance comes from.
        leaves: columns of a row, or aggregations.
        kind: of its values, one of those that can be made.
        depth: how many operations deep.
    """
    same = [leaf for leaf in leaves if leaf.kind == kind]
    if same and (kind == "time" or depth == 0 or rng.random() < 0.5):
        return _one_of(rng, same)
    if depth == 0:
        if kind in _CONSTANTS:
            return constant(rng.choice(_CONSTANTS[kind]))
        return _is_null(rng, leaves) if kind == "flag" else _span(rng, leaves)
    made: Drawn = rng.choice(_BUILDERS[kind])(rng, leaves, kind, depth - 1)
    return made


def _one_of(rng: Random, leaves: Sequence[Drawn]) -> Drawn:
    found: Drawn = rng.choice(leaves)
    return found


def _applied(do: Callable[..., Any], parts: Sequence[Drawn]) -> Of:
    return lambda row: do(*(part.of(row) for part in parts))


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _numeric(rng: Random, leaves: Sequence[Drawn], depth: int) -> Drawn:
    kinds = [kind for kind in makeable(leaves) if kind in ("whole", "money", "number")]
    return expression(rng, leaves, rng.choice(kinds), depth)


def _calculated(rng: Random, leaves: Sequence[Drawn], kind: str, depth: int) -> Drawn:
    """A sum, difference or product of two values, one of which has the kind."""
    sign = rng.choice("+-" if kind in ("money", "span") else "+-*")
    a = expression(rng, leaves, kind, depth)
    if kind == "number":
        b = _numeric(rng, leaves, depth)
    elif kind == "money":
        b = expression(rng, leaves, rng.choice(["money", "whole"]), depth)
        sign = "*" if b.kind == "whole" and rng.random() < 0.5 else sign
    else:
        b = expression(rng, leaves, kind, depth)
    if rng.random() < 0.5:
        a, b = b, a
    do = _CALCULATED[sign]
    exact = (lambda x, y: do(float(x), float(y))) if kind == "number" else do
    text = f"({a} {sign} {b})"
    return Drawn(do(a.written, b.written), _applied(nulls(exact), (a, b)), kind, text)


def _divided(rng: Random, leaves: Sequence[Drawn], kind: str, depth: int) -> Drawn:
    a, by = _numeric(rng, leaves, depth), rng.choice([2, 300, 0.5])
    value = nulls(lambda x: float(x) / by)
    return Drawn(a.written / by, _applied(value, (a,)), kind, f"({a} / {by})")


def _ratio(rng: Random, leaves: Sequence[Drawn], kind: str, depth: int) -> Drawn:
    a, b = _numeric(rng, leaves, depth), _numeric(rng, leaves, depth)
    do = nulls(lambda x, y: float(x) / float(y) if y else None)
    return called(kind, "ratio", exp.ratio(a.written, b.written), do, a, b)


def _in_units(rng: Random, leaves: Sequence[Drawn], kind: str, depth: int) -> Drawn:
    if "span" not in makeable(leaves):
        return _divided(rng, leaves, kind, depth)
    a = expression(rng, leaves, "span", depth)
    name = rng.choice(sorted(_UNITS))
    build, width = _UNITS[name]
    return called(kind, name, build(a.written), nulls(lambda x: float(x) / width), a)


def in_seconds(a: Drawn) -> Drawn:
    """A span as a number."""
    written = agg.in_seconds(a.written)
    return called("number", "in_seconds", written, nulls(lambda x: float(x) / 1e6), a)


def _chosen(rng: Random, leaves: Sequence[Drawn], kind: str, depth: int) -> Drawn:
    """The first, largest or smallest of some values."""
    parts = [expression(rng, leaves, kind, depth) for _ in range(rng.randint(1, 2))]
    if kind in _BESIDE and kind != "whole" and rng.random() < 0.5:
        beside = constant(rng.choice(_BESIDE[kind]))
        if kind != "money" or beside.kind == "whole":
            parts.append(beside)
    names = ["coalesce"] if kind == "flag" else ["coalesce", "greatest", "least"]
    name = rng.choice(names)
    pick: dict[str, Callable[..., Any]] = {
        "coalesce": lambda known: known[0],
        "greatest": max,
        "least": min,
    }

    def do(*values: Any) -> Any:
        known = [value for value in values if value is not None]
        found = pick[name](known) if known else None
        if kind == "money" and found is not None:
            return Decimal(found)
        return _float(found) if kind == "number" else found

    written = getattr(exp, name)(*(part.written for part in parts))
    return called(kind, name, written, do, *parts)


def _cases(rng: Random, leaves: Sequence[Drawn], kind: str, depth: int) -> Drawn:
    branches = [
        (expression(rng, leaves, "flag", depth), expression(rng, leaves, kind, depth))
        for _ in range(rng.randint(1, 2))
    ]
    otherwise = expression(rng, leaves, kind, depth)
    written = exp.cases(*((c.written, v.written) for c, v in branches), otherwise=otherwise.written)

    def value(row: Any) -> Any:
        for condition, then in branches:
            if condition.of(row) is True:
                return then.of(row)
        return otherwise.of(row)

    text = ", ".join(f"({c}, {v})" for c, v in branches)
    return Drawn(written, value, kind, f"cases({text}, otherwise={otherwise})")


def _compared(rng: Random, leaves: Sequence[Drawn], kind: str, depth: int) -> Drawn:
    kinds = [k for k in makeable(leaves) if k != "flag"]
    of = rng.choice([*kinds, *(["time"] if _has(leaves, "time") else [])])
    a = expression(rng, leaves, of, depth)
    if a.is_constant:
        return _is_null(rng, leaves)
    if of in _BESIDE and rng.random() < 0.5:
        b = constant(rng.choice(_BESIDE[of]))
    elif of in ("whole", "money", "number"):
        b = _numeric(rng, leaves, depth)
    else:
        b = expression(rng, leaves, of, depth)
    if rng.random() < 0.5:
        a, b = b, a
    sign = rng.choice(sorted(_COMPARED))
    do = _COMPARED[sign]

    def value(x: Any, y: Any) -> Any:
        return do(_exact(x, a, b), _exact(y, b, a))

    text = f"({a} {sign} {b})"
    return Drawn(do(a.written, b.written), _applied(nulls(value), (a, b)), kind, text)


def _exact(value: Any, mine: Drawn, beside: Drawn) -> Any:
    """As it is compared: a decimal constant beside a whole number is just that decimal."""
    kinds = {mine.kind, beside.kind}
    if "number" not in kinds:
        return value
    if all(d.kind != "number" or d.is_constant for d in (mine, beside)):
        return Decimal(str(value))
    return float(value)


def _logic(rng: Random, leaves: Sequence[Drawn], kind: str, depth: int) -> Drawn:
    a, b = (expression(rng, leaves, "flag", depth) for _ in range(2))
    name = rng.choice(["and", "or", "not"])
    if name == "not":
        return Drawn(~a.written, _applied(nulls(lambda x: not x), (a,)), kind, f"~{a}")
    decides = name == "or"

    def value(x: Any, y: Any) -> Any:
        if decides in (x, y):
            return decides
        return None if None in (x, y) else not decides

    written = a.written | b.written if decides else a.written & b.written
    return Drawn(written, _applied(value, (a, b)), kind, f"({a} {'|' if decides else '&'} {b})")


def _is_null(rng: Random, leaves: Sequence[Drawn], *_: object) -> Drawn:
    a = _one_of(rng, leaves)
    return called("flag", "is_null", exp.is_null(a.written), lambda x: x is None, a)


def _is_in(rng: Random, leaves: Sequence[Drawn], kind: str, depth: int) -> Drawn:
    of = rng.choice(["whole", "text"])
    a = expression(rng, leaves, of, depth)
    among = rng.choices(_CONSTANTS[of], k=rng.randint(1, 3))
    written = exp.is_in(a.written, among)
    text = f"is_in({a}, {among})"
    return Drawn(written, _applied(nulls(lambda x: x in among), (a,)), kind, text)


def _of_lists(rng: Random, leaves: Sequence[Drawn], kind: str, depth: int) -> Drawn:
    lists = [leaf for leaf in leaves if leaf.kind in ("texts", "numbers")]
    if not lists:
        return _of_time(rng, leaves, kind, depth)
    a = _one_of(rng, lists)
    do = nulls(lambda values: len(set(values) - {None}))
    return called(kind, "distinct", exp.distinct(a.written), do, a)


def _of_time(rng: Random, leaves: Sequence[Drawn], kind: str, depth: int) -> Drawn:
    if not _has(leaves, "time"):
        return _calculated(rng, leaves, kind, depth)
    a = expression(rng, leaves, "time", depth)
    if rng.random() < 0.5:
        return called(kind, "hour_of_day", exp.hour_of_day(a.written), nulls(lambda t: t.hour), a)
    do = nulls(lambda t: t.isoweekday() - 1)
    return called(kind, "day_of_week", exp.day_of_week(a.written), do, a)


def _span(rng: Random, leaves: Sequence[Drawn], *_: object) -> Drawn:
    times = [leaf for leaf in leaves if leaf.kind == "time"]
    if not times:
        return _one_of(rng, [leaf for leaf in leaves if leaf.kind == "span"])
    a, b = _one_of(rng, times), _one_of(rng, times)
    do = nulls(lambda x, y: (x - y) // timedelta(microseconds=1))
    return Drawn(a.written - b.written, _applied(do, (a, b)), "span", f"({a} - {b})")


def _has(leaves: Sequence[Drawn], kind: str) -> bool:
    return any(leaf.kind == kind for leaf in leaves)


_Builder: TypeAlias = Callable[[Random, Sequence[Drawn], str, int], Drawn]
_BUILDERS: Final[dict[str, tuple[_Builder, ...]]] = {
    "whole": (_calculated, _of_lists, _of_time, _chosen, _cases),
    "money": (_calculated, _chosen, _cases),
    "number": (_calculated, _divided, _ratio, _in_units, _chosen, _cases),
    "text": (_chosen, _cases),
    "flag": (_compared, _logic, _is_in, _is_null, _chosen),
    "span": (_span, _calculated, _chosen),
}
