"""Feast's bytes in Redis back into Python values, a column at once.

The values are those that `OnlineResponse.to_dict` of Feast gives for them. A cell is the bytes of
a `feast.types.Value`; an empty one is null, None stands for a field that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from struct import Struct
from typing import Any, Final

import numpy as np
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type
from feast.value_type import ValueType
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


def event_seconds(stamps: Cells) -> list[int]:
    """The whole seconds since 1970 of serialized `Timestamp`s; 0 for None."""
    if len(stamps) <= 16 or None in stamps:
        return [_seconds(stamp) for stamp in stamps]
    # From 1978 to 3058 the seconds are a varint of five bytes behind a tag.
    heads = np.frombuffer(
        b"".join([stamp[:6].ljust(6, b"\xff") for stamp in stamps if stamp]), "u1"
    )
    if heads.size != 6 * len(stamps):
        return [_seconds(stamp) for stamp in stamps]
    cells = heads.reshape(-1, 6)
    if (cells[:, 0] != 8).any() or (cells[:, 1:5] < 128).any() or (cells[:, 5] > 127).any():
        return [_seconds(stamp) for stamp in stamps]
    seconds: list[int] = ((cells[:, 1:] & 127) @ _WEIGHTS).tolist()
    return seconds


def event_time(stamp: bytes | None) -> Timestamp:
    """A serialized `Timestamp` as a message; the empty one for None."""
    return Timestamp.FromString(stamp or b"")


_WEIGHTS: Final = 128 ** np.arange(5, dtype=np.int64)


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


def _value(kind: ValueType, cell: bytes | None) -> Any:
    return feast_value_type_to_python_type(Value.FromString(cell), kind) if cell else None


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
    present = [cell for cell in cells if cell]
    if len(present) == len(cells):  # of differing lengths: stored as another type
        return [_value(ValueType.UNKNOWN, cell) for cell in cells]
    values = iter(_floats(tag, number, present))
    return [next(values) if cell else None for cell in cells]


@lru_cache(maxsize=_FEW)
def _struct(number: str, rows: int) -> Struct:
    return Struct("<" + ("x" + number) * rows)


def _seconds(stamp: bytes | None) -> int:
    seconds: int = Timestamp.FromString(stamp).seconds if stamp else 0
    return seconds
