"""Writing rows without Feast: Feast and our store read them, and among all writers the newer wins.

Real server, real feature store; what the bytes are, value by value, is in test_encoding.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis

from pipelines.batch import BatchConfig
from pipelines.errors import RedisRefusedError, UsageError
from pipelines.feast_plugins.repository import open_store
from pipelines.feast_plugins.writing import online_writer
from pipelines.feast_plugins.writing.encoding import entity_keys, field, values
from pipelines.feast_plugins.writing.newer_wins import MISSING
from pipelines.feast_plugins.writing.online_writer import (
    ROWS_PER_CHUNK,
    ROWS_PER_SCRIPT,
    OnlineWriter,
)
from pipelines.feast_plugins.writing.resp import Commands, argument, exchange
from pipelines.features.views import VIEWS, view_named
from pipelines.redis_server import connect, ensure_server, translate_redis_errors
from pipelines.settings import DataConfig

PROJECT = "synchrochain"
KEYS = {view.name: view.keys for view in VIEWS}
T = datetime(2026, 1, 31, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)
_numbers = itertools.count()


@pytest.fixture
def store(folder: Path) -> Any:
    """A feature store whose present time is a minute after T."""
    opened = open_store(BatchConfig(data_dir=folder))
    opened._get_provider().online_store.now = lambda: T + timedelta(minutes=1)
    return opened


@pytest.fixture
def client(folder: Path) -> Iterator[redis.Redis]:
    """A client of the server of the data directory."""
    with connect(ensure_server(DataConfig())) as opened:
        yield opened


@pytest.fixture
def writer(client: redis.Redis) -> OnlineWriter:
    return OnlineWriter(client, PROJECT)


@pytest.fixture
def route() -> str:
    """A route that no other test writes."""
    return f"W{next(_numbers)}"


def any_value(kind: Any, chance: random.Random) -> Any:
    """A value of an Arrow type, now and then null."""
    if chance.random() < 0.1:
        return None
    if pa.types.is_list(kind):
        item = kind.value_type
        return [any_value(item, chance) or empty(item) for _ in range(chance.choice((0, 1, 32)))]
    if pa.types.is_integer(kind):
        return chance.randrange(-5, 2 ** chance.randrange(1, 50))
    if pa.types.is_floating(kind):
        return chance.choice((0.0, -1.5, float("inf"), chance.random()))
    if pa.types.is_boolean(kind):
        return chance.random() < 0.5
    assert pa.types.is_string(kind), kind
    return chance.choice(("", "low", "hög", "x" * 200))


def empty(kind: Any) -> Any:
    return "" if pa.types.is_string(kind) else 0


def any_rows(view: str, number: int, seed: int = 0, prefix: str = "any") -> pa.Table:
    """Rows of a view, each of another entity, with any values."""
    chance = random.Random(f"{view} {seed}")
    schema, keys = view_named(view).schema, KEYS[view]
    columns: dict[str, list[Any]] = {}
    for column in schema:
        if column.name in keys:
            of_string = pa.types.is_string(column.type)
            columns[column.name] = [f"{prefix}{n}" if of_string else n for n in range(number)]
        elif pa.types.is_timestamp(column.type):
            times = [T + chance.randrange(10**6) * MICROSECOND for _ in range(number)]
            columns[column.name] = [time.replace(tzinfo=None) for time in times]
        else:
            columns[column.name] = [any_value(column.type, chance) for _ in range(number)]
    return pa.table(columns, schema)


def congestions(rows: Sequence[tuple[str, float, datetime, datetime]]) -> pa.Table:
    """Rows of route_conditions: route, congestion, event time, created timestamp; the rest is
    null."""
    schema = view_named("route_conditions").schema
    columns: dict[str, Any] = {name: [None] * len(rows) for name in schema.names}
    named = ("route_id", "congestion", "event_timestamp", "created_timestamp")
    for name, column in zip(named, zip(*rows, strict=True), strict=True):
        columns[name] = [v.replace(tzinfo=None) if isinstance(v, datetime) else v for v in column]
    return pa.table(columns, schema)


def put(
    writer: OnlineWriter, route: str, value: float, event: datetime = T, created: datetime = T
) -> int:
    """Write one row of route_conditions; how many rows it replaced."""
    return writer.write({"route_conditions": congestions([(route, value, event, created)])}, KEYS)


def write_with_feast(store: Any, view: str, rows: pa.Table) -> None:
    """The way that materialization takes, through our store's class."""
    from feast.utils import _convert_arrow_to_proto

    table = store.get_feature_view(view)
    join_keys = {column.name: column.dtype.to_value_type() for column in table.entity_columns}
    protos = _convert_arrow_to_proto(rows, table, join_keys)
    store._get_provider().online_store.online_write_batch(store.config, table, protos, None)


