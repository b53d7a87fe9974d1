"""Online answers: ours equal to stock Feast's, whoever wrote the values.

Where stock is wrong, ours is compared with what stock answers once its fault is put right, and a
test of its own shows the difference:

- stock serves what is older than its view's time to live. It is compared on a project in which the
  values of such rows are null;
- stock says PRESENT of everything. Its statuses are replaced: NOT_FOUND where no row is,
  OUTSIDE_MAX_AGE where the row has expired;
- stock gives an on-demand view a column of nulls per view that is read, `_ts:<view>`, and the
  results of another on-demand view if one in Python comes before one in pandas. The functions of
  the generated views do not look at these.

Left to chance by stock, and not compared: the order of one view's features.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from random import Random
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureView, Field, ValueType
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.types import Int64
from parity_answers import agree, differences, online_differences, outcome, vectors
from parity_kinds import KINDS
from parity_repositories import NOW, SEEDS, OnlineRow, Repository
from parity_requests import ARRAYS, BAD, GOOD, WRONG_KEYS, Request, references, with_order
from parity_sources import rows, view_over
from parity_stores import World, parity_world, quiet, write

from pipelines.errors import UsageError


@dataclass(frozen=True)
class Side:
    """One repository in three projects, each read by stock and by ours.

    The rows are written by stock, by ours, and by stock with nulls for expired values ("right").
    """

    world: World
    repository: Repository

    def stock(self, writer: str) -> Any:
        return self.world.stock(self._project(writer), self.repository.objects)

    def ours(self, writer: str) -> Any:
        return self.world.ours(self._project(writer), self.repository.objects)

    def _project(self, writer: str) -> str:
        return f"{writer}_{self.repository.seed}"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with parity_world() as found:
        yield found


@pytest.fixture(scope="module")
def sides(world: World) -> dict[int, Side]:
    """By seed, the written repositories."""
    found = {}
    for seed in SEEDS:
        side = found[seed] = Side(world, world.repository(seed))
        for view in side.repository.views:
            written = side.repository.online_rows(view)
            write(side.stock("stock"), view, written)
            write(side.ours("ours"), view, written)
            write(side.stock("right"), view, side.repository.online_rows(view, lively=False))
    return found


@pytest.fixture(params=SEEDS)
def side(sides: dict[int, Side], request: pytest.FixtureRequest) -> Side:
    return sides[request.param]


def test_every_value_type_of_feast_is_among_the_features(sides: dict[int, Side]) -> None:
    """For certain, not by luck; UNKNOWN and NULL are types of nothing."""
    fields = [
        f for side in sides.values() for v in side.repository.views.values() for f in v.features
    ]
    assert {field.dtype.to_value_type() for field in fields} == set(ValueType) - {
        ValueType.UNKNOWN,
        ValueType.NULL,
    }
    assert {kind.dtype for kind in KINDS.values()} == {field.dtype for field in fields}


def test_the_bytes_in_redis_are_the_same(side: Side) -> None:
    """Hash by hash, but for our created timestamps; maps have no order in bytes."""
    seed, world = side.repository.seed, side.world
    theirs, ours = world.hashes(f"stock_{seed}"), world.hashes(f"ours_{seed}")
    assert theirs
    agree(differences(theirs, ours))


@pytest.mark.parametrize("name", GOOD)
def test_a_request_is_answered_alike(side: Side, name: str) -> None:
    """Whoever wrote: stock reads what we wrote, we read what stock wrote, and each its own."""
    request = GOOD[name](side.repository)
    expected = outcome(request.send, side.stock("right"))
    assert expected[0] == "value", expected
    served = request.served(side.repository)
    for writer in ("stock", "ours"):
        found = outcome(request.send, side.ours(writer))
        agree(online_differences(expected, found, served, NOW), f"written by {writer}")
        assert _order(request, side, found[1]) == _order(request, side, expected[1])
    theirs = [outcome(request.send, side.stock(writer)) for writer in ("stock", "ours")]
    agree(differences(vectors(theirs[0][1]), vectors(theirs[1][1])), "written by ours")


def _order(request: Request, side: Side, response: Any) -> list[str]:
    """The names of an answer in order, the features of one view as one."""
    served = request.served(side.repository)
    names = [
        served[name][0] if name in served else name
        for name in response.proto.metadata.feature_names.val
    ]
    return [name for name, _ in groupby(names)]


def test_each_feature_alone_is_answered_alike(side: Side) -> None:
    """So that one type that Arrow cannot take does not hide the tables of the others."""
    keys, tables = side.repository.request_keys(), 0
    for reference in references(side.repository, "wide", "direct"):
        request = Request([reference], keys)
        expected, found = (
            request.send(store) for store in (side.stock("right"), side.ours("ours"))
        )
        served = request.served(side.repository)
        agree(online_differences(("value", expected), ("value", found), served, NOW))
        tables += outcome(expected.to_arrow)[0] == "value"
    assert tables > 10


def test_versions_of_views_are_reported_alike(side: Side) -> None:
    """Those of the views that were read."""
    found = [
        store.get_online_features(
            ["pair:label", "wide:" + next(iter(side.repository.wide_kinds)), "in_pandas:total"],
            with_order(side.repository.request_keys()),
            include_feature_view_version_metadata=True,
        ).proto.metadata.feature_view_metadata
        for store in (side.stock("right"), side.ours("stock"))
    ]
    assert len(found[0]) == 3
    assert found[1] == found[0]


def test_an_asynchronous_request_is_answered_alike(side: Side) -> None:
    """As an ordinary one."""
    request = GOOD["on-demand"](side.repository)

    async def answer(store: Any) -> Any:
        service = store.get_feature_service(request.features)
        try:
            return await store.get_online_features_async(service, request.rows)
        finally:
            await store._get_provider().online_store.close()

    found = asyncio.run(answer(side.ours("stock")))
    expected = asyncio.run(answer(side.stock("right")))
    served = request.served(side.repository)
    agree(online_differences(("value", expected), ("value", found), served, NOW))


def test_a_frame_is_written_alike(side: Side) -> None:
    """By `write_to_online_store`; the created timestamp may be null."""
    keys: Any = side.repository.keys["pair"]
    frame = pd.DataFrame(keys).assign(
        ratio=0.5,
        count=range(len(keys)),
        label="a",
        event_timestamp=NOW,
        created_timestamp=NOW,
    )
    frame.loc[1, "ratio"] = None
    frame.loc[0, "created_timestamp"] = pd.NaT
    world, objects = side.world, side.repository.objects
    names = [f"frame_{side.repository.seed}_{who}" for who in ("stock", "ours")]
    for store in (world.stock(names[0], objects), world.ours(names[1], objects)):
        store.write_to_online_store("pair", frame)
    theirs, ours = map(world.hashes, names)
    assert len(theirs) == len(frame)
    agree(differences(theirs, ours))


def test_a_changed_view_is_served_alike(side: Side) -> None:
    """A feature that is declared later, and one that is no more, once the registry is read anew."""
    name = f"changed_{side.repository.seed}"
    path = side.world.folder / f"{name}.parquet"
    objects = view_over(path, rows(pa.array([1])))
    stock, ours = side.world.stock(name, objects), side.world.ours(name, objects)
    write(stock, "v", [_made_row(0, x=1, y=2)])
    served = {"x": ("v", None), "y": ("v", None)}
    for features in (["x"], ["x", "y"], ["y"]):
        fields = [Field(name=feature, dtype=Int64) for feature in ("k", *features)]
        objects[1] = FeatureView(
            name="v", entities=objects[:1], schema=fields, source=objects[1].batch_source
        )
        with quiet():
            stock.apply(objects)
        ours.refresh_registry()
        for asked in (["v:x"], ["v:y"], ["v:x", "v:y"]):
            request = Request(asked, [{"k": 0}, {"k": 1}])
            expected, found = (outcome(request.send, store) for store in (stock, ours))
            agree(online_differences(expected, found, served, NOW), f"{features}, {asked}")


def _made_row(key: int, **features: int) -> OnlineRow:
    entity = EntityKey(join_keys=["k"], entity_values=[KINDS["int64"].proto(key)])
    return entity, {name: KINDS["int64"].proto(v) for name, v in features.items()}, NOW, NOW


@pytest.mark.parametrize("nulls", [0, 0.3])
def test_many_keys_are_answered_alike(world: World, nulls: float) -> None:
    """More than decoders take one by one; every type; event times from before 1970 to far ahead."""
    name, kinds = f"many_{bool(nulls)}", {k: v for k, v in KINDS.items() if "_from_" not in k}
    random = Random(name)
    objects = view_over(world.folder / f"{name}.parquet", rows(pa.array([1])))
    fields = [Field(name=feature, dtype=kind.dtype) for feature, kind in kinds.items()]
    fields.append(Field(name="k", dtype=Int64))
    source = objects[1].batch_source
    objects[1] = FeatureView(
        name="v", entities=objects[:1], schema=fields, source=source, ttl=timedelta(days=9)
    )
    stock, ours = world.stock(name, objects), world.ours(name, objects)
    written: list[OnlineRow] = []
    for key in range(300):
        values = {
            feature: kind.proto(None if random.random() < nulls else kind.value(random))
            for feature, kind in kinds.items()
        }
        instant = random.choice([NOW, NOW - timedelta(days=1, microseconds=key), *_FAR_TIMES])
        if key == 7 and not nulls:
            instant = datetime(1970, 1, 1, tzinfo=UTC)
        written.append((_made_row(key)[0], values, instant, None))
    write(stock, "v", written)
    served = dict.fromkeys(kinds, ("v", None))  # nothing expires:
    ours._get_provider().online_store.now = lambda: datetime(1900, 1, 1, tzinfo=UTC)
    for count in (17, 320) if nulls else (300,):  # of 320 keys, 20 are unknown
        keys = [{"k": key} for key in random.sample(range(max(count, 300)), count)]
        request = Request([f"v:{feature}" for feature in kinds], keys)
        expected, found = (outcome(request.send, store) for store in (stock, ours))
        agree(online_differences(expected, found, served, NOW), f"{count} keys")


_FAR_TIMES = [
    *(datetime(year, 5, 6, tzinfo=UTC) for year in (1969, 1977, 1979, 2999)),
    datetime(1970, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC),
]


def test_values_of_another_type_than_the_declared_are_answered_alike(world: World) -> None:
    """As after a change of the declared type: what is stored counts."""
    objects = view_over(world.folder / "retyped.parquet", rows(pa.array([1])))
    kinds = ["int64", "int32", "float64", "float32", "string", "bool", "bytes", "timestamp", "uuid"]
    fields = [Field(name=kind, dtype=KINDS[kind].dtype) for kind in kinds]
    source = objects[1].batch_source
    fields.append(Field(name="k", dtype=Int64))
    objects[1] = FeatureView(name="v", entities=objects[:1], schema=fields, source=source)
    stock, ours = world.stock("retyped", objects), world.ours("retyped", objects)
    random = Random(0)
    for key, other in enumerate([*kinds, "list_int64", "json", "decimal"]):
        values = {kind: KINDS[other].proto(KINDS[other].value(random)) for kind in kinds}
        if other in ("string", "json", "decimal"):  # a text that is no UUID is an error to stock
            values["uuid"] = KINDS["uuid"].proto(KINDS["uuid"].value(random))
        write(stock, "v", [(_made_row(key)[0], values, NOW, None)])
    served = dict.fromkeys(kinds, ("v", None))
    for count in (1, 2, 12):
        for first in range(12 - count + 1):
            keys = [{"k": key} for key in range(first, first + count)]
            request = Request([f"v:{kind}" for kind in kinds], keys * 25)
            expected, found = (outcome(request.send, store) for store in (stock, ours))
            agree(online_differences(expected, found, served, NOW), f"from {first}, {count}")


def test_a_text_that_is_no_uuid_is_null(world: World) -> None:
    """Where stock cannot answer at all, for this value or any other of the request."""
    objects = view_over(world.folder / "no_uuid.parquet", rows(pa.array([1])))
    fields = [Field(name=name, dtype=KINDS[name].dtype) for name in ("uuid", "int64")]
    fields.append(Field(name="k", dtype=Int64))
    source = objects[1].batch_source
    objects[1] = FeatureView(name="v", entities=objects[:1], schema=fields, source=source)
    stock, ours = world.stock("no_uuid", objects), world.ours("no_uuid", objects)
    values = {"uuid": KINDS["string"].proto("no uuid"), "int64": KINDS["int64"].proto(7)}
    write(stock, "v", [(_made_row(1)[0], values, NOW, None)])
    request = Request(["v:uuid", "v:int64"], [{"k": 1}])
    assert request.send(ours).to_dict() == {"k": [1], "uuid": [None], "int64": [7]}
    with pytest.raises(ValueError, match="hexadecimal"):
        request.send(stock).to_dict()


@pytest.mark.parametrize("name", BAD)
def test_a_doubtful_request_is_answered_alike(side: Side, name: str) -> None:
    """With the same type of exception, or with the same answer where stock gives one."""
    request = BAD[name](side.repository)
    expected = outcome(request.send, side.stock("right"))
    found = outcome(request.send, side.ours("stock"))
    served = {} if name == "unknown service" else request.served(side.repository)
    agree(online_differences(expected, found, served, NOW))


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_a_key_that_is_none_is_refused_in_one_line(side: Side, name: str) -> None:
    """Named, with its value."""
    request = WRONG_KEYS[name](side.repository)
    with pytest.raises(UsageError, match=r"^\w+_id = .* (is null|is not a |is no text)") as found:
        request.send(side.ours("stock"))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_columns_too(side: Side, name: str) -> None:
    """Of numpy and of pandas, in a dict as in a frame."""
    request = ARRAYS[name](side.repository)
    assert isinstance(request.rows, dict)
    lists = Request(request.features, {k: v.tolist() for k, v in request.rows.items()})
    found, expected = (r.send(side.ours("stock")).to_dict() for r in (request, lists))
    assert found == expected


def _spoilt_value(answer: Any) -> None:
    answer.proto.results[-1].values[0].CopyFrom(KINDS["string"].proto("spoilt"))


def _spoilt_null(answer: Any) -> None:
    answer.proto.results[-1].values[0].Clear()


def _spoilt_status(answer: Any) -> None:
    answer.proto.results[-1].statuses[1] = FieldStatus.NULL_VALUE


def _spoilt_time(answer: Any) -> None:
    answer.proto.results[-1].event_timestamps[0].nanos += 1_000


def _spoilt_name(answer: Any) -> None:
    answer.proto.metadata.feature_names.val[-1] = "spoilt"


def _spoilt_row(answer: Any) -> None:
    for vector in answer.proto.results:
        for part in (vector.values, vector.statuses, vector.event_timestamps):
            del part[-1]


@pytest.mark.parametrize(
    "spoil",
    [_spoilt_value, _spoilt_null, _spoilt_status, _spoilt_time, _spoilt_name, _spoilt_row],
)
def test_a_spoilt_answer_is_noticed(side: Side, spoil: Callable[[Any], None]) -> None:
    """The comparison of this module can fail: one change in one place of the message."""
    keys = [side.repository.keys["triple"][0] for _ in range(2)]
    request = Request(["triple:number"], keys)
    good, bad = (outcome(request.send, side.stock("right")) for _ in range(2))
    for answer in (good[1], bad[1]):
        answer.proto.results[-1].values[0].CopyFrom(KINDS["int32"].proto(5))
    served = request.served(side.repository)
    assert online_differences(good, bad, served, NOW) == []
    spoil(bad[1])
    assert online_differences(good, bad, served, NOW)


def test_stock_serves_what_has_expired(side: Side) -> None:
    """The first known difference: values with status PRESENT, where ours are null."""
    request = Request(references(side.repository, "wide"), side.repository.request_keys())
    theirs, ours = (vectors(request.send(read("stock"))) for read in (side.stock, side.ours))
    feature = next(name for name in side.repository.wide_kinds)
    old = [n for n, status in enumerate(ours[feature][1]) if status == FieldStatus.OUTSIDE_MAX_AGE]
    assert old
    served = 0
    for name in side.repository.wide_kinds:
        for row in old:
            assert ours[name][0][row].WhichOneof("val") is None
            assert theirs[name][1][row] == FieldStatus.PRESENT
            served += theirs[name][0][row].WhichOneof("val") is not None
    assert served


def test_stock_says_present_of_what_is_not_there(side: Side) -> None:
    """The second known difference; both give null and no event time."""
    request = GOOD["unknown keys only"](side.repository)
    theirs, ours = (vectors(request.send(read("stock"))) for read in (side.stock, side.ours))
    for name in references(side.repository, "wide", "pair", "triple", "direct"):
        feature = name.partition(":")[2]
        assert set(theirs[feature][1]) == {FieldStatus.PRESENT}
        assert set(ours[feature][1]) == {FieldStatus.NOT_FOUND}
        assert theirs[feature][0] == ours[feature][0]


def test_stock_lets_strays_into_on_demand_views(side: Side) -> None:
    """The third known difference: a function is to see its declared inputs only."""
    features = ["in_python:tag", "in_python:python_strays", "in_pandas:pandas_strays"]
    request = Request(features, with_order(side.repository.request_keys()))
    theirs, ours = (request.send(read("right")).to_dict() for read in (side.stock, side.ours))
    assert "_ts:pair" in theirs["python_strays"][0].split(", ")
    assert {"_ts:pair", "tag"} <= set(theirs["pandas_strays"][0].split(", "))
    assert set(ours["python_strays"] + ours["pandas_strays"]) == {""}
