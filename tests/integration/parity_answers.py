"""When two answers of Feast count as equal: values and types alike, NaN equal to NaN."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

Outcome = tuple[str, Any]
Served = Mapping[str, tuple[str, timedelta | None]]


def same(one: Any, other: Any) -> bool:
    """Of the same type and equal; NaN equals NaN, a zero only one of its sign."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float | np.floating):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return bool(one == other) and math.copysign(1, one) == math.copysign(1, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and same(one.tolist(), other.tolist())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, set):
        return Counter(map(repr, one)) == Counter(map(repr, other))
    if one is pd.NaT:
        return other is pd.NaT
    return bool(one == other)


def outcome(call: Callable[..., Any], *arguments: Any) -> Outcome:
    """What a call returns, or the type of what it raises."""
    try:
        return "value", call(*arguments)
    except Exception as error:
        return "error", type(error)


def columns_of(frame: pd.DataFrame | pa.Table | dict[str, Any]) -> dict[str, Any]:
    """The type and the values of each column; of a dictionary the columns as they are."""
    if isinstance(frame, dict):
        return frame
    if isinstance(frame, pa.Table):
        return {
            name: (str(frame[name].type), frame[name].to_pylist()) for name in frame.schema.names
        }
    return {name: (str(frame[name].dtype), frame[name].tolist()) for name in frame.columns}


def differences(expected: Mapping[Any, Any], found: Mapping[Any, Any]) -> list[str]:
    """Per name that is in one only or whose values are not the same, both values."""
    return [
        f"{name}: " + _shown(expected.get(name, "nothing"), found.get(name, "nothing"))
        for name in [*expected, *(name for name in found if name not in expected)]
        if name not in expected or name not in found or not same(expected[name], found[name])
    ]


def _shown(expected: Any, found: Any) -> str:
    """The first place in which two values differ."""
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        for place, pair in enumerate(zip(expected, found, strict=False)):
            if not same(*pair):
                return f"[{place}] {_shown(*pair)}"
    if isinstance(expected, dict) and isinstance(found, dict):
        return "; ".join(differences(expected, found))
    return f"expected {expected!r}, found {found!r}"


def agree(wrong: list[str], about: str = "") -> None:
    """Raise an AssertionError that lists the differences, if there are any."""
    assert not wrong, "\n".join([about, *wrong])


def frame_differences(expected: Outcome, found: Outcome) -> list[str]:
    """Between two frames, tables or columns in a dictionary, as `outcome` gave them.

    Their columns may be in any order, and if several cannot be converted any may be met first.
    """
    if "error" in (expected[0], found[0]):
        return [] if expected[0] == found[0] else [f"expected {expected}, found {found}"]
    return differences(columns_of(expected[1]), columns_of(found[1]))


def vectors(response: Any) -> dict[str, tuple[list[Any], list[int], list[Any]]]:
    """Values, statuses and event times by name, as in the message of an online answer."""
    names = list(response.proto.metadata.feature_names.val)
    assert len(names) == len(set(names)) == len(response.proto.results)
    return {
        name: (list(vector.values), list(vector.statuses), list(vector.event_timestamps))
        for name, vector in zip(names, response.proto.results, strict=True)
    }


def online_differences(
    expected: Outcome, found: Outcome, served: Served, now: datetime
) -> list[str]:
    """Between stock Feast's online answer and another one, in all their forms.

    Stock builds the order of a view's features from a set: only names are compared, not places.

    Args:
        served: the view and its time to live (or none) of each feature of a view. Statuses are
            what stock's would be if it said NOT_FOUND of what is not there, and OUTSIDE_MAX_AGE
            of what has expired.
    """
    if "error" in (expected[0], found[0]):
        return [] if expected == found else [f"expected {expected}, found {found}"]
    stock, ours = expected[1], found[1]
    wrong: list[str] = []
    for times in (False, True):
        for form in ("to_dict", "to_df", "to_arrow"):
            wrong += [
                f"{form}({times}) {line}"
                for line in frame_differences(
                    outcome(getattr(stock, form), times), outcome(getattr(ours, form), times)
                )
            ]
    return wrong + differences(_corrected(vectors(stock), served, now), vectors(ours))


def _corrected(
    answer: dict[str, tuple[list[Any], list[int], list[Any]]],
    served: Served,
    now: datetime,
) -> dict[str, tuple[list[Any], list[int], list[Any]]]:
    return {
        name: (values, list(_statuses(values, times, served[name][1], now)), times)
        if name in served
        else (values, statuses, times)
        for name, (values, statuses, times) in answer.items()
    }


def _statuses(
    values: Iterable[Any], times: Iterable[Any], ttl: timedelta | None, now: datetime
) -> Iterable[int]:
    for value, time in zip(values, times, strict=True):
        if not time.seconds and not time.nanos and value.WhichOneof("val") is None:
            yield FieldStatus.NOT_FOUND  # or null in a row at 1970's start: none is made
        elif ttl and time.seconds + time.nanos / 1e9 < (now - ttl).timestamp():
            yield FieldStatus.OUTSIDE_MAX_AGE
        else:
            yield FieldStatus.PRESENT
