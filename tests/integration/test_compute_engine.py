"""Materialization by our engine: which rows, what they replace, how much at once, what goes wrong.

Real Feast, real DuckDB, real Redis. That whole generated repositories come out as by stock Feast is
in test_parity_materialize.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from conftest import new_directory, used_directory
from feast import BatchFeatureView, Field
from feast.infra.common.materialization_job import MaterializationJobStatus
from feast.types import Array, Float64, Int32, Int64, Json, String, UnixTimestamp
from one_view import HOUR, TIMES, Bar, T, World, bars, rows

from pipelines.errors import RedisUnavailableError, UsageError
from pipelines.feast_plugins.compute_engine import CHUNKS_UNDER_WAY, ROWS_AT_ONCE, behind
from pipelines.feast_plugins.writing.batch_encoder import BatchEncoder
from pipelines.feast_plugins.writing.binary_arrays import FEW
from pipelines.redis_server import connect, ensure_server, stop_server
from pipelines.settings import DataConfig

MICROSECOND = timedelta(microseconds=1)
_numbers = itertools.count()


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    """A client of the Redis of a new data directory, which every store here uses."""
    with new_directory() as path, used_directory(path), connect(ensure_server(DataConfig())) as it:
        yield it


@pytest.fixture
def project(client: redis.Redis) -> str:
    """A project that no other test writes."""
    return f"project{next(_numbers)}"


@pytest.fixture
def world(client: redis.Redis, project: str, tmp_path: Path) -> World:
    """One with a feature x, a string."""
    return World(client, project, tmp_path).declare({"x": String})


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("materialization")]


def test_the_newest_row_of_each_key_is_written(world: World) -> None:
    """Both ends of the range are in it; equal event times differ by created timestamps."""
    ties = [(3, n, T, T + int(n) * MICROSECOND) for n in "152430"]
    world.fill(
        rows(
            (0, "too early", T - HOUR - MICROSECOND, T),
            (1, "first time", T - HOUR, T),
            (2, "older", T, T + HOUR),
            (2, "last time", T + HOUR, T),
            (2, "too late", T + HOUR + MICROSECOND, T),
            *ties,
            (4, "unknown", T, None),
            (4, "known", T, T),
        )
    )
    ours = world.materialize()
    assert world.values() == {1: "first time", 2: "last time", 3: "5", 4: "known"}
    world.empty()
    assert world.materialize(ours=False) == ours


def test_a_newer_row_stays(world: World) -> None:
    """Whether ours or stock Feast wrote it; a correction, made later, replaces; an older not."""
    world.fill(rows((1, "ours", T, T + MICROSECOND)))
    world.materialize()
    world.fill(rows((2, "stock", T, T)))
    world.materialize(ours=False)
    older = T - MICROSECOND
    world.fill(rows((1, "made before", T, T), (2, "older", older, T), (3, "new", older, T)))
    world.materialize()
    assert world.values() == {1: "ours", 2: "stock", 3: "new"}
    world.fill(rows((1, "correction", T, T + HOUR), (2, "of stock", T, T), (3, "newer", T, T)))
    world.materialize()
    assert world.values() == {1: "correction", 2: "of stock", 3: "newer"}


@pytest.mark.parametrize("year", [1, 1426, 1900, 1969])
@pytest.mark.parametrize("first_by_stock", [False, True])
def test_rows_of_long_ago_are_rows(world: World, year: int, first_by_stock: bool) -> None:
    """A sentinel of 1900 keeps no later row out; whoever wrote it, both stores read it."""
    old = T.replace(year=year, month=1, day=2)
    start = old - HOUR
    world.fill(rows((1, "sentinel", old, old), (2, "sentinel", old, old)))
    world.materialize(start, ours=not first_by_stock)
    assert world.values() == {1: "sentinel", 2: "sentinel"}
    asked = {"features": ["v:x"], "entity_rows": [{"k": 1}]}
    assert world.store(ours=False).get_online_features(**asked).to_dict()["x"] == ["sentinel"]
    before, later = old - MICROSECOND, old + MICROSECOND
    world.fill(rows((1, "older", before, T), (2, "made before", old, before)))
    world.materialize(start)
    kept = "made before" if first_by_stock else "sentinel"  # stock keeps no created timestamps
    assert world.values() == {1: "sentinel", 2: kept}
    world.fill(rows((1, "newer", later, before), (2, "made later", old, later)))
    world.materialize(start)
    assert world.values() == {1: "newer", 2: "made later"}
    world.fill(rows((1, "now", T, T)))
    world.materialize(start)
    assert world.values()[1] == "now"


def test_of_several_writers_at_once_the_newest_row_wins(
    client: redis.Redis, project: str, tmp_path: Path
) -> None:
    """Four engines at once, each with rows of its own of the same keys: none lost, none doubled."""
    keys, instants = range(500), range(4)
    worlds = []
    for instant in instants:
        folder = tmp_path / str(instant)
        folder.mkdir()
        worlds.append(World(client, project, folder).declare({"x": String}))
        mixed = random.Random(instant).sample(keys, len(keys))
        worlds[-1].fill(rows(*((k, f"{instant}", T + instant * MICROSECOND, T) for k in mixed)))
        worlds[-1].store()
    with ThreadPoolExecutor(len(worlds)) as pool:
        jobs = list(pool.map(lambda world: world.job(), worlds))
    assert {job.status() for job in jobs} == {MaterializationJobStatus.SUCCEEDED}
    assert set(worlds[0].values().values()) == {"3"}
    expected = worlds[0].hashes()
    worlds[0].empty()
    assert worlds[3].materialize() == expected
    assert len(expected) == len(keys)


def test_many_rows_are_stored_as_by_stock_feast(client: redis.Redis, tmp_path: Path) -> None:
    """More than a batch, with texts and lists of any length, to the byte."""
    chance = random.Random(1)
    many = ROWS_AT_ONCE + FEW + 1
    world = World(client, f"project{next(_numbers)}", tmp_path).declare(
        {"d": Float64, "i": Int64, "s": String, "a": Array(Float64), "t": UnixTimestamp}
    )
    world.fill(
        {
            "k": range(many),
            "d": [chance.choice((None, 0.0, chance.random())) for _ in range(many)],
            "i": [chance.randrange(-5, 2 ** chance.randrange(1, 62)) for _ in range(many)],
            "s": [chance.choice((None, "", "ö" * chance.randrange(3_000))) for _ in range(many)],
            "a": [[0.5] * chance.choice((0, 1, 40)) for _ in range(many)],
            "t": [chance.choice((None, T)) for _ in range(many)],
            "happened": [T] * many,
            "made": [T] * many,
        },
        {"t": pa.timestamp("us"), **TIMES},
    )
    ours = world.materialize()
    world.empty()
    assert len(ours) == many
    assert world.materialize(ours=False) == ours


def test_columns_may_have_other_names_in_the_source(
    client: redis.Redis, project: str, tmp_path: Path
) -> None:
    """Keys, features and times."""
    world = World(client, project, tmp_path).declare(
        {"x": String},
        field_mapping={"key": "k", "Text of x": "x", "when": "happened", "computed": "made"},
    )
    world.fill(
        {"key": [1, 1], "Text of x": ["old", "new"], "when": [T, T], "computed": [T, T + HOUR]},
        {"when": pa.timestamp("us", "UTC"), "computed": pa.timestamp("ms")},
    )
    ours = world.materialize()
    assert world.values() == {1: "new"}
    world.empty()
    assert world.materialize(ours=False) == ours


def test_only_so_much_is_held_at_once(world: World) -> None:
    """DuckDB gets a fraction of what the rows take, and rows come in batches."""
    many = 300_000
    table = pa.table(
        {
            "k": pa.array(range(many), pa.int64()),
            "x": pa.array([f"{n:0200d}" for n in range(1_000)] * (many // 1_000)),
            "happened": pa.array([T.replace(tzinfo=None)] * many, pa.timestamp("us")),
            "made": pa.array([T.replace(tzinfo=None)] * many, pa.timestamp("us")),
        }
    )
    assert table.nbytes > 60_000_000
    pq.write_table(table, world.path)
    world.store(offline={"memory_limit": "40MB"})
    made, build = bars()
    job = world.job(build)
    assert job.status() is MaterializationJobStatus.SUCCEEDED, job.error()
    assert sum(made[0].steps) == many
    assert max(made[0].steps) <= ROWS_AT_ONCE


def test_wide_rows_are_taken_fewer_at_once(world: World) -> None:
    """A batch is bounded in bytes too."""
    world.fill(rows(*((k, "x" * 100_000, T, T) for k in range(500))))
    made, build = bars()
    assert world.job(build).error() is None
    assert sum(made[0].steps) == 500
    assert max(made[0].steps) < 200


def test_a_progress_bar_counts_the_rows(world: World) -> None:
    """Of about as many as there are keys in the range; in the end of exactly as many."""
    world.fill(
        rows(
            *((n % 1_000, "x", T + n * MICROSECOND, T) for n in range(3_000)), (0, "", T - HOUR, T)
        )
    )
    made, build = bars()
    world.job(build)
    (bar,) = made
    assert (bar.n, bar.total, bar.closed) == (1_000, 1_000, True)
    world.empty()
    assert world.job(None).status() is MaterializationJobStatus.SUCCEEDED
    assert len(world.hashes()) == 1_000


def test_an_empty_range_writes_nothing(world: World) -> None:
    """And succeeds."""
    world.fill(rows((1, "x", T, T)))
    assert world.materialize(T + HOUR, T + 2 * HOUR) == {}


def test_a_value_that_is_refused_ends_the_job(
    client: redis.Redis, project: str, tmp_path: Path
) -> None:
    """With view, feature, declared type and value; rows before it are written, no thread left."""
    world = World(client, project, tmp_path).declare({"x": Int32})
    many = 3 * ROWS_AT_ONCE
    values = [0] * many
    world.fill({"k": range(many), "x": values, "happened": [T] * many, "made": [T] * many})
    world.job()
    values[many // 2] = 2**31
    instants = [T + MICROSECOND] * many
    world.fill({"k": range(many), "x": values, "happened": instants, "made": instants})
    made, build = bars()
    job = world.job(build)
    assert job.status() is MaterializationJobStatus.ERROR
    assert isinstance(job.error(), UsageError)
    assert "feature 'x' of v, declared Int32: a value does not fit INT32" in str(job.error())
    assert "2147483648" in str(job.error())
    assert len(world.hashes()) == many
    assert made[0].closed
    assert threads() == []
    with pytest.raises(UsageError, match="declared Int32"):
        world.materialize()


@pytest.mark.parametrize(
    ("dtype", "column", "message"),
    [
        (Float64, pa.array([0.5, 1.5], pa.float32()), "type float cannot be stored as DOUBLE"),
        (Array(Int64), pa.array([[1, None], [2]]), "has a null inside a list"),
        (Json, pa.array(["{}", "{"]), "cannot be stored as JSON: Invalid JSON"),
    ],
)
def test_what_stock_feast_refuses_is_refused(
    client: redis.Redis, project: str, tmp_path: Path, dtype: Any, column: Any, message: str
) -> None:
    """In a line that names the feature."""
    world = World(client, project, tmp_path).declare({"x": dtype})
    table = {"k": [1, 2], "x": column, "happened": [T, T], "made": [T, T]}
    world.fill({**table, "x": column.to_pylist()}, {"x": column.type, **TIMES})
    with pytest.raises(UsageError, match=message):
        world.materialize()
    with pytest.raises((AssertionError, TypeError, ValueError)):
        world.materialize(ours=False)


@pytest.mark.parametrize("declared", [3, 0])
def test_vectors_of_another_length_are_refused(
    client: redis.Redis, project: str, tmp_path: Path, declared: int
) -> None:
    """Than the one declared; if none is, than the first, in whatever batch that was."""
    vector = Field(
        name="x",
        dtype=Array(Float64),
        vector_index=True,
        vector_length=declared,
        vector_search_metric="L2",
    )
    world = World(client, project, tmp_path).declare({"x": Float64})
    world.objects[1].features[:] = [vector]
    columns = {"k": [1, 2], "happened": [T] * 2, "made": [T] * 2}
    world.fill({**columns, "x": [None, [0.5] * 2]})
    vectors = pq.read_table(world.path).to_batches()[0]
    world.fill({**columns, "x": [None, [0.5] * 3]})
    world.materialize()
    encoder = BatchEncoder(
        world.store().get_feature_view("v"),
        project,
        stored_name="v",
        event="happened",
        created="made",
        builder=None,
    )
    for batch in pq.read_table(world.path).to_batches():
        encoder.commands(batch)
    with pytest.raises(ValueError, match=r"Vector length 2 does not match expected 3"):
        encoder.commands(vectors)


def test_a_view_may_ask_for_checks(client: redis.Redis, project: str, tmp_path: Path) -> None:
    """Feast's own: texts declared Json must be."""
    world = World(client, project, tmp_path).declare({"x": Json}, enable_validation=True)
    world.fill(rows((1, "{}", T, T), (2, "{", T, T)))
    with pytest.raises(ValueError, match=r"Column 'x' declared as Json contains 1 invalid JSON"):
        world.materialize()
    world.fill(rows((1, "{}", T, T)))
    assert len(world.materialize()) == 1


