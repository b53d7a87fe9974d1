"""Feature groups: the entity keys, when a row is due, and the features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.errors import DeclarationError
from pipelines.features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from pipelines.features.language.aggregations import Aggregation, AsOf, Width
from pipelines.features.language.expressions import Expression, Typed, literal, resolve, walk
from pipelines.features.language.rows import CHANGES, Column, Rows, SincePrevious
from pipelines.features.language.value_types import Type
from pipelines.tables.declare import NAME


@dataclass(frozen=True)
class Feature:
    """One feature: its name, its value, and that in words."""

    name: str
    value: Any
    description: str

    @property
    def kind(self) -> str:
        """The kind of value that is published: money is a number."""
        found: Type = self.value.type
        return "number" if found.scale else found.kind


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
        ttl: how long a row is served online after its event time, in microseconds; 0 for as long
            as there is no newer one. As `owner` and `tags`, it is for a group that is declared
            outside of the package: those of `feature_repo` say it there.
        owner: who answers for it.
        tags: what else Feast's registry shall say of it.
    """

    name: str
    keys: tuple[str, ...]
    rows: tuple[Rows | WhileKnown, ...]
    entity: Rows
    features: Mapping[str, Feature]
    about: str = ""
    ttl: int = 0
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

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
    ttl: int = 0,
    owner: str = "",
    tags: Mapping[str, str] | None = None,
) -> FeatureGroup:
    """Declare a group.

    Args:
        name: the feature view's.
        keys: the entity keys.
        rows: a feature row is due at each time of these.
        entity: changes of the record that stands for the entity.
        features: in the order of the dictionary.
        about: when a row is due, in words.
        ttl, owner, tags: see `FeatureGroup`; give the time to live as `days(…)` or `hours(…)`.

    Raises:
        DeclarationError: it cannot be meant; the group and the feature are named.
    """
    try:
        _check_kinds(keys, rows, entity, features, ttl, tags)
    except DeclarationError as error:
        raise DeclarationError(f"{name}: {error}") from None
    triggers = (rows,) if isinstance(rows, (Rows, WhileKnown)) else tuple(rows)
    whole = FeatureGroup(
        name, tuple(keys), triggers, entity, {}, about, ttl, owner, dict(tags or {})
    )
    try:
        _check(whole)
    except DeclarationError as error:
        raise DeclarationError(f"{name}: {error}") from None
    known: dict[int, Any] = {}
    made: dict[str, Feature] = {}
    for feature in features:
        try:
            if not NAME.fullmatch(feature.name):
                raise DeclarationError(
                    "the name must be of a–z, 0–9 and _, and begin with a letter"
                )
            if feature.name in (*made, *keys, EVENT_TIMESTAMP, CREATED_TIMESTAMP):
                raise DeclarationError("there are two columns of this name: it must be its own")
            found = literal(resolve(feature.value, known))
            _check_feature(whole, found)
        except DeclarationError as error:
            raise DeclarationError(f"{name}.{feature.name}: {error}") from None
        made[feature.name] = replace(feature, value=found)
    if not made:
        raise DeclarationError(f"{name}: it has no features; it needs at least one")
    return replace(whole, features=made)


def _check_kinds(keys: Any, rows: Any, entity: Any, features: Any, ttl: Any, tags: Any) -> None:
    """What Python itself would say in words that name no group."""
    every = (rows,) if isinstance(rows, (Rows, WhileKnown)) else rows
    of_rows = "facts(…), changes(…) or reports(…) of a log"
    if isinstance(keys, str) or not all(isinstance(key, str) for key in keys):
        raise DeclarationError(f"its keys are a list of names, as ('user_id',), not {keys!r}")
    if not isinstance(every, tuple | list) or not all(
        isinstance(r, Rows | WhileKnown) for r in every
    ):
        raise DeclarationError(f"its rows are {of_rows}")
    if not isinstance(entity, Rows):
        raise DeclarationError("its entity is changes(…) of a log")
    if not all(isinstance(f, Feature) and isinstance(f.name, str) for f in features):
        raise DeclarationError("its features are a list of Feature(name, value, description)")
    if type(ttl) is not int and not isinstance(ttl, Width):
        raise DeclarationError(f"its ttl is a width, as days(30), not {ttl!r}")
    if tags is not None and not isinstance(tags, Mapping):
        raise DeclarationError("its tags are a dict of texts")


