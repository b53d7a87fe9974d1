"""The declared features of a group as Feast's fields: what a feature view takes as its schema."""

from __future__ import annotations

from typing import Final

from feast import Field
from feast.types import Array, Bool, FeastType, Float64, Int64, String

from pipelines.features.views import view_named

_TYPES: Final[dict[str, FeastType]] = {
    "whole": Int64,
    "number": Float64,
    "text": String,
    "flag": Bool,
    "texts": Array(String),
    "numbers": Array(Float64),
}


def fields(view: str) -> list[Field]:
    """The features of a declared group, with their types and descriptions.

    Raises:
        UnknownNameError: there is no such group.
    """
    found = []
    for name, feature in view_named(view).group.features.items():
        dtype = _TYPES[feature.kind]
        found.append(Field(name=name, dtype=dtype, description=feature.description))
    return found
