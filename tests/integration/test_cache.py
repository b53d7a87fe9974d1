"""The real-time cache, one suite over Redis, its stand-in and memory; no waiting for a clock."""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from pipelines.cache import DATA_TYPES, Batch, FeatureEntry, RealtimeCache, realtime_cache
from pipelines.cache.redis_backend import INDEX
from pipelines.errors import RedisUnavailableError, UnknownNameError, UsageError
from pipelines.redis_server import RedisEndpoint, connect, ensure_server, find_programs
from pipelines.settings import DataConfig

NOON = datetime(2024, 4, 1, 12, 0, 0, 123456)
MINUTE = timedelta(minutes=1)
NO_SERVER = pytest.mark.skipif(sys.platform == "win32", reason="only on Unix: a real server")
REAL_ENGINES = [pytest.param(engine, marks=NO_SERVER) for engine in ("redis", "valkey")]
ENGINES = [*REAL_ENGINES, "fakeredis"]


@dataclass
class Place:
    """Where the caches of a test keep their values."""

    config: DataConfig
    endpoint: RedisEndpoint | None
    seconds: float = 0.0

    def cache(self, **options: Any) -> RealtimeCache:
        """Another cache on this place; without a server it is a place of its own."""
        return RealtimeCache(
            options.pop("config", self.config),
            connect=lambda _: self._connected(),
            find=lambda _: self.endpoint,
            clock=lambda: self.seconds,
            now=lambda: NOON,
            **options,
        )

    def lives(self, cache: RealtimeCache) -> dict[str, float]:
        """Seconds left of each key, rounded up."""
        if self.endpoint is None:
            return {item.key: item.seconds for item in cache._memory.items()}
        client: Any
        with connect(self.endpoint) as client:
            keys = client.keys("*")
            return {
                key.decode(): math.ceil(client.pttl(key) / 1000)
                for key in keys
                if key.decode() != INDEX
            }

    def _connected(self) -> RedisEndpoint:
        if self.endpoint is None:
            raise RedisUnavailableError("there is none")
        return self.endpoint


@pytest.fixture(scope="module")
def server() -> Iterator[Callable[[str], RedisEndpoint]]:
    """Starts a server of each kind once, on demand; they are killed by their ids at the end."""
    started: dict[str, tuple[Path, RedisEndpoint]] = {}

    def start(engine: str) -> RedisEndpoint:
        if engine not in started:
            programs = [p for p in find_programs() if p.engine == engine]
            if not programs:
                pytest.skip(f"no {engine} on this machine")
            folder = Path(tempfile.mkdtemp(prefix="sc-")).resolve()
            config = DataConfig(data_dir=folder, redis_host=None, redis_timeout=10)
            started[engine] = folder, ensure_server(config, programs=programs)
        return started[engine][1]

    yield start
    for folder, endpoint in started.values():
        psutil.Process(endpoint.pid).kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=[*ENGINES, "memory"])
def place(
    request: pytest.FixtureRequest, server: Callable[[str], RedisEndpoint], tmp_path: Path
) -> Place:
    endpoint = None if request.param == "memory" else server(request.param)
    if endpoint is not None:
        with connect(endpoint) as client:
            client.flushall()
    return Place(DataConfig(data_dir=tmp_path, redis_host=None), endpoint)


