"""The declared features of a group as Feast's fields: what a feature view takes as its schema."""

from __future__ import annotations

from typing import Final

from feast import Field
from feast.types import Array, Bool, FeastType, Float64, Int64, String

from pipelines.errors import UnknownNameError
from pipelines.features.views import VIEWS_BY_NAME

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
    if view not in VIEWS_BY_NAME:
        raise UnknownNameError(
            f"the feature repository has a view {view}, and no group of this name is declared "
            f"(there are {', '.join(VIEWS_BY_NAME)}): take the view out, or declare the group"
        )
    found = []
    for name, feature in VIEWS_BY_NAME[view].group.features.items():
        dtype = _TYPES[feature.kind]
        found.append(Field(name=name, dtype=dtype, description=feature.description))
    return found
