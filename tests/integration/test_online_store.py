"""The online store: newer wins whoever writes, what has expired is null, an outage is survived."""

from __future__ import annotations

import itertools
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import metrics

from pipelines.batch import BatchConfig
from pipelines.errors import RedisUnavailableError
from pipelines.feast_plugins.repository import open_store
from pipelines.feast_plugins.stale_fallback import (
    PROBE_SECONDS,
    StaleFallback,
    errors_instead_of_stale_values,
)
from pipelines.feast_plugins.writing.encoding import entity_keys, field
from pipelines.feast_plugins.writing.online_writer import OnlineWriter
from pipelines.features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from pipelines.features.views import view_named
from pipelines.redis_server import ensure_server
from pipelines.settings import DataConfig

T = datetime(2026, 1, 31, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)
FEATURES = ["route_conditions:congestion", "route_conditions:risk_category"]
_numbers = itertools.count()


@pytest.fixture
def store(folder: Path) -> Any:
    """A feature store whose present time is a minute after T."""
    opened = open_store(BatchConfig(data_dir=folder))
    online = opened._get_provider().online_store
    online.now = lambda: T + timedelta(minutes=1)
    return opened


@pytest.fixture
def route() -> str:
    """A route that no other test writes."""
    return f"R{next(_numbers)}"


def online_store(store: Any) -> Any:
    return store._get_provider().online_store


def put(store: Any, route: str, value: float, event: datetime = T, created: datetime = T) -> None:
    """Write one row of route_conditions whose congestion is `value`."""
    schema = view_named("route_conditions").schema
    row: dict[str, Any] = {name: [0.0] for name in schema.names} | {
        "route_id": [route],
        "deliveries_24h": [0],
        "risk_category": ["low"],
        "congestion": [value],
        "event_timestamp": [pd.Timestamp(event)],
        "created_timestamp": [pd.Timestamp(created)],
    }
    store.write_to_online_store("route_conditions", pd.DataFrame(row))


def read(store: Any, route: str) -> Any:
    return store.get_online_features(features=FEATURES, entity_rows=[{"route_id": route}])


def congestion(store: Any, route: str) -> float | None:
    value: float | None = read(store, route).to_dict()["congestion"][0]
    return value


def direct(store: Any, route: str) -> tuple[Any, Any]:
    """What `online_read`, which other parts of Feast use, says of a route."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    key = EntityKey(join_keys=["route_id"], entity_values=[Value(string_val=route)])
    view = store.get_feature_view("route_conditions")
    ((event_time, values),) = online_store(store).online_read(store.config, view, [key])
    return event_time, values


def statuses(store: Any, route: str) -> set[str]:
    from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

    proto = read(store, route).proto
    names = list(proto.metadata.feature_names.val)
    return {
        FieldStatus.Name(status)
        for name, result in zip(names, proto.results, strict=True)
        if name != "route_id"
        for status in result.statuses
    }


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        ((T, T), (T + SECOND, T), 2.0),
        ((T + SECOND, T), (T, T + SECOND), 1.0),
        ((T, T), (T, T + SECOND), 2.0),
        ((T, T + SECOND), (T, T), 1.0),
        ((T, T), (T, T), 2.0),
        ((T, T), (T - timedelta(microseconds=1), T + SECOND), 1.0),
        ((T, T + timedelta(microseconds=1)), (T, T), 1.0),
    ],
)
def test_the_newer_row_wins(store: Any, route: str, first: Any, second: Any, winner: float) -> None:
    """By event time, then by created timestamp; the same row again changes nothing."""
    put(store, route, 1.0, *first)
    put(store, route, 2.0, *second)
    assert congestion(store, route) == winner


def test_of_many_writers_the_newest_row_wins(store: Any, folder: Path, route: str) -> None:
    """Four writers with clients of their own, each in another order."""
    times = [T + n * SECOND for n in range(12)]

    def write(writer: int) -> None:
        mine = open_store(BatchConfig(data_dir=folder))
        for n in sorted(range(12), key=lambda n: (n * 7 + writer * 5) % 12):
            put(mine, route, float(n), times[n])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert congestion(store, route) == 11.0


def test_a_row_of_stock_feast_makes_the_created_time_void(
    store: Any, folder: Path, route: str
) -> None:
    """After a writer that knows no created timestamps, ours still compares by event time."""
    from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig

    put(store, route, 1.0, T, T + timedelta(hours=1))
    stock = RedisOnlineStore()
    config = store.config.model_copy()
    config._online_store = RedisOnlineStoreConfig(
        connection_string=ensure_server(DataConfig()).connection_string
    )
    ours = online_store(store)
    kept = ours.online_write_batch
    try:
        ours.online_write_batch = lambda _config, *rest: stock.online_write_batch(config, *rest)
        put(store, route, 2.0, T + SECOND, T)
    finally:
        ours.online_write_batch = kept
    assert congestion(store, route) == 2.0
    put(store, route, 3.0, T + SECOND, T)
    assert congestion(store, route) == 3.0


@pytest.mark.parametrize("age", [timedelta(0), timedelta(hours=3, microseconds=7)])
@pytest.mark.parametrize("reader", ["columns", "feast", "direct"])
def test_a_value_lives_to_the_microsecond_whichever_way_it_is_read(
    store: Any, route: str, reader: str, age: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of its two days it is there, a microsecond later it is null; on no path sooner."""
    if reader == "feast":  # its own metrics of features are wanted, so it reads by its own code
        monkeypatch.setattr(metrics._config, "online_features", True)
    put(store, route, 1.0, T - age)
    end = T - age + timedelta(days=2)
    instants = [(end - MICROSECOND, True), (end, True), (end + MICROSECOND, False)]
    for now, there in [*instants, (end + timedelta(seconds=4), False)]:
        monkeypatch.setattr(online_store(store), "now", lambda now=now: now)
        if reader == "direct":
            assert (direct(store, route) == (None, None)) is not there
            continue
        assert congestion(store, route) == (1.0 if there else None)
        assert statuses(store, route) == {"PRESENT" if there else "OUTSIDE_MAX_AGE"}