def test_a_versioned_view_has_fields_of_its_own(
    client: redis.Redis, project: str, tmp_path: Path
) -> None:
    """Named as stock Feast names them."""
    found = []
    for ours in (True, False):
        world = World(client, project, tmp_path, versions=True).declare({"x": String})
        store = world.store(ours=ours)
        world.declare({"x": String, "y": Int64})
        store.apply(world.objects)
        world.fill({"k": [1], "x": ["a"], "y": [2], "happened": [T], "made": [T]})
        found.append(world.materialize(ours=ours))
        world.empty()
    ours_hashes, stock_hashes = ({k: set(v) for k, v in hashes.items()} for hashes in found)
    (fields,) = stock_hashes.values()
    assert b"_ts:v_v1" in fields
    assert ours_hashes == {key: {*names, b"_created:v_v1"} for key, names in stock_hashes.items()}


def test_a_null_key_and_a_missing_column_are_named(world: World) -> None:
    """Neither could be stored."""
    world.fill({"k": [1, None], "x": ["a", "b"], "happened": [T] * 2, "made": [T] * 2})
    with pytest.raises(UsageError, match="rows of v: the join key 'k' is null in 1 rows"):
        world.materialize()
    world.fill({"k": [1], "happened": [T], "made": [T]})
    with pytest.raises(UsageError, match=r"lacks the columns \['x'\]"):
        world.materialize()
    world.path.unlink()
    with pytest.raises(UsageError, match="source of v cannot be read: IO Error: No files found"):
        world.materialize()


