"""Arrow columns in the bytes that Feast keeps in Redis, without importing Feast.

Feast builds a protobuf object per value, and its import alone takes ten seconds. Here a column is
encoded at once, byte for byte what Feast 0.67 writes (version 3 of its entity keys; protobuf
messages `feast.types.Value`, `google.protobuf.Timestamp`), with these traits of Feast kept:

- null, and a NaN that is not inside a list, is the empty message; a null timestamp is -2^63;
- a timestamp is whole seconds, rounded down;
- inside a list a null is "", false or NaN; for integers there is no such value.

One is not kept: Feast reads a column of integers with nulls as doubles and loses digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from itertools import pairwise, repeat
from struct import pack
from typing import Any, Final

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.errors import UsageError

Integers = NDArray[np.int64]

# The first bytes of a protobuf field: its number times 8 plus its wire type. Numbers are those of
# feast/protos/feast/types/Value.proto; the wire types: 0 varint, 1 eight bytes, 2 bytes, 5 four.
_INTEGERS: Final = {pa.int32(): 3 << 3, pa.int64(): 4 << 3}
_FLOATS: Final = {pa.float64(): (5 << 3 | 1, "<f8"), pa.float32(): (6 << 3 | 5, "<f4")}
_BYTES: Final = {pa.binary(): b"\x0a", pa.string(): b"\x12", pa.large_string(): b"\x12"}
_FALSE_TRUE: Final = (b"\x38\x00", b"\x38\x01")
_UNIX_TIMESTAMP: Final = 8 << 3
_LISTS: Final = {
    pa.binary(): b"\x5a",
    pa.string(): b"\x62",
    pa.large_string(): b"\x62",
    pa.int32(): b"\x6a",
    pa.int64(): b"\x72",
    pa.float64(): b"\x7a",
    pa.float32(): b"\x82\x01",
    pa.bool_(): b"\x8a\x01",
}
_ITEMS: Final = b"\x0a"  # a list's message has them as field 1, numbers in one run of bytes
_SECONDS, _NANOS = 1 << 3, 2 << 3  # of google.protobuf.Timestamp

# feast.types.ValueType, which entity keys name their parts by.
_KEY_STRING: Final = 2
_KEY_INTEGERS: Final = {pa.int32(): (3, "<i4"), pa.int64(): (4, "<i8")}


@cache
def field(view: str, feature: str) -> bytes:
    """The field of a feature in its entity's hash: four bytes of a hash of its full name."""
    return mmh3.hash(f"{view}:{feature}", signed=False).to_bytes(4, "little")


def entity_keys(columns: Mapping[str, pa.Array | pa.ChunkedArray], project: str) -> list[bytes]:
    """The Redis key of each row, from its join keys (int32, int64 or string) by name.

    Raises:
        UsageError: no column, a column of another type, or a null in one.
    """
    if not columns:
        raise UsageError("an entity key needs at least one join key column: there is none")
    names = sorted(columns)
    start = [pack("<I", len(names))]
    for name in names:
        start += (pack("<II", _KEY_STRING, len(name.encode())), name.encode())
    parts = [_key_parts(name, _array(columns[name])) for name in names]
    rows = zip(repeat(b"".join(start)), *parts, repeat(project.encode()))
    return list(map(b"".join, rows))


def values(column: pa.Array | pa.ChunkedArray) -> list[bytes]:
    """Each value as a serialized `feast.types.Value`.

    Raises:
        UsageError: a type that has no encoding here, or a null inside a list of integers.
    """
    array = _array(column)
    kind = array.type
    if pa.types.is_timestamp(kind):
        return _slices(*_varints((_UNIX_TIMESTAMP, _moments(array, "s").astype(np.int64))))
    encoded = _encoded(array)
    if array.null_count or kind in _FLOATS:
        for row in np.flatnonzero(_numpy(pc.is_null(array, nan_is_null=True))).tolist():
            encoded[row] = b""
    return encoded