def test_what_was_never_written_is_not_found(store: Any, route: str) -> None:
    """Feast says PRESENT of it."""
    assert congestion(store, route) is None
    assert statuses(store, route) == {"NOT_FOUND"}


def test_expired_rows_leave_other_rows_alone(store: Any, route: str) -> None:
    """One request may hold current, expired and unknown keys, in any order."""
    put(store, route, 1.0)
    put(store, f"{route}-old", 2.0, T - timedelta(days=3))
    rows = [{"route_id": r} for r in (f"{route}-old", route, f"{route}-none", route)]
    found = store.get_online_features(features=FEATURES, entity_rows=rows).to_dict()
    assert found["congestion"] == [None, 1.0, None, 1.0]
    assert found["risk_category"] == [None, "low", None, "low"]


def test_a_direct_read_expires_too(store: Any, route: str) -> None:
    """As every answer does."""
    put(store, route, 1.0, T - timedelta(days=3))
    assert direct(store, route) == (None, None)


def test_reads_survive_a_dead_server(
    store: Any, folder: Path, route: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They answer with last known values and say so; a caller may ask for an error instead."""
    now = [0.0]
    ours = online_store(store)
    ours.stale_fallback = StaleFallback(clock=lambda: now[0])
    put(store, route, 1.0)
    now[0] = 2.0
    assert read(store, route).read_mode.mode == "redis"
    pid = ensure_server(DataConfig()).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    now[0] = 5.0
    for _ in range(3):
        answer = read(store, route)
        assert answer.to_dict()["congestion"] == [1.0]
        assert (answer.read_mode.mode, answer.read_mode.age_seconds) == ("stale_fallback", 3.0)
    assert congestion(store, f"{route}-never-seen") is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "_plan", lambda *_: None)  # Feast's own way of reading
        assert congestion(store, route) == 1.0
    assert [r for r in caplog.messages if "last known values" in r] == caplog.messages
    assert len(caplog.messages) == 1
    with errors_instead_of_stale_values(), pytest.raises(RedisUnavailableError):
        read(store, route)
    ensure_server(DataConfig())
    assert read(store, route).read_mode.mode == "stale_fallback"  # not asked again yet
    now[0] += PROBE_SECONDS
    assert read(store, route).read_mode.mode == "redis"
    assert read(store, route).read_mode.outages == 1
    assert caplog.messages[1:] == ["Redis is back: online reads are current again"]


def test_a_process_that_has_seen_nothing_reports_the_outage(
    store: Any, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    """A configured server that does not answer is an error, not an empty answer."""
    monkeypatch.setenv("SYNCHROCHAIN_REDIS_HOST", "127.0.0.1")
    monkeypatch.setenv("SYNCHROCHAIN_REDIS_PORT", "1")
    with pytest.raises(RedisUnavailableError, match=r"127\.0\.0\.1:1 does not answer"):
        read(store, route)


def test_a_write_to_a_dead_server_is_an_error(store: Any, folder: Path, route: str) -> None:
    """Nothing is pretended: whoever writes keeps the row and repeats it."""
    put(store, route, 1.0)
    pid = ensure_server(DataConfig()).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    try:
        with pytest.raises(RedisUnavailableError):
            put(store, route, 2.0, T + SECOND)
    finally:
        ensure_server(DataConfig())
    put(store, route, 2.0, T + SECOND)
    assert congestion(store, route) == 2.0


def test_deleting_a_view_leaves_nothing_of_it(store: Any, folder: Path, route: str) -> None:
    """The created timestamp beside Feast's fields goes too."""
    from pipelines.redis_server import connect

    put(store, route, 1.0)
    view = store.get_feature_view("route_conditions")
    online_store(store).delete_table(store.config, view)
    with connect(ensure_server(DataConfig())) as client:
        left = [
            key for key in client.scan_iter(b"*synchrochain", _type="hash") if route.encode() in key
        ]
    assert left == []
    assert congestion(store, route) is None


def test_deleting_a_view_leaves_the_others_of_its_key(store: Any) -> None:
    """Nothing of the one, all of the other."""
    from pipelines.redis_server import connect

    keys = entity_keys({"user_id": pa.array([77])}, store.project)
    with connect(ensure_server(DataConfig())) as client:
        for view in ("user_orders", "user_intent"):
            schema = view_named(view).schema
            rows = {column.name: pa.nulls(1, column.type) for column in schema}
            times = pa.array([T.replace(tzinfo=None)], pa.timestamp("us"))
            rows |= {"user_id": pa.array([77]), EVENT_TIMESTAMP: times, CREATED_TIMESTAMP: times}
            table = pa.table(rows).cast(schema)
            OnlineWriter(client, store.project).write({view: table}, {view: ["user_id"]})
        before: Any = client.hgetall(keys[0].as_py())
        online_store(store).delete_table(store.config, store.get_feature_view("user_orders"))
        left: Any = client.hgetall(keys[0].as_py())
    gone = {field("user_orders", name) for name in view_named("user_orders").schema.names}
    gone |= {b"_ts:user_orders", b"_created:user_orders"}
    assert left == {name: value for name, value in before.items() if name not in gone}
    assert {b"_ts:user_intent", b"_created:user_intent"} < left.keys() < before.keys()
