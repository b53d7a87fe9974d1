"""Point-in-time retrieval by our offline store, against a plain-Python reading of what it means."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, RepoConfig, ValueType
from feast.data_source import RequestSource
from feast.errors import EntityTimestampInferenceException, SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import FileSource, SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

from pipelines.errors import UsageError
from pipelines.feast_plugins.history.retrieval_job import PointInTimeJob
from pipelines.feast_plugins.offline_store import ParquetOfflineStore

Row = dict[str, Any]
START = datetime(2026, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
TTL = timedelta(hours=5)


def at(hours: float) -> datetime:
    """A time so many hours after the start."""
    return START + timedelta(hours=hours)


class World:
    """A feature repository in a folder; sources are written by the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
        self.shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.STRING)
        self.store(later=True).apply([self.user, self.shop])

    def store(self, later: bool = False, **options: Any) -> FeatureStore:
        """The repository with our offline store; `later` is `values_computed_later`."""
        return FeatureStore(
            config=RepoConfig(
                project="history",
                provider="local",
                registry=str(self.folder / "registry.db"),
                repo_path=self.folder,
                online_store={"type": "sqlite", "path": str(self.folder / "online.db")},
                offline_store={
                    "type": "pipelines.feast_plugins.offline_store.ParquetOfflineStore",
                    "values_computed_later": later,
                    **options,
                },
                entity_key_serialization_version=3,
            )
        )

    def view(self, name: str, rows: list[Row] | pa.Table, **changes: Any) -> FeatureView:
        """A declared view over rows; by default of users, with created timestamps and feature
        `x`."""
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
        pq.write_table(table, self.folder / f"{name}.parquet", row_group_size=50)
        source = {"created_timestamp_column": "created", **changes.pop("source", {})}
        arguments = {
            "entities": [self.user],
            "schema": [Field(name="x", dtype=Int64)],
            "ttl": TTL,
            **changes,
        }
        path = f"{name}.parquet"
        view = FeatureView(
            name=name,
            source=FileSource(
                **{"name": name, "path": path, "timestamp_field": "event_timestamp", **source}
            ),
            **arguments,
        )
        self.store().apply([view])
        return view


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One repository for the whole module; each test declares views of its own."""
    return World(tmp_path_factory.mktemp("history"))


def row(user: int | None, hours: float, x: int, created: float | None = None) -> Row:
    """A source row; created with its event unless said."""
    known = at(hours if created is None else created)
    return {"user_id": user, "event_timestamp": at(hours), "created": known, "x": x}


def frame(*rows: tuple[Any, datetime]) -> pd.DataFrame:
    """An entity dataframe of users and times."""
    users = pd.array([user for user, _ in rows], dtype="Int64")
    return pd.DataFrame(
        {"user_id": users, "event_timestamp": pd.to_datetime([m for _, m in rows], utc=True)}
    )


def ask(store: FeatureStore, entities: Any, *refs: str, **how: Any) -> PointInTimeJob:
    """The job of a request, which is ours."""
    job = store.get_historical_features(entities, features=list(refs), **how)
    assert isinstance(job, PointInTimeJob)
    return job


def values(store: FeatureStore, entities: Any, *refs: str, **how: Any) -> list[Any]:
    """The last column of the answer."""
    table = ask(store, entities, *refs, **how).to_arrow()
    found: list[Any] = table.columns[-1].to_pylist()
    return found


def expected(
    rows: Sequence[Row], keys: Sequence[str], asked: Row, ttl: timedelta | None, cut_off: bool
) -> Row | None:
    """The newest row known at the time, unless it has expired."""
    instant = asked["event_timestamp"]

    def created(found: Row) -> datetime:
        known: datetime = found["created"] or found["event_timestamp"]
        return known

    known = [
        found
        for found in rows
        if all(asked[k] is not None and found[k] == asked[k] for k in keys)
        and found["event_timestamp"] <= instant
        and (not cut_off or created(found) <= instant)
    ]
    if not known:
        return None
    lowest = datetime.min.replace(tzinfo=UTC)
    newest = max(known, key=lambda r: (r["event_timestamp"], r["created"] or lowest))
    expired = ttl is not None and instant - newest["event_timestamp"] > ttl
    return None if expired else newest


@pytest.mark.parametrize("cut_off", [False, True])
@pytest.mark.parametrize("ttl", [TTL, None])
def test_random_histories_are_answered_as_defined(
    world: World, cut_off: bool, ttl: timedelta | None
) -> None:
    """Two keys, ties of event times, nulls, corrections, late values, expiry, in any order."""
    chance = random.Random(7)
    seen = set()
    rows: list[Row] = []
    while len(rows) < 600:
        hour, delay = chance.randrange(60), chance.choice([None, -1, 0, 0, 1, 3, 20])
        key = (chance.choice([1, 2, 3, None]), chance.choice(["a", "b", None]))
        if (key, hour, delay) in seen:
            continue
        seen.add((key, hour, delay))
        made = None if delay is None else at(hour + delay)
        rows.append(
            {"user_id": key[0], "shop_id": key[1], "event_timestamp": at(hour), "created": made}
            | {"x": None if chance.random() < 0.1 else len(rows), "label": "theirs"}
        )
    name = f"random_{cut_off}_{ttl is None}".lower()
    world.view(name, rows, entities=[world.user, world.shop], ttl=ttl)
    asked = [
        {
            "user_id": chance.choice([1, 2, 3, 4, None]),
            "shop_id": chance.choice(["a", "b", "c", None]),
            "event_timestamp": at(chance.randrange(-5, 75))
            + chance.choice([-MICROSECOND, timedelta(), MICROSECOND]),
        }
        for _ in range(400)
    ]
    entities = pd.DataFrame(asked + asked[:50])
    entities["user_id"] = entities["user_id"].astype("Int64")
    entities["label"] = range(len(entities))
    entities["LABEL"] = "another"
    store = world.store(later=not cut_off)
    table = store.get_historical_features(entities, features=[f"{name}:x"]).to_arrow()
    assert table.column_names == ["user_id", "shop_id", "event_timestamp", "label", "LABEL", "x"]
    assert table["label"].to_pylist() == list(range(450))
    found = table.to_pylist()
    assert [{k: r[k] for k in asked[0]} for r in found] == asked + asked[:50]
    wanted = [expected(rows, ["user_id", "shop_id"], r, ttl, cut_off) for r in found]
    assert [r["x"] for r in found] == [r["x"] if r else None for r in wanted]
    assert sum(r is not None for r in wanted) > 100


def test_time_to_live_includes_both_ends(world: World) -> None:
    """Valid from its own time to the last microsecond; nothing older after."""
    world.view("borders", [row(1, 0, 10), row(1, 1, 11)])
    instants = [at(0) - MICROSECOND, at(0), at(1) - MICROSECOND, at(1), at(6), at(6) + MICROSECOND]
    found = values(world.store(), frame(*((1, instant) for instant in instants)), "borders:x")
    assert found == [None, 10, 10, 11, 11, None]


def test_a_value_computed_later_is_used_only_when_asked_for(world: World) -> None:
    """By default, and always with Feast's own flag, what nobody knew then is not there."""
    world.view("late", [row(1, 0, 10), row(1, 1, 11, created=3)])
    entities = frame((1, at(2)), (1, at(3)))
    assert values(world.store(), entities, "late:x") == [10, 11]
    later = world.store(later=True)
    assert values(later, entities, "late:x") == [11, 11]
    assert values(later, entities, "late:x", filter_by_created_timestamp=True) == [10, 11]
    assert values(world.store(), entities, "late:x", filter_by_created_timestamp=True) == [10, 11]


