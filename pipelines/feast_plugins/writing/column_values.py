"""A column of a declared Feast type in the bytes that stock Feast writes for it.

Where the column has the type that `encoding` knows, or one from which nothing is lost, it is
encoded at once. Every other combination goes through Feast's own conversion, value by value, as
its local compute engine would call it, and is refused where Feast refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
from feast.infra.online_stores.helpers import _redis_key
from feast.type_map import python_values_to_proto_values
from feast.utils import _build_entity_keys
from feast.value_type import ValueType

from pipelines.errors import UsageError
from pipelines.feast_plugins.writing.encoding import entity_keys, values

_INTEGERS: Final = (
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
    *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
)
_TEXTS: Final = (pa.string(), pa.large_string())
_BYTES: Final = (pa.binary(), pa.large_binary())
_SINGLE: Final = (pa.float32(), pa.float64())

# By declared type: what a column is encoded as, and the types it may have. What Feast refuses is
# not among them, for instance a single-precision column that is declared Float64.
_SCALARS: Final[Mapping[ValueType, tuple[pa.DataType, tuple[pa.DataType, ...]]]] = {
    ValueType.INT32: (pa.int32(), _INTEGERS),
    ValueType.INT64: (pa.int64(), _INTEGERS),
    ValueType.FLOAT: (pa.float32(), _SINGLE),
    ValueType.DOUBLE: (pa.float64(), (pa.float64(),)),
    ValueType.BOOL: (pa.bool_(), (pa.bool_(),)),
    ValueType.STRING: (pa.string(), _TEXTS),
    ValueType.BYTES: (pa.binary(), _BYTES),
    ValueType.PDF_BYTES: (pa.binary(), _BYTES),
    ValueType.IMAGE_BYTES: (pa.binary(), _BYTES),
}
_LISTS: Final[Mapping[ValueType, tuple[pa.DataType, tuple[pa.DataType, ...]]]] = {
    ValueType.INT32_LIST: (pa.int32(), _INTEGERS),
    ValueType.INT64_LIST: (pa.int64(), _INTEGERS),
    ValueType.FLOAT_LIST: (pa.float32(), _SINGLE),
    ValueType.DOUBLE_LIST: (pa.float64(), _SINGLE),
    ValueType.BOOL_LIST: (pa.bool_(), (pa.bool_(),)),
    ValueType.STRING_LIST: (pa.string(), _TEXTS),
    ValueType.BYTES_LIST: (pa.binary(), _BYTES),
}
_KEYS: Final = {
    ValueType.INT32: (pa.int32(), _INTEGERS),
    ValueType.INT64: (pa.int64(), _INTEGERS),
    ValueType.STRING: (pa.string(), _TEXTS),
}


def feature_values(declared: ValueType, column: pa.Array) -> pa.BinaryArray:
    """Each value as a serialized `feast.types.Value`.

    Raises:
        UsageError: the column cannot hold values of the declared type, or holds one that does not
            fit it.
    """
    column = _decoded(column)
    kind = _kind(declared, column.type)
    if kind is None:
        protos = _by_feast(declared, column)
        return pa.array([proto.SerializeToString() for proto in protos], pa.binary())
    return values(_cast(declared, column, kind))


def redis_keys(
    declared: Mapping[str, ValueType], columns: Mapping[str, pa.Array], project: str
) -> pa.BinaryArray:
    """The Redis key of each row (version 3 of Feast's entity keys).

    Args:
        declared: the type of each join key, by name.
        columns: the join keys' columns, by name.
        project: the Feast project; its name ends every key.

    Raises:
        UsageError: a null in a key, or a value that does not fit the declared type.
    """
    columns = {name: _decoded(columns[name]) for name in declared}
    if all(columns[name].type in _KEYS.get(kind, (None, ()))[1] for name, kind in declared.items()):
        cast = {name: _cast(kind, columns[name], _KEYS[kind][0]) for name, kind in declared.items()}
        return entity_keys(cast, project)
    protos = {name: _by_feast(kind, columns[name]) for name, kind in declared.items()}
    rows = len(next(iter(columns.values())))
    try:
        keys = _build_entity_keys(rows, dict(declared), protos)
        return pa.array([_redis_key(project, key, 3) for key in keys], pa.binary())
    except ValueError as error:
        raise UsageError(f"the join keys {list(declared)}: {_line(error)}") from error


def _kind(declared: ValueType, kind: pa.DataType) -> pa.DataType | None:
    """The type to cast a column to; None if Feast has to convert it."""
    if declared is ValueType.UNIX_TIMESTAMP:
        return kind if pa.types.is_timestamp(kind) else None
    if declared in _SCALARS:
        target, known = _SCALARS[declared]
        return target if kind in known else None
    if declared in _LISTS and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        target, known = _LISTS[declared]
        return pa.list_(target) if kind.value_type in known else None
    return None


def _cast(declared: ValueType, column: Any, kind: pa.DataType) -> Any:
    if column.type == kind:
        return column
    lossy = declared in (ValueType.FLOAT, ValueType.FLOAT_LIST)  # rounds, as Feast does
    try:
        return column.cast(kind, safe=not lossy)
    except pa.ArrowInvalid as error:
        raise UsageError(f"a value does not fit {declared.name}: {_line(error)}") from error


def _by_feast(declared: ValueType, column: Any) -> list[Any]:
    # Its engine passes every table through pandas, which gives some values another type.
    frame = pa.table({"column": column}).to_pandas()
    passed = pa.Table.from_pandas(frame, preserve_index=False).column(0).combine_chunks()
    try:
        return list(python_values_to_proto_values(passed.to_numpy(zero_copy_only=False), declared))
    except (AssertionError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(
            f"a column of type {column.type} cannot be stored as {declared.name}: {_line(error)}"
        ) from error


def _decoded(column: Any) -> Any:
    if pa.types.is_dictionary(column.type):
        return column.dictionary_decode()
    if pa.types.is_fixed_size_list(column.type):
        return column.cast(pa.list_(column.type.value_type))
    return column


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
