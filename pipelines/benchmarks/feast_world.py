"""What the Feast benchmarks measure on: generated Parquet files, and feature stores over them.

Values come from a seed. Times end at `Views.end`, the present, for times to live count from it.
Feast is imported inside the functions: its import takes ten seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.benchmarks.feast_space import Space
from pipelines.feast_plugins.repository import quiet
from pipelines.lake.clock import aware_now

KEY: Final = "user_id"
SEED, ENTITY_SEED = 7, 11
SERVICE: Final = "bench"
VECTORS: Final = "bench_vectors"
KINDS: Final = ("float",) * 4 + ("int",) * 3 + ("text", "flag")
TEXTS: Final = ("economy", "standard", "express", "overnight")
NULLS: Final = 0.02
ROWS_PER_GROUP: Final = 65_536  # as in the files that the batch flow publishes
SPAN: Final = timedelta(days=60)

Settings = Mapping[str, Any]

# What makes stock Feast fastest, by its own documentation; see also `feast_materialize.TRIED`.
STOCK_ONLINE: Final[Settings] = {"skip_dedup": True}
STOCK_OFFLINE: Final[Settings] = {"type": "duckdb"}
OURS_ONLINE: Final[Settings] = {
    "type": "pipelines.feast_plugins.online_store.SharedRedisOnlineStore"
}
OURS_OFFLINE: Final[Settings] = {
    "type": "pipelines.feast_plugins.offline_store.ParquetOfflineStore",
    "values_computed_later": True,  # as in stock Feast
}
OURS_ENGINE: Final[Settings] = {"type": "pipelines.feast_plugins.compute_engine.ArrowComputeEngine"}


@dataclass(frozen=True)
class View:
    """A generated feature view: `rows` of `keys` users, nine features, maybe a time to live.

    With as many rows as keys each key has one row.
    """

    name: str
    rows: int
    keys: int
    ttl: timedelta | None = None

    @property
    def features(self) -> dict[str, str]:
        """Names and kinds of the nine."""
        return {f"{self.name}_{kind}_{place}": kind for place, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Views:
    """Views whose files are written, and the time at which they end."""

    folder: Path
    views: tuple[View, ...]
    end: datetime

    @property
    def start(self) -> datetime:
        """Before every row."""
        return self.end - SPAN - timedelta(days=1)

    def path(self, view: View) -> Path:
        """The view's file."""
        return self.folder / f"{view.name}.parquet"


def write_views(folder: Path, views: Sequence[View]) -> Views:
    """Generate the views' files, as the batch flow writes its own, in a new folder.

    Args:
        folder: is created.
        views: what to generate.
    """
    folder.mkdir(parents=True)
    made = Views(folder, tuple(views), aware_now().replace(microsecond=0))
    for number, view in enumerate(views):
        pq.write_table(
            _rows(view, np.random.default_rng((SEED, number)), made.end),
            made.path(view),
            row_group_size=ROWS_PER_GROUP,
            compression="zstd",
            compression_level=1,
            use_dictionary=[n for n, kind in view.features.items() if kind == "text"],
            write_page_checksum=True,
        )
    return made


def entity_dataframe(rows: int, keys: int, end: datetime) -> pd.DataFrame:
    """Times of users to ask the history for: user_id, event_timestamp and `row`, its number.

    Args:
        rows: how many.
        keys: users are 0 to `keys` - 1.
        end: no time is after it, UTC.
    """
    rng = np.random.default_rng(ENTITY_SEED)
    return pd.DataFrame(
        {
            KEY: rng.integers(0, keys, rows),
            "event_timestamp": pd.DatetimeIndex(_times(rng, rows, end), tz="UTC"),
            "row": np.arange(rows),
        }
    )


def open_stock(
    space: Space,
    views: Views,
    *,
    project: str = "stock",
    online: Settings = STOCK_ONLINE,
    materialization: Settings | None = None,
) -> Any:
    """Stock Feast on the views, its registry that of `project`.

    Args:
        space: where Redis is.
        views: the generated files.
        project: its name, in Redis too.
        online: settings of the online store.
        materialization: settings of materialization.
    """
    return _open(
        views,
        project,
        online_store={"type": "redis", "connection_string": space.stock_connection, **online},
        offline_store=dict(STOCK_OFFLINE),
        batch_engine={"type": "local"},
        materialization=dict(materialization or {}),
    )