def test_of_rows_computed_at_once_the_newest_event_counts(world: World) -> None:
    """A backfill makes them known at the same time, in whatever order the file has them."""
    users = range(200)
    both = [row(user, hours, hours, created=5) for user in users for hours in (3, 1)]
    world.view("at_once", sorted(both, key=lambda r: (r["x"] * (-1) ** r["user_id"], r["user_id"])))
    asked = frame(*((user, at(6)) for user in users))
    assert values(world.store(), asked, "at_once:x") == [3] * len(users)


def test_views_without_created_times_are_not_cut_off(world: World) -> None:
    """There is nothing to cut off by."""
    source = {"created_timestamp_column": ""}
    world.view("timeless", [row(1, 0, 10, created=9)], source=source)
    assert values(world.store(), frame((1, at(1))), "timeless:x") == [10]


def test_of_rows_with_one_event_time_the_newest_created_counts(world: World) -> None:
    """Wherever it lies in the file; a null is the oldest."""
    rows = [row(u, 0, created, created) for u in range(40) for created in (2, 5, 1)]
    rows += [{**row(u, 0, 99), "created": None} for u in range(40)]
    world.view("corrected", rows)
    entities = frame(*((user, at(4.5)) for user in range(40)))
    assert values(world.store(later=True), entities, "corrected:x") == [5] * 40
    assert values(world.store(), entities, "corrected:x") == [2] * 40


