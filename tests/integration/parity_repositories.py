"""Feature repositories made from a seed, on which stock Feast and ours are to answer alike.

Each has five views (one to three join keys of all three types, and no entity), two on-demand views,
services with aliases, a Parquet source per view, rows for the online store and requests. The types
of the features are dealt out to the seeds, so that all seeds together have every one of `KINDS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import OnDemandFeatureView, on_demand_feature_view
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.types import Float64, Int32, Int64, String
from parity_kinds import KINDS, MICROSECONDS, column

Key = dict[str, Any]
OnlineRow = tuple[EntityKey, dict[str, Any], datetime, datetime | None]

SEEDS: Final = (0, 1, 2, 3)
NOW: Final = datetime(2024, 3, 10, 12, tzinfo=UTC)
TTL: Final = timedelta(days=1)
JOIN_KEYS: Final = {"whole_id": Int64, "text_id": String, "small_id": Int32}
_WIDE_KEYS: Final = (["whole_id"], ["text_id"], ["small_id"], ["text_id", "whole_id"])
_VALUES: Final[dict[str, list[Any]]] = {
    "whole_id": [0, 1, -1, 7, 2**63 - 1, -(2**63)],
    "text_id": ["", "a", "b:c", "ü€", "0", "a" * 200],
    "small_id": [0, 1, -1, 2**31 - 1, -(2**31), 77],
}
MISSING: Final[dict[str, Any]] = {"whole_id": 404, "text_id": "nobody", "small_id": 404}
_SHARE_OF_NULLS: Final = 0.2


@dataclass(frozen=True)
class Repository:
    """What one seed makes.

    Attributes:
        views: by name: wide (a day's time to live), pair (none), triple (a mapping of field names,
            a time to live of years), alone (no entity, no created timestamp), direct (the types
            that stock Feast materializes from no column: rows of it are only written directly).
        on_demand: two views on pair and on request data, one in each mode.
        keys: by view, the keys that its rows have.
    """

    seed: int
    entities: list[Entity]
    views: dict[str, FeatureView]
    on_demand: list[OnDemandFeatureView]
    services: dict[str, FeatureService]
    keys: dict[str, list[Key]]

    @property
    def objects(self) -> list[Any]:
        """What `FeatureStore.apply` takes."""
        return [
            *self.entities,
            *self.views.values(),
            *self.on_demand,
            *self.services.values(),
        ]

    @property
    def wide_kinds(self) -> dict[str, Any]:
        """The kinds of the features of view wide, by feature."""
        return {field.name: KINDS[field.name] for field in self.views["wide"].features}

    def online_rows(self, view: str, *, lively: bool = True) -> list[OnlineRow]:
        """A row per key of a view, some with nulls, some of wide older than its time to live.

        Without `lively` the values of the expired rows are null: what stock Feast must hold to
        answer as it should.
        """
        random = Random(f"{self.seed} online {view}")
        rows = []
        for number, key in enumerate(self.keys[view]):
            age = TTL * (number % 3 == 2) + timedelta(microseconds=random.randrange(1, 10**10))
            values = {
                field.name: _proto(field, None if random.random() < 0.2 else random)
                for field in self.views[view].features
            }
            if not lively and view == "wide" and age > TTL:
                values = {name: _proto(None, None) for name in values}
            if view == "pair" and number % 4 == 1:
                del values["count"]  # as if it was declared after the row was written
            source: Any = self.views[view].batch_source
            created = NOW if source.created_timestamp_column else None
            rows.append((_entity_key(key), values, NOW - age, created))
        return rows

    def request_keys(self, count: int = 12) -> list[Key]:
        """Values of all join keys: known, unknown and repeated ones."""
        random = Random(f"{self.seed} requests")
        rows = []
        for number in range(count):
            row = {name: random.choice(_VALUES[name]) for name in JOIN_KEYS}
            row |= random.choice(self.keys["triple"])
            row |= random.choice(self.keys["pair"])
            row |= self.keys["wide"][number % len(self.keys["wide"])]
            if number % 5 == 4:
                name = random.choice(list(MISSING))
                row[name] = MISSING[name]
            rows.append(row)
        return [*rows, rows[0], rows[2], rows[0]]


def repository(seed: int, folder: Path) -> Repository:
    """Make the repository of a seed; its Parquet files go into `folder`."""
    random = Random(seed)
    value_types = {Int64: ValueType.INT64, String: ValueType.STRING, Int32: ValueType.INT32}
    entities = [
        Entity(name=name.removesuffix("_id"), join_keys=[name], value_type=value_types[dtype])
        for name, dtype in JOIN_KEYS.items()
    ]
    by_key = {entity.join_key: entity for entity in entities}
    stored = [name for name, kind in KINDS.items() if kind.stored is not None]
    direct = {name: name for name, kind in KINDS.items() if kind.stored is None}
    plain = {"ratio": "float64", "count": "int64", "label": "string"}
    features = {
        "wide": {name: name for name in stored[seed :: len(SEEDS)]},
        "direct": direct,
        "pair": plain,
        "triple": {"number": "int32", "seen_at": "timestamp", "scores": "list_float32"},
        "alone": {"level": "float32", "title": "string"},
    }
    join_keys = {
        "wide": _WIDE_KEYS[seed],
        "direct": ["small_id"],
        "pair": ["text_id", "whole_id"],
        "triple": ["small_id", "text_id", "whole_id"],
        "alone": [],
    }
    ttl = {"wide": TTL, "triple": timedelta(days=9999), "pair": timedelta(0)}
    mapping = {"raw_number": "number", "raw_small": "small_id", "at": "event_timestamp"}
    views, keys = {}, {}
    for name, columns in features.items():
        fields = [Field(name=key, dtype=JOIN_KEYS[key]) for key in join_keys[name]]
        fields += [
            Field(name=feature, dtype=KINDS[kind].dtype) for feature, kind in columns.items()
        ]
        views[name] = FeatureView(
            name=name,
            entities=[by_key[key] for key in join_keys[name]],
            ttl=ttl.get(name),
            schema=fields,
            source=FileSource(
                name=f"{name}_source",
                path=str(folder / f"{name}.parquet"),
                timestamp_field="event_timestamp",
                created_timestamp_column="" if name == "alone" else "created_timestamp",
                field_mapping=mapping if name == "triple" else None,
            ),
        )
        keys[name] = _keys(random, join_keys[name])
        table = _history(random, columns, keys[name], created=name != "alone")
        if name == "triple":
            back = {new: old for old, new in mapping.items()}
            table = table.rename_columns([back.get(old, old) for old in table.column_names])
        pq.write_table(table, folder / f"{name}.parquet")
    on_demand = _on_demand_views(views)
    return Repository(seed, entities, views, on_demand, _services(views, on_demand), keys)


def _keys(random: Random, names: list[str]) -> list[Key]:
    if not names:
        return [{}]
    found = {tuple(random.choice(_VALUES[name]) for name in names): None for _ in range(9)}
    return [dict(zip(names, key, strict=True)) for key in found]


def _history(random: Random, columns: dict[str, str], keys: list[Key], created: bool) -> pa.Table:
    """Up to six rows per key, times of all distances; of equal event times, other created ones."""
    rows: list[dict[str, Any]] = []
    for key in keys:
        instants = {NOW - timedelta(seconds=random.randrange(400_000)) for _ in range(5)}
        instants.add(NOW - timedelta(microseconds=random.randrange(10**12)))
        for instant in sorted(instants):
            ties = random.choice([1, 1, 2, 3]) if created else 1
            for tie in random.sample(range(ties), ties):
                late = timedelta(seconds=tie * random.choice([1, 7_200, -3_600]))
                rows.append(key | {"event_timestamp": instant, "created_timestamp": instant + late})
    random.shuffle(rows)
    arrays = {
        name: pa.array([row[name] for row in rows], pa.from_numpy_dtype(_DTYPES[name]))
        if name != "text_id"
        else pa.array([row[name] for row in rows], pa.string())
        for name in keys[0]
    }
    for feature, kind_name in columns.items():
        kind = KINDS[kind_name]
        if kind.stored is not None:
            nulls = _SHARE_OF_NULLS if kind.nullable else 0
            values = [None if random.random() < nulls else kind.value(random) for _ in rows]
            arrays[feature] = column(kind, values)
    times = ["event_timestamp", "created_timestamp"] if created else ["event_timestamp"]
    for name in times:
        arrays[name] = pa.array([row[name] for row in rows], MICROSECONDS)
    return pa.table(arrays)


_DTYPES: Final = {"whole_id": "int64", "small_id": "int32"}


def _entity_key(key: Key) -> EntityKey:
    if not key:
        key = {"__dummy_id": ""}
    dtypes = {**JOIN_KEYS, "__dummy_id": String}
    kinds = {Int64: KINDS["int64"], String: KINDS["string"], Int32: KINDS["int32"]}
    return EntityKey(
        join_keys=list(key),
        entity_values=[kinds[dtypes[name]].proto(value) for name, value in key.items()],
    )


def _proto(field: Field | None, random: Random | None) -> Any:
    """A random value of a feature's type, or null."""
    if field is None:
        return KINDS["string"].proto(None)
    kind = next(kind for kind in KINDS.values() if kind.dtype == field.dtype)
    return kind.proto(None if random is None else kind.value(random))


