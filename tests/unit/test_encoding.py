"""Encoding without Feast: byte for byte what Feast writes, for any column it takes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import UsageError
from pipelines.feast_plugins.writing import binary_arrays, encoding
from pipelines.feast_plugins.writing.encoding import field
from pipelines.feast_plugins.writing.newer_wins import time_fields

IMPORTS = """
import sys
import pipelines.feast_plugins.writing.encoding
import pipelines.feast_plugins.writing.newer_wins
import pipelines.feast_plugins.writing.online_writer
print(sorted({name.partition(".")[0] for name in sys.modules} & {"feast", "pandas"}))
"""

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
EXACT = st.integers(-(2**53), 2**53)  # what Feast does not bend when a column has nulls
DOUBLES = st.floats()
SINGLES = st.floats(width=32)
MOMENTS = st.integers(-(2**53), 2**53)  # microseconds: 285 years before and after 1970
TEXTS = st.text(max_size=200)
TIMES = pa.struct([("e", pa.timestamp("us")), ("c", pa.timestamp("us"))])

SCALARS: dict[str, tuple[Any, str, Any]] = {
    "int32": (pa.int32(), "INT32", INT32 | st.none()),
    "int64": (pa.int64(), "INT64", INT64),
    "int64 with nulls": (pa.int64(), "INT64", EXACT | st.none()),
    "double": (pa.float64(), "DOUBLE", DOUBLES | st.none()),
    "float": (pa.float32(), "FLOAT", SINGLES | st.none()),
    "bool": (pa.bool_(), "BOOL", st.booleans() | st.none()),
    "string": (pa.string(), "STRING", TEXTS | st.none()),
    "large string": (pa.large_string(), "STRING", TEXTS | st.none()),
    "binary": (pa.binary(), "BYTES", st.binary(max_size=200) | st.none()),
    "large binary": (pa.large_binary(), "BYTES", st.binary(max_size=200) | st.none()),
    "timestamp[s]": (pa.timestamp("s"), "UNIX_TIMESTAMP", INT32 | st.none()),
    "timestamp[us]": (pa.timestamp("us"), "UNIX_TIMESTAMP", MOMENTS | st.none()),
    "timestamp[ns, tz]": (pa.timestamp("ns", "Asia/Tokyo"), "UNIX_TIMESTAMP", MOMENTS | st.none()),
}
ITEMS: dict[str, tuple[Any, str, Any]] = {
    "string": (pa.string(), "STRING_LIST", st.text(max_size=20) | st.none()),
    "binary": (pa.binary(), "BYTES_LIST", st.binary(max_size=20) | st.none()),
    "int64": (pa.int64(), "INT64_LIST", INT64),
    "int32": (pa.int32(), "INT32_LIST", INT32),
    "double": (pa.float64(), "DOUBLE_LIST", DOUBLES | st.none()),
    "float": (pa.float32(), "FLOAT_LIST", SINGLES | st.none()),
    "bool": (pa.bool_(), "BOOL_LIST", st.booleans() | st.none()),
}
generously = settings(deadline=None, max_examples=60)


def encoded(encode: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns, as lists; few rows (plain Python) and many (NumPy) must give the same."""
    few = encode(*arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(binary_arrays, "FEW", -1)
        many = encode(*arguments)
    assert few == many
    for array in many if isinstance(many, tuple) else (many,):
        array.validate(full=True)
        assert (array.type, array.null_count) == (pa.binary(), 0)
    return tuple(a.to_pylist() for a in many) if isinstance(many, tuple) else many.to_pylist()


def values(column: Any) -> list[bytes]:
    found: list[bytes] = encoded(encoding.values, column)
    return found


def by_feast(array: Any, value_type: str) -> list[bytes]:
    """What Feast's materialization makes of a column."""
    from feast.type_map import python_values_to_proto_values
    from feast.value_type import ValueType

    protos = python_values_to_proto_values(
        array.to_numpy(zero_copy_only=False), ValueType[value_type]
    )
    return [proto.SerializeToString() for proto in protos]


def cut(data: Any, array: Any) -> Any:
    """A part of an array, as such or in chunks."""
    start = data.draw(st.integers(0, len(array)))
    end = data.draw(st.integers(start, len(array)))
    middle = data.draw(st.integers(start, end))
    if data.draw(st.booleans()):
        return array.slice(start, end - start)
    chunks = [array.slice(start, middle - start), array.slice(middle, end - middle)]
    return pa.chunked_array(chunks, array.type)


@pytest.mark.parametrize("name", SCALARS)
@generously
@given(data=st.data())
def test_scalars_are_encoded_as_by_feast(name: str, data: Any) -> None:
    """Nulls, NaN, infinities, the ends of the ranges, any text; slices and chunks."""
    kind, value_type, elements = SCALARS[name]
    array = pa.array(data.draw(st.lists(elements, max_size=20)), kind)
    if value_type == "BYTES":  # of nothing but empty ones Feast makes nulls
        array = pa.concat_arrays([array, pa.array([b"x"], kind)])
        assert values(array) == by_feast(array, value_type)
    else:
        column = cut(data, array)
        assert values(column) == by_feast(column, value_type)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", ITEMS)
@generously
@given(data=st.data())
def test_lists_are_encoded_as_by_feast(name: str, large: bool, data: Any) -> None:
    """Null and empty lists, nulls inside, lists longer than a byte can count."""
    kind, value_type, elements = ITEMS[name]
    lists = st.none() | st.lists(elements, max_size=5) | st.lists(elements, min_size=70)
    of = pa.large_list if large else pa.list_
    column = cut(data, pa.array(data.draw(st.lists(lists, max_size=6)), of(kind)))
    assert values(column) == by_feast(column, value_type)


def test_what_lies_under_a_null_list_is_not_written() -> None:
    """Arrow allows a null list to span items."""
    offsets, items = pa.array([0, 2, 4], pa.int32()), pa.array(["a", "b", "c", "d"])
    array = pa.ListArray.from_arrays(offsets, items, mask=pa.array([True, False]))
    assert values(array) == [b"", b"\x62\x06\x0a\x01c\x0a\x01d"]


def test_integers_keep_their_digits_beside_a_null() -> None:
    """Feast reads such a column as doubles: 2^53 + 1 becomes 2^53."""
    odd = 2**53 + 1
    assert values(pa.array([odd, None], pa.int64())) == [*values(pa.array([odd])), b""]


@generously
@given(data=st.data())
def test_entity_keys_are_those_of_feast(data: Any) -> None:
    """Of one key or several, in any order of the columns."""
    from feast.infra.online_stores.helpers import _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    kinds = {
        "int32_val": (pa.int32(), INT32),
        "int64_val": (pa.int64(), INT64),
        "string_val": (pa.string(), TEXTS),
    }
    names = data.draw(st.lists(st.text(min_size=1), min_size=1, max_size=3, unique=True))
    chosen = {name: data.draw(st.sampled_from(sorted(kinds))) for name in names}
    rows = data.draw(
        st.lists(st.fixed_dictionaries({n: kinds[kind][1] for n, kind in chosen.items()}))
    )
    columns = {
        name: pa.array([None, *(row[name] for row in rows)], kinds[kind][0])[1:]
        for name, kind in chosen.items()
    }
    assert encoded(encoding.entity_keys, columns, "prøject") == [
        _redis_key(
            "prøject",
            EntityKey(
                join_keys=names,
                entity_values=[Value(**{chosen[name]: row[name]}) for name in names],
            ),
            3,
        )
        for row in rows
    ]


@given(view=st.text(), feature=st.text())
def test_a_feature_has_feasts_field(view: str, feature: str) -> None:
    """Four bytes of a hash."""
    from feast.infra.online_stores.helpers import _mmh3

    assert field(view, feature) == _mmh3(f"{view}:{feature}")


@generously
@given(data=st.data())
def test_times_are_those_of_the_store(data: Any) -> None:
    """Before 1970 too, to the microsecond; a row without a created timestamp has its event time."""
    instants = st.datetimes(timezones=st.just(UTC))
    rows = data.draw(st.lists(st.tuples(instants, instants | st.none()), max_size=20))
    array = pa.array([{"e": e, "c": c} for e, c in rows], TIMES)
    table = pa.Table.from_struct_array(array).slice(data.draw(st.integers(0, len(rows))))
    rows = rows[len(rows) - len(table) :]
    expected = [time_fields("view", event, created) for event, created in rows]
    assert encoded(encoding.event_times, table["e"]) == [fields[1] for fields in expected]
    assert encoded(encoding.times, table["e"], table["c"]) == (
        [fields[1] for fields in expected],
        [fields[3] for fields in expected],
    )


@pytest.mark.parametrize("microseconds", [-1_000_001, -1, 0, 1, 999_999, 1_000_000])
def test_times_around_1970_have_their_sign(microseconds: int) -> None:
    """The first microsecond of 1970 is neither before it nor after."""
    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    column = pa.array([instant], pa.timestamp("us", "UTC"))
    fields = time_fields("view", instant, instant)
    assert encoded(encoding.times, column, column) == ([fields[1]], [fields[3]])


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process in a time zone whose clocks do not show UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.skipif(sys.platform == "win32", reason="only on Unix: tzset")
def test_a_time_without_a_zone_is_utc(far_away: None) -> None:
    """Wherever the writer runs."""
    naive, aware = datetime(2026, 1, 31, 12), datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert time_fields("view", naive, naive) == time_fields("view", aware, aware)


def test_times_of_other_units_are_rounded_down() -> None:
    """A nanosecond more than what Feast keeps is no reason to refuse a row."""
    nanoseconds = pa.array([1_500_000_000_123_456_789], pa.timestamp("ns", "UTC"))
    instant = datetime(2017, 7, 14, 2, 40, 0, 123456, UTC)
    assert encoded(encoding.event_times, nanoseconds) == [time_fields("view", instant, None)[1]]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1], pa.int8()), "type int8 has no encoding.*cast it"),
        (pa.array([{"a": 1}]), "type struct<a: int64> has no encoding"),
        (pa.array([[[1]]]), "type list<.*list<.*> has no encoding"),
        (pa.array([[0]], pa.list_(pa.timestamp("us"))), "timestamp.* has no encoding"),
        (pa.array([[1, None]]), "list<.*int64> has a null inside a list"),
    ],
)
def test_what_cannot_be_encoded_is_refused(column: Any, message: str) -> None:
    """With the type, and what to do."""
    with pytest.raises(UsageError, match=message):
        values(column)


def test_a_row_without_a_key_or_a_time_is_refused() -> None:
    """It could be neither found nor compared."""
    with pytest.raises(UsageError, match="join key 'k' is null in 1 rows"):
        encoding.entity_keys({"k": pa.array(["a", None])}, "p")
    with pytest.raises(UsageError, match="join key 'k' is of type double"):
        encoding.entity_keys({"k": pa.array([0.5])}, "p")
    with pytest.raises(UsageError, match="at least one join key"):
        encoding.entity_keys({}, "p")
    with pytest.raises(UsageError, match="event time is null in 1 rows"):
        encoding.event_times(pa.array([None], pa.timestamp("us")))
    with pytest.raises(UsageError, match="time is of type string"):
        encoding.event_times(pa.array(["2026-01-01"]))


def test_writing_does_not_import_feast() -> None:
    """Its import takes ten seconds, which the streamer's start need not."""
    found = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"