def test_a_sql_frame_gives_what_the_same_pandas_frame_gives(world: World) -> None:
    """In the order in which its rows come, and without a time zone too."""
    world.view("queried", [row(u, u % 7, u) for u in range(300)])
    instants = [((u * 7) % 301, at((u * 3) % 11)) for u in range(2000)]
    entities = frame(*instants).assign(extra=range(2000))
    pq.write_table(pa.Table.from_pandas(entities), world.folder / "asked.parquet")
    path = world.folder / "asked.parquet"
    query = f"SELECT * FROM read_parquet('{path}') ORDER BY extra;"
    store = world.store()
    from_sql = ask(store, query, "queried:x")
    from_pandas = store.get_historical_features(entities, features=["queried:x"])
    assert from_sql.to_arrow().equals(from_pandas.to_arrow())
    assert from_sql.metadata.keys == ["user_id", "extra"]
    assert from_sql.metadata.min_event_timestamp == at(0)
    assert from_sql.metadata.max_event_timestamp == at(10)
    assert "read_parquet" in from_sql.to_sql()
    naive = "SELECT 3 AS user_id, TIMESTAMP '2026-01-01 04:00' AS time"
    assert values(store, naive, "queried:x") == [3]


@pytest.mark.parametrize(
    "hold",
    [
        lambda entities: pa.Table.from_pandas(entities),
        lambda entities: pa.Table.from_pandas(entities).to_batches()[0],
        lambda entities: entities.to_dict("list"),
        lambda entities: entities.to_dict("records"),
    ],
    ids=["arrow", "batch", "columns", "rows"],
)
def test_an_entity_dataframe_is_held_by_whatever_is_at_hand(world: World, hold: Any) -> None:
    """The answer is that of a pandas frame."""
    name = "held"
    if not (world.folder / f"{name}.parquet").exists():
        world.view(name, [row(u, u % 7, u) for u in range(30)])
    entities = frame(*(((u * 7) % 31, at((u * 3) % 11)) for u in range(50)))
    entities["user_id"] = entities["user_id"].astype("int64")
    usual = ask(world.store(), entities, f"{name}:x").to_arrow()
    assert ask(world.store(), hold(entities), f"{name}:x").to_arrow().equals(usual)
    assert usual["x"].null_count < 50


def naive_seconds(times: pa.Array) -> pa.Array:
    return times.cast(pa.timestamp("us")).cast(pa.timestamp("s"))


@pytest.mark.parametrize(
    "convert",
    [
        lambda times: times.cast(pa.timestamp("us")),
        lambda times: times.cast(pa.timestamp("ns", "UTC")),
        lambda times: times.cast(pa.timestamp("us")).cast(pa.timestamp("ns")),
        lambda times: times.cast(pa.timestamp("ms", "Europe/Berlin")),
        naive_seconds,
    ],
)
def test_times_of_any_unit_and_zone_mean_the_same(
    world: World, convert: Callable[[pa.Array], pa.Array]
) -> None:
    """One without a zone is in UTC, in files and in frames."""
    table = pa.Table.from_pylist([row(1, 0, 10), row(1, 1, 11), row(1, 2, 12, created=8)])
    for i, name in ((1, "event_timestamp"), (2, "created")):
        table = table.set_column(i, name, convert(table[name].combine_chunks()))
    world.view("units", table)
    instants = pa.array([at(1) - MICROSECOND, at(1), at(7)], pa.timestamp("us", "UTC"))
    entities = frame(*((1, instant) for instant in instants.to_pylist()))
    assert values(world.store(), entities, "units:x") == [10, 11, None]
    asked = entities[1:].assign(event_timestamp=convert(instants[1:]).to_pandas().array)
    assert values(world.store(later=True), asked, "units:x") == [11, 12]
    zoned = entities.assign(event_timestamp=entities["event_timestamp"].dt.tz_convert("Asia/Tokyo"))
    assert values(world.store(), zoned, "units:x") == [10, 11, None]


