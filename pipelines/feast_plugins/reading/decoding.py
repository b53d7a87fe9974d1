"""Feast's bytes in Redis back into Python values, a column at once.

The values are those that `OnlineResponse.to_dict` of Feast gives for them. A cell is the bytes of
a `feast.types.Value`; an empty one is null, None stands for a field that is not there. Bytes that
are no value, or no time, are damaged: they count as null and as no time, and change nothing about
their neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from struct import Struct
from typing import Any, Final, NamedTuple

import numpy as np
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type
from feast.value_type import ValueType
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

Cells = Sequence[bytes | None]
Decoder = Callable[[Cells], list[Any]]

_KEPT: Final = 65_536  # values a memo holds at most
_SHORT: Final = 64  # bytes of the longest value it holds
_FEW: Final = 256  # rows up to which one `struct` call beats NumPy

_RECORDS: Final = {
    "d": np.dtype([("tag", "u1"), ("number", "<f8")]),
    "f": np.dtype([("tag", "u1"), ("number", "<f4")]),
}

_SCALARS: Final = frozenset(
    {
        ValueType.INT32,
        ValueType.INT64,
        ValueType.STRING,
        ValueType.BOOL,
        ValueType.UNIX_TIMESTAMP,
        ValueType.UUID,
        ValueType.TIME_UUID,
        ValueType.DECIMAL,
    }
)


FIXED: Final = _SCALARS | {ValueType.DOUBLE, ValueType.FLOAT}
"""Types whose Python values cannot be changed, so that answers may share them."""


@lru_cache
def decoder(kind: ValueType) -> Decoder:
    """What decodes a column of this declared type; a value stored as another type is as stored."""
    if kind == ValueType.DOUBLE:
        return partial(_floats, b"\x29", "d")  # field 5 of Value, eight bytes
    if kind == ValueType.FLOAT:
        return partial(_floats, b"\x35", "f")  # field 6, four bytes
    if kind in _SCALARS:
        memo = _Memo(partial(_value, kind))

        def scalars(cells: Cells) -> list[Any]:
            return [memo[cell] for cell in cells]

        return scalars

    def each(cells: Cells) -> list[Any]:
        return [_value(kind, cell) for cell in cells]

    return each


def value_message(cell: bytes | None) -> Value | None:
    """The value as a message, the empty one for null; None for a damaged one."""
    try:
        found = Value.FromString(cell or b"")
    except DecodeError:
        return None
    return None if cell and found.WhichOneof("val") is None else found


class EventTimes(NamedTuple):
    """The event times of a column of serialized `Timestamp`s.

    Attributes:
        stamps: as they are stored; None where there is none, or a damaged one.
        seconds: whole seconds since 1970; 0 where there is none.
        absent: the rows without one; `damaged` are those among them whose bytes are no time.
    """

    stamps: Cells
    seconds: list[int]
    absent: Sequence[int]
    damaged: int


def event_times(stamps: Cells) -> EventTimes:
    """Decode and check a column of event times."""
    if len(stamps) > 16 and None not in stamps:
        usual = _usual_seconds(stamps)
        if usual is not None:
            return EventTimes(stamps, usual, (), 0)
    found = [_SECONDS[stamp] for stamp in stamps]
    if None not in found:
        return EventTimes(stamps, found, (), 0)
    absent = [row for row, second in enumerate(found) if second is None]
    damaged = sum(stamps[row] is not None for row in absent)
    kept = [None if second is None else stamp for stamp, second in zip(stamps, found, strict=True)]
    return EventTimes(kept, [second or 0 for second in found], absent, damaged)


def event_time(stamp: bytes | None) -> Timestamp:
    """A sound serialized `Timestamp` as a message; the empty one for None."""
    return Timestamp.FromString(stamp or b"")


# Canonical, and from 1978 to 3058: the seconds are a varint of five bytes behind a tag. Nanoseconds
# of less than 805,306,368, beyond which a look at the number is needed.
_USUAL: Final = re.compile(
    rb"\x08[\x80-\xff]{4}[\x01-\x7f]"
    rb"(?:\x10(?:[\x80-\xff]{0,3}[\x01-\x7f]|[\x80-\xff]{4}[\x01\x02]))?",
    re.DOTALL,
).fullmatch
_FIRST, _LAST = -62_135_596_800, 253_402_300_799  # seconds of the years 1 to 9999

# Of a usual time by its length: which bytes have their highest bit set, and the byte in front of
# the nanoseconds, where there may be one.
_LONGEST: Final = 12
_MORE: Final = np.array(
    [
        [1 <= place <= 4 or 7 <= place < length - 1 for place in range(_LONGEST)]
        for length in range(_LONGEST + 1)
    ]
)
_TAG: Final = np.array([0] * 7 + [255] + [16] * (_LONGEST - 7), np.uint8)
_WEIGHTS: Final = np.zeros((_LONGEST, 2), np.int64)
_WEIGHTS[1:6, 0] = _WEIGHTS[7:12, 1] = 128 ** np.arange(5, dtype=np.int64)


class _Memo(dict[bytes | None, Any]):
    """Decoded values by their bytes; starts anew when it has grown too large."""

    def __init__(self, decode: Callable[[bytes | None], Any]) -> None:
        super().__init__()
        self._decode = decode

    def __missing__(self, cell: bytes | None) -> Any:
        value = self._decode(cell)
        if isinstance(value, list | set | dict):  # stored as another type than declared
            return value
        if cell is None or len(cell) <= _SHORT:
            if len(self) >= _KEPT:
                self.clear()
            self[cell] = value
        return value


_NOT_A_VALUE: Final = (DecodeError, ValueError, TypeError, ArithmeticError, OSError)


def _value(kind: ValueType, cell: bytes | None) -> Any:
    try:
        return feast_value_type_to_python_type(Value.FromString(cell), kind) if cell else None
    except _NOT_A_VALUE:
        return None


def _floats(tag: bytes, number: str, cells: Cells) -> list[Any]:
    try:
        joined = b"".join(cells)  # type: ignore[arg-type]  # with a None among them it raises
    except TypeError:
        return _sparse(tag, number, cells)
    record = _RECORDS[number]
    if len(joined) != record.itemsize * len(cells):
        return _sparse(tag, number, cells)
    if joined[:: record.itemsize] != tag * len(cells):
        return [_value(ValueType.UNKNOWN, cell) for cell in cells]
    if len(cells) <= _FEW:
        return list(_struct(number, len(cells)).unpack(joined))
    found: list[Any] = np.frombuffer(joined, record)["number"].tolist()
    return found


def _sparse(tag: bytes, number: str, cells: Cells) -> list[Any]:
    size = _RECORDS[number].itemsize
    if any(len(cell) != size for cell in cells if cell):  # stored as another type, or damaged
        return [_value(ValueType.UNKNOWN, cell) for cell in cells]
    values = iter(_floats(tag, number, [cell for cell in cells if cell]))
    return [next(values) if cell else None for cell in cells]


@lru_cache(maxsize=_FEW)
def _struct(number: str, rows: int) -> Struct:
    return Struct("<" + ("x" + number) * rows)


def _usual_seconds(stamps: Cells) -> list[int] | None:
    """The seconds of times that are all usual ones; None if one of them is not."""
    lengths = np.fromiter(map(len, stamps), np.intp, len(stamps))  # type: ignore[arg-type]
    if lengths.max() > _LONGEST or lengths.min() < 6:
        return None
    padded = b"".join([stamp.ljust(_LONGEST, b"\0") for stamp in stamps if stamp])
    cells = np.frombuffer(padded, np.uint8).reshape(-1, _LONGEST)
    last = cells[np.arange(len(stamps)), lengths - 1]
    sound = (
        ((cells > 127) == _MORE[lengths]).all()
        and (cells[:, 0] == 8).all()
        and (cells[:, 6] == _TAG[lengths]).all()
        and last.all()
    )
    if not sound:
        return None
    numbers = (cells & 127) @ _WEIGHTS
    if numbers[:, 1].max() > 999_999_999:
        return None
    seconds: list[int] = numbers[:, 0].tolist()
    return seconds


def _seconds(stamp: bytes | None) -> int | None:
    """The seconds of a time; None if it is damaged: whatever no writer of Feast's would write."""
    if stamp is None:
        return None
    try:
        time = Timestamp.FromString(stamp)
    except DecodeError:
        return None
    seconds: int = time.seconds
    if _USUAL(stamp):
        return seconds
    sound = _FIRST <= seconds <= _LAST and 0 <= time.nanos < 1_000_000_000
    canonical = sound and Timestamp(seconds=seconds, nanos=time.nanos).SerializeToString() == stamp
    return seconds if canonical else None


_SECONDS: Final = _Memo(_seconds)
