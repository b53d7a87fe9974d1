"""Online reads: planned once, one round trip, right after registry and connections change."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from pipelines.batch import BatchConfig
from pipelines.errors import RedisRefusedError, UsageError
from pipelines.feast_plugins import online_store, stale_fallback
from pipelines.feast_plugins.reading.plan import Plans
from pipelines.feast_plugins.repository import open_store
from pipelines.feast_plugins.stale_fallback import Block, StaleFallback
from pipelines.features.views import view_named
from pipelines.redis_server import connect, ensure_server
from pipelines.settings import DataConfig

T = datetime(2026, 1, 31, 12, tzinfo=UTC)
ROUTES = ["R1", "R2", "R3"]
NAMES = ["congestion", "risk_category", "deliveries_24h"]
FEATURES = [f"route_conditions:{name}" for name in NAMES]


class Registry:
    """What a plan's life depends on."""

    def __init__(self) -> None:
        self.cached_registry_proto_created = datetime(2026, 1, 1, tzinfo=UTC)
        self.cached_registry_proto_ttl = timedelta(seconds=60)

    def refresh(self) -> None:
        """A new copy, as Feast makes one."""
        self.cached_registry_proto_created += timedelta(seconds=61)


@pytest.fixture(scope="module")
def store(folder: Path) -> Any:
    """A store a minute after T, with three routes as of T."""
    opened = open_store(BatchConfig(data_dir=folder))
    online(opened).now = lambda: T + timedelta(minutes=1)
    schema = view_named("route_conditions").schema
    row: dict[str, Any] = {name: [0.5] * len(ROUTES) for name in schema.names} | {
        "route_id": ROUTES,
        "deliveries_24h": [1, 2, 3],
        "risk_category": ["low", "high", None],
        "congestion": [0.1, None, 0.3],
        "event_timestamp": [pd.Timestamp(T)] * len(ROUTES),
        "created_timestamp": [pd.Timestamp(T)] * len(ROUTES),
    }
    opened.write_to_online_store("route_conditions", pd.DataFrame(row))
    return opened


def online(store: Any) -> Any:
    return store._get_provider().online_store


def read(store: Any, routes: list[str], features: Any = FEATURES) -> Any:
    return store.get_online_features(features=features, entity_rows={"route_id": routes})


