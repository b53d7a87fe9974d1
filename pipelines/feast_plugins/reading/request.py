"""The entity rows of an online read as columns and Redis keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct
from struct import pack as packed
from typing import Any, Final, NamedTuple

from feast.value_type import ValueType

from pipelines.feast_plugins.reading.connections import pack
from pipelines.feast_plugins.reading.key_values import plain_keys
from pipelines.feast_plugins.reading.plan import KeyGroup, ReadPlan

Column = list[Any]

_STRING: Final = 2  # value types of the parts of an entity key
_LONG: Final = Struct("<IIq").pack
_INT: Final = Struct("<IIi").pack
_INTEGERS: Final = {ValueType.INT64: 2**63, ValueType.INT32: 2**31}


class GroupRead(NamedTuple):
    """The distinct keys of one group; `places` is each row's among them, None for one to one."""

    keys: Sequence[bytes]
    places: Sequence[int] | None


class ReadRequest(NamedTuple):
    """What to ask Redis, and what the request itself puts into the answer.

    Attributes:
        given: join keys and request data as columns, in the order of the answer.
        kinds: the value type of each.
    """

    rows: int
    given: dict[str, Column]
    kinds: dict[str, ValueType]
    groups: tuple[GroupRead, ...]

    def packed(self, plan: ReadPlan) -> bytes:
        """All HMGETs as Redis' protocol has them."""
        return b"".join(
            [
                pack(group.head, read.keys, group.tail)
                for group, read in zip(plan.groups, self.groups, strict=True)
            ]
        )


def read_request(plan: ReadPlan, entity_rows: Any) -> ReadRequest | None:
    """The request, or None if Feast has to handle it: unusual, incomplete or invalid.

    Raises:
        UsageError: a key is null, or not of its type.
    """
    columns = _columns(entity_rows)
    if not columns:
        return None
    rows = len(next(iter(columns.values())))
    keys: dict[str, Column] = {}
    data: dict[str, Column] = {}
    kinds: dict[str, ValueType] = {}
    for name, column in columns.items():
        if len(column) != rows:
            return None
        if name in plan.request_data:
            kind = _kind(column)
            data[name] = column
        elif name in plan.join_keys:
            kind = plan.kinds.get(name) or _kind(column)
            fits = _fits(column, kind)
            plain = column if fits or kind is None else plain_keys(name, column, kind)
            if plain is None:
                return None
            keys[name] = plain
        elif name in plan.entity_names:
            return None
        else:
            continue
        if kind is None:
            return None
        kinds[name] = kind
    if rows == 0 or len(data) != len(plan.request_data):
        return None
    groups = []
    for group in plan.groups:
        if any(name is not None and name not in keys for name in group.columns):
            return None
        try:
            groups.append(_distinct(_redis_keys(group, keys, rows, plan.project)))
        except UnicodeEncodeError:
            for name in keys:
                plain_keys(name, keys[name], plan.kinds.get(name, ValueType.STRING))
            raise
    return ReadRequest(rows, keys | data, kinds, tuple(groups))


def _columns(entity_rows: Any) -> Mapping[str, Column] | None:
    if not isinstance(entity_rows, list):
        if {*map(type, entity_rows.values())} <= {list, tuple}:
            return {name: list(column) for name, column in entity_rows.items()}
        return None
    if not entity_rows:
        return None
    first = entity_rows[0]
    if len(entity_rows) == 1:
        return {name: [value] for name, value in first.items()}
    if any(len(row) != len(first) for row in entity_rows):
        return None
    try:
        return {name: [row[name] for row in entity_rows] for name in first}
    except KeyError:
        return None


def _kind(column: Column) -> ValueType | None:
    """The value type that Feast infers for plain values; None where it is not plain."""
    types = {*map(type, column)}
    if len(types) != 1:
        return None
    if types == {float}:
        return ValueType.DOUBLE if all(value == value for value in column) else None
    kind = {int: ValueType.INT64, str: ValueType.STRING, bool: ValueType.BOOL}.get(types.pop())
    return kind if kind is None or kind != ValueType.INT64 or _fits(column, kind) else None


def _fits(column: Column, kind: ValueType | None) -> bool:
    """Whether all values are plain ones of the type, which encode as they are."""
    if kind == ValueType.STRING:
        return {*map(type, column)} == {str}
    beyond = _INTEGERS.get(kind) if kind is not None else None
    if beyond is None or {*map(type, column)} != {int}:
        return False
    return bool(-beyond <= min(column) and max(column) < beyond)


def _redis_keys(
    group: KeyGroup, given: Mapping[str, Column], rows: int, project: bytes
) -> list[bytes]:
    parts = [[b""] * rows if name is None else given[name] for name in group.columns]
    start = group.start
    if len(parts) == 1 and group.kinds == (ValueType.INT64,):
        return [start + _LONG(4, 8, value) + project for value in parts[0]]
    encoded = [_parts(column, kind) for column, kind in zip(parts, group.kinds, strict=True)]
    if len(encoded) == 1:
        return [start + part + project for part in encoded[0]]
    return [start + b"".join(row) + project for row in zip(*encoded, strict=True)]


def _parts(column: Column, kind: ValueType) -> list[bytes]:
    if kind == ValueType.INT64:
        return [_LONG(4, 8, value) for value in column]
    if kind == ValueType.INT32:
        return [_INT(3, 4, value) for value in column]
    texts = [value.encode() if isinstance(value, str) else value for value in column]
    return [packed("<II", _STRING, len(text)) + text for text in texts]


def _distinct(keys: list[bytes]) -> GroupRead:
    distinct = dict.fromkeys(keys)
    if len(distinct) == len(keys):
        return GroupRead(keys, None)
    place = {key: number for number, key in enumerate(distinct)}
    return GroupRead(list(distinct), [place[key] for key in keys])