def congestion(store: Any, route: str) -> float | None:
    found = store.get_online_features(
        features=["route_conditions:congestion"], entity_rows=[{"route_id": route}]
    )
    value: float | None = found.to_dict()["congestion"][0]
    return value


def hashes(client: redis.Redis) -> dict[bytes, dict[bytes, bytes]]:
    """All that the server holds."""
    return {key: client.hgetall(key) for key in client.scan_iter(_type="hash")}


@pytest.mark.parametrize("view", KEYS)
def test_the_server_holds_what_feast_would_have_written(
    store: Any, client: redis.Redis, writer: OnlineWriter, view: str
) -> None:
    """Keys, fields and values, to the byte."""
    rows = any_rows(view, 50)
    client.flushdb()
    write_with_feast(store, view, rows)
    expected = hashes(client)
    client.flushdb()
    assert writer.write({view: rows}, KEYS) == 50
    assert len(expected) == 50
    assert hashes(client) == expected


@pytest.mark.parametrize("view", KEYS)
def test_our_store_serves_the_rows(store: Any, writer: OnlineWriter, view: str) -> None:
    """Through get_online_features, in the entities' order; a chunked table as well."""
    rows = any_rows(view, 20, seed=1, prefix="served")
    assert writer.write({view: pa.concat_tables([rows[:7], rows[7:]])}, KEYS) == 20
    features = view_named(view).features
    answer = store.get_online_features(
        features=[f"{view}:{name}" for name in features],
        entity_rows=rows.select(KEYS[view]).to_pylist(),
    ).to_dict()
    assert {name: answer[name] for name in features} == rows.select(features).to_pydict()


def test_stock_feast_reads_the_rows(store: Any, folder: Path, writer: OnlineWriter) -> None:
    """Feast's own Redis store, which knows nothing of us."""
    from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value
    from feast.type_map import feast_value_type_to_python_type

    rows = any_rows("inventory_levels", 20, prefix="stock")
    writer.write({"inventory_levels": rows}, KEYS)
    config = store.config.model_copy()
    config._online_store = RedisOnlineStoreConfig(
        connection_string=ensure_server(DataConfig()).connection_string
    )
    table = store.get_feature_view("inventory_levels")
    found = RedisOnlineStore().online_read(
        config,
        table,
        [
            EntityKey(
                join_keys=["warehouse_id", "product_id"],
                entity_values=[
                    Value(string_val=row["warehouse_id"]),
                    Value(string_val=row["product_id"]),
                ],
            )
            for row in rows.to_pylist()
        ],
    )
    assert [
        {name: feast_value_type_to_python_type(value) for name, value in (values or {}).items()}
        | {"event_timestamp": instant and instant.replace(tzinfo=None)}
        for instant, values in found
    ] == rows.drop_columns([*KEYS["inventory_levels"], "created_timestamp"]).to_pylist()


@pytest.mark.parametrize("order", ["store first", "writer first", "writer only"])
@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        ((T, T), (T + SECOND, T), 2.0),
        ((T + SECOND, T), (T, T + SECOND), 1.0),
        ((T, T), (T, T + SECOND), 2.0),
        ((T, T + MICROSECOND), (T, T), 1.0),
        ((T, T), (T, T), 2.0),
        ((T, T), (T - MICROSECOND, T + SECOND), 1.0),
    ],
)
def test_the_newer_row_wins(
    store: Any, writer: OnlineWriter, route: str, order: str, first: Any, second: Any, winner: float
) -> None:
    """By event time, then by created timestamp, whichever of the two wrote it."""
    for place, (value, times) in enumerate(((1.0, first), (2.0, second))):
        if order == ("store first", "writer first")[place]:
            write_with_feast(store, "route_conditions", congestions([(route, value, *times)]))
        else:
            assert put(writer, route, value, *times) == (place == 0 or winner == 2.0)
    assert congestion(store, route) == winner