def test_one_plan_and_one_round_trip_for_a_request(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views of the same entity are asked for together, and a shape is planned once."""
    read(store, ROUTES)
    asked: list[int] = []
    connections = online(store)._connections
    ask = connections.ask

    def counted(packed: bytes, replies: int) -> Any:
        asked.append(replies)
        return ask(packed, replies)

    monkeypatch.setattr(connections, "ask", counted)
    monkeypatch.setattr(online_store, "make_plan", None)  # to plan again would fail
    answer = read(store, ["R3", "R1", "R3", "R1"])
    assert asked == [2]
    assert answer.to_dict() == {
        "route_id": ["R3", "R1", "R3", "R1"],
        "congestion": [0.3, 0.1, 0.3, 0.1],
        "risk_category": [None, "low", None, "low"],
        "deliveries_24h": [3, 1, 3, 1],
    }


def test_columns_come_in_the_order_that_was_asked_for(store: Any) -> None:
    """Feast's own order within a view is that of a set of names."""
    assert list(read(store, ["R1"], FEATURES[::-1]).to_dict()) == ["route_id", *NAMES[::-1]]


def test_many_rows_are_as_one_by_one(store: Any) -> None:
    """Few rows and many are decoded in different ways."""
    routes = [*ROUTES, "R9"] * 60
    many = read(store, routes)
    singles = [read(store, [route]) for route in routes]
    for name in ["route_id", *NAMES]:
        assert many.to_dict()[name] == [single.to_dict()[name][0] for single in singles]
    assert many.view_rows()["route_conditions"].statuses == [
        single.view_rows()["route_conditions"].statuses[0] for single in singles
    ]


@pytest.mark.parametrize(
    "hold",
    [
        lambda routes: pd.DataFrame({"route_id": routes, "extra": 1}),
        lambda routes: pa.table({"route_id": routes}),
        lambda routes: {"route_id": routes},
        lambda routes: tuple({"route_id": route} for route in routes),
    ],
    ids=["pandas", "arrow", "columns", "tuple"],
)
def test_entity_rows_are_held_by_whatever_is_at_hand(store: Any, hold: Any) -> None:
    """The answer is that of a list of dicts; a column that nobody asks for changes nothing."""
    routes = ["R2", "R-none", "R1"]
    rows = [{"route_id": route} for route in routes]
    usual = store.get_online_features(features=FEATURES, entity_rows=rows).to_dict()
    answer = store.get_online_features(features=FEATURES, entity_rows=hold(routes))
    assert answer.to_dict() == usual
    assert usual["deliveries_24h"] == [2, None, 1]


def test_what_holds_no_entity_rows_is_one_line(store: Any) -> None:
    """Which says what can hold some."""
    with pytest.raises(UsageError, match="entity rows are a str; they can be a pandas DataFrame"):
        store.get_online_features(features=FEATURES, entity_rows="R1")


def test_a_changed_service_is_planned_anew(store: Any) -> None:
    """The answer follows the registry, not the plan."""
    from feast import FeatureService

    view = store.get_feature_view("route_conditions")
    for names in (NAMES[:1], NAMES[:2], NAMES[2:]):
        store.apply(FeatureService(name="changing", features=[view[names]]))
        for _ in range(2):
            answer = read(store, ["R1"], store.get_feature_service("changing")).to_dict()
            assert list(answer) == ["route_id", *names]


def test_a_value_expires_with_the_microsecond(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of its time to live it is there, right after it is not."""
    end = T + timedelta(days=2)
    for now, seen in ((end, 0.1), (end + timedelta(microseconds=1), None)):
        monkeypatch.setattr(online(store), "now", lambda now=now: now)
        answer = read(store, ["R1"])
        assert answer.to_dict()["congestion"] == [seen]
        rows = answer.view_rows()["route_conditions"]
        assert rows.event_times == [T.timestamp()]
        assert rows.statuses == [1 if seen else 4]  # PRESENT, OUTSIDE_MAX_AGE
        assert [*answer.proto.results[1].statuses] == rows.statuses


def test_the_first_microsecond_of_1970_is_a_time(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is serialized as nothing, which is not the same as a row that is not there."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(online(store), "now", lambda: epoch + timedelta(minutes=1))
    names = view_named("route_conditions").schema.names
    row: dict[str, Any] = {name: [0.5] for name in names} | {
        "route_id": ["R-old"],
        "deliveries_24h": [1],
        "risk_category": ["low"],
        "event_timestamp": [pd.Timestamp(epoch)],
        "created_timestamp": [pd.Timestamp(epoch)],
    }
    store.write_to_online_store("route_conditions", pd.DataFrame(row))
    usual = read(store, ["R-old", "R-none"])
    monkeypatch.setattr(online(store), "_plan", lambda *_: None)  # Feast's own way of reading
    by_feast = read(store, ["R-old", "R-none"])
    for answer in (usual, by_feast):
        assert answer.to_dict()["congestion"] == [0.5, None]
        assert [*answer.proto.results[1].statuses] == [1, 3]  # PRESENT, NOT_FOUND


def test_a_connection_that_was_dropped_is_opened_again(store: Any) -> None:
    """Without an outage being reported."""
    read(store, ["R1"])
    with connect(ensure_server(DataConfig())) as client:
        client.client_kill_filter(_type="normal", skipme=True)
    answer = read(store, ["R1"])
    assert answer.to_dict()["congestion"] == [0.1]
    assert (answer.read_mode.mode, answer.read_mode.outages) == ("redis", 0)


def test_a_key_that_is_no_hash_has_no_row(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither this request's other rows nor the next request are changed by it."""
    route = "R-not-a-hash"
    read(store, [route])
    key = _key(store, route)
    with connect(ensure_server(DataConfig())) as client:
        client.set(key, "text")
        before = online(store).damage.count
        usual = read(store, ["R1", route, "R2"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(online(store), "_plan", lambda *_: None)  # Feast's own way of reading
            by_feast = read(store, ["R1", route, "R2"])
        client.delete(key)
    for answer in (usual, by_feast):
        assert answer.to_dict()["deliveries_24h"] == [1, None, 2]
        assert [*answer.proto.results[1].statuses] == [1, 3, 1]  # NOT_FOUND
    assert online(store).damage.count == before + 2
    assert read(store, ["R3", "R1"]).to_dict()["deliveries_24h"] == [3, 1]


def test_after_an_error_the_next_answer_is_its_own(store: Any) -> None:
    """What else the server had answered is not taken for the next request's."""
    read(store, ["R1"])
    with connect(ensure_server(DataConfig())) as client:
        client.execute_command("ACL", "SETUSER", "default", "-hmget")
        try:
            with pytest.raises(RedisRefusedError):
                read(store, ["R1", "R2"])
        finally:
            client.execute_command("ACL", "SETUSER", "default", "+hmget")
    assert read(store, ["R3", "R1"]).to_dict()["deliveries_24h"] == [3, 1]


def test_a_forked_process_opens_its_own_connections(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes on one socket would read each other's answers."""
    read(store, ["R1"])
    connections = online(store)._connections
    parents = [*connections._idle]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    read(store, ["R1"])
    assert parents
    assert not {*map(id, parents)} & {*map(id, connections._idle)}


def test_options_without_effect_are_refused() -> None:
    """Rather than silently passed over."""
    online_store.SharedRedisOnlineStoreConfig()
    with pytest.raises(ValueError, match=r"\['key_ttl_seconds', 'skip_dedup'\].*remove them"):
        online_store.SharedRedisOnlineStoreConfig(skip_dedup=True, key_ttl_seconds=60)


def test_plans_live_as_long_as_the_registry() -> None:
    """Made again for another shape, a refreshed registry, and once that is too old."""
    now = [0.0]
    registry, plans, made = Registry(), Plans(clock=lambda: now[0]), []
    now[0] = registry.cached_registry_proto_created.timestamp()

    def get(shape: str = "a") -> Any:
        return plans.get(registry, shape, lambda: made.append(shape))

    for _ in range(3):
        get()
    assert made == ["a"]
    get("b")
    get("a")
    assert made == ["a", "b"]
    now[0] += 60  # its last second
    get("c")
    get("a")
    assert made == ["a", "b", "c"]
    registry.refresh()
    now[0] += 1
    get()
    get()
    assert made == ["a", "b", "c", "a"]
    now[0] += 61  # Feast would read the registry again
    get()
    get()
    assert made == ["a", "b", "c", "a", "a", "a"]


def test_a_plan_made_while_the_registry_changed_is_not_kept() -> None:
    """It may be of the old one or the new one."""
    registry, made = Registry(), []
    plans = Plans(clock=registry.cached_registry_proto_created.timestamp)

    def make() -> None:
        made.append(1)
        if len(made) == 1:
            registry.refresh()

    for _ in range(3):
        plans.get(registry, "a", make)
    assert len(made) == 2


def test_what_was_seen_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest half goes; what is read again stays."""
    monkeypatch.setattr(stale_fallback, "REPLIES_KEPT", 100)
    seen = StaleFallback()
    block = Block((b"f",), [b"always"])
    for number in range(500):
        keys = [b"always", b"%d" % number]
        seen.read([Block((b"f",), keys)], lambda: [[b"1"], [b"2"]])
    kept = seen._replies
    assert sum(len(r) for g in (kept._young, kept._old) for r in g.values()) <= 102
    assert kept.find(b"always", block.fields) == [b"1"]
    assert kept.find(b"0", block.fields) == [None]


def test_what_other_requests_saw_is_put_together() -> None:
    """A request that was never made before is answered from those that were."""
    seen = StaleFallback()
    seen.read([Block((b"a", b"b"), [b"k"])], lambda: [[b"1", b"2"]])
    seen.read([Block((b"b", b"c"), [b"k"])], lambda: [[b"3", b"4"]])
    assert seen._replies.find(b"k", (b"a", b"b", b"c", b"d")) == [b"1", b"3", b"4", None]
    seen.read([Block((b"a", b"b"), [b"k"])], lambda: [[b"5", b"6"]])
    assert seen._replies.find(b"k", (b"b", b"c")) == [b"6", b"4"]


def _key(store: Any, route: str) -> bytes:
    """The Redis key of a route's row."""
    import pyarrow as pa

    from pipelines.feast_plugins.writing.encoding import entity_keys

    (key,) = entity_keys({"route_id": pa.array([route])}, store.project)
    return bytes(key if isinstance(key, bytes) else key.as_py())
