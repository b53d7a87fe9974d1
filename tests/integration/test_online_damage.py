"""Damage in the online store: what is damaged is null with a status, all else is as before."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import redis
from test_online_reads import online
from test_online_writer import KEYS, PROJECT, T, any_rows

from pipelines.batch import BatchConfig
from pipelines.feast_plugins.repository import open_store
from pipelines.feast_plugins.writing.encoding import entity_keys, field
from pipelines.feast_plugins.writing.online_writer import OnlineWriter
from pipelines.redis_server import connect, ensure_server
from pipelines.serving.online import OnlineFeatures
from pipelines.settings import DataConfig

ROWS = 12
VIEWS = ("route_conditions", "session_events", "user_intent")
PRESENT, NULL_VALUE, NOT_FOUND = 1, 2, 3


@pytest.fixture(scope="module")
def client(folder: Path) -> Any:
    with connect(ensure_server(DataConfig())) as opened:
        yield opened


@pytest.fixture(scope="module")
def store(folder: Path, client: redis.Redis) -> Any:
    opened = open_store(BatchConfig(data_dir=folder))
    online(opened).now = lambda: T
    return opened


@pytest.fixture(params=VIEWS)
def view(request: pytest.FixtureRequest, client: redis.Redis) -> str:
    """A view, of which twelve rows are stored."""
    client.flushdb()
    rows = any_rows(request.param, ROWS, prefix="r")
    OnlineWriter(client, PROJECT).write({request.param: rows}, KEYS)
    return str(request.param)


def keys_of(view: str) -> dict[str, list[Any]]:
    rows = any_rows(view, ROWS, prefix="r")
    return {name: rows[name].to_pylist() for name in KEYS[view]}


def redis_keys(view: str) -> list[bytes]:
    rows = any_rows(view, ROWS, prefix="r")
    return [*entity_keys({name: rows[name] for name in KEYS[view]}, PROJECT).to_pylist()]


def answers(store: Any, view: str, features: list[str]) -> list[Any]:
    """Ours, by Feast's own way of reading, and each as a message too; and `online_read`'s."""
    wanted = [f"{view}:{name}" for name in features]
    found = []
    for plan in (online(store)._plan, lambda *_: None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(online(store), "_plan", plan)
            answer = store.get_online_features(features=wanted, entity_rows=keys_of(view))
        message = answer.proto
        vectors = dict(zip(message.metadata.feature_names.val, message.results, strict=True))
        found.append((answer.to_dict(include_event_timestamps=True), vectors))
    return found


def served(store: Any, view: str) -> Any:
    """What the decision service reads of the view."""
    reader = OnlineFeatures(lambda: store)
    reader.start()
    return [
        reader.of_view(view, dict(zip(KEYS[view], key, strict=True)))
        for key in zip(*keys_of(view).values(), strict=True)
    ]


def without(column: list[Any], row: int) -> list[Any]:
    return [*column[:row], *column[row + 1 :]]


@pytest.mark.parametrize("seed", range(4))
def test_only_the_damaged_value_is_lost(
    store: Any, client: redis.Redis, view: str, seed: int
) -> None:
    """Any field, cut off, replaced or made longer: no error, and no other row's answer changes."""
    chance = random.Random(seed)
    features = [feature.name for feature in store.get_feature_view(view).features]
    before = answers(store, view, features)
    fields = {field(view, name): name for name in features} | {f"_ts:{view}".encode(): None}
    for name, feature in fields.items():
        row = chance.randrange(ROWS)
        key = redis_keys(view)[row]
        (cell,) = client.hmget(key, name)
        garbage = [cell[: len(cell) // 2] + b"\xff", cell + b"\x08", chance.randbytes(9), b"\x20"]
        broken = chance.choice(garbage)
        client.hset(key, name, broken)
        for (old, old_vectors), (new, vectors) in zip(
            before, answers(store, view, features), strict=True
        ):
            assert old.keys() == new.keys()
            for column in old:
                of_victim = feature is None or column == feature
                cut = (lambda c, at=row: without(c, at)) if of_victim else list
                assert cut(new[column]) == cut(old[column]), (column, broken)
            for column in features:
                status = vectors[column].statuses[row]
                if feature is None and status != PRESENT:
                    assert (status, new[column][row]) == (NOT_FOUND, None)
                elif column == feature and status != PRESENT:
                    assert (status, new[column][row]) == (NULL_VALUE, None)
                else:
                    assert status == old_vectors[column].statuses[row]
        served(store, view)
        client.hset(key, name, cell)
    assert [a for a, _ in answers(store, view, features)] == [a for a, _ in before]


def test_a_key_that_holds_no_hash_is_not_found(store: Any, client: redis.Redis, view: str) -> None:
    """To every way of reading, and to the decision service it is missing."""
    features = [feature.name for feature in store.get_feature_view(view).features]
    before = answers(store, view, features)
    client.set(redis_keys(view)[3], "no hash")
    for (old, _), (new, vectors) in zip(before, answers(store, view, features), strict=True):
        for name in features:
            assert without(new[name], 3) == without(old[name], 3)
            assert (new[name][3], vectors[name].statuses[3]) == (None, NOT_FOUND)
    rows = served(store, view)
    assert [row.views[view].states for row in rows].count(["missing"]) == 1
    assert rows[3].views[view].states == ["missing"]


def test_damage_is_said_once_and_counted(
    store: Any, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is read."""
    view = "user_intent"
    client.flushdb()
    OnlineWriter(client, PROJECT).write({view: any_rows(view, ROWS, prefix="r")}, KEYS)
    online(store).damage = type(online(store).damage)()
    for key in redis_keys(view)[:2]:
        client.hset(key, f"_ts:{view}", b"\xff")
    for _ in range(3):
        store.get_online_features(features=[f"{view}:carts_7d"], entity_rows=keys_of(view))
    assert online(store).damage.count == 6
    (said,) = [m for m in caplog.messages if m.startswith("damage in the online store")]
    assert "2 rows of user_intent whose event time is none" in said
