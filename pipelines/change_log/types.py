"""DuckDB's types and Arrow's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from pipelines.tables.declare import INTEGER, MONEY, NUMBER, TEXT, TEXTS, TIME

ARROW_TYPES: Final[Mapping[str, pa.DataType]] = {
    INTEGER: pa.int64(),
    NUMBER: pa.float64(),
    MONEY: pa.decimal128(10, 2),
    TEXT: pa.string(),
    TIME: pa.timestamp("us"),
    TEXTS: pa.list_(pa.string()),
    "DOUBLE[]": pa.list_(pa.float64()),
    "BOOLEAN": pa.bool_(),
    "UBIGINT": pa.uint64(),
}
DUCKDB_TYPES: Final[Mapping[pa.DataType, str]] = {kind: name for name, kind in ARROW_TYPES.items()}
