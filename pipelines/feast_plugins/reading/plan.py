"""What an online read comes down to, worked out once per request shape and registry version."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from operator import itemgetter
from typing import Any, Final

from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_NAME
from feast.infra.online_stores.redis import _versioned_fv_name
from feast.repo_config import RepoConfig
from feast.value_type import ValueType

from pipelines.feast_plugins.reading.connections import Reply, hmget
from pipelines.feast_plugins.reading.decoding import FIXED, Decoder, decoder
from pipelines.feast_plugins.reading.on_demand import Transformation, transformations
from pipelines.feast_plugins.writing import encoding

KEY_VERSION: Final = 3
PLANS_KEPT: Final = 1_000


@dataclass(frozen=True, slots=True)
class FeatureRead:
    """One feature that is read: its name in the answer, its place in the replies of its key."""

    name: str
    cell: int
    kind: ValueType


@dataclass(frozen=True, slots=True)
class ViewRead:
    """One view of the answer: which key its values are under and where its event time is.

    `metadata_name` and `version` are what the answer's metadata call it.
    """

    name: str
    group: int
    stamp: int
    ttl: timedelta | None
    features: tuple[str, ...]
    metadata_name: str
    version: int


@dataclass(frozen=True, slots=True)
class KindRead:
    """The features of one value type under a key; `pick` takes their cells from a reply."""

    names: tuple[str, ...]
    cells: tuple[int, ...]
    pick: Callable[[Reply], tuple[bytes | None, ...]]
    decode: Decoder


@dataclass(frozen=True, slots=True)
class KeyGroup:
    """Views that lie under the same Redis key, read by one HMGET.

    Attributes:
        columns: the request's columns that make up the key, in the key's order; None for the
            constant of a view without entities.
        kinds: the value type of each.
        start: the bytes of every key before its values.
        head, tail: the HMGET before and behind the key.
        features: what the replies hold, by value type.
    """

    columns: tuple[str | None, ...]
    kinds: tuple[ValueType, ...]
    fields: tuple[bytes, ...]
    start: bytes
    head: bytes
    tail: bytes
    features: tuple[KindRead, ...]


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """A request without its entity rows.

    Attributes:
        join_keys: the names that the request may give join keys by.
        kinds: the value type of each join key that a view uses.
        request_data: names of the request data that on-demand views need.
        returned: the names that the answer has, beside those of join keys.
        features: the names of the features that are read, in the answer's order; `inputs` are
            those among them that only an on-demand view needs, `changeable` those whose values
            are lists and the like.
        project: ends every Redis key.
    """

    groups: tuple[KeyGroup, ...]
    views: tuple[ViewRead, ...]
    on_demand: tuple[Transformation, ...]
    join_keys: frozenset[str]
    entity_names: frozenset[str]
    kinds: dict[str, ValueType]
    request_data: frozenset[str]
    returned: frozenset[str]
    features: tuple[str, ...]
    inputs: frozenset[str]
    changeable: frozenset[str]
    feature_types: dict[str, ValueType]
    project: bytes


class Plans:
    """Caches plans by the shape of a request, while the registry they come from is current.

    Current as in Feast: the same copy of the registry, younger than its time to live.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._made: tuple[Any, float, dict[Any, ReadPlan | None]] = (None, 0.0, {})

    def get(
        self, registry: Any, shape: Any, make: Callable[[], ReadPlan | None]
    ) -> ReadPlan | None:
        """The plan of a shape; made if there is none yet or the registry has changed.

        Args:
            registry: Feast's registry.
            shape: a hashable key of what is asked for.
            make: called to make a plan.
        """
        created = getattr(registry, "cached_registry_proto_created", None)
        known, until, made = self._made
        if created is not None and created is known and self._clock() <= until and shape in made:
            return made[shape]
        plan = make()  # reads the registry again if that is too old
        if created is None or registry.cached_registry_proto_created is not created:
            return plan  # the registry changed meanwhile: do not cache
        if created is not known or self._clock() > until:
            ttl = registry.cached_registry_proto_ttl.total_seconds()
            until = created.timestamp() + ttl if ttl > 0 else math.inf
            made = {}
            self._made = created, until, made
        if len(made) >= PLANS_KEPT:
            made.clear()
        made[shape] = plan
        return plan


