"""Types of values in declarations, and what the operations make of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from pipelines.tables.declare import INTEGER, MONEY, NUMBER, TEXT, TEXTS, TIME


@dataclass(frozen=True)
class Type:
    """The type of a value.

    Attributes:
        kind: whole, number, text, time, span, flag, texts or numbers.
        scale: of a whole number, the digits behind the point: 1999 at scale 2 is 19.99.
    """

    kind: str
    scale: int = 0

    def __str__(self) -> str:
        return f"whole number of {self.scale} decimals" if self.scale else WORDS[self.kind]


WHOLE: Final = Type("whole")
FLOAT: Final = Type("number")
STRING: Final = Type("text")
INSTANT: Final = Type("time")
SPAN: Final = Type("span")
"""Microseconds between two times."""
FLAG: Final = Type("flag")
STRINGS: Final = Type("texts")
FLOATS: Final = Type("numbers")
WORDS: Final[Mapping[str, str]] = {
    "whole": "whole number",
    "number": "number",
    "text": "text",
    "time": "time stamp",
    "span": "span of time",
    "flag": "flag",
    "texts": "list of texts",
    "numbers": "list of numbers",
}
OF_COLUMN: Final[Mapping[str, Type]] = {
    INTEGER: WHOLE,
    NUMBER: FLOAT,
    MONEY: Type("whole", 2),
    TEXT: STRING,
    TIME: INSTANT,
    TEXTS: STRINGS,
}
"""The type of a log's column in declarations: money is exact, in cents."""
IBIS: Final[Mapping[str, str]] = {
    "whole": "int64",
    "number": "float64",
    "text": "string",
    "time": "timestamp(6)",
    "span": "int64",
    "flag": "boolean",
    "texts": "array<string>",
    "numbers": "array<float64>",
}


def is_numeric(found: Type) -> bool:
    """Whether one can calculate with it."""
    return found.kind in ("whole", "number")


ARROW: Final[Mapping[str, pa.DataType]] = {
    "whole": pa.int64(),
    "number": pa.float64(),
    "text": pa.string(),
    "flag": pa.bool_(),
    "texts": pa.list_(pa.string()),
    "numbers": pa.list_(pa.float64()),
}
"""The types in which features are published."""
