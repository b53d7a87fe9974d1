"""Every value type of Feast's type system: its values, and a Parquet column that may hold them."""

from __future__ import annotations

import decimal
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from random import Random
from typing import Any, Final

import pyarrow as pa
from feast import types
from feast.type_map import python_values_to_proto_values

Make = Callable[[Random], Any]

MICROSECONDS: Final = pa.timestamp("us", tz="UTC")
EXACT: Final = 2**53  # beyond it stock Feast loses digits of a column that has nulls


@dataclass(frozen=True)
class Kind:
    """A Feast type and the values to try.

    Attributes:
        dtype: the declared type of the feature.
        value: a random value, as Feast's own conversion to protobuf takes it.
        stored: the type of a Parquet column of such values; None where stock Feast materializes
            the type from no column.
        nullable: whether such a column may have nulls. Feast reads whole numbers beside nulls as
            doubles, and so writes "1.0" for the text of 1, doubles inside a struct, and null for
            every time: what a row becomes depends on which rows are written with it.
    """

    dtype: Any
    value: Make
    stored: pa.DataType | None = None
    nullable: bool = True

    def proto(self, value: Any) -> Any:
        """A value (None for null) as Feast's message."""
        return python_values_to_proto_values([value], self.dtype.to_value_type())[0]


def _text(random: Random) -> str:
    return random.choice(["", "a", "ü€", "two words", "a:b\x00c", '"quoted"', "long " * 60])


def _number(random: Random) -> float:
    return random.choice([0.0, -0.0, 1.5, -2.25e300, 1e-320, random.uniform(-9, 9), float("inf")])


def _small(random: Random) -> float:
    return random.choice([0.0, 1.5, -2.25, float("-inf"), random.randrange(-999, 999) / 8])


def _or_nan(number: Make) -> Make:
    return lambda random: float("nan") if random.random() < 0.1 else number(random)


def _bytes(random: Random) -> bytes:
    return random.choice([b"", b"a", b"\xff\x00", random.randbytes(5), bytes(200)])


def _int32(random: Random) -> int:
    return random.choice([0, 1, -1, 127, 128, -(2**31), 2**31 - 1, random.randrange(-999, 999)])


def _int64(random: Random) -> int:
    return random.choice([0, 1, -1, 300, -EXACT, EXACT, random.randrange(-(2**40), 2**40)])


def _wide_int64(random: Random) -> int:
    return random.choice([-(2**63), 2**63 - 1, EXACT + 1, _int64(random)])


def _bool(random: Random) -> bool:
    return random.random() < 0.5


def _timestamp(random: Random) -> datetime:
    return random.choice(
        [
            datetime(1970, 1, 1, tzinfo=UTC),
            datetime(1960, 5, 1, 2, 3, 4, tzinfo=UTC),
            datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC) + timedelta(seconds=_int32(random)),
        ]
    )


def _timestamp_with_fraction(random: Random) -> datetime:
    return _timestamp(random) + timedelta(microseconds=random.choice([0, 1, 999_999]))


def _day(random: Random) -> date:
    return _timestamp(random).date()


def _zoned(random: Random) -> datetime:
    return _timestamp(random).astimezone(timezone(timedelta(hours=random.choice([0, 5.5, -7]))))


def _uuid(random: Random) -> str:
    return str(uuid.UUID(int=random.getrandbits(128)))


def _decimal(random: Random) -> str:
    return random.choice(["0", "1.50", "-3", "12345678901234567890.123456789", "1E+3"])


def _map(random: Random) -> dict[str, Any]:
    return random.choice([{}, {"a": 1}, {"b": "text", "c": 1.5}, {"d": {"e": True}}, {"f": None}])


def _json(random: Random) -> str:
    return random.choice(["{}", "null", "[1, 2.5]", '"text"', json.dumps(_map(random))])


def _scalar_map(random: Random) -> dict[Any, Any]:
    return random.choice([{1: "a", -2: None}, {True: 1.5}, {2.5: 3}, {b"\xff": "x"}])