def with_text(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(x="made of " + frame["k"].astype(str))


def test_a_view_with_a_transformation_is_left_to_feast(
    client: redis.Redis, project: str, tmp_path: Path
) -> None:
    """Which runs it."""
    world = World(client, project, tmp_path).declare(
        {"x": String},
        view=BatchFeatureView,
        mode="pandas",
        udf=with_text,
        udf_string="with_text",
        online=True,
    )
    world.fill(rows((1, "text", T, T)))
    world.materialize()
    assert world.values() == {1: "made of 1"}


def test_redis_away_is_one_clear_error(tmp_path: Path) -> None:
    """Of the job, and no thread is left."""
    with new_directory() as path, used_directory(path), connect(ensure_server(DataConfig())) as it:
        world = World(it, "away", tmp_path).declare({"x": String})
        world.fill(rows((1, "x", T, T)))
        world.materialize()
        stop_server(DataConfig())
        with pytest.raises(RedisUnavailableError, match="does not answer") as caught:
            world.store().materialize(T - HOUR, T + HOUR)
    assert "\n" not in str(caught.value)
    assert threads() == []


def test_an_interrupt_passes_through(world: World) -> None:
    """It is not a failed job; what was written stays, no thread is left, and it can be repeated."""
    many = 3 * ROWS_AT_ONCE
    world.fill(rows(*((k, "x", T, T) for k in range(many))))

    class Interrupting(Bar):
        def refresh(self) -> None:
            raise KeyboardInterrupt

        def update(self, rows: int) -> None:
            super().update(rows)
            self.refresh()

    with pytest.raises(KeyboardInterrupt):
        world.job(Interrupting)
    assert threads() == []
    assert 0 < len(world.hashes()) <= many
    assert world.job().error() is None
    assert len(world.hashes()) == many


def test_chunks_are_made_only_a_little_ahead() -> None:
    """In order, one at a time, while the next is made."""
    written: list[int] = []
    ahead = []

    def chunks() -> Iterator[Any]:
        for number in range(10):
            yield number
            ahead.append(number + 1 - len(written))

    def write(chunk: Any) -> int:
        written.append(chunk)
        return int(chunk)

    assert list(behind(write, chunks())) == written == list(range(10))
    assert max(ahead) <= CHUNKS_UNDER_WAY


def test_an_error_of_the_writer_ends_the_making() -> None:
    """And comes out as it is."""
    made = []

    def chunks() -> Iterator[Any]:
        for number in itertools.count():
            made.append(number)
            yield number

    def write(chunk: Any) -> int:
        raise ValueError(f"not {chunk}")

    with pytest.raises(ValueError, match="not 0"):
        list(behind(write, chunks()))
    assert len(made) <= CHUNKS_UNDER_WAY + 1
    assert threads() == []
