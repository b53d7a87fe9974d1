"""Declared groups as Feast's objects: schemas, and whole views of groups from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Final

import pyarrow as pa
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Bool, FeastType, Float64, Int64, String

from pipelines.errors import UnknownNameError
from pipelines.features.groups import OUTSIDE
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


def outside_views(
    source: Callable[[str, str], FileSource], entities: Iterable[Entity]
) -> list[Entity | FeatureView]:
    """The views of the groups that are declared outside of the package, and their entities.

    Args:
        source: makes the offline source of a view from its name and description.
        entities: those that there are; a key of another name becomes an entity of its own.

    Returns:
        Each view after the entities that it needs beside those.
    """
    known = {entity.join_key: entity for entity in entities}
    found: list[Entity | FeatureView] = []
    for name in OUTSIDE:
        group, schema = VIEWS_BY_NAME[name].group, VIEWS_BY_NAME[name].schema
        for key in group.keys:
            if key not in known:
                whole = pa.types.is_integer(schema.field(key).type)
                kind = ValueType.INT64 if whole else ValueType.STRING
                known[key] = Entity(name=key, join_keys=[key], value_type=kind)
                found.append(known[key])
        found.append(
            FeatureView(
                name=group.name,
                entities=[known[key] for key in group.keys],
                ttl=timedelta(microseconds=group.ttl),
                schema=fields(group.name),
                source=source(group.name, group.about),
                description=group.about,
                tags=dict(group.tags),
                owner=group.owner,
            )
        )
    return found
