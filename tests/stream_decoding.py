"""Feast's layout in Redis, decoded without Feast, whose import takes seconds."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

Row = dict[str, Any]
EPOCH = datetime(1970, 1, 1)


def entity_key(key: bytes) -> Row:
    """The join keys in a Redis key."""
    (count,) = struct.unpack_from("<I", key)
    at, names, values = 4, [], []
    for _ in range(count):
        size = struct.unpack_from("<II", key, at)[1]
        names.append(key[at + 8 : at + 8 + size].decode())
        at += 8 + size
    for _ in range(count):
        kind, size = struct.unpack_from("<II", key, at)
        text = key[at + 8 : at + 8 + size]
        values.append(text.decode() if kind == 2 else int.from_bytes(text, "little", signed=True))
        at += 8 + size
    return dict(zip(names, values, strict=True))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: number, and integer, eight bytes or bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value - (1 << 64) if value >> 63 else value
        else:
            size, at = (8, at) if tag & 7 == 1 else _varint(message, at)
            yield tag >> 3, message[at : at + size]
            at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def instant(message: bytes) -> datetime:
    """A `google.protobuf.Timestamp`."""
    parts = dict(_fields(message))
    return EPOCH + timedelta(seconds=parts.get(1, 0), microseconds=parts.get(2, 0) // 1000)


def value(message: bytes, kind: Any) -> Any:
    """A `feast.types.Value` that holds an Arrow type; None if it is empty."""
    for _, found in _fields(message):
        if str(kind) == "string":
            return found.decode()
        if str(kind) == "double":
            return struct.unpack("<d", found)[0]
        if str(kind) == "bool":
            return bool(found)
        if str(kind).startswith("list"):
            items = [item for _, item in _fields(found)]
            if "string" in str(kind):
                return [item.decode() for item in items]
            return [number for item in items for (number,) in struct.iter_unpack("<d", item)]
        return found
    return None