def _check(found: FeatureGroup) -> None:
    for name in found.keys:
        if name in (EVENT_TIMESTAMP, CREATED_TIMESTAMP):
            raise DeclarationError(f"the key {name} is called as a column of every view")
    for name in (found.name, *found.keys):
        if not NAME.fullmatch(name):
            raise DeclarationError(
                f"{name!r} is no name: it must be of a–z, 0–9 and _, and begin with a letter"
            )
    if found.ttl < 0:
        raise DeclarationError("its ttl is negative: it must be at least 0")
    if not found.keys or len(set(found.keys)) < len(found.keys):
        raise DeclarationError("it needs at least one key, and each once")
    if not found.triggers:
        raise DeclarationError("it needs rows at whose times a feature row is due")
    if found.entity.kind != CHANGES:
        raise DeclarationError(f"its entity is known by changes(…), not by {found.entity.kind}")
    for rows in (*found.triggers, found.entity):
        _check_keys(found, rows)
    columns = {found.entity.column_of(key) for key in found.keys}
    if columns != set(found.entity.member):
        raise DeclarationError(
            f"its entity is a record of {found.entity.log.name}, whose key is"
            f" {', '.join(found.entity.member)}, not {', '.join(sorted(columns))}"
        )
    always = [rows for rows in found.rows if isinstance(rows, Rows)]
    if found.needs_entity and always != [found.entity]:
        raise DeclarationError(
            f"beside WhileKnown(…), rows are due at changes of {found.entity.log.name} and at no"
            " others: wrap these too"
        )


def _check_keys(found: FeatureGroup, rows: Rows) -> None:
    for key in found.keys:
        column, entity = rows.column_of(key), found.entity.column_of(key)
        if rows.log.types[column] != found.entity.log.types[entity]:
            raise DeclarationError(
                f"{rows.log.name}.{column} and {found.entity.log.name}.{entity}, which both stand"
                f" for the key {key}, are of different types"
            )


def _check_feature(group: FeatureGroup, found: Typed) -> None:
    if found.type.kind == "span":
        raise DeclarationError("a span needs a unit: in_seconds(…), in_hours(…) or in_days(…)")
    if found.type.kind == "time":
        raise DeclarationError(
            "a time stamp is no feature: take hour_of_day(…), or in_hours(event_time - …)"
        )
    for part in walk(found):
        if isinstance(part, (Column, SincePrevious)):
            raise DeclarationError(
                f"a column of {part.rows.log.name} has many values: choose by last(…), total(…)"
                " or another aggregation"
            )
        if isinstance(part, Aggregation):
            _check_keys(group, part.rows)
            _check_records(group, part)
        if isinstance(part, AsOf):
            for column in part.column.rows.member:
                if column not in group.keys:
                    raise DeclarationError(
                        f"as_of finds a record of {part.column.rows.log.name} by {column}, which is"
                        f" not among the keys {', '.join(group.keys)}"
                    )


def _check_records(group: FeatureGroup, part: Aggregation) -> None:
    """A record that is counted is known by the column alone, among those of its key."""
    rows = part.rows
    if part.operation == "count_distinct" and rows.kind == CHANGES and isinstance(part.of, Column):
        rest = set(rows.member) - {part.of.name} - {rows.column_of(key) for key in group.keys}
        if rest:
            raise DeclarationError(
                f"count_distinct counts records of {rows.log.name}, which {part.of.name} alone does"
                f" not tell apart: {', '.join(sorted(rest))} is not among the keys"
            )