def _struct(random: Random) -> dict[str, Any]:
    return {"whole": _int64(random), "text": _text(random)}


def _listed(item: Make, length: int = 4, null: float = 0.0) -> Make:
    def make(random: Random) -> list[Any]:
        size = random.randrange(length)
        return [None if random.random() < null else item(random) for _ in range(size)]

    return make


def _distinct(item: Make) -> Make:
    def make(random: Random) -> list[Any]:
        return list({item(random): None for _ in range(random.randrange(1, 4))})

    return make


def _pair_of_floats(random: Random) -> list[float]:
    return [_small(random), 1.0]


def _some(item: Make) -> Make:
    def make(random: Random) -> list[Any]:
        return [item(random) for _ in range(random.randrange(1, 3))]

    return make


_TEXT, _WHOLE = pa.string(), pa.int64()
_STRUCT = types.Struct({"whole": types.Int64, "text": types.String})
_STRUCT_STORED = pa.struct({"whole": _WHOLE, "text": _TEXT})

KINDS: Final = {
    "bytes": Kind(types.Bytes, _bytes, pa.binary()),
    "string": Kind(types.String, _text, _TEXT),
    "int32": Kind(types.Int32, _int32, pa.int32()),
    "int64": Kind(types.Int64, _int64, _WHOLE),
    "float64": Kind(types.Float64, _or_nan(_number), pa.float64()),
    "float32": Kind(types.Float32, _or_nan(_small), pa.float32()),
    "bool": Kind(types.Bool, _bool, pa.bool_()),
    "timestamp": Kind(types.UnixTimestamp, _timestamp_with_fraction, MICROSECONDS),
    "pdf": Kind(types.PdfBytes, _bytes, pa.binary()),
    "image": Kind(types.ImageBytes, _bytes, pa.binary()),
    "json": Kind(types.Json, _json, _TEXT),
    "uuid": Kind(types.Uuid, _uuid, _TEXT),
    "time_uuid": Kind(types.TimeUuid, _uuid, _TEXT),
    "decimal": Kind(types.Decimal, _decimal, _TEXT),
    "map": Kind(types.Map, lambda random: json.dumps(_map(random)), _TEXT),
    "struct": Kind(_STRUCT, _struct, _STRUCT_STORED, nullable=False),
    "zoned": Kind(types.ZonedTimestamp, _zoned),
    "scalar_map": Kind(types.ScalarMap, _scalar_map),
    # Lists. A null inside one is a value to Feast, but for integers an error.
    "list_bytes": Kind(types.Array(types.Bytes), _listed(_bytes, null=0.2), pa.list_(pa.binary())),
    "list_string": Kind(types.Array(types.String), _listed(_text, null=0.2), pa.list_(_TEXT)),
    "list_int32": Kind(types.Array(types.Int32), _listed(_int32), pa.list_(pa.int32())),
    "list_int64": Kind(types.Array(types.Int64), _listed(_wide_int64, 40), pa.list_(_WHOLE)),
    "list_float64": Kind(
        types.Array(types.Float64), _listed(_or_nan(_number), 40, null=0.1), pa.list_(pa.float64())
    ),
    "list_float32": Kind(
        types.Array(types.Float32), _listed(_or_nan(_small), null=0.1), pa.list_(pa.float32())
    ),
    "list_bool": Kind(types.Array(types.Bool), _listed(_bool, null=0.1), pa.list_(pa.bool_())),
    "list_timestamp": Kind(
        types.Array(types.UnixTimestamp), _listed(_timestamp), pa.list_(MICROSECONDS)
    ),
    "list_uuid": Kind(types.Array(types.Uuid), _listed(_uuid), pa.list_(_TEXT)),
    "list_time_uuid": Kind(types.Array(types.TimeUuid), _listed(_uuid), pa.list_(_TEXT)),
    "list_decimal": Kind(types.Array(types.Decimal), _listed(_decimal), pa.list_(_TEXT)),
    "list_json": Kind(types.Array(types.Json), _listed(_json), pa.list_(_TEXT)),
    "list_map": Kind(types.Array(types.Map), _listed(_map)),
    "list_struct": Kind(types.Array(_STRUCT), _listed(_struct), pa.list_(_STRUCT_STORED)),
    "list_list": Kind(
        types.Array(types.Array(types.Int64)), _some(_some(_int64)), pa.list_(pa.list_(_WHOLE))
    ),
    # Sets.
    "set_bytes": Kind(types.Set(types.Bytes), _distinct(_bytes), pa.list_(pa.binary())),
    "set_string": Kind(types.Set(types.String), _distinct(_text), pa.list_(_TEXT)),
    "set_int32": Kind(types.Set(types.Int32), _distinct(_int32), pa.list_(pa.int32())),
    "set_int64": Kind(types.Set(types.Int64), _distinct(_wide_int64), pa.list_(_WHOLE)),
    "set_float64": Kind(types.Set(types.Float64), _distinct(_number), pa.list_(pa.float64())),
    "set_float32": Kind(types.Set(types.Float32), _distinct(_small), pa.list_(pa.float32())),
    "set_bool": Kind(types.Set(types.Bool), _distinct(_bool), pa.list_(pa.bool_())),
    "set_timestamp": Kind(
        types.Set(types.UnixTimestamp), _distinct(_timestamp), pa.list_(MICROSECONDS)
    ),
    "set_uuid": Kind(types.Set(types.Uuid), _distinct(_uuid), pa.list_(_TEXT)),
    "set_time_uuid": Kind(types.Set(types.TimeUuid), _distinct(_uuid), pa.list_(_TEXT)),
    "set_decimal": Kind(types.Set(types.Decimal), _distinct(_decimal), pa.list_(_TEXT)),
    "set_list": Kind(
        types.Set(types.Array(types.String)), _some(_some(_text)), pa.list_(pa.list_(_TEXT))
    ),
    # Columns of another type than the declared one, which stock Feast converts.
    "int32_from_int16": Kind(types.Int32, lambda random: random.randrange(-9, 9), pa.int16()),
    "int64_from_uint8": Kind(types.Int64, lambda random: random.randrange(256), pa.uint8()),
    "int64_from_float64": Kind(types.Int64, lambda random: random.randrange(-9, 9), pa.float64()),
    "float64_from_int64": Kind(types.Float64, lambda random: random.randrange(-9, 9), _WHOLE),
    "string_from_int64": Kind(
        types.String, lambda random: random.randrange(-9, 9), _WHOLE, nullable=False
    ),
    "string_from_large": Kind(types.String, _text, pa.large_string()),
    "string_from_codes": Kind(types.String, _text, pa.dictionary(pa.int32(), _TEXT)),
    "timestamp_from_naive": Kind(types.UnixTimestamp, _timestamp_with_fraction, pa.timestamp("us")),
    "timestamp_from_date": Kind(types.UnixTimestamp, _day, pa.date32()),
    "timestamp_from_milliseconds": Kind(
        types.UnixTimestamp, _timestamp, pa.timestamp("ms", tz="UTC")
    ),
    "timestamp_from_int64": Kind(
        types.UnixTimestamp, lambda random: random.randrange(2**31), _WHOLE, nullable=False
    ),
    "decimal_from_decimal": Kind(
        types.Decimal,
        lambda random: decimal.Decimal(random.randrange(-999, 999)) / 100,
        pa.decimal128(12, 2),
    ),
    "list_float32_from_fixed": Kind(
        types.Array(types.Float32), _pair_of_floats, pa.list_(pa.float32(), 2)
    ),
}


def column(kind: Kind, values: list[Any]) -> pa.Array:
    """Values of a kind as the column that Parquet holds."""
    assert kind.stored is not None
    if pa.types.is_dictionary(kind.stored):
        return pa.array(values, kind.stored.value_type).dictionary_encode()
    if pa.types.is_timestamp(kind.stored) and kind.stored.tz is None:
        values = [value and value.replace(tzinfo=None) for value in values]
    return pa.array(values, kind.stored)