def test_rows_of_one_entity_may_come_in_any_order(
    store: Any, writer: OnlineWriter, route: str
) -> None:
    """Three of these five find an older row, or none."""
    seconds = (3, 1, 4, 2, 5)
    rows = congestions([(route, float(n), T + n * SECOND, T) for n in seconds])
    assert writer.write({"route_conditions": rows}, KEYS) == 3
    assert congestion(store, route) == 5.0


def test_many_rows_of_several_views_all_arrive(client: redis.Redis, writer: OnlineWriter) -> None:
    """More than a round trip takes; an empty table among them."""
    many = 2 * ROWS_PER_CHUNK + 345
    client.flushdb()
    rows = {
        "user_orders": any_rows("user_orders", many),
        "user_intent": any_rows("user_intent", 0),
        "route_conditions": any_rows("route_conditions", many),
    }
    assert writer.write(rows, KEYS) == 2 * many
    assert client.dbsize() == 2 * many
    assert writer.write({}, KEYS) == 0


def test_rows_may_be_long_and_wide(client: redis.Redis, writer: OnlineWriter) -> None:
    """Texts longer than a stretch of what is sent, more fields than Lua can pass at once."""
    rows = 2 * ROWS_PER_SCRIPT + 3
    texts = ["x" * (n * 5_000) for n in range(rows)]
    times = pa.array([T.replace(tzinfo=None)] * rows, pa.timestamp("us"))
    columns = {"key": range(rows), "event_timestamp": times, "created_timestamp": times}
    keys = {"long": ["key"], "wide": ["key"]}
    names = [f"f{n}" for n in range(9_000)]
    client.flushdb()
    assert writer.write({"long": pa.table({**columns, "text": texts})}, keys) == rows
    few = pa.table(columns)[:3].to_pydict() | {name: [n] * 3 for n, name in enumerate(names)}
    types = {name: times.type for name in columns if name != "key"}
    wide_rows = pa.table({name: pa.array(v, types.get(name)) for name, v in few.items()})
    assert writer.write({"wide": wide_rows}, keys) == 3
    for key, text in zip(entity_keys({"key": pa.array(range(rows))}, PROJECT), texts, strict=True):
        stored = client.hget(key.as_py(), field("long", "text"))
        assert stored == values(pa.array([text]))[0].as_py()
    wide: Any = client.hgetall(entity_keys({"key": pa.array([2])}, PROJECT)[0].as_py())
    assert len(wide) == 2 + 1 + 2 + len({field("wide", name) for name in names})
    assert wide[field("wide", names[-1])] == values(pa.array([len(names) - 1]))[0].as_py()


def test_a_dropped_connection_is_opened_again(client: redis.Redis) -> None:
    """As by every client of ours: once, and everything is sent again."""

    def command(*words: bytes) -> bytes:
        return b"*%d\r\n" % len(words) + b"".join(map(argument, words))

    def run(*commands: bytes) -> list[Any]:
        return exchange(client, Commands.of(pa.array(commands, pa.binary())))

    (number,) = run(command(b"CLIENT", b"ID"))
    kill = command(b"CLIENT", b"KILL", b"ID", b"%d" % number, b"SKIPME", b"no")
    assert run(kill, command(b"ECHO", b"x")) == [0, b"x"]  # by then nobody has that number
    kill = command(b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"no")
    with pytest.raises(redis.ConnectionError):
        run(kill, command(b"ECHO", b"x"))
    assert run(command(b"ECHO", b"x")) == [b"x"]


def test_a_key_that_is_no_hash_is_replaced(
    client: redis.Redis, writer: OnlineWriter, route: str
) -> None:
    """It is counted, and every other row is written too."""
    routes = [f"{route}-{n}" for n in range(3 * ROWS_PER_SCRIPT)]
    keys = entity_keys({"route_id": pa.array(routes)}, PROJECT)
    client.set(keys[0].as_py(), "no hash")
    client.rpush(keys[1].as_py(), "no", "hash")
    rows = congestions([(name, 1.0, T, T) for name in routes])
    assert writer.write({"route_conditions": rows}, KEYS) == len(routes)
    assert writer.damaged == 2
    assert {client.type(key.as_py()) for key in keys} == {b"hash"}


