"""Equal parts of a declaration are one: they are computed once."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from pipelines.features.language.aggregations import Aggregation, AsOf, RowTime
from pipelines.features.language.expressions import Call, Literal
from pipelines.features.language.rows import Column, Rows, SincePrevious


def signature(part: Any) -> Hashable:
    """Equal for parts of equal meaning."""
    if isinstance(part, Rows):
        return ("rows", part.log.name, part.at, part.kind, tuple(sorted(part.of.items())))
    if isinstance(part, Literal):
        return ("literal", type(part.value).__name__, part.value)
    if isinstance(part, Call):
        inner = tuple(signature(argument) for argument in part.arguments)
        return ("call", part.operation, inner, part.detail)
    if isinstance(part, Column):
        return ("column", signature(part.rows), part.name)
    if isinstance(part, SincePrevious):
        return ("since_previous", signature(part.rows))
    if isinstance(part, Aggregation):
        of, where = (None if p is None else signature(p) for p in (part.of, part.where))
        return (
            "aggregation",
            part.operation,
            signature(part.rows),
            of,
            where,
            part.within,
            part.size,
        )
    if isinstance(part, AsOf):
        return ("as_of", signature(part.column))
    assert isinstance(part, RowTime)
    return ("time",)