def _on_demand_views(views: dict[str, FeatureView]) -> list[OnDemandFeatureView]:
    """Both say in a feature which inputs they were given, and of which types.

    Only the features named strays tell of what stock lets in besides: a column of nulls per view,
    `_ts:<view>`, and the results of another on-demand view.
    """
    order = RequestSource(
        name="order",
        schema=[Field(name="amount", dtype=Int64), Field(name="note", dtype=String)],
    )

    @on_demand_feature_view(  # type: ignore[untyped-decorator]
        sources=[views["pair"], order],
        schema=[
            Field(name="twice", dtype=Float64),
            Field(name="tag", dtype=String),
            Field(name="seen_by_python", dtype=String),
            Field(name="python_strays", dtype=String),
        ],
        mode="python",
    )
    def in_python(inputs: dict[str, Any]) -> dict[str, Any]:
        kinds = {
            name: "|".join(sorted({type(value).__name__ for value in values}))
            for name, values in sorted(inputs.items())
        }
        strays = [name for name in kinds if "_ts:" in name]
        seen = ", ".join(f"{name} {kind}" for name, kind in kinds.items() if name not in strays)
        tags = zip(inputs["amount"], inputs["label"], strict=True)
        return {
            "twice": [None if ratio is None else 2 * ratio for ratio in inputs["ratio"]],
            "tag": [f"{amount} of {label}" for amount, label in tags],
            "seen_by_python": [seen for _ in inputs["amount"]],
            "python_strays": [", ".join(strays) for _ in inputs["amount"]],
        }

    @on_demand_feature_view(  # type: ignore[untyped-decorator]
        sources=[views["pair"], views["alone"], order],
        schema=[
            Field(name="total", dtype=Float64),
            Field(name="whole", dtype=Int64),
            Field(name="seen_by_pandas", dtype=String),
            Field(name="pandas_strays", dtype=String),
        ],
        mode="pandas",
    )
    def in_pandas(inputs: pd.DataFrame) -> pd.DataFrame:
        kinds = {str(name): inputs[name].dtype for name in sorted(inputs.columns)}
        others = {"twice", "tag", "seen_by_python", "python_strays"}
        strays = [name for name in kinds if "_ts:" in name or name.split("__")[-1] in others]
        seen = ", ".join(f"{name} {kind}" for name, kind in kinds.items() if name not in strays)
        return pd.DataFrame(
            {
                "total": inputs["ratio"].astype(float) + inputs["amount"],
                "whole": inputs["count"].fillna(-1).astype("int64"),
                "seen_by_pandas": [seen for _ in inputs["amount"]],
                "pandas_strays": [", ".join(strays) for _ in inputs["amount"]],
            }
        )

    return [in_python, in_pandas]