def event_times(events: pa.Array | pa.ChunkedArray) -> list[bytes]:
    """Each time stamp (UTC) as a serialized `Timestamp`, the value of Feast's field `_ts:<view>`.

    Raises:
        UsageError: not a column of time stamps, or a null in it.
    """
    seconds, rest = np.divmod(_event_moments(events).astype(np.int64), 1_000_000)
    return _slices(*_varints((_SECONDS, seconds), (_NANOS, rest * 1_000), zeros=False))


def created_times(
    created: pa.Array | pa.ChunkedArray, events: pa.Array | pa.ChunkedArray
) -> list[bytes]:
    """The values of our field `_created:<view>`: see `newer_wins`. A null means the event time.

    Raises:
        UsageError: not columns of time stamps, or a null among the event times.
    """
    known = _moments(_array(created), "us")
    moments = np.where(np.isnat(known), _event_moments(events), known).astype(np.int64)
    return [
        event + b"%020d" % moment
        for event, moment in zip(event_times(events), moments.tolist(), strict=True)
    ]


def _encoded(array: Any) -> list[bytes]:
    """Each value; what it is where the value is null does not matter."""
    kind = array.type
    if kind in _FLOATS:
        tag, number = _FLOATS[kind]
        return _records(len(array), tag=("u1", tag), number=(number, _numpy(array)))
    if kind in _INTEGERS:
        return _slices(*_varints((_INTEGERS[kind], _numpy(array, null=0))))
    if kind in _BYTES:
        unique, places = _with_heads(array, _BYTES[kind], null=b"")
        return [unique[place] for place in places.tolist()]
    if kind == pa.bool_():
        return [_FALSE_TRUE[value] for value in _numpy(array, null=False).tolist()]
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and kind.value_type in _LISTS:
        return _lists(array, _LISTS[kind.value_type])
    raise UsageError(
        f"a column of type {kind} has no encoding for the online store: cast it to an int32, "
        "int64, float, double, bool, string, binary or timestamp, or to a list of one of these "
        "but the last"
    )


def _lists(array: Any, tag: bytes) -> list[bytes]:
    items = array.flatten()  # without what lies under nulls
    ends = np.cumsum(_numpy(pc.list_value_length(array), null=0), dtype=np.int64)
    bounds = np.concatenate(([0], ends))
    if items.type in _BYTES:
        unique, places = _with_heads(items, _ITEMS, null=_head(_ITEMS, 0))
        data, item_bounds = _data(pa.array(unique, pa.large_binary()).take(pa.array(places)))
        return [_head(tag, len(run)) + run for run in _slices(data, item_bounds[bounds])]
    if items.type in _INTEGERS:
        if items.null_count:
            raise UsageError(f"a {array.type} has a null inside a list: fill it with a number")
        data, item_bounds = _varints((None, _numpy(items)))
        runs = _slices(data, item_bounds[bounds])
    elif items.type in _FLOATS:
        numbers = _numpy(items).astype(_FLOATS[items.type][1], copy=False)
        runs = _slices(numbers.tobytes(), bounds * numbers.itemsize)
    else:
        runs = _slices(_numpy(items, null=False).astype(np.uint8).tobytes(), bounds)
    return [_packed(tag, run) for run in runs]


def _packed(tag: bytes, run: bytes) -> bytes:
    if not run:
        return _head(tag, 0)
    head = _head(_ITEMS, len(run))
    return _head(tag, len(head) + len(run)) + head + run


def _with_heads(array: Any, tag: bytes, *, null: bytes) -> tuple[list[bytes], Integers]:
    """The distinct strings, each behind its tag and length, and where each row's is among them."""
    coded = array.dictionary_encode()
    unique = [_head(tag, len(text)) + text for text in _slices(*_data(coded.dictionary))]
    places = _numpy(coded.indices, null=len(unique))
    return [*unique, null], places


