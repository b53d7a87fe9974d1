"""What goes into the cache comes out of it; keys and times to live are those of the design."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.cache.entries import (
    JSON_ROWS,
    VERSION_BYTES,
    FeatureEntry,
    decode_batch,
    decode_features,
    encode_batch,
    encode_features,
)
from pipelines.cache.keys import TimesToLive, feature_key, latest_key, stamp, stream_key
from pipelines.cache.values import from_json, to_json
from pipelines.errors import ConfigurationError, UnknownNameError, UsageError

NOON = datetime(2024, 4, 1, 12, 0, 0, 1)
LATER = NOON + timedelta(microseconds=1)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.datetimes().map(lambda instant: instant.replace(fold=0))
    | st.dates()
    | st.binary(max_size=20)
    | st.decimals(allow_nan=False, allow_infinity=False)
)
NAMES = st.text(max_size=5) | st.sampled_from(["$date", "$object", "$float", "$x"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


def exactly(value: Any) -> str:
    """Text in which 1, 1.0 and True differ, and 0.0 from -0.0."""
    return repr(value)


@given(VALUES)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_value_survives_the_round_trip_exactly(value: Any) -> None:
    """Whatever its type, even where it looks like one of the cache's own notations."""
    assert exactly(from_json(to_json(value))) == exactly(value)
    assert exactly(from_json(to_json(value).encode())) == exactly(value)


