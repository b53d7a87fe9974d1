"""Columns of a declared type, encoded in bulk or by Feast's own conversion: the same bytes."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

from pipelines.errors import UsageError
from pipelines.feast_plugins.writing import column_values
from pipelines.feast_plugins.writing.column_values import feature_values, redis_keys

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32(), pa.uint64()]
IN_BULK: list[tuple[ValueType, pa.DataType, list[Any]]] = [
    *((ValueType.INT64, kind, [1, 0, None, 7]) for kind in INTEGERS),
    *((ValueType.INT32, kind, [1, 0, None, 7]) for kind in INTEGERS),
    (ValueType.FLOAT, pa.float32(), [0.5, None, -1.25]),
    (ValueType.FLOAT, pa.float64(), [0.1, None, 1e-50]),  # rounded, as Feast does
    (ValueType.DOUBLE, pa.float64(), [0.1, None]),
    (ValueType.BOOL, pa.bool_(), [True, None, False]),
    (ValueType.STRING, pa.string(), ["é", "", None]),
    (ValueType.STRING, pa.large_string(), ["é", "", None]),
    (ValueType.BYTES, pa.large_binary(), [b"\x00", None]),
    (ValueType.PDF_BYTES, pa.binary(), [b"%PDF", None]),
    (ValueType.INT64_LIST, pa.list_(pa.int16()), [[1, 2], []]),
    (ValueType.INT64_LIST, pa.large_list(pa.int64()), [[1, 2], []]),
    (ValueType.FLOAT_LIST, pa.list_(pa.float64()), [[0.1, 2.0]]),
    (ValueType.DOUBLE_LIST, pa.list_(pa.float32()), [[0.5, 2.0]]),
    (ValueType.STRING_LIST, pa.list_(pa.large_string()), [["a", "é"], []]),
    (ValueType.BOOL_LIST, pa.list_(pa.bool_()), [[True, False]]),
    (ValueType.INT64_LIST, pa.list_(pa.int64(), 2), [[1, 2], [3, 4]]),
    (ValueType.STRING, pa.dictionary(pa.int8(), pa.string()), ["a", None, "b", "a"]),
]


@pytest.mark.parametrize(
    ("declared", "kind", "given"), IN_BULK, ids=[f"{d.name} {k}" for d, k, _ in IN_BULK]
)
def test_values_are_as_feast_writes_them_without_asking_feast(
    declared: ValueType, kind: pa.DataType, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every type from which nothing is lost is encoded in bulk."""
    wanted = [value.SerializeToString() for value in python_values_to_proto_values(given, declared)]
    monkeypatch.setattr(column_values, "python_values_to_proto_values", None)  # to ask would fail
    found = feature_values(declared, pa.array(given, kind))
    assert found.type == pa.binary()
    assert found.to_pylist() == wanted


@pytest.mark.parametrize(
    ("declared", "column"),
    [
        (ValueType.JSON, pa.array(['{"a": 1}', None])),
        (ValueType.INT64, pa.array([1.0, 2.0])),
        (ValueType.UNIX_TIMESTAMP, pa.array([1, 2], pa.int64())),
        (ValueType.UNIX_TIMESTAMP, pa.array([], pa.int64())),
    ],
)
def test_other_columns_are_converted_by_feast(declared: ValueType, column: pa.Array) -> None:
    """Value by value, as its engine would."""
    found = feature_values(declared, column)
    wanted = python_values_to_proto_values(column.to_pylist(), declared)
    assert found.type == pa.binary()
    assert [Value.FromString(text) for text in found.to_pylist()] == list(wanted)


@pytest.mark.parametrize(
    ("declared", "column", "line"),
    [
        (ValueType.INT32, pa.array([2**40]), "a value does not fit INT32: .*1099511627776"),
        (ValueType.INT64, pa.array(["a"]), "a column of type string cannot be stored as INT64: "),
        (
            ValueType.STRING_LIST,
            pa.array([1, 2]),
            "a column of type int64 cannot be stored as STRING_LIST: ",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(
    declared: ValueType, column: pa.Array, line: str
) -> None:
    """With the types, and what is wrong."""
    with pytest.raises(UsageError, match=line) as caught:
        feature_values(declared, column)
    assert "\n" not in str(caught.value)


KEYS: list[tuple[dict[str, ValueType], dict[str, pa.Array]]] = [
    ({"user_id": ValueType.INT64}, {"user_id": pa.array([1, -2], pa.int64())}),
    ({"user_id": ValueType.INT64}, {"user_id": pa.array([1, 2], pa.uint8())}),
    ({"user_id": ValueType.INT32}, {"user_id": pa.array([1, 2], pa.int64())}),
    (
        {"b": ValueType.STRING, "a": ValueType.INT64},
        {"a": pa.array([3, 4]), "b": pa.array(["x", "é"], pa.large_string())},
    ),
    (
        {"b": ValueType.STRING},
        {"b": pa.array(["x", "y"]).dictionary_encode()},
    ),
]


@pytest.mark.parametrize(("declared", "columns"), KEYS)
def test_keys_are_as_feast_makes_them(
    declared: dict[str, ValueType], columns: dict[str, pa.Array]
) -> None:
    """Of one part or several, whatever the columns' types; the project stands behind."""
    names = sorted(declared)
    field = {
        ValueType.INT64: "int64_val",
        ValueType.INT32: "int32_val",
        ValueType.STRING: "string_val",
    }
    wanted = []
    for row in range(2):
        parts = [Value(**{field[declared[n]]: columns[n][row].as_py()}) for n in names]
        key = EntityKey(join_keys=names, entity_values=parts)
        wanted.append(serialize_entity_key(key, entity_key_serialization_version=3) + b"shop")
    found = redis_keys(declared, columns, "shop")
    assert found.type == pa.binary()
    assert found.to_pylist() == wanted


def test_keys_that_feast_alone_knows_are_made_by_feast() -> None:
    """A float that is declared an integer, say; a key without a value is refused."""
    declared = {"user_id": ValueType.INT64}
    (found,) = redis_keys(declared, {"user_id": pa.array([7.0])}, "shop").to_pylist()
    (wanted,) = redis_keys(declared, {"user_id": pa.array([7])}, "shop").to_pylist()
    assert found == wanted
    for column in (pa.array([None], pa.int64()), pa.array([None], pa.float64())):
        with pytest.raises(UsageError):
            redis_keys(declared, {"user_id": column}, "shop")
