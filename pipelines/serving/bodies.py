"""Parses orders from a request's body, with bounded work whatever the body holds."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import from_json

from pipelines.serving.orders import Order
from pipelines.serving.problems import BodyError, FieldProblem

MOST_ORDERS: Final = 1000
MOST_BRACKETS: Final = 10 * MOST_ORDERS
"""Lists and objects are slow to create, and each order is one."""
MOST_PROBLEMS: Final = 20
"""The most problems in one answer; a body may have as many wrong fields as bytes."""
LONGEST_NAME: Final = 100
_FIELDS: Final = frozenset(Order.model_fields)


def orders_in(body: bytes, media_type: str | None) -> Order | list[Order]:
    """The order in a body, or the list of them.

    Raises:
        BodyError: it is not JSON, or holds anything else.
    """
    # A page of any site may send a browser's form or plain text here, but JSON only if we let it.
    kind = (media_type or "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and "+json" in kind):
        raise BodyError(415, "the content type of an order is application/json")
    if body.count(b"[") + body.count(b"{") > MOST_BRACKETS:
        raise BodyError(422, f"the body has more than {MOST_BRACKETS:,} lists and objects")
    try:
        given = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise BodyError(400, "the body is not JSON") from None
    _refuse_twice(body, given)
    problems: list[FieldProblem] = []
    if not isinstance(given, list):
        found = _order(given, "", problems)
        if found is None:
            raise _wrong(problems)
        return found
    if not 0 < len(given) <= MOST_ORDERS:
        detail = f"a list of orders has 1 to {MOST_ORDERS} of them, not {len(given)}"
        raise BodyError(422, detail, [FieldProblem(field="body", problem=detail)])
    orders = []
    for place, one in enumerate(given):
        order = _order(one, f"[{place}]", problems)
        if order is not None:
            orders.append(order)
        if len(problems) >= MOST_PROBLEMS:
            break
    if problems:
        raise _wrong(problems)
    return orders


def _refuse_twice(body: bytes, given: Any) -> None:
    """Refuse an object that has a name twice: parsers do not agree on which of them counts."""
    orders = given if isinstance(given, list) else [given]
    names = sum(len(one) for one in orders if isinstance(one, dict))
    if body.count(b":") <= names:  # each name has one behind it; texts may have more
        return

    def unique(pairs: list[tuple[str, Any]]) -> None:
        seen = set()
        for name, _ in pairs:
            if name in seen:
                field = name[:LONGEST_NAME]
                raise _wrong([FieldProblem(field=field, problem="it is given twice")])
            seen.add(name)

    json.loads(body, object_pairs_hook=unique)


def _order(given: Any, where: str, problems: list[FieldProblem]) -> Order | None:
    """The order, or None after what is wrong with it was added to the problems."""
    if not isinstance(given, dict):
        problems.append(FieldProblem(field=where or "body", problem="an order is a JSON object"))
        return None
    before = len(problems)
    for name in given:
        if name not in _FIELDS:
            field = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
            problem = "there is no such field; there are: " + ", ".join(Order.model_fields)
            problems.append(FieldProblem(field=_joined(where, field), problem=problem))
            if len(problems) >= MOST_PROBLEMS:
                return None
    try:
        order = Order(**{name: given[name] for name in _FIELDS & given.keys()})
    except ValidationError as error:
        for wrong in error.errors(include_url=False, include_context=False, include_input=False):
            field = ".".join(str(part) for part in wrong["loc"])
            problems.append(FieldProblem(field=_joined(where, field), problem=wrong["msg"]))
        return None
    return order if len(problems) == before else None


def _joined(where: str, field: str) -> str:
    return f"{where}.{field}" if where else field


def _wrong(problems: list[FieldProblem]) -> BodyError:
    first = problems[0]
    return BodyError(422, f"{first.field}: {first.problem}", problems[:MOST_PROBLEMS])