def test_floats_that_are_not_finite_survive_in_valid_json() -> None:
    """JSON has no NaN: other readers would stop at Python's."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = to_json({"values": [math.inf, -math.inf, math.nan, {"$date": 1.5}, 1.5, NOON]})
    json.loads(text, parse_constant=refuse)
    high, low, nothing, like_ours, one, noon = from_json(text)["values"]
    assert (high, low, like_ours, one, noon) == (math.inf, -math.inf, {"$date": 1.5}, 1.5, NOON)
    assert math.isnan(nothing)


def test_a_dictionary_like_ours_survives_beside_a_real_one() -> None:
    """And beside values that are written without a notation of ours."""
    for beside in (NOON, np.float32(0.5), pd.NaT):
        value = [beside, {"$date": "2024-04-01"}]
        assert from_json(to_json(value))[1] == {"$date": "2024-04-01"}


def test_values_of_numpy_and_pandas_become_plain_ones() -> None:
    """Feature rows come from data frames as often as not."""
    row = {
        "count": np.int64(3),
        "rate": np.float32(0.5),
        "score": np.float64(0.1),
        "unknown": np.float32("nan"),
        "low": np.bool_(True),
        "times": np.array([1.5, 2.5]),
        "at": pd.Timestamp(NOON),
        "never": pd.NaT,
        "pair": (1, 2),
    }
    found = from_json(to_json(row))
    assert math.isnan(found.pop("unknown"))
    assert found == {
        "count": 3,
        "rate": 0.5,
        "score": 0.1,
        "low": True,
        "times": [1.5, 2.5],
        "at": NOON,
        "never": None,
        "pair": [1, 2],
    }
    assert type(found["count"]) is int


@pytest.mark.parametrize("value", [{1, 2}, object(), np.datetime64(1, "ns"), timedelta(1)])
def test_a_value_that_cannot_be_kept_is_refused_by_name(value: Any) -> None:
    """Rather than come back as something else."""
    for beside in (1.0, math.nan):
        with pytest.raises(UsageError, match=f"cannot keep a {type(value).__name__}"):
            to_json([beside, value])


def test_a_time_keeps_its_zone_as_a_value_and_becomes_utc_as_a_stamp() -> None:
    """Naive means UTC, as everywhere in the project."""
    there = datetime(2024, 4, 1, 14, 0, 0, 1, tzinfo=timezone(timedelta(hours=2)))
    assert exactly(from_json(to_json(there))) == exactly(there)
    assert stamp(there) == stamp(NOON) == stamp(NOON.replace(tzinfo=UTC))
    assert stamp(NOON) == "2024-04-01T12:00:00.000001"
    assert stamp(pd.Timestamp(NOON) + pd.Timedelta(5, "ns")) == stamp(NOON)
    for wrong in (None, pd.NaT, "2024-04-01", date(2024, 4, 1)):
        with pytest.raises(UsageError, match="must be a datetime"):
            stamp(wrong)  # type: ignore[arg-type]  # a wrong type is the point


@given(st.lists(st.tuples(st.datetimes(), st.datetimes()), min_size=2, max_size=2))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_encoded_entries_sort_as_their_time_stamps_do(
    stamps: list[tuple[datetime, datetime]],
) -> None:
    """By event time, then by when they were computed: a backend compares bytes only."""
    one, other = (encode_features(FeatureEntry({}, *pair))[:VERSION_BYTES] for pair in stamps)
    assert (one < other) == (stamps[0] < stamps[1])
    assert (one == other) == (stamps[0] == stamps[1])


def test_features_can_be_read_by_any_reader_of_json() -> None:
    """The value in Redis is one JSON document."""
    entry = FeatureEntry({"intent_score": 4.5, "carts_7d": None}, NOON, LATER)
    assert json.loads(encode_features(entry)) == {
        "event_timestamp": "2024-04-01T12:00:00.000001",
        "created_timestamp": "2024-04-01T12:00:00.000002",
        "values": {"intent_score": 4.5, "carts_7d": None},
    }
    assert decode_features(encode_features(entry)) == entry


def test_a_batch_comes_back_the_same_from_json_and_from_arrow() -> None:
    """A long table is written as Arrow, a short one and a list as JSON; nobody can tell."""
    rows = [
        {
            "id": number,
            "price": Decimal("12.50"),
            "order_timestamp": NOON + timedelta(microseconds=number),
            "delivered_at": None,
            "products": ["P1", "P2"],
            "signals": {"scroll_depth": 0.1 * number},
        }
        for number in range(JSON_ROWS + 1)
    ]
    table = pa.Table.from_pylist(rows)
    listed = encode_batch("orders", NOON, rows, LATER)
    arrow = encode_batch("orders", NOON, table, LATER)
    assert len(arrow) < len(listed)
    for value, wanted in (
        (listed, rows),
        (arrow, rows),
        (encode_batch("orders", NOON, table.slice(0, JSON_ROWS), LATER), rows[:-1]),
        (encode_batch("orders", NOON, table.slice(0, 0), LATER), []),
    ):
        batch = decode_batch(value)
        assert batch is not None
        assert (batch.data_type, batch.timestamp) == ("orders", NOON)
        assert exactly(batch.rows) == exactly(wanted)
        assert isinstance(json.loads(value.partition(b"\n")[0]), dict)


def test_bytes_of_somebody_else_are_no_entry() -> None:
    """They are answered as if nothing was there."""
    entry = encode_features(FeatureEntry({"at": NOON}, NOON, LATER))
    table = pa.table({"id": range(JSON_ROWS + 1)})
    arrow = encode_batch("orders", NOON, table, LATER)
    broken = arrow.partition(b"\n")[0] + b"\nno arrow"
    for wrong in (b"", b"\xff", b"7", b"null", b"{}", entry[:-9], broken, arrow[:-300]):
        assert decode_features(wrong) is None
        assert decode_batch(wrong) is None
    assert decode_features(entry.replace(b"$datetime", b"$decimal")) is None
    assert decode_features(entry.replace(b"T12:00", b"T99:00")) is None


def test_keys_are_those_of_the_design() -> None:
    """`stream:{data_type}:{timestamp}`, `latest:{data_type}`, `features:{feature_id}`."""
    assert stream_key("orders", NOON) == "stream:orders:2024-04-01T12:00:00.000001"
    assert latest_key("supply_chain") == "latest:supply_chain"
    assert feature_key("user_intent:42") == "features:user_intent:42"
    with pytest.raises(UnknownNameError, match="no data type 'order'; there are: orders, sessions"):
        latest_key("order")
    with pytest.raises(UsageError, match="feature id is empty"):
        feature_key("")


def test_times_to_live_follow_the_most_precise_name() -> None:
    """A kind of key for one data type, then the data type, then the kind, then the default."""
    usual = TimesToLive(3600)
    assert [usual.of(key) for key in ("stream:orders:x", "latest:orders", "features:v:1")] == [
        300,
        3600,
        3600,
    ]
    own = TimesToLive(
        50, {"orders": 60, "latest:orders": 61, "latest": 62, "features:user_intent": 63}
    )
    assert own.of("stream:orders:2024-04-01T12:00:00.000001") == 60
    assert own.of("latest:orders") == 61
    assert own.of("latest:sessions") == 62
    assert own.of("stream:sessions:x") == 300
    assert own.of("features:user_intent:42") == 63
    assert own.of("features:orders:42") == 50


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"order": 60}, "no name 'order'; it has: stream, latest, features, orders"),
        ({"latest:order": 60}, "no name 'latest:order'"),
        ({"features:": 60}, "no name 'features:'"),
        ({"orders": 0}, r'ttl\["orders"\] must be whole seconds >= 1: 0'),
        ({"orders": 1.5}, "whole seconds"),
        ({"orders": True}, "whole seconds"),
    ],
)
def test_a_wrong_time_to_live_is_refused(given: Any, message: str) -> None:
    """A misspelt name would change nothing without a word."""
    with pytest.raises(ConfigurationError, match=message):
        TimesToLive(3600, given)
