"""Arrow columns in the bytes that Feast keeps in Redis, without importing Feast.

Feast builds a protobuf object per value, and its import alone takes ten seconds. Here a column is
encoded at once, byte for byte what Feast 0.67 writes (version 3 of its entity keys; protobuf
messages `feast.types.Value`, `google.protobuf.Timestamp`), with these traits of Feast kept:

- null, and a NaN that is not inside a list, is the empty message; a null timestamp is -2^63;
- a timestamp is whole seconds, rounded down;
- inside a list a null is "", false or NaN; for integers there is no such value.

One is not kept: Feast reads a column of integers with nulls as doubles and loses digits.
Every result is an Arrow array of type binary, as long as the column and without nulls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from struct import pack
from typing import Any, Final

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.errors import UsageError
from pipelines.feast_plugins.writing import binary_arrays
from pipelines.feast_plugins.writing.binary_arrays import (
    Integers,
    bounds_of,
    from_bounds,
    from_cells,
    joined,
    lengths_of,
    regrouped,
)

# The first bytes of a protobuf field: its number times 8 plus its wire type. Numbers are those of
# feast/protos/feast/types/Value.proto; the wire types: 0 varint, 1 eight bytes, 2 bytes, 5 four.
_INTEGERS: Final = {pa.int32(): b"\x18", pa.int64(): b"\x20"}
_FLOATS: Final = {pa.float64(): (b"\x29", "<f8"), pa.float32(): (b"\x35", "<f4")}
_BYTES: Final = {
    pa.binary(): b"\x0a",
    pa.large_binary(): b"\x0a",
    pa.string(): b"\x12",
    pa.large_string(): b"\x12",
}
_FALSE, _TRUE = b"\x38\x00", b"\x38\x01"
_UNIX_TIMESTAMP: Final = b"\x40"
_LISTS: Final = {
    pa.binary(): b"\x5a",
    pa.large_binary(): b"\x5a",
    pa.string(): b"\x62",
    pa.large_string(): b"\x62",
    pa.int32(): b"\x6a",
    pa.int64(): b"\x72",
    pa.float64(): b"\x7a",
    pa.float32(): b"\x82\x01",
    pa.bool_(): b"\x8a\x01",
}
_ITEMS: Final = b"\x0a"  # a list's message has them as field 1, numbers in one run of bytes
_SECONDS, _NANOS = b"\x08", b"\x10"  # of google.protobuf.Timestamp
_DIGITS: Final = 20  # of a created timestamp

# feast.types.ValueType, which entity keys name their parts by.
_KEY_STRING: Final = 2
_KEY_INTEGERS: Final = {pa.int32(): (3, 4), pa.int64(): (4, 8)}


@cache
def field(view: str, feature: str) -> bytes:
    """The field of a feature in its entity's hash: four bytes of a hash of its full name."""
    return mmh3.hash(f"{view}:{feature}", signed=False).to_bytes(4, "little")


def entity_keys(columns: Mapping[str, pa.Array | pa.ChunkedArray], project: str) -> pa.BinaryArray:
    """The Redis key of each row, from its join keys (int32, int64 or string) by name.

    Raises:
        UsageError: no column, a column of another type, or a null in one.
    """
    if not columns:
        raise UsageError("an entity key needs at least one join key column: there is none")
    parts = [part for name in sorted(columns) for part in _key_parts(name, _array(columns[name]))]
    return joined(key_head(columns), *parts, project.encode())


def key_head(names: Iterable[str]) -> bytes:
    """What every Redis key of these join keys begins with; the values follow in sorted order."""
    texts = [name.encode() for name in sorted(names)]
    heads = (pack("<II", _KEY_STRING, len(text)) + text for text in texts)
    return pack("<I", len(texts)) + b"".join(heads)


