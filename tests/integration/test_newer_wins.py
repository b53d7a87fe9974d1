"""Which of two rows is newer, in Redis: as a slow reference says, for any time and any damage."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
import redis
from conftest import Clock
from google.protobuf.timestamp_pb2 import Timestamp
from stream_helpers import stream_world

from pipelines.feast_plugins.writing.encoding import entity_keys, event_times, field
from pipelines.feast_plugins.writing.newer_wins import PUT_UNLESS_OLDER, time_fields
from pipelines.feast_plugins.writing.online_writer import OnlineWriter

EPOCH = datetime(1970, 1, 1)
MICROSECOND = timedelta(microseconds=1)
DAY = timedelta(days=1)
EDGES = [
    *(datetime.min, datetime.max, EPOCH, datetime(1900, 1, 1), datetime(1969, 12, 31, 23, 59, 59)),
    *(datetime(1426, 1, 1), datetime(2255, 6, 5, 23, 47, 34, 740_993), datetime(2038, 1, 19, 3)),
    *(datetime(1978, 7, 4), datetime(3058, 1, 1), datetime(1683, 1, 1), datetime(1, 1, 1, 0, 0, 1)),
]
VIEW = "v"
NAMES = ("event_timestamp", "created_timestamp", "x", "y")
Version = tuple[datetime, datetime]


def any_time(chance: random.Random) -> datetime:
    """Often near another one, or near an edge."""
    instant = chance.choice(EDGES)
    step = chance.choice((timedelta(0), MICROSECOND, timedelta(seconds=1), DAY, 400_000 * DAY))
    try:
        return instant + chance.choice((-1, 1)) * step
    except OverflowError:
        return instant


def rows(keys: list[int], versions: list[Version]) -> pa.Table:
    """Rows whose feature x says which version it is."""
    events, created = zip(*versions, strict=True)
    return pa.table(
        {
            "k": pa.array(keys, pa.int64()),
            "event_timestamp": pa.array(events, pa.timestamp("us")),
            "created_timestamp": pa.array(created, pa.timestamp("us")),
            "x": pa.array([f"{event} {made}" for event, made in versions]),
            "y": pa.array([1.5] * len(keys)),
        }
    )


@pytest.fixture(scope="module")
def server() -> Iterator[redis.Redis]:
    with stream_world(Clock(datetime(2026, 1, 1))) as world, world.redis() as client:
        yield client


@pytest.fixture
def client(server: redis.Redis) -> redis.Redis:
    server.flushdb()
    return server


def write(writer: OnlineWriter, keys: list[int], versions: list[Version]) -> int:
    return writer.write({VIEW: rows(keys, versions)}, {VIEW: ("k",)})


def key_of(number: int) -> bytes:
    (key,) = entity_keys({"k": pa.array([number], pa.int64())}, "shop").to_pylist()
    return bytes(key)


def stored(client: redis.Redis, number: int) -> str:
    """The version that is stored under a key."""
    cell: Any = client.hget(key_of(number), field(VIEW, "x"))
    return bytes(cell[2:]).decode()


def put_one(client: redis.Redis, number: int, version: Version) -> None:
    """By the script for single rows, which Feast's own way of writing takes."""
    event, made = version
    (x,) = (bytes([0x12, len(text)]) + text for text in [f"{event} {made}".encode()])
    arguments = [*time_fields(VIEW, event, made), field(VIEW, "x"), x]
    client.register_script(PUT_UNLESS_OLDER)(keys=[key_of(number)], args=arguments)


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_newest_row_wins_in_any_order(client: redis.Redis, one_by_one: bool, seed: int) -> None:
    """From the year 1 to 9999, to the microsecond, event and created timestamps alike."""
    chance, writer = random.Random(seed), OnlineWriter(client, "shop")
    newest: dict[int, Version] = {}
    keys = list(range(120))
    for _ in range(8):
        versions = [(any_time(chance), any_time(chance)) for _ in keys]
        for place, key in enumerate(keys):  # often the same event time
            if key in newest and chance.random() < 0.5:
                versions[place] = newest[key][0], any_time(chance)
            newest[key] = max(newest.get(key, versions[place]), versions[place])
        if one_by_one:
            for key, version in zip(keys, versions, strict=True):
                put_one(client, key, version)
        else:
            write(writer, keys, versions)
        for key, (event, made) in newest.items():
            assert stored(client, key) == f"{event} {made}", key
    assert writer.damaged == 0


def test_nanoseconds_of_another_writer_are_compared(client: redis.Redis) -> None:
    """We write microseconds; Feast's layout has room for more."""
    instant = datetime(1900, 1, 1, microsecond=5)
    writer = OnlineWriter(client, "shop")
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    for nanos, wins in ((999, 0), (0, 1), (-999, 1)):
        changed = Timestamp(seconds=stamp.seconds, nanos=stamp.nanos + nanos)
        client.hset(key_of(1), f"_ts:{VIEW}", changed.SerializeToString())
        assert write(writer, [1], [(instant, instant)]) == wins