def _services(
    views: dict[str, FeatureView], on_demand: list[OnDemandFeatureView]
) -> dict[str, FeatureService]:
    in_python, in_pandas = on_demand
    in_python = in_python[["twice", "tag", "seen_by_python"]]
    in_pandas = in_pandas[["total", "whole", "seen_by_pandas"]]
    origin = views["pair"].with_name("origin")
    origin = origin.with_join_key_map({"text_id": "origin_text", "whole_id": "origin_whole"})
    target = views["pair"][["label", "count"]].with_name("target")
    target = target.with_join_key_map({"text_id": "target_text", "whole_id": "target_whole"})
    partly = views["pair"][["label", "count"]].with_name("partly")
    partly = partly.with_join_key_map({"text_id": "target_text"})
    parts: dict[str, list[Any]] = {
        "plain": [views["wide"], views["triple"]],
        "aliased": [origin, target, views["triple"]],
        "partly_aliased": [partly, views["triple"]],
        "renamed": [views["triple"][["number"]].with_name("other"), views["alone"]],
        "demanded": [in_python, in_pandas, views["pair"][["label"]]],
        "demanded_by_another_name": [in_pandas[["total"]].with_name("sums"), views["triple"]],
    }
    return {name: FeatureService(name=name, features=of) for name, of in parts.items()}