def plan(
    context: Sequence[Any], feature_types: Any, config: RepoConfig, full_feature_names: bool
) -> ReadPlan | None:
    """The plan of a request, or None where only Feast's own code will do.

    Args:
        context: what `feast.utils._get_cached_request_context` has resolved the request to.
        feature_types: `OnlineStore._build_feature_types`.
        config: Feast's repository configuration.
        full_feature_names: whether features are called `<view>__<feature>`.
    """
    (
        references,
        on_demand_views,
        join_key_of,
        kinds,
        join_keys,
        grouped,
        returned,
        request_data,
        _,
    ) = context
    on_demand = transformations(on_demand_views, references, full_feature_names)
    if on_demand is None or config.entity_key_serialization_version != KEY_VERSION:
        return None
    if any(hasattr(view, "write_to_online_store") for view, _ in grouped):
        return None
    order = {reference: place for place, reference in enumerate(references)}
    keys: dict[tuple[Any, ...], tuple[list[bytes], list[FeatureRead]]] = {}
    views = []
    for view, names in grouped:
        key = _key(view)
        fields, reads = keys.setdefault(key, ([], []))
        stored, shown = _versioned_fv_name(view, config), view.projection.name_to_use()
        types = {column.name: column.dtype.to_value_type() for column in view.features}
        outputs = []
        for name in sorted(names, key=lambda n: (order.get(f"{shown}:{n}", len(order)), n)):
            outputs.append(f"{shown}__{name}" if full_feature_names else name)
            kind = types.get(name, ValueType.UNKNOWN)
            reads.append(FeatureRead(outputs[-1], len(fields), kind))
            fields.append(encoding.field(stored, name))
        views.append(
            ViewRead(
                name=shown,
                group=list(keys).index(key),
                stamp=len(fields),
                ttl=view.ttl or None,
                features=tuple(outputs),
                metadata_name=view.projection.name_alias or view.projection.name,
                version=getattr(view, "current_version_number", 0) or 0,
            )
        )
        fields.append(f"_ts:{stored}".encode())
    features = tuple(dict.fromkeys(name for view in views for name in view.features))
    return ReadPlan(
        groups=tuple(_group(key, *read, kinds) for key, read in keys.items()),
        views=tuple(views),
        on_demand=on_demand,
        join_keys=frozenset(join_keys),
        entity_names=frozenset(join_key_of),
        kinds=kinds,
        request_data=frozenset(request_data),
        returned=frozenset(returned),
        features=features,
        inputs=frozenset(features) - frozenset(returned),
        changeable=frozenset(
            read.name for _, reads in keys.values() for read in reads if read.kind not in FIXED
        ),
        feature_types=feature_types,
        project=config.project.encode(),
    )


def _key(view: Any) -> tuple[tuple[str, str | None], ...]:
    """Each join key of a view, in the order of the Redis key, with the request's column for it."""
    if view.entities == [DUMMY_ENTITY_NAME]:
        return ((DUMMY_ENTITY_ID, None),)
    asked_as = view.projection.join_key_map
    stored = {column.name for column in view.entity_columns}
    return tuple((name, asked_as.get(name, name)) for name in sorted(stored))


def _group(
    key: Iterable[tuple[str, str | None]],
    fields: list[bytes],
    reads: list[FeatureRead],
    kinds: dict[str, ValueType],
) -> KeyGroup:
    pairs = list(key)
    head, tail = hmget(fields)
    by_kind: dict[ValueType, list[FeatureRead]] = {}
    for read in reads:
        by_kind.setdefault(read.kind, []).append(read)
    return KeyGroup(
        columns=tuple(column for _, column in pairs),
        kinds=tuple(
            ValueType.STRING if column is None else kinds.get(column, ValueType.UNKNOWN)
            for _, column in pairs
        ),
        fields=tuple(fields),
        start=encoding.key_head(name for name, _ in pairs),
        head=head,
        tail=tail,
        features=tuple(_of_kind(kind, found) for kind, found in by_kind.items()),
    )


def _of_kind(kind: ValueType, reads: list[FeatureRead]) -> KindRead:
    cells = tuple(read.cell for read in reads)
    # Of a single place `itemgetter` gives the cell itself; a slice gives a sequence.
    pick = itemgetter(*cells) if len(cells) > 1 else itemgetter(slice(cells[0], cells[0] + 1))
    return KindRead(tuple(read.name for read in reads), cells, pick, decoder(kind))
