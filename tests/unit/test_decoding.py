"""Decoding a column gives what Feast gives value by value, whatever is stored in it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.feast_plugins.reading import decoding
from pipelines.feast_plugins.reading.decoding import (
    decoder,
    event_time,
    event_times,
    value_message,
)

VALUES: dict[ValueType, Any] = {
    ValueType.DOUBLE: st.floats(allow_nan=False),
    ValueType.FLOAT: st.floats(width=32, allow_nan=False),
    ValueType.INT32: st.integers(-(2**31), 2**31 - 1),
    ValueType.INT64: st.integers(-(2**63), 2**63 - 1),
    ValueType.STRING: st.text(max_size=100),
    ValueType.BYTES: st.binary(max_size=100),
    ValueType.BOOL: st.booleans(),
    ValueType.UNIX_TIMESTAMP: st.datetimes(
        datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)
    ),
    ValueType.UUID: st.uuids(),
    ValueType.DECIMAL: st.decimals(allow_nan=False, allow_infinity=False),
    ValueType.DOUBLE_LIST: st.lists(st.floats(allow_nan=False), min_size=1, max_size=5),
    ValueType.STRING_LIST: st.lists(st.text(max_size=5), min_size=1, max_size=5),
    ValueType.INT64_SET: st.sets(st.integers(0, 9), min_size=1, max_size=5),
    ValueType.MAP: st.dictionaries(st.text(max_size=5), st.text(max_size=5), min_size=1),
}
ROWS = st.sampled_from([1, 2, 20, 300])


def cells(values: list[Any], kind: ValueType) -> list[bytes | None]:
    found = [proto.SerializeToString() for proto in python_values_to_proto_values(values, kind)]
    return [*found]


def by_feast(column: list[bytes | None], kind: ValueType) -> list[Any]:
    return [
        feast_value_type_to_python_type(Value.FromString(cell), kind) if cell else None
        for cell in column
    ]


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.name)
@settings(deadline=None, max_examples=25)
@given(data=st.data(), rows=ROWS)
def test_a_column_is_what_feast_reads(kind: ValueType, data: st.DataObject, rows: int) -> None:
    """With nulls, fields that are not there, and values of other types in between."""
    few = data.draw(st.lists(VALUES[kind], min_size=1, max_size=8))
    odd: list[bytes | None] = data.draw(
        st.sampled_from([[], [b""], [None], [b"", None, None], [b"\x20\x07"]])
    )
    column = (cells(few, kind) * rows)[:rows] + odd
    assert decoder(kind)(column) == by_feast(column, kind)
    assert [*map(type, decoder(kind)(column))] == [*map(type, by_feast(column, kind))]


@pytest.mark.parametrize("kind", [ValueType.UUID, ValueType.TIME_UUID_LIST])
def test_texts_of_older_writers_are_read_as_the_declared_type(kind: ValueType) -> None:
    """Feast once stored a UUID as a text."""
    text = "12345678-1234-5678-1234-567812345678"
    one, many = ValueType.STRING, ValueType.STRING_LIST
    column = cells([text], one) if kind == ValueType.UUID else cells([[text]], many)
    wanted = UUID(text) if kind == ValueType.UUID else [UUID(text)]
    assert decoder(kind)(column) == by_feast(column, kind) == [wanted]


def test_values_may_be_changed_by_whoever_gets_them() -> None:
    """Lists are made anew for each answer; only values that cannot change are remembered."""
    (first,) = decoder(ValueType.STRING_LIST)(cells([["a"]], ValueType.STRING_LIST))
    first.append("mine")
    assert decoder(ValueType.STRING_LIST)(cells([["a"]], ValueType.STRING_LIST)) == [["a"]]
    (stray,) = decoder(ValueType.STRING)(cells([["a"]], ValueType.STRING_LIST))
    stray.append("mine")
    assert decoder(ValueType.STRING)(cells([["a"]], ValueType.STRING_LIST)) == [["a"]]


def test_the_memo_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts anew when it is full, and never keeps long values."""
    monkeypatch.setattr(decoding, "_KEPT", 10)
    memo = decoding._Memo(lambda cell: cell)
    for number in range(95):
        assert memo[b"%d" % number] == b"%d" % number
        assert memo[b"x" * 65] == b"x" * 65
    assert len(memo) <= 10
    assert b"x" * 65 not in memo


@pytest.mark.parametrize("rows", [1, 5, 100])
@pytest.mark.parametrize(
    ("earliest", "latest"),
    [
        (datetime(1, 1, 1), datetime.max),
        (datetime(1969, 12, 31, 23), datetime(1980, 1, 1)),
        (datetime(1979, 1, 1), datetime(2200, 1, 1)),
    ],
)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_seconds_of_event_times(
    rows: int, earliest: datetime, latest: datetime, data: st.DataObject
) -> None:
    """Short and long time stamps alike, and none."""
    few = data.draw(st.lists(st.datetimes(earliest, latest) | st.none(), min_size=1, max_size=30))
    stamps: list[bytes | None] = []
    for instant in (few * rows)[:rows]:
        stamp = Timestamp()
        if instant is not None:
            stamp.FromDatetime(instant)
        stamps.append(None if instant is None else stamp.SerializeToString())
    found = event_times(stamps)
    assert found.seconds == [event_time(stamp).seconds for stamp in stamps]
    assert [*found.absent] == [row for row, stamp in enumerate(stamps) if stamp is None]
    assert (found.stamps, found.damaged) == (stamps, 0)