def _key_parts(name: str, array: Any) -> list[bytes]:
    if array.null_count:
        raise UsageError(f"the join key {name!r} is null in {array.null_count} rows: drop them")
    if array.type in _KEY_INTEGERS:
        value_type, number = _KEY_INTEGERS[array.type]
        numbers = _numpy(array)
        return _records(
            len(array),
            value_type=("<u4", value_type),
            length=("<u4", numbers.itemsize),
            number=(number, numbers),
        )
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return [_key_head(len(text)) + text for text in _slices(*_data(array))]
    raise UsageError(
        f"the join key {name!r} is of type {array.type}: cast it to int32, int64 or string"
    )


def _records(rows: int, **fields: tuple[str, Any]) -> list[bytes]:
    """Records of these fields without gaps: each a NumPy type, and its values or the one of all."""
    records = np.empty(rows, [(name, kind) for name, (kind, _) in fields.items()])
    for name, (_, content) in fields.items():
        records[name] = content
    found: list[bytes] = records.view(f"V{records.itemsize}").tolist()
    return found


def _varints(*fields: tuple[int | None, Integers], zeros: bool = True) -> tuple[bytes, Integers]:
    """Per row the varint of each field behind its tag (if any), on end, and the rows' bounds.

    Without `zeros` a field that is zero is left out, as protobuf does by default.
    """
    cells: list[NDArray[np.uint8]] = []
    present: list[NDArray[np.bool_]] = []
    for tag, numbers in fields:
        unsigned = numbers.astype(np.int64, copy=False).view(np.uint64)
        bits = int(unsigned.max(initial=1)).bit_length()
        groups = unsigned >> np.arange(0, bits, 7, dtype=np.uint64)[:, np.newaxis]
        here = groups != 0
        here[0] |= zeros
        low = (groups & np.uint64(127)).astype(np.uint8)
        low[:-1] |= here[1:].view(np.uint8) << np.uint8(7)  # more groups follow
        if tag is not None:
            cells.append(np.full((1, len(numbers)), tag, np.uint8))
            present.append(here[:1])
        cells.append(low)
        present.append(here)
    chosen = np.concatenate(present)
    data = np.concatenate(cells).T[chosen.T].tobytes()
    return data, np.concatenate(([0], np.cumsum(chosen.sum(axis=0), dtype=np.int64)))


def _slices(data: bytes, bounds: Integers) -> list[bytes]:
    return [data[start:end] for start, end in pairwise(bounds.tolist())]


def _data(array: Any) -> tuple[bytes, Integers]:
    """The bytes of an array of strings on end, and the bounds of each."""
    wide = array.cast(pa.large_binary())
    if not len(wide):
        return b"", np.zeros(1, np.int64)
    _, offsets, data = wide.buffers()
    bounds = np.frombuffer(offsets, np.int64)[wide.offset : wide.offset + len(wide) + 1]
    text = data[int(bounds[0]) : int(bounds[-1])].to_pybytes() if data is not None else b""
    return text, bounds - bounds[0]


@lru_cache(maxsize=10_000)
def _head(tag: bytes, length: int) -> bytes:
    """A tag and a length before bytes of that length."""
    groups = [length >> shift & 127 for shift in range(0, max(length.bit_length(), 1), 7)]
    return tag + bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


@lru_cache(maxsize=10_000)
def _key_head(length: int) -> bytes:
    return pack("<II", _KEY_STRING, length)


def _event_moments(events: Any) -> NDArray[np.datetime64]:
    array = _array(events)
    if array.null_count:
        raise UsageError(f"the event time is null in {array.null_count} rows: drop them")
    return _moments(array, "us")


def _moments(array: Any, unit: str) -> NDArray[np.datetime64]:
    if not pa.types.is_timestamp(array.type):
        raise UsageError(f"a time is of type {array.type}: cast it to timestamp[us]")
    return _numpy(array).astype(f"datetime64[{unit}]")


def _numpy(array: Any, *, null: int | None = None) -> NDArray[Any]:
    if null is not None and array.null_count:
        array = array.fill_null(null)
    found: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return found


def _array(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