def test_mappings_aliases_and_full_names(world: World) -> None:
    """A source's names, keys of other columns, one view twice under two names."""
    rows = [{"uid": u, "when": at(u), "created": at(u), "x_raw": u * 10} for u in (1, 2)]
    view = world.view(
        "mapped",
        rows,
        source={
            "timestamp_field": "event_timestamp",
            "field_mapping": {"uid": "user_id", "when": "event_timestamp", "x_raw": "x"},
        },
    )
    other = view.with_name("partner").with_join_key_map({"user_id": "partner_id"})
    store = world.store()
    store.apply([FeatureService(name="pair", features=[view.with_name("own"), other])])
    entities = frame((1, at(3)), (2, at(3))).assign(partner_id=[2, 9], uid="theirs", x_raw=[7, 8])
    service = store.get_feature_service("pair")
    job = store.get_historical_features(entities, features=service, full_feature_names=True)
    table = job.to_arrow()
    assert table.column_names == [*entities.columns, "own__x", "partner__x"]
    assert table["own__x"].to_pylist() == [10, 20]
    assert table["partner__x"].to_pylist() == [20, None]
    assert table["x_raw"].to_pylist() == [7, 8]
    assert job.full_feature_names


def test_views_without_entities_and_on_demand_views(world: World) -> None:
    """Whatever the keys; and computed from the answer and the frame's other columns."""
    world.view("weather", [row(None, 1, 5), row(None, 2, 6)], entities=[], ttl=None)
    view = world.view("base", [row(1, 1, 100)])
    request = RequestSource(name="more", schema=[Field(name="add", dtype=Int64)])

    @on_demand_feature_view(  # type: ignore[untyped-decorator]
        sources=[view, request], schema=[Field(name="total", dtype=Float64)], mode="pandas"
    )
    def summed(given: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"total": given["x"] + given["add"] * 1.0})

    store = world.store()
    store.apply([request, summed])
    entities = frame((1, at(1.5)), (2, at(3))).assign(add=[1, 2])
    assert values(store, entities, "weather:x") == [5, 6]
    job = ask(store, entities, "base:x", "summed:total")
    table = job.to_arrow()
    assert table.column_names == ["user_id", "event_timestamp", "add", "x", "total"]
    assert table["total"].to_pylist()[0] == 101.0
    with pytest.raises(UsageError, match="cannot be computed in batches"):
        job.to_arrow_batches()
    to = world.folder / "on_demand.parquet"
    job.persist(SavedDatasetFileStorage(path=str(to)))
    assert pq.read_table(to).column_names == table.column_names


def test_what_is_kept_is_what_was_asked_and_is_read_back(world: World) -> None:
    """A job can be run, kept and streamed any number of times; the frame may change meanwhile."""
    world.view("kept", [row(u, 0, u) for u in range(500)])
    entities = frame(*((u % 600, at(1)) for u in range(3000))).assign(number=range(3000))
    store = world.store()
    job = ask(store, entities, "kept:x")
    first = job.to_arrow()
    entities["number"] = -1
    assert job.to_arrow().equals(first)
    batches = job.to_arrow_batches(1000)
    assert pa.Table.from_batches(batches).equals(first)
    storage = SavedDatasetFileStorage(path="kept_set.parquet")
    with pytest.warns(RuntimeWarning):
        dataset = store.create_saved_dataset(job, "kept_set", storage)
    assert pq.read_table(world.folder / "kept_set.parquet").equals(first)
    assert dataset.min_event_timestamp == at(1)
    assert dataset.to_df()["x"].notna().sum() == first["x"].drop_null().length()
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(storage)
    job.persist(storage, allow_overwrite=True)
    folder = SavedDatasetFileStorage(path="kept_folder")
    job.persist(folder)
    job.persist(folder, allow_overwrite=True)
    assert pq.read_table(world.folder / "kept_folder").num_rows == 3000