def test_a_server_that_has_lost_the_script_is_given_it_again(
    store: Any, client: redis.Redis, writer: OnlineWriter, route: str
) -> None:
    """As after a restart."""
    put(writer, route, 1.0)
    client.script_flush()
    assert put(writer, route, 2.0, T + SECOND) == 1
    assert congestion(store, route) == 2.0


def test_without_memory_writing_fails_and_may_be_repeated(
    folder: Path, client: redis.Redis, writer: OnlineWriter
) -> None:
    """Half of the rows are there after the error, all of them after the repetition."""
    client.flushdb()
    many = 2 * ROWS_PER_CHUNK
    rows = {"session_events": any_rows("session_events", many)}
    used = int(client.info("memory")["used_memory"])
    client.config_set("maxmemory", used + 1_000_000)
    try:
        with (
            pytest.raises(RedisRefusedError, match="out of memory"),
            translate_redis_errors(ensure_server(DataConfig())),
        ):
            writer.write(rows, KEYS)
    finally:
        client.config_set("maxmemory", 0)
    assert 0 < client.dbsize() < many
    assert writer.write(rows, KEYS) == many
    assert client.dbsize() == many
    written = hashes(client)
    assert writer.write(rows, KEYS) == many
    assert hashes(client) == written


@pytest.mark.parametrize("shared", [True, False])
def test_of_many_writers_the_newest_row_wins(
    store: Any, folder: Path, writer: OnlineWriter, route: str, shared: bool
) -> None:
    """Four threads, each with all rows in an order of its own, one writer or one each."""
    routes = [f"{route}-{n}" for n in range(10)]
    times = range(60)

    def write(number: int) -> None:
        rows = [(name, float(n), T + n * SECOND, T) for name in routes for n in times]
        random.Random(number).shuffle(rows)
        if shared:
            writer.write({"route_conditions": congestions(rows)}, KEYS)
        else:
            with connect(ensure_server(DataConfig())) as own:
                OnlineWriter(own, PROJECT).write({"route_conditions": congestions(rows)}, KEYS)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert [congestion(store, name) for name in routes] == [float(times[-1])] * len(routes)


def test_a_missing_column_is_named(writer: OnlineWriter, route: str) -> None:
    """So is the view, there and where a column cannot be encoded."""
    rows = congestions([(route, 1.0, T, T)])
    with pytest.raises(UsageError, match=r"route_conditions lack the columns \['route_id'\]"):
        writer.write({"route_conditions": rows.drop_columns(["route_id"])}, KEYS)
    odd = rows.append_column("odd", pa.array([1], pa.int8()))
    with pytest.raises(UsageError, match=r"rows of route_conditions: .* int8 has no encoding"):
        writer.write({"route_conditions": odd}, KEYS)


def test_an_unreachable_server_is_redis_own_error(writer: OnlineWriter, route: str) -> None:
    """Which the caller translates, who knows the endpoint."""
    with (
        redis.Redis(host="127.0.0.1", port=1, retry=None) as away,
        pytest.raises(redis.ConnectionError),
    ):
        put(OnlineWriter(away, PROJECT), route, 1.0)


def test_a_check_names_each_wrong_row_once(
    client: redis.Redis, writer: OnlineWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its number, however many chunks there are; what was mended is right the next time."""
    monkeypatch.setattr(online_writer, "ROWS_PER_CHUNK", 10)
    rows = any_rows("route_conditions", 25, prefix="checked")
    keys = KEYS["route_conditions"]
    writer.write({"route_conditions": rows}, KEYS)
    assert writer.check("route_conditions", rows, keys, repair=False) == []
    stored = entity_keys({name: rows.column(name) for name in keys}, PROJECT).to_pylist()
    wrong = (0, 9, 10, 24)
    for number in wrong:
        client.hdel(stored[number], "_ts:route_conditions")
    for repair, found in ((False, wrong), (True, wrong), (True, ())):
        verdicts = writer.check("route_conditions", rows, keys, repair=repair)
        assert verdicts == [(number, MISSING) for number in found]