@pytest.fixture(params=ENGINES)
def shared(
    request: pytest.FixtureRequest,
    server: Callable[[str], RedisEndpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    """A place that several caches share; a slow machine is no outage."""
    monkeypatch.setattr(realtime_cache, "LONGEST_WAIT", 60)
    endpoint = server(request.param)
    with connect(endpoint) as client:
        client.flushall()
    return Place(DataConfig(data_dir=tmp_path, redis_host=None, redis_timeout=60), endpoint)


def entry(minute: float = 0, computed: float = 0, **values: Any) -> FeatureEntry:
    """Features of so many minutes past noon, computed so many minutes later."""
    event = NOON + minute * MINUTE
    return FeatureEntry(values, event, event + computed * MINUTE)


def features_of(cache: RealtimeCache, feature_id: str) -> Any:
    found = cache.get_features([feature_id])[feature_id]
    return None if found is None else found.values


def test_features_come_back_as_they_were_put(place: Place) -> None:
    """Floats to the last bit, microseconds, null, lists; what is not there is None, in order."""
    values: dict[str, Any] = {
        "intent_score": 0.1 + 0.2,
        "tiny": 5e-324,
        "carts_7d": 2**62 + 1,
        "is_low_stock": False,
        "days_of_cover": None,
        "actions": ["view", "purchase"],
        "gaps": [0.0, 1.5, math.inf],
        "at": NOON,
        "price": Decimal("12.50"),
        "region": "São Paulo 🛒",
    }
    with place.cache() as cache:
        wanted = entry(computed=1, **values)
        assert cache.put_features({"user_intent:42": wanted, "user_intent:43": entry()}) == 2
        found = cache.get_features(["user_intent:43", "user_intent:7", "user_intent:42"])
        assert list(found) == ["user_intent:43", "user_intent:7", "user_intent:42"]
        assert found == {
            "user_intent:42": wanted,
            "user_intent:43": entry(),
            "user_intent:7": None,
        }
        assert cache.get_features([]) == {}
        assert cache.put_features({}) == 0


def test_a_batch_is_the_one_of_its_time_and_the_latest(place: Place) -> None:
    """Under both keys, be it a list or a table; the latest stays when an older batch comes."""
    rows = [{"id": 1, "price": Decimal("9.90"), "at": NOON, "note": None}]
    table = pa.table({"id": range(500)})
    with place.cache() as cache:
        assert cache.latest("orders") is cache.stream("orders", NOON) is None
        cache.put_batch("orders", NOON, rows)
        assert cache.latest("orders") == Batch("orders", NOON, rows)
        cache.put_batch("orders", NOON + MINUTE, table)
        assert cache.latest("orders") == Batch("orders", NOON + MINUTE, table.to_pylist())
        cache.put_batch("orders", NOON - MINUTE, [])
        assert cache.latest("orders") == cache.stream("orders", NOON + MINUTE)
        assert cache.stream("orders", NOON - MINUTE) == Batch("orders", NOON - MINUTE, [])
        # A time of any zone.
        assert cache.stream("orders", NOON.replace(tzinfo=UTC)) == Batch("orders", NOON, rows)
        assert cache.latest("sessions") is None


def test_a_batch_of_the_same_time_is_replaced(place: Place) -> None:
    """A batch that is sent again after a crash is there once."""
    with place.cache() as cache:
        for number in (1, 2):
            cache.put_batch("inventory", NOON, [{"id": number}])
        assert cache.latest("inventory") == Batch("inventory", NOON, [{"id": 2}])
        assert cache.stream("inventory", NOON) == Batch("inventory", NOON, [{"id": 2}])


def test_newer_features_are_never_replaced_by_older_ones(place: Place) -> None:
    """Event time counts first, then when they were computed: a correction replaces."""
    with place.cache() as cache:
        assert cache.put_features({"a": entry(5, score=1)}) == 1
        assert cache.put_features({"a": entry(4, computed=60, score=2), "b": entry()}) == 1
        assert features_of(cache, "a") == {"score": 1}
        assert cache.put_features({"a": entry(5, computed=2, score=3)}) == 1
        assert cache.put_features({"a": entry(5, computed=1, score=4)}) == 0
        assert features_of(cache, "a") == {"score": 3}
        assert cache.put_features({"a": entry(6, score=5)}) == 1
        assert features_of(cache, "a") == {"score": 5}


def test_values_live_as_long_as_the_design_says(place: Place) -> None:
    """Stream 5 min, latest and features 1 h, or as the configuration and the caller say."""
    with place.cache() as cache:
        cache.put_batch("orders", NOON, [])
        cache.put_features({"user_intent:42": entry()})
        assert place.lives(cache) == {
            "stream:orders:2024-04-01T12:00:00.123456": 300,
            "latest:orders": 3600,
            "features:user_intent:42": 3600,
        }


def test_times_to_live_are_configurable_per_data_type(place: Place) -> None:
    """By data type, by kind of key, by both."""
    own = {"latest:orders": 10, "sessions": 20, "features:user_intent": 30}
    config = place.config.model_copy(update={"cache_ttl": 40})
    with place.cache(config=config, ttl=own) as cache:
        for data_type in ("orders", "sessions"):
            cache.put_batch(data_type, NOON, [])
        cache.put_features({"user_intent:42": entry(), "user_orders:42": entry()})
        assert place.lives(cache) == {
            "stream:orders:2024-04-01T12:00:00.123456": 300,
            "latest:orders": 10,
            "stream:sessions:2024-04-01T12:00:00.123456": 20,
            "latest:sessions": 20,
            "features:user_intent:42": 30,
            "features:user_orders:42": 40,
        }


def test_hits_misses_and_size_are_counted(place: Place) -> None:
    """Each feature and each batch asked for is one look; size counts our keys only."""
    if place.endpoint is not None:
        with connect(place.endpoint) as client:
            client.hset(b"\x02\x00\x00\x00user_id\xff_store", "field", "of Feast")
            client.set("features", "somebody's")
    with place.cache() as cache:
        assert (cache.statistics().hit_rate, cache.statistics().size) == (None, 0)
        cache.put_batch("orders", NOON, [])
        cache.put_batch("orders", NOON + MINUTE, [])
        cache.put_features({f"v:{number}": entry() for number in range(2000)})
        cache.get_features(["v:1", "v:2", "w:1"])
        cache.latest("orders")
        cache.latest("sessions")
        found = cache.statistics()
        assert (found.hits, found.misses, found.hit_rate) == (3, 2, 0.6)
        assert found.size == 2003
        assert found.mode == ("memory" if place.endpoint is None else "redis")
        assert found.outages == (place.endpoint is None)


def test_every_data_type_of_the_design_is_known_and_no_other(place: Place) -> None:
    """A misspelt one is refused where it is written and where it is read."""
    with place.cache() as cache:
        for data_type in DATA_TYPES:
            cache.put_batch(data_type, NOON, [{"type": data_type}])
        for data_type in DATA_TYPES:
            assert cache.latest(data_type) == Batch(data_type, NOON, [{"type": data_type}])
        uses: tuple[Callable[[], object], ...] = (
            lambda: cache.put_batch("order", NOON, []),
            lambda: cache.latest("order"),
            lambda: cache.stream("order", NOON),
        )
        for use in uses:
            with pytest.raises(UnknownNameError, match="'order'"):
                use()
        with pytest.raises(UsageError, match="cannot keep a set"):
            cache.put_features({"a": entry(score={1})})
        with pytest.raises(UsageError, match="must be a datetime"):
            cache.put_features({"a": FeatureEntry({}, NOON, None)})  # type: ignore[arg-type]  # wrong


def test_threads_may_share_a_cache(place: Place) -> None:
    """Writers and readers at once; no error, nothing lost, the newest stays."""
    failures: list[BaseException] = []

    def work(offset: int) -> None:
        try:
            for minute in range(offset, 60, 4):
                cache.put_features({"shared": entry(minute), f"own:{offset}": entry(minute)})
                assert None not in cache.get_features(["shared", f"own:{offset}"]).values()
        except BaseException as error:
            failures.append(error)

    with place.cache() as cache:
        threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert cache.get_features(["shared"])["shared"] == entry(59)
        assert cache.statistics().size == 5


def test_two_caches_on_one_server_never_replace_newer_by_older(shared: Place) -> None:
    """Their writers race in opposite orders; the newest event of each key is what stays."""
    keys = [f"v:{number}" for number in range(20)]

    def write(cache: RealtimeCache, minutes: list[int]) -> None:
        ready.wait()
        for minute in minutes:
            cache.put_features({key: entry(minute, writer=id(cache)) for key in keys})
            cache.put_batch("orders", NOON + minute * MINUTE, [{"minute": minute}])

    ready = threading.Barrier(2)
    upward = list(range(40))
    with shared.cache() as one, shared.cache() as other:
        threads = [
            threading.Thread(target=write, args=(one, upward)),
            threading.Thread(target=write, args=(other, upward[::-1])),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for cache in (one, other):
            found = cache.get_features(keys).values()
            assert {e and e.event_timestamp for e in found} == {NOON + 39 * MINUTE}
            assert cache.latest("orders") == Batch("orders", NOON + 39 * MINUTE, [{"minute": 39}])
            assert cache.statistics().mode == "redis"


def test_each_process_sees_what_the_others_wrote(shared: Place) -> None:
    """Redis answers, not the copy of what this process wrote once."""
    with shared.cache() as writer, shared.cache() as reader:
        reader.put_features({"a": entry(1, score=1)})
        writer.put_features({"a": entry(2, score=2)})
        assert features_of(reader, "a") == {"score": 2}
        assert reader.statistics().size == writer.statistics().size == 1


def test_something_else_under_our_keys_is_nothing_and_is_replaced(shared: Place) -> None:
    """Another type, another text: a miss to the reader, no newer value to the writer."""
    assert shared.endpoint is not None
    with connect(shared.endpoint) as client:
        client.hset("features:hash", "field", "1")
        client.set("features:text", "{}zzzz" * 50)
        client.set("latest:orders", b"\xff\xff")
    with shared.cache() as cache:
        assert cache.get_features(["hash", "text"]) == {"hash": None, "text": None}
        assert cache.latest("orders") is None
        assert cache.put_features({"hash": entry(score=1), "text": entry(score=2)}) == 2
        cache.put_batch("orders", NOON, [])
        assert features_of(cache, "hash") == {"score": 1}
        assert features_of(cache, "text") == {"score": 2}
        assert cache.latest("orders") == Batch("orders", NOON, [])
        assert cache.statistics().mode == "redis"


def test_the_index_forgets_what_expired_and_expires_itself(shared: Place) -> None:
    """Nothing of ours stays in a database that we share."""
    assert shared.endpoint is not None
    client: Any
    with shared.cache(ttl={"orders": 60}) as cache, connect(shared.endpoint) as client:
        cache.put_features({"a": entry(), "b": entry()})
        assert 3595 < client.ttl(INDEX) <= 3600
        cache.put_batch("orders", NOON, [])
        assert 3595 < client.ttl(INDEX) <= 3600
        client.zadd(INDEX, {"features:a": 1})  # as if it had expired in 1970
        assert cache.statistics().size == 3
        cache.put_features({"c": entry()})
        assert client.zscore(INDEX, "features:a") is None
        assert cache.statistics().size == 4


@pytest.mark.parametrize("shared", REAL_ENGINES, indirect=True)
def test_a_call_is_one_round_trip(shared: Place) -> None:
    """Five hundred features written or read are one command."""
    assert shared.endpoint is not None
    entries = {f"v:{number}": entry() for number in range(500)}
    with shared.cache() as cache, connect(shared.endpoint) as client:
        cache.put_features({"warm": entry()})
        client.config_resetstat()
        cache.put_features(entries)
        cache.get_features(list(entries))
        counts: Any = client.info("commandstats")
        assert counts["cmdstat_evalsha"]["calls"] == 1
        assert counts["cmdstat_mget"]["calls"] == 1
        assert "cmdstat_scan" not in counts
        assert "cmdstat_keys" not in counts