def test_a_history_larger_than_memory_spills(world: World, tmp_path: Path) -> None:
    """Same answer in less memory than it would take; nothing is left behind."""
    wide = [f"f{i}" for i in range(12)]
    columns = ", ".join(f"hash(i + {n}) % 1000 / 7 AS {name}" for n, name in enumerate(wide))
    path = world.folder / "wide.parquet"
    world.view(
        "wide",
        [row(1, 0, 0)],
        schema=[Field(name=name, dtype=Float64) for name in wide],
        source={"path": "wide.parquet"},
        ttl=None,
    )
    rows = f"i % 60000 AS user_id, TIMESTAMPTZ '{at(0)}' + to_seconds(i) AS event_timestamp"
    duckdb.execute(
        f"COPY (SELECT {rows}, event_timestamp AS created, {columns} FROM range(1500000) r(i)) "
        f"TO '{path}'"
    )
    asked = (
        "SELECT (i * 7919) % 60000 AS user_id, i AS number, "
        f"TIMESTAMPTZ '{at(0)}' + to_seconds(i * 3) AS event_timestamp FROM range(500000) r(i)"
    )
    refs = [f"wide:{name}" for name in wide]
    small = world.store(memory_limit="150MB", temp_directory=str(tmp_path))
    unbounded = world.store().get_historical_features(asked, features=refs).to_arrow()
    job = small.get_historical_features(asked, features=refs)
    job.persist(SavedDatasetFileStorage(path="spilled.parquet"))
    assert pq.read_table(world.folder / "spilled.parquet").equals(unbounded)
    assert unbounded["number"].to_pylist() == list(range(500000))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a_file").touch()
    nowhere = world.store(memory_limit="150MB", temp_directory=str(tmp_path / "a_file"))
    job = nowhere.get_historical_features(asked, features=refs)
    with pytest.raises(duckdb.Error):  # so it was spilled before
        job.persist(SavedDatasetFileStorage(path="spilled.parquet"), allow_overwrite=True)


@pytest.mark.parametrize(
    ("entities", "refs", "error", "words"),
    [
        (
            None,
            ["refused:x"],
            UsageError,
            "^get_historical_features needs an entity dataframe: entity_df is None, and this store "
            r"does not read a stretch of time \(start_date, end_date\) without one$",
        ),
        (frame((1, at(0))).drop(columns="user_id"), ["refused:x"], UsageError, "lacks"),
        (frame((1, at(0))).astype({"user_id": str}), ["refused:x"], UsageError, "VARCHAR"),
        (frame((1, at(0))).assign(x=1), ["refused:x"], UsageError, "two columns 'x'"),
        (
            frame((1, at(0)), (1, at(0))).assign(o=["1", 1]),
            ["refused:x"],
            UsageError,
            "cannot be read",
        ),
        *(
            (frame((1, at(0))).assign(event_timestamp=[no_time]), ["refused:x"], UsageError, said)
            for no_time, said in (
                *((word, "a time stamp such as") for word in ("now", "today", "", "epoch")),
                *((number, "a time stamp such as") for number in (1769860800, 1.5, True)),
            )
        ),
        (frame((1, at(0))).assign(**{"": 1}), ["refused:x"], UsageError, "an empty name"),
        (pd.concat([frame((1, at(0)))] * 2, axis=1), ["refused:x"], UsageError, "two columns 'use"),
        ([(1, at(0))], ["refused:x"], UsageError, "an entity row is a dict"),
        *(
            (f"SELECT 1 AS user_id, {no_time} AS event_timestamp", ["refused:x"], UsageError, said)
            for no_time, said in (("'now'", "is VARCHAR: make it"), ("5", "is INTEGER: make it"))
        ),
        (frame((1, at(0))), ["refused:y"], UsageError, "no column 'y'"),
        ("SELEC 1", ["refused:x"], UsageError, "cannot run the entity query"),
        ("SELECT 1 AS user_id", ["refused:x"], EntityTimestampInferenceException, "event_time"),
    ],
)
def test_what_cannot_be_answered_is_refused_at_once(
    world: World, entities: Any, refs: list[str], error: type[Exception], words: str
) -> None:
    """In one line that says what to do, before anything runs."""
    world.view(
        "refused",
        [row(1, 0, 0)],
        schema=[Field(name="x", dtype=Int64), Field(name="y", dtype=String)],
    )
    with pytest.raises(error, match=words):
        world.store().get_historical_features(entities, features=refs)