def test_rows_written_before_1970_by_an_older_version_compare(client: redis.Redis) -> None:
    """Their created timestamps are 20 characters too, with a minus in front."""
    event, made = datetime(1900, 1, 1), datetime(1950, 1, 1)
    (stamp,) = event_times(pa.array([event], pa.timestamp("us"))).to_pylist()
    created = stamp + b"%020d" % ((made - EPOCH) // MICROSECOND)
    assert created.endswith(b"-0000631152000000000")
    writer = OnlineWriter(client, "shop")
    for other, wins in ((made - MICROSECOND, 0), (made, 1), (made + MICROSECOND, 1), (EPOCH, 1)):
        client.hset(key_of(1), mapping={f"_ts:{VIEW}": stamp, f"_created:{VIEW}": created})
        assert write(writer, [1], [(event, other)]) == wins, other


BROKEN_TIMES = [
    *(b"", b"\x08", b"\x08\x80", b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", b"\xff" * 40),
    *(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x08\xff\xff\xff\xff\xff\xff\xff\x7f"),
    *(
        b"\x08\x01\x10",
        b"\x08\x01\x10\x80\x94\xeb\xdc\x7f",
        b"\x08\x01\x08\x02",
        b"\x10\x01\x10\x01",
        b"\x08\xff\xff\xff\xff\xff\x00",  # not as short as it could be
        Timestamp(seconds=253_402_300_800).SerializeToString(),  # the year 10000
        Timestamp(seconds=1, nanos=1_000_000_000).SerializeToString(),
    ),
    *(b"garbage", b"99999999999999999999", "\u00e9".encode(), b"\0" * 9),
]
"""The first is the first microsecond of 1970, and older than what is written."""


@pytest.mark.parametrize("view_field", [f"_ts:{VIEW}", f"_created:{VIEW}"])
def test_no_damaged_time_keeps_a_row_out(client: redis.Redis, view_field: str) -> None:
    """Whatever bytes stand there; the rows beside it are decided as ever."""
    writer, instant = OnlineWriter(client, "shop"), datetime(2026, 1, 1)
    older, newer = (instant - DAY, instant), (instant + DAY, instant)
    keys = list(range(3 * len(BROKEN_TIMES)))
    write(writer, keys, [newer if key % 3 == 2 else older for key in keys])
    for number, broken in enumerate(BROKEN_TIMES):
        client.hset(key_of(3 * number), view_field, broken)
    assert write(writer, keys, [(instant, instant)] * len(keys)) == 2 * len(BROKEN_TIMES)
    for key in keys:
        event, made = newer if key % 3 == 2 else (instant, instant)
        assert stored(client, key) == f"{event} {made}"
    assert writer.damaged == (len(BROKEN_TIMES) - 1 if view_field.startswith("_ts") else 0)


def test_a_damaged_created_time_is_older_than_any(client: redis.Redis) -> None:
    """So that a correction of the same event time is let in; its event time still counts."""
    writer, instant = OnlineWriter(client, "shop"), datetime(2026, 1, 1)
    (stamp,) = event_times(pa.array([instant], pa.timestamp("us"))).to_pylist()
    endings = [b"z" * 20, b"9" * 19 + b":", b"9" * 19 + b"\0", b"\xff" * 20, b"", b"+" + b"9" * 19]
    for ending, other in itertools.product(endings, [b"", b"\x08\x01"]):
        write(writer, [1], [(instant, datetime.max)])
        client.hset(key_of(1), f"_created:{VIEW}", (other or stamp) + ending)
        assert write(writer, [1], [(instant - DAY, datetime.max)]) == 0
        assert write(writer, [1], [(instant, datetime.min)]) == 1, ending


@pytest.mark.parametrize("seed", range(5))
def test_any_bytes_in_any_field_of_any_type(client: redis.Redis, seed: int) -> None:
    """The next row of each key is written, or the stored one is sound and newer."""
    chance, writer = random.Random(seed), OnlineWriter(client, "shop")
    keys, instant = list(range(300)), datetime(2026, 1, 1)
    write(writer, keys, [(instant, instant)] * len(keys))
    for key in chance.sample(keys, 200):
        fields: Any = client.hgetall(key_of(key))
        name = chance.choice(list(fields))
        cell = bytearray(fields[name])
        match chance.randrange(5):
            case 0:
                cell = cell[: chance.randrange(len(cell))]
            case 1:
                cell = bytearray(chance.randbytes(chance.randrange(40)))
            case 2:
                cell[chance.randrange(len(cell))] = chance.randrange(256)
            case 3:
                cell += chance.randbytes(chance.randrange(1, 9))
            case _:
                client.delete(key_of(key))
                client.set(key_of(key), bytes(cell))
                continue
        client.hset(key_of(key), name, bytes(cell))
    write(writer, keys, [(instant + DAY, instant)] * len(keys))
    for key in keys:
        if stored(client, key) != f"{instant + DAY} {instant}":
            (stamp,) = client.hmget(key_of(key), f"_ts:{VIEW}")
            newer = Timestamp.FromString(stamp)
            assert newer.SerializeToString() == stamp
            assert newer.ToDatetime() > instant + DAY
