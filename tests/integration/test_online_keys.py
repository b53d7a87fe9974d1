"""The keys of a project are known from all others, and only they are removed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pyarrow as pa
import pytest
import redis
from conftest import Clock
from stream_helpers import StreamWorld

from pipelines.batch.online_removal import MARK, forget_online_rows
from pipelines.feast_plugins.writing.encoding import entity_keys
from pipelines.redis_server.online_keys import (
    forget_project,
    project_keys,
    project_of_key,
)

ODD = ["", "plain", "shop", "a*b?[c]^-\\", "hög", "x" * 300]


def keys_of(project: str, count: int = 3) -> list[bytes]:
    """Of one and of two join keys, with texts that end or look like a project's name."""
    one = entity_keys({"k": pa.array(ODD)}, project)
    two = entity_keys(
        {"k": pa.array(ODD), "n": pa.array(range(count, count + len(ODD)), pa.int64())}, project
    )
    return [*one.to_pylist(), *two.to_pylist()]


@pytest.fixture
def client(world: StreamWorld) -> Iterator[redis.Redis]:
    with world.redis() as opened:
        opened.flushdb()
        yield opened


def test_a_projects_rows_go_and_all_others_stay(client: redis.Redis) -> None:
    """Projects whose names end alike or hold a pattern, keys that are no entity key, any type."""
    mine = keys_of("shop")
    others = [
        *itertools.chain.from_iterable(map(keys_of, ["workshop", "shop2", "sho?", "*"])),
        *(b"shop", b"latest:shop", b"\x01\x00\x00\x00shop", b"\xff\xff\xff\xffshop"),
    ]
    for key in mine[1:] + others:
        client.hset(key, "f", "1")
    client.set(mine[0], "no hash")
    assert sorted({*project_keys(client, "shop")}) == sorted(mine)
    assert forget_project(client, "shop") == len(mine)
    left = {*client.scan_iter(count=10_000)}
    assert left == set(others)
    assert forget_project(client, "*") == 2 * len(ODD)
    assert forget_project(client, "shop") == 0


def test_whatever_the_bytes_they_are_a_key_or_not() -> None:
    """No length in a key leads beyond its end."""
    (key, *_) = keys_of("shop")
    assert project_of_key(key) == b"shop"
    for end in range(len(key)):
        assert project_of_key(key[:end]) in (None, key[len(key) - 4 : end] or None)
    for place, value in itertools.product(range(len(key) - 4), (0, 1, 255)):
        broken = key[:place] + bytes([value]) + key[place + 1 :]
        found = project_of_key(broken)
        assert found is None or broken.endswith(found)


def test_what_is_forgotten_is_filled_again(world: StreamWorld, clock: Clock) -> None:
    """The mark is gone too, by which the next update knows."""
    world.cycle(update=True)
    before = world.online("user_intent")
    assert before
    with world.redis() as client:
        client.set("somebody else's", 1)
        assert client.get(MARK) is not None
        assert forget_online_rows(world.batch_config, world.config) > 0
        assert client.get(MARK) is None
        assert client.get("somebody else's") == b"1"
        assert not [*project_keys(client, "synchrochain")]
    assert not world.online("user_intent")
    world.cycle(update=True)
    assert world.online("user_intent").keys() == before.keys()