def test_no_entity_rows_give_no_rows(world: World) -> None:
    """With the columns of an answer."""
    world.view("unasked", [row(1, 0, 0)])
    job = ask(world.store(), frame((1, at(0)))[:0], "unasked:x")
    assert job.to_arrow().column_names == ["user_id", "event_timestamp", "x"]
    assert job.to_df().empty
    assert job.metadata.min_event_timestamp is None


def test_a_source_by_url_is_left_to_feast(world: World) -> None:
    """Its rows come in the frame's order all the same, and none that was computed later."""
    rows = [row(1, 0, 1), row(1, 1, 2), row(1, 2, 3, created=9), row(2, 0, 4)]
    world.view("by_url", rows, source={"path": (world.folder / "by_url.parquet").as_uri()})
    asked = frame((2, at(2)), (1, at(0.5)), (1, at(3)))
    job = world.store().get_historical_features(asked, features=["by_url:x"])
    assert not isinstance(job, PointInTimeJob)
    assert job.to_df()["x"].tolist() == [4, 1, 2]


def test_rows_of_a_stretch_of_time_are_pulled_for_feast(world: World) -> None:
    """Both ends are in it; a view of ours that has no files yet is empty."""
    view = world.view("pulled", [row(1, 0, 1), row(1, 1, 2), row(1, 2, 3), row(2, 0, 4)])
    latest = ParquetOfflineStore.pull_latest_from_table_or_query
    every = ParquetOfflineStore.pull_all_from_table_or_query

    def pull(how: Callable[..., Any], source: Any, hours: tuple[int, int], feature: str) -> Any:
        table = how(
            world.store().config,
            data_source=source,
            join_key_columns=["user_id"],
            feature_name_columns=[feature],
            timestamp_field="event_timestamp",
            created_timestamp_column=source.created_timestamp_column,
            start_date=at(hours[0]),
            end_date=at(hours[1]),
        ).to_arrow()
        return sorted(zip(*(table[name].to_pylist() for name in ("user_id", feature)), strict=True))

    assert pull(latest, view.batch_source, (0, 1), "x") == [(1, 2), (2, 4)]
    assert pull(latest, view.batch_source, (1, 2), "x") == [(1, 3)]
    assert pull(every, view.batch_source, (0, 1), "x") == [(1, 1), (1, 2), (2, 4)]
    assert pull(every, view.batch_source, (1, 2), "x") == [(1, 2), (1, 3)]
    unpublished = FileSource(
        name="user_orders",
        path=str(world.folder / "none" / "*.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    for how in (latest, every):
        assert pull(how, unpublished, (0, 1), "orders_7d") == []


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_times_beside_the_event_time_are_of_microseconds(world: World, zone: str | None) -> None:
    """As Feast's own store answers, in UTC if that is set; what is finer is cut."""
    world.view("beside", [row(1, 0, 1)])
    store = world.store()
    store.config.coerce_tz_aware = zone is not None
    seen = pd.Series(["2026-01-01 00:00:00.000001999"]).astype("datetime64[ns]")
    answer = ask(store, frame((1, at(1))).assign(seen=seen), "beside:x").to_arrow()
    assert answer["seen"].type == pa.timestamp("us", zone)
    instant = datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC if zone else None)
    assert answer["seen"].to_pylist() == [instant]
