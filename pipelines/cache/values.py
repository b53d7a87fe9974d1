"""Encodes values as JSON that decodes to equal values and that other programs can read.

A value that JSON lacks becomes an object with one key: `{"$datetime": "2024-04-01T12:00:00"}`,
`$date`, `$decimal`, `$bytes` (base64), `$float` (nan, inf, -inf). A caller's object that
could be mistaken for one of these becomes `{"$object": [[key, value], …]}`. Tuples and arrays come
back as lists, pandas' NaT as None; keys are text.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from pipelines.errors import UsageError

_TAG: Final = '{"$'

_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$decimal": Decimal,
    "$bytes": base64.b64decode,
    "$float": float,
    "$object": dict,
}


def to_json(value: Any) -> str:
    """The value as one line of compact JSON.

    Raises:
        UsageError: something in it has a type that the cache cannot store.
    """
    tags = 0

    def tagged(other: Any) -> Any:
        nonlocal tags
        written = _tagged(other)
        tags += isinstance(written, dict)
        return written

    # json's C code handles nearly every value; only the others are walked through here.
    try:
        text = _encode(value, tagged)
    except ValueError:  # a float that is not finite
        return _encode(_plain(value), _tagged)
    if text.count(_TAG) > tags:  # an object of the caller's looks like one of ours
        return _encode(_plain(value), _tagged)
    return text


def from_json(text: str | bytes) -> Any:
    """The value that `to_json` encoded.

    Raises:
        ValueError: it is not JSON, or a value in it cannot be decoded.
    """
    has_tags = _TAG.encode() in text if isinstance(text, bytes) else _TAG in text
    return json.loads(text, object_hook=_read) if has_tags else json.loads(text)


def _encode(value: Any, default: Callable[[Any], Any]) -> str:
    return json.dumps(value, default=default, separators=(",", ":"), allow_nan=False)


def _tagged(value: Any) -> Any:
    """Convert a value that json cannot encode to one that it can."""
    match value:
        case datetime():
            # NaT is a datetime, but not equal to itself.
            return {"$datetime": value.isoformat()} if value == value else None
        case date():
            return {"$date": value.isoformat()}
        case Decimal():
            return {"$decimal": str(value)}
        case bytes():
            return {"$bytes": base64.b64encode(value).decode("ascii")}
    # numpy's scalars and arrays, without importing it. Its own times would become bare numbers.
    if hasattr(value, "tolist") and getattr(getattr(value, "dtype", None), "kind", "M") not in "mM":
        return value.tolist()
    raise UsageError(
        f"the cache cannot keep a {type(value).__name__}: give numbers, text, datetimes, or lists "
        "and dictionaries of them"
    )


def _plain(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return {"$float": str(float(value))}
        case dict() if any(str(key).startswith("$") for key in value):
            return {"$object": [[key, _plain(item)] for key, item in value.items()]}
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
    tagged = _tagged(value)
    # numpy's result may contain more of these.
    return tagged if isinstance(tagged, dict) else _plain(tagged)


def _read(found: dict[str, Any]) -> Any:
    if len(found) == 1:
        ((key, value),) = found.items()
        if key in _READERS:
            return _READERS[key](value)
    return found
