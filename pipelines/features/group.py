"""Feature groups: the entity keys, when a row is due, and the features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.features.aggregations import Aggregation, AsOf
from pipelines.features.expressions import Expression, literal, resolve, walk
from pipelines.features.rows import CHANGES, Rows
from pipelines.features.value_types import DeclarationError


@dataclass(frozen=True)
class Feature:
    """One feature: its name, its value, and that in words."""

    name: str
    value: Any
    description: str


@dataclass(frozen=True)
class WhileKnown:
    """Rows at whose times a feature row is due only while the entity's record is there."""

    rows: Rows


@dataclass(frozen=True, eq=False)
class FeatureGroup:
    """A group of features of one entity.

    Attributes:
        name: the feature view's.
        keys: the entity keys.
        rows: a feature row is due at each time of these.
        entity: changes of the record that stands for the entity: when it is deleted, a row is due
            then in which all features are null.
        features: by name, in the order of the dictionary.
        about: when a row is due, in words.
    """

    name: str
    keys: tuple[str, ...]
    rows: tuple[Rows | WhileKnown, ...]
    entity: Rows
    features: Mapping[str, Feature]
    about: str = ""

    @property
    def triggers(self) -> tuple[Rows, ...]:
        """The rows at whose times a feature row is due."""
        return tuple(r.rows if isinstance(r, WhileKnown) else r for r in self.rows)

    @property
    def needs_entity(self) -> bool:
        """Whether rows are due only while the entity's record is there."""
        return any(isinstance(r, WhileKnown) for r in self.rows)

    def nodes(self) -> Iterator[Expression]:
        """All that the features are made of."""
        for feature in self.features.values():
            yield from walk(feature.value)

    @property
    def aggregations(self) -> list[Aggregation]:
        """Every aggregation once."""
        return [n for n in dict.fromkeys(self.nodes()) if isinstance(n, Aggregation)]

    @property
    def lookups(self) -> list[AsOf]:
        """Every as-of lookup once."""
        return [n for n in dict.fromkeys(self.nodes()) if isinstance(n, AsOf)]

    @property
    def logs(self) -> tuple[str, ...]:
        """The names of the logs that it reads."""
        every = [*self.triggers, self.entity]
        every += [a.rows for a in self.aggregations] + [a.column.rows for a in self.lookups]
        return tuple(dict.fromkeys(rows.log.name for rows in every))


def group(
    name: str,
    *,
    keys: Sequence[str],
    rows: Sequence[Rows | WhileKnown] | Rows,
    entity: Rows,
    features: Sequence[Feature],
    about: str = "",
) -> FeatureGroup:
    """Declare a group.

    Args:
        name: the feature view's.
        keys: the entity keys.
        rows: a feature row is due at each time of these.
        entity: changes of the record that stands for the entity.
        features: in the order of the dictionary.
        about: when a row is due, in words.

    Raises:
        DeclarationError: it cannot be meant; the group and the feature are named.
    """
    known: dict[int, Any] = {}
    made: dict[str, Feature] = {}
    for feature in features:
        try:
            if feature.name in made:
                raise DeclarationError("there are two features of this name")
            found = literal(resolve(feature.value, known))
            if found.type.kind in ("span", "time"):
                raise DeclarationError(f"a {found.type} needs a unit: in_hours(…), in_days(…)")
        except DeclarationError as error:
            raise DeclarationError(f"{name}.{feature.name}: {error}") from None
        made[feature.name] = replace(feature, value=found)
    triggers = (rows,) if isinstance(rows, (Rows, WhileKnown)) else tuple(rows)
    whole = FeatureGroup(name, tuple(keys), triggers, entity, made, about)
    try:
        _check(whole)
    except DeclarationError as error:
        raise DeclarationError(f"{name}: {error}") from None
    return whole


def _check(found: FeatureGroup) -> None:
    if not found.keys:
        raise DeclarationError("it has no keys")
    if found.entity.kind != CHANGES:
        raise DeclarationError(f"the entity is told by changes, not by {found.entity.kind}")
    for rows in (*found.triggers, found.entity, *(a.rows for a in found.aggregations)):
        for key in found.keys:
            rows.column_of(key)
    for lookup in found.lookups:
        for column in lookup.column.rows.log.key:
            if column not in found.keys:
                raise DeclarationError(
                    f"as_of({lookup.column.rows.log.name}) wants its key {column} among the keys"
                )