def values(column: pa.Array | pa.ChunkedArray) -> pa.BinaryArray:
    """Each value as a serialized `feast.types.Value`.

    Raises:
        UsageError: a type that has no encoding here, or a null inside a list of integers.
    """
    array = _array(column)
    kind = array.type
    if kind in _FLOATS:
        return _floats(array, *_FLOATS[kind])
    if kind in _INTEGERS:
        return _varints(_numpy(array, null=0), _INTEGERS[kind], absent=_nulls(array))
    if kind in _BYTES:
        return _with_heads(array.cast(pa.binary()), _BYTES[kind]).fill_null(b"")
    if kind == pa.bool_():
        return _booleans().take(array.cast(pa.int8()).fill_null(2))
    if pa.types.is_timestamp(kind):
        return _varints(_timestamps(array, "s").astype(np.int64), _UNIX_TIMESTAMP)
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and kind.value_type in _LISTS:
        return _lists(array, _LISTS[kind.value_type])
    raise UsageError(
        f"a column of type {kind} has no encoding for the online store: cast it to an int32, "
        "int64, float, double, bool, string, binary or timestamp, or to a list of one of these "
        "but the last"
    )


def event_times(events: pa.Array | pa.ChunkedArray) -> pa.BinaryArray:
    """Each time stamp (UTC) as a serialized `Timestamp`, the value of Feast's field `_ts:<view>`.

    Raises:
        UsageError: not a column of time stamps, or a null in it.
    """
    seconds, rest = np.divmod(_event_microseconds(events).astype(np.int64), 1_000_000)
    nanos = rest * 1_000
    return joined(
        _varints(seconds, _SECONDS, absent=seconds == 0),  # protobuf leaves out what is zero
        _varints(nanos, _NANOS, absent=nanos == 0),
    )


def times(
    events: pa.Array | pa.ChunkedArray, created: pa.Array | pa.ChunkedArray
) -> tuple[pa.BinaryArray, pa.BinaryArray]:
    """The event times, and the values of our field `_created:<view>`: see `newer_wins`.

    A null created timestamp means the event time.

    Raises:
        UsageError: not columns of time stamps, or a null among the event times.
    """
    serialized = event_times(events)
    known = _timestamps(_array(created), "us")
    microseconds = np.where(np.isnat(known), _event_microseconds(events), known).astype(np.int64)
    return serialized, joined(serialized, _decimals(microseconds))


@cache
def _booleans() -> pa.BinaryArray:
    """Of false, true and null."""
    return pa.array([_FALSE, _TRUE, b""], pa.binary())


def _floats(array: Any, tag: bytes, number: str) -> pa.BinaryArray:
    numbers = _numpy(array).astype(number, copy=False)
    cells = _tagged(tag, len(array), numbers.itemsize)
    cells[:, len(tag) :] = numbers.view(np.uint8).reshape(len(array), numbers.itemsize)
    absent = np.isnan(numbers)  # a null is a NaN in NumPy
    if not absent.any():
        return from_cells(cells)
    return from_bounds(cells[~absent], bounds_of(~absent * cells.shape[1]))


