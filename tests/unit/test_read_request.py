"""Entity rows become the Redis keys that Feast makes; whatever is not plain is left to Feast."""

from __future__ import annotations

from typing import Any

import pytest
from feast import Field, RequestSource
from feast.aggregation import Aggregation
from feast.infra.online_stores.helpers import _redis_key
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Int64
from feast.value_type import ValueType
from redis.connection import Connection

from pipelines.errors import UsageError
from pipelines.feast_plugins.reading.on_demand import transformations
from pipelines.feast_plugins.reading.plan import FeatureRead, ReadPlan, _group
from pipelines.feast_plugins.reading.request import read_request

STRING, INT64, INT32 = ValueType.STRING, ValueType.INT64, ValueType.INT32
OF_KIND = {STRING: "string_val", INT64: "int64_val", INT32: "int32_val"}
FIELDS = [b"one", b"_ts:view"]


def plan(kinds: dict[str, ValueType], *request_data: str) -> ReadPlan:
    """Of one view with these join keys."""
    pairs = [(name, name) for name in sorted(kinds)]
    group = _group(pairs, FIELDS, [FeatureRead("one", 0, ValueType.DOUBLE)], kinds)
    return ReadPlan(
        groups=(group,),
        views=(),
        on_demand=(),
        join_keys=frozenset(kinds),
        entity_names=frozenset({"customer"}),
        kinds=kinds,
        request_data=frozenset(request_data),
        returned=frozenset(),
        features=("one",),
        inputs=frozenset(),
        changeable=frozenset(),
        feature_types={},
        project=b"shop",
    )


def feasts_key(row: dict[str, Any], kinds: dict[str, ValueType]) -> bytes:
    values = [Value(**{OF_KIND[kinds[name]]: row[name]}) for name in sorted(kinds)]
    key = EntityKey(join_keys=sorted(kinds), entity_values=values)
    return bytes(_redis_key("shop", key, entity_key_serialization_version=3))


@pytest.mark.parametrize(
    ("kinds", "rows"),
    [
        ({"route": STRING}, [("R1",), ("R2 é",), ("",), ("R1",)]),
        ({"user": INT64}, [(5,), (-1,), (2**63 - 1,), (-(2**63),), (5,)]),
        ({"shelf": INT32}, [(5,), (-1,), (2**31 - 1,), (-(2**31),)]),
        ({"user": INT64, "route": STRING}, [(5, "R1"), (5, "R2"), (6, "R1")]),
        ({"shelf": INT32, "user": INT64}, [(5, 6), (6, 5)]),
    ],
    ids=["text", "int64", "int32", "int64 and text", "both integers"],
)
@pytest.mark.parametrize("at_once", [1, None], ids=["single rows", "all rows"])
def test_keys_are_those_of_feast(
    kinds: dict[str, ValueType], rows: list[tuple[Any, ...]], at_once: int | None
) -> None:
    """One of each, with every row's place among them; asked for as the client would ask."""
    given = [dict(zip(kinds, row, strict=True)) for row in rows]
    for part in [[row] for row in given] if at_once else [given]:
        by_columns = {name: [row[name] for row in part] for name in kinds}
        for held in (part, by_columns):
            request = read_request(plan(kinds), held)
            assert request is not None
            (read,) = request.groups
            keys = [feasts_key(row, kinds) for row in part]
            assert list(read.keys) == list(dict.fromkeys(keys))
            places = range(len(part)) if read.places is None else read.places
            assert [read.keys[place] for place in places] == keys
            assert (request.rows, request.given, request.kinds) == (len(part), by_columns, kinds)
            asked = [Connection().pack_command("HMGET", key, *FIELDS) for key in read.keys]
            assert request.packed(plan(kinds)) == b"".join(map(b"".join, asked))


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ([1, -(2**63)], INT64),
        (["a"], STRING),
        ([True, False], ValueType.BOOL),
        ([1.5, float("inf")], ValueType.DOUBLE),
        ([1, 2**63], None),
        ([float("nan")], None),
        ([1, 1.5], None),
        ([True, 1], None),
        ([None], None),
        ([b"a"], None),
    ],
    ids=str,
)
def test_request_data_has_the_type_that_feast_infers(
    column: list[Any], kind: ValueType | None
) -> None:
    """What is of several types, or of none that is plain, is left to Feast."""
    rows = {"route": ["R1"] * len(column), "amount": column}
    request = read_request(plan({"route": STRING}, "amount"), rows)
    assert (request.kinds["amount"] if request else None) == kind
    assert request is None or request.given == {"route": rows["route"], "amount": column}


@pytest.mark.parametrize(
    "rows",
    [
        [],
        {},
        {"user": []},
        {"user": [1, 2], "amount": [1]},
        {"user": [1]},
        {"amount": [1]},
        {"user": [1], "amount": [1], "customer": [1]},
        {"user": (1,), "amount": "1"},
        [{"user": 1, "amount": 1}, {"user": 1}],
        [{"user": 1, "amount": 1}, {"user": 1, "other": 1}],
    ],
    ids=str,
)
def test_what_is_unusual_incomplete_or_wrong_is_left_to_feast(rows: Any) -> None:
    """Which knows what to do or to say."""
    assert read_request(plan({"user": INT64}, "amount"), rows) is None
    assert read_request(plan({"user": INT64}, "amount"), {"user": [1], "amount": [1]})


@pytest.mark.parametrize("user", [2**63, -(2**63) - 1, True, None, "4_2"], ids=str)
def test_a_key_that_is_none_is_refused(user: Any) -> None:
    """Feast would take another key for it, or raise what its conversion raises."""
    with pytest.raises(UsageError, match=r"^user = "):
        read_request(plan({"user": INT64}, "amount"), {"user": [user], "amount": [1]})


def test_a_number_may_be_written_as_a_text() -> None:
    """It is the same key."""
    request = read_request(plan({"user": INT64}, "amount"), {"user": [1, "1"], "amount": [1, 1]})
    assert request is not None
    assert request.given["user"] == [1, 1]


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({}, False),
        ({"mode": "pandas"}, False),
        ({"write_to_online_store": True}, True),
        ({"aggregations": [Aggregation(column="amount", function="sum")]}, True),
        ({"mode": "substrait"}, True),
    ],
    ids=["python", "pandas", "stored", "aggregations", "substrait"],
)
def test_on_demand_views_of_the_usual_kinds_are_ours(settings: Any, left: bool) -> None:
    """One that is stored, sums up or runs in another engine leaves the request to Feast."""
    view = OnDemandFeatureView(
        name="twice",
        sources=[RequestSource(name="order", schema=[Field(name="amount", dtype=Int64)])],
        schema=[Field(name="doubled", dtype=Int64)],
        **{"mode": "python"} | settings,
    )
    assert (transformations([view], ["twice:doubled"], False) is None) is left


def test_a_column_that_nobody_asks_for_is_passed_over() -> None:
    """Whatever it holds."""
    request = read_request(plan({"user": INT64}), {"user": [1], "extra": [object()]})
    assert request is not None
    assert request.given == {"user": [1]}