NO_TIMES = [
    b"\x08",  # cut off
    b"\x08\x80\x80\x80\x80",
    b"\x08\xa0\xd5\xf8\xcb\x06\x10",
    b"\x08\xa0\xd5\xf8\xcb\x06\x10\x80\x94",
    b"\x08\x80\x00",  # not as short as it could be
    b"\x08\x00",
    b"\x08\xa0\xd5\xf8\xcb\x06\x10\x00",
    b"\x08\xa0\xd5\xf8\xcb\x06\x08\x01",  # twice, or the wrong way round
    b"\x10\x01\x08\xa0\xd5\xf8\xcb\x06",
    b"\x08\xa0\xd5\xf8\xcb\x06\x10\x80\x94\xeb\xdc\x03",  # a billion nanoseconds
    b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # long after the year 9999, long before 1
    Timestamp(seconds=-62_135_596_801).SerializeToString(),
    Timestamp(seconds=253_402_300_800).SerializeToString(),
    b"\x18\x01",  # another message
    b"garbage",
    b"\xff" * 30,
]


@pytest.mark.parametrize("rows", [1, 5, 100])
@pytest.mark.parametrize("broken", NO_TIMES)
def test_what_is_no_time_is_absent(broken: bytes, rows: int) -> None:
    """And no other row of the column is changed by it."""
    good = Timestamp(seconds=1_769_860_800, nanos=999_999_000).SerializeToString()
    found = event_times([good] * rows + [broken, good, None])
    assert found.seconds == [1_769_860_800] * rows + [0, 1_769_860_800, 0]
    assert [*found.absent] == [rows, rows + 2]
    assert found.damaged == 1
    assert found.stamps[rows] is None
    assert event_times([good] * rows + [broken]).damaged == 1


@settings(deadline=None, max_examples=300)
@given(data=st.data(), rows=st.sampled_from([0, 30]))
def test_any_bytes_are_a_time_or_none(data: st.DataObject, rows: int) -> None:
    """Whichever way a column is decoded, a row's time depends on its own bytes alone."""
    instant = data.draw(st.datetimes())
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    sound = stamp.SerializeToString()
    place = data.draw(st.integers(0, len(sound)))
    other = data.draw(st.binary(max_size=4))
    broken = sound[:place] + other + sound[place + data.draw(st.integers(0, 2)) :]
    good = Timestamp(seconds=1_769_860_800).SerializeToString()
    alone, among = event_times([broken]), event_times([good] * rows + [broken])
    assert among.seconds[-1] == alone.seconds[0]
    assert among.damaged == alone.damaged
    if not alone.damaged:
        read = Timestamp.FromString(broken)
        assert read.SerializeToString() == broken
        assert alone.seconds == [read.seconds]
        assert read.ToDatetime()  # within the years that there are


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.name)
@settings(deadline=None, max_examples=60)
@given(data=st.data(), rows=st.sampled_from([1, 3, 20, 300]))
def test_a_damaged_value_is_null_and_its_neighbours_are_as_before(
    kind: ValueType, data: st.DataObject, rows: int
) -> None:
    """Cut off anywhere, or any bytes at all: never an error."""
    few = data.draw(st.lists(VALUES[kind], min_size=1, max_size=4))
    column = (cells(few, kind) * rows)[:rows]
    victim = column[0] or b""
    cut = victim[: data.draw(st.integers(1, max(1, len(victim) - 1)))]
    broken = data.draw(
        st.sampled_from(
            [cut, b"\x20", b"\xff\xff", b"\x12\x05ab", b"\xe8\x07\x01", b"\x12\x01\xff"]
        )
        | st.binary(min_size=1, max_size=12)
    )
    place = data.draw(st.integers(0, rows))
    found = decoder(kind)([*column[:place], broken, *column[place:]])
    intact = found[:place] + found[place + 1 :]
    assert intact == decoder(kind)(column) == by_feast(column, kind)
    message = value_message(broken)
    if message is None:
        assert found[place] is None
        return
    as_float = kind in (ValueType.DOUBLE, ValueType.FLOAT)  # which take other types as stored
    try:
        expected = feast_value_type_to_python_type(message, ValueType.UNKNOWN if as_float else kind)
    except (ValueError, ArithmeticError, OSError):
        expected = None
    assert repr(found[place]) == repr(expected)


def test_immutable_kinds_are_shared() -> None:
    """So that a value seen before costs a look into a dictionary."""
    samples = {
        ValueType.UUID: UUID(int=7),
        ValueType.DECIMAL: Decimal("1.50"),
        ValueType.STRING: "a text of some length",
    }
    for kind, value in samples.items():
        (one,), (two,) = (decoder(kind)(cells([value], kind)) for _ in range(2))
        assert one == value
        assert one is two


@pytest.mark.parametrize("first", [0x00, 0x09, 0x10, 0x88])
def test_times_that_are_all_damaged_alike_are_damaged(first: int) -> None:
    """Their first byte is looked at, in many rows as in one."""
    sound = Timestamp(seconds=1_700_000_000, nanos=123_000).SerializeToString()
    stamp = bytes([first]) + sound[1:]
    assert event_times([sound] * 40) == ([sound] * 40, [1_700_000_000] * 40, (), 0)
    assert event_times([stamp]).damaged == 1
    assert event_times([stamp] * 40) == ([None] * 40, [0] * 40, list(range(40)), 40)


def test_a_stored_value_as_a_message_is_itself_empty_or_damaged() -> None:
    """Null is the empty message; bytes that are none give nothing."""
    value = Value(string_val="é")
    assert value_message(value.SerializeToString()) == value
    assert value_message(b"") == value_message(None) == Value()
    assert value_message(b"\xff\xff") is None