def _varints(
    numbers: Integers, tag: bytes, *, absent: NDArray[np.bool_] | None = None
) -> pa.BinaryArray:
    """Per row its number as a varint behind the tag; nothing where it is `absent`."""
    if len(numbers) <= binary_arrays.FEW:
        texts = [tag + _varint(number) for number in numbers.tolist()]
        if absent is not None:
            texts = [b"" if no else text for no, text in zip(absent, texts, strict=True)]
        return pa.array(texts, pa.binary())
    unsigned = numbers.astype(np.int64, copy=False).view(np.uint64)
    width = max(1, -(-int(unsigned.max(initial=0)).bit_length() // 7))
    cells = _tagged(tag, len(numbers), width)
    lengths = np.full(len(numbers), len(tag) + 1)
    for place in range(len(tag), len(tag) + width):
        low = (unsigned & np.uint64(127)).astype(np.uint8)
        unsigned = unsigned >> np.uint64(7)
        more = unsigned != 0
        cells[:, place] = low | more.view(np.uint8) << np.uint8(7)
        lengths += more
    if absent is not None:
        lengths[absent] = 0
    return from_cells(cells, lengths)


def _varint(number: int) -> bytes:
    rest = number & 0xFFFF_FFFF_FFFF_FFFF
    groups = []
    while rest > 127:
        groups.append(rest & 127 | 128)
        rest >>= 7
    return bytes((*groups, rest))


def _with_heads(array: pa.BinaryArray, tag: bytes) -> pa.BinaryArray:
    """Each run of bytes behind the tag and its length; null where it is null."""
    return joined(_varints(_numpy(pc.binary_length(array), null=0), tag), array)


def _lists(array: Any, tag: bytes) -> pa.BinaryArray:
    items = array.flatten()  # without what lies under nulls
    bounds = bounds_of(_numpy(pc.list_value_length(array), null=0))
    if items.type in _BYTES:
        each = _with_heads(items.cast(pa.binary()).fill_null(b""), _ITEMS)
        message = regrouped(each, bounds)
    else:
        run = _run(items, bounds, array.type)
        lengths = lengths_of(run)
        message = joined(_varints(lengths, _ITEMS, absent=lengths == 0), run)
    heads = _varints(lengths_of(message), tag)
    whole = joined(heads, message)
    nulls = _nulls(array)
    if nulls is None:
        return whole
    return pc.if_else(pa.array(nulls), pa.scalar(b"", pa.binary()), whole)


def _run(items: Any, bounds: Integers, kind: pa.DataType) -> pa.BinaryArray:
    """The numbers of each list on end."""
    if items.type in _INTEGERS:
        if items.null_count:
            raise UsageError(f"a {kind} has a null inside a list: fill it with a number")
        return regrouped(_varints(_numpy(items), b""), bounds)
    if items.type in _FLOATS:
        numbers = _numpy(items).astype(_FLOATS[items.type][1], copy=False)
    else:
        numbers = _numpy(items, null=False).astype(np.uint8)
    return from_bounds(np.ascontiguousarray(numbers), bounds * numbers.itemsize)


def _key_parts(name: str, array: Any) -> tuple[pa.BinaryArray, ...]:
    if array.null_count:
        raise UsageError(f"the join key {name!r} is null in {array.null_count} rows: drop them")
    if array.type in _KEY_INTEGERS:
        number, size = _KEY_INTEGERS[array.type]
        head = pack("<II", number, size)
        cells = _tagged(head, len(array), size)
        numbers = _numpy(array).astype(f"<i{size}", copy=False)
        cells[:, len(head) :] = numbers.view(np.uint8).reshape(len(array), size)
        return (from_cells(cells),)
    if array.type in (pa.string(), pa.large_string()):
        text = array.cast(pa.binary())
        heads = np.empty((len(text), 2), "<u4")
        heads[:, 0] = _KEY_STRING
        heads[:, 1] = lengths_of(text)
        return from_cells(heads.view(np.uint8).reshape(len(text), 8)), text
    raise UsageError(
        f"the join key {name!r} is of type {array.type}: cast it to int32, int64 or string"
    )


def _decimals(numbers: Integers) -> pa.BinaryArray:
    """Each number with leading zeros, a minus in front of a negative one."""
    if len(numbers) <= binary_arrays.FEW:
        return pa.array([b"%0*d" % (_DIGITS, number) for number in numbers.tolist()], pa.binary())
    cells = np.empty((len(numbers), _DIGITS), np.uint8)
    rest = np.abs(numbers)
    for place in range(_DIGITS - 1, -1, -1):
        rest, digit = np.divmod(rest, 10)
        cells[:, place] = digit
    cells += np.uint8(ord("0"))
    cells[numbers < 0, 0] = ord("-")
    return from_cells(cells)


def _tagged(tag: bytes, rows: int, width: int) -> NDArray[np.uint8]:
    cells = np.empty((rows, len(tag) + width), np.uint8)
    cells[:, : len(tag)] = np.frombuffer(tag, np.uint8)
    return cells


def _event_microseconds(events: Any) -> NDArray[np.datetime64]:
    array = _array(events)
    if array.null_count:
        raise UsageError(f"the event time is null in {array.null_count} rows: drop them")
    return _timestamps(array, "us")


def _timestamps(array: Any, unit: str) -> NDArray[np.datetime64]:
    if not pa.types.is_timestamp(array.type):
        raise UsageError(f"a time is of type {array.type}: cast it to timestamp[us]")
    return _numpy(array).astype(f"datetime64[{unit}]")


def _nulls(array: Any) -> NDArray[np.bool_] | None:
    return _numpy(array.is_null()) if array.null_count else None


def _numpy(array: Any, *, null: int | None = None) -> NDArray[Any]:
    if null is not None and array.null_count:
        array = array.fill_null(null)
    found: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return found


def _array(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