def open_ours(views: Views) -> Any:
    """The same with our stores and our engine; the server is found by the settings."""
    return _open(
        views,
        "ours",
        online_store=dict(OURS_ONLINE),
        offline_store=dict(OURS_OFFLINE),
        batch_engine=dict(OURS_ENGINE),
    )


def apply(store: Any, views: Views, *, vectors: bool = False) -> None:
    """Declare the views and the service `SERVICE` over all of them.

    Args:
        store: a feature store.
        views: the generated files.
        vectors: also the service `VECTORS`, whose answers Feast computes ahead.
    """
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast.data_format import ParquetFormat
    from feast.types import Bool, Float64, Int64, String

    types = {"float": Float64, "int": Int64, "text": String, "flag": Bool}
    user = Entity(name="user", join_keys=[KEY], value_type=ValueType.INT64)
    declared: list[Any] = [
        FeatureView(
            name=view.name,
            entities=[user],
            ttl=view.ttl,
            schema=[Field(name=name, dtype=types[kind]) for name, kind in view.features.items()],
            source=FileSource(
                name=view.name,
                path=str(views.path(view)),
                file_format=ParquetFormat(),
                timestamp_field="event_timestamp",
                created_timestamp_column="created_timestamp",
            ),
        )
        for view in views.views
    ]
    services = [FeatureService(name=SERVICE, features=declared)]
    if vectors:
        services.append(FeatureService(name=VECTORS, features=declared, precompute_online=True))
    with quiet():
        store.apply([user, *declared, *services])


def sized(view: View, factor: float, name: str) -> View:
    """The same view under another name, with `factor` times the rows and keys.

    Args:
        view: the view.
        factor: of its rows and keys.
        name: of the new one.
    """
    return dataclasses.replace(
        view, name=name, rows=round(view.rows * factor), keys=round(view.keys * factor)
    )


def _open(views: Views, project: str, **settings: Any) -> Any:
    from feast import FeatureStore, RepoConfig

    config = RepoConfig(
        project=project,
        provider="local",
        # Never read again, as with a long time to live.
        registry={"path": str(views.folder / f"{project}.db"), "cache_ttl_seconds": 0},
        repo_path=views.folder,
        entity_key_serialization_version=3,
        **settings,
    )
    return FeatureStore(config=config)


def _rows(view: View, rng: np.random.Generator, end: datetime) -> pa.Table:
    single = view.rows == view.keys
    keys = rng.permutation(view.keys) if single else rng.integers(0, max(view.keys, 1), view.rows)
    times = np.sort(_times(rng, view.rows, end))  # logs come in the order of time
    created = times + rng.integers(0, 300_000_000, view.rows).astype("timedelta64[us]")
    stamp = pa.timestamp("us", tz="UTC")
    columns = {
        KEY: pa.array(keys),
        "event_timestamp": pa.array(times).cast(stamp),
        "created_timestamp": pa.array(created).cast(stamp),
    }
    for place, (name, kind) in enumerate(view.features.items()):
        absent = rng.random(view.rows) < NULLS if place in (3, 7) else None
        columns[name] = _column(kind, view.rows, rng, absent)
    return pa.table(columns)


def _column(kind: str, rows: int, rng: np.random.Generator, absent: Any) -> pa.Array:
    match kind:
        case "float":
            return pa.array(rng.normal(50, 20, rows), mask=absent)
        case "int":
            return pa.array(rng.integers(0, 10_000, rows), mask=absent)
        case "flag":
            return pa.array(rng.random(rows) < 0.5, mask=absent)
        case _:
            codes = pa.array(rng.integers(0, len(TEXTS), rows), mask=absent)
            return pa.array(TEXTS).take(codes)


def _times(rng: np.random.Generator, rows: int, end: datetime) -> Any:
    """Times before `end`, to the microsecond, without a time zone but in UTC."""
    span = round(SPAN.total_seconds() * 1e6)
    newest = np.datetime64(end.replace(tzinfo=None), "us")
    return newest - rng.integers(0, span, rows).astype("timedelta64[us]")
