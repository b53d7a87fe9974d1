"""The feature repository as Feast's users meet it: declared, materialized, read back.

One small shop is processed once for the whole module: change logs, two batch cycles, feast apply,
materialization into a private Redis. Its last event happened an hour ago, for Feast measures times
to live against the present.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from comparing import differences
from live_logs import append_changes, complete_log, numbered, parts_of
from random_log import Logs
from reference import FEATURES, KEYS, VIEWS, compute, decision_context

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.errors import CorruptFileError
from pipelines.feast_plugins.repository import open_store
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.lake.clock import utc_now
from pipelines.redis_server import connect, ensure_server, stop_server
from pipelines.settings import DataConfig

Row = dict[str, Any]
TTL = {
    "user_intent": timedelta(days=7),
    "session_events": timedelta(days=1),
    "user_orders": timedelta(days=90),
    "inventory_levels": timedelta(days=14),
    "route_conditions": timedelta(days=2),
}
SERVICES = {
    "intent_transformer_v1": ["session_events", "user_intent"],
    "supply_gnn_v1": ["route_conditions", "inventory_levels"],
    "ppo_agent_v1": [
        "user_intent",
        "user_orders",
        "inventory_levels",
        "route_conditions",
        "decision_context",
    ],
}
MICROSECOND = timedelta(microseconds=1)


@dataclass
class Shop:
    """A processed shop: its log, where it lies, and Feast's store of it."""

    logs: Logs
    folder: Path
    processor: BatchProcessor
    materialized_at: datetime

    @cached_property
    def store(self) -> Any:
        return open_store(self.processor.config)

    @cached_property
    def reference(self) -> dict[str, list[Row]]:
        """All feature rows, by view, by key and time."""
        return {view: compute(view, self.logs) for view in VIEWS}

    def newest(self, view: str) -> dict[tuple[Any, ...], Row]:
        """The last row of each key."""
        return {tuple(row[k] for k in KEYS[view]): row for row in self.reference[view]}

    def online(self, view: str, keys: list[Row], store: Any = None) -> list[Row]:
        """What the online store says of the keys, in their order."""
        references = [f"{view}:{name}" for name in FEATURES[view]]
        store = store or self.store
        found = store.get_online_features(features=references, entity_rows=keys).to_dict()
        return [{n: found[n][i] for n in FEATURES[view]} for i in range(len(keys))]


def moved(logs: Logs, newest: datetime) -> Logs:
    """The same log with its newest time at `newest`; the distances between times stay."""
    times = [v for rows in logs.values() for row in rows for v in row.values()]
    delta = newest - max(v for v in times if isinstance(v, datetime))
    return {
        table: [
            {k: v + delta if isinstance(v, datetime) else v for k, v in row.items()} for row in rows
        ]
        for table, rows in logs.items()
    }


def delivered_once(logs: Logs) -> Logs:
    """The same log without what came after a shipment's first delivery.

    A delivery that is reported again at another time leaves a row at its first event time behind.
    """
    done: set[int] = set()
    kept = []
    for row in sorted(logs["shipments"], key=lambda row: row["seq"]):
        if row["shipment_id"] not in done:
            kept.append(row)
        if row["delivered_at"]:
            done.add(row["shipment_id"])
    return numbered({**logs, "shipments": kept})


@pytest.fixture(scope="module")
def environment() -> Iterator[Path]:
    """A data directory that every part of this process uses; its Redis ends with the module."""
    # Short, for the path of a Unix socket is.
    folder = Path(tempfile.mkdtemp(prefix="sc-")).resolve()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "_MLFLOW_SERVER_ARTIFACT_ROOT"):
            patch.setenv(name, "")  # so that what Feast's plug-in sets is undone
            patch.delenv(name)
        patch.delenv("SYNCHROCHAIN_REDIS_HOST", raising=False)
        patch.setenv("SYNCHROCHAIN_DATA_DIR", str(folder / "data"))
        (folder / "elsewhere").mkdir()
        patch.chdir(folder / "elsewhere")
        try:
            yield folder
        finally:
            stop_server(DataConfig(data_dir=folder / "data"))
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def shop(environment: Path) -> Shop:
    """Two cycles, the second with the late rows and corrections of the first; then the update."""
    logs = moved(delivered_once(complete_log(5, size=50)), utc_now() - timedelta(hours=1))
    data, batch = DataConfig(), BatchConfig(retention_days=30 * 365)
    processor = BatchProcessor(batch, data)
    first, second = parts_of(logs, 2)
    append_changes(data, first)
    processor.run_cycle(update=False)
    append_changes(data, second)
    started = utc_now()
    report = processor.run_cycle()
    assert report.applied
    assert set(report.materialized) == set(VIEWS)
    return Shop(logs, environment, processor, started)


# What is declared


def arrow_type(dtype: Any) -> pa.DataType:
    from feast.types import Array, Bool, Float64, Int64, String

    if isinstance(dtype, Array):
        return pa.list_(arrow_type(dtype.base_type))
    return {Bool: pa.bool_(), Float64: pa.float64(), Int64: pa.int64(), String: pa.string()}[dtype]


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_declares_exactly_what_is_computed(shop: Shop, name: str) -> None:
    """The same features in the same order with the same types, keys and times."""
    view, ours = shop.store.get_feature_view(name), VIEWS_BY_NAME[name]
    declared = [(field.name, arrow_type(field.dtype)) for field in view.features]
    assert declared == [(n, ours.schema.field(n).type) for n in ours.features]
    assert {column.name for column in view.entity_columns} == set(ours.keys)
    assert view.batch_source.timestamp_field == "event_timestamp"
    assert view.batch_source.created_timestamp_column == "created_timestamp"
    assert view.ttl == TTL[name]
    assert view.online


def test_no_view_is_undeclared(shop: Shop) -> None:
    """And none is declared that nobody computes."""
    assert {view.name for view in shop.store.list_feature_views()} == set(VIEWS)
    assert [v.name for v in shop.store.list_on_demand_feature_views()] == ["decision_context"]


def test_everything_is_described(shop: Shop) -> None:
    """Entities, sources, views, services and every field: a catalogue that can be read."""
    store = shop.store
    views = store.list_feature_views()
    described = [
        *store.list_entities(),
        *store.list_data_sources(),
        *views,
        *store.list_on_demand_feature_views(),
        *store.list_feature_services(),
        *(field for view in views for field in view.features),
    ]
    assert [thing.name for thing in described if not thing.description] == []
    tagged = [*store.list_entities(), *views, *store.list_feature_services()]
    assert [thing.name for thing in tagged if not thing.tags] == []
    assert [
        thing.name for thing in [*views, *store.list_feature_services()] if not thing.owner
    ] == []


@pytest.mark.parametrize(("name", "views"), SERVICES.items())
def test_a_service_holds_what_its_model_reads(shop: Shop, name: str, views: list[str]) -> None:
    """One service per model version."""
    service = shop.store.get_feature_service(name)
    assert [projection.name for projection in service.feature_view_projections] == views
    assert set(SERVICES) == {service.name for service in shop.store.list_feature_services()}


# Online


@pytest.mark.parametrize("view", VIEWS)
def test_online_features_are_the_newest_offline_row(shop: Shop, view: str) -> None:
    """For every key; what had outlived its time to live was never written."""
    newest = shop.newest(view)
    keys = [dict(zip(KEYS[view], key, strict=True)) for key in newest]
    current = 0
    for key, online in zip(newest, shop.online(view, keys), strict=True):
        row = newest[key]
        if row["event_timestamp"] < shop.materialized_at - TTL[view]:
            assert set(online.values()) == {None}, key
        else:
            current += 1
            assert not differences(online, {n: row[n] for n in FEATURES[view]}), key
    assert current > 0


@pytest.mark.parametrize("view", VIEWS)
def test_an_unknown_key_has_no_features(shop: Shop, view: str) -> None:
    """Nulls, not an error and not somebody else's."""
    key = {name: 404 if name == "user_id" else "nobody" for name in KEYS[view]}
    (online,) = shop.online(view, [key])
    assert set(online.values()) == {None}


def test_feasts_own_redis_store_reads_what_ours_wrote(shop: Shop) -> None:
    """The layout in Redis is Feast's, so that any Feast client can serve from it."""
    from feast import FeatureStore, RepoConfig

    endpoint = ensure_server(shop.processor.data)
    stock = FeatureStore(
        config=RepoConfig(
            project="synchrochain",
            provider="local",
            registry=str(shop.processor.config.registry_path),
            online_store={"type": "redis", "connection_string": endpoint.connection_string},
            offline_store={"type": "duckdb"},
            entity_key_serialization_version=3,
        )
    )
    for view in VIEWS:
        keys = [dict(zip(KEYS[view], key, strict=True)) for key in shop.newest(view)]
        assert shop.online(view, keys, stock) == shop.online(view, keys)


def context(shop: Shop, **request: Any) -> tuple[Row, Row]:
    """decision_context of one request, and what it is made from."""
    route, stock, user = (
        max(
            (
                r
                for r in shop.newest(view).values()
                if any(r[n] is not None for n in FEATURES[view])
            ),
            key=lambda row: row["event_timestamp"],
        )
        for view in ("route_conditions", "inventory_levels", "user_intent")
    )
    keys = {
        "route_id": route["route_id"],
        "warehouse_id": stock["warehouse_id"],
        "product_id": stock["product_id"],
        "user_id": user["user_id"],
    }
    row = {**keys, "quantity": 3, "price": 19.5, "weight_kg": 2.5, **request}
    found = shop.store.get_online_features(
        features=shop.store.get_feature_service("ppo_agent_v1"), entity_rows=[row]
    ).to_dict()
    return row, {name: values[0] for name, values in found.items()}


NAMES = ("order_carbon_kg", "stock_after_order", "urgency_weighted_delay", "value_at_risk")
OPERANDS = (
    "carbon_cost",
    "stock_level",
    "urgency_score",
    "mean_delay_hours_24h",
    "late_rate_24h",
)


def test_the_decision_context_joins_the_request_with_the_features(shop: Shop) -> None:
    """An order seen against its customer, stock and route, at the time of the request."""
    row, found = context(shop)
    request = {name: row[name] for name in ("quantity", "price", "weight_kg")}
    expected = decision_context(**request, **{name: found[name] for name in OPERANDS})
    assert not differences({name: found[name] for name in NAMES}, expected)
    assert found["order_carbon_kg"] is not None
    assert found["stock_after_order"] == found["stock_level"] - 3


def test_the_decision_context_is_null_where_something_is_unknown(shop: Shop) -> None:
    """An unknown route makes what depends on the route null, and nothing else."""
    _, found = context(shop, route_id="nowhere")
    assert found["stock_after_order"] is not None
    assert [found[n] for n in NAMES if n != "stock_after_order"] == [None, None, None]
    _, found = context(shop, product_id="nothing")
    assert found["stock_after_order"] is None
    assert found["order_carbon_kg"] is not None


# Offline


def as_of(shop: Shop, view: str, key: tuple[Any, ...], at: datetime) -> Row:
    """The reference's answer: the newest row up to a time, if it has not outlived its time."""
    known = [
        row
        for row in shop.reference[view]
        if tuple(row[k] for k in KEYS[view]) == key
        and at - TTL[view] <= row["event_timestamp"] <= at
    ]
    return known[-1] if known else dict.fromkeys(FEATURES[view])


def instants(shop: Shop, view: str) -> pd.DataFrame:
    """Entity rows in no order, some twice: at rows, a microsecond around them, long before."""
    rows = shop.reference[view][-40:]
    asked = [
        {**{k: row[k] for k in KEYS[view]}, "event_timestamp": row["event_timestamp"] + offset}
        for row in rows
        for offset in (timedelta(0), -MICROSECOND, MICROSECOND, timedelta(days=-20))
    ]
    asked += asked[::7]
    frame = pd.DataFrame(asked).sample(frac=1, random_state=3, ignore_index=True)
    frame["event_timestamp"] = frame["event_timestamp"].astype("datetime64[us]")
    frame["event_timestamp"] = frame["event_timestamp"].dt.tz_localize("UTC")
    frame["label"] = range(len(frame))
    return frame


def historical(shop: Shop, view: str, entities: Any) -> list[Row]:
    references = [f"{view}:{name}" for name in FEATURES[view]]
    job = shop.store.get_historical_features(entity_df=entities, features=references)
    rows: list[Row] = job.to_arrow().to_pylist()
    return rows


@pytest.mark.parametrize("view", VIEWS)
def test_historical_features_are_what_was_known_then(shop: Shop, view: str) -> None:
    """Point in time: the row of that very instant counts, one a microsecond later does not.

    Rows come in the order of the entity dataframe, repeated ones repeated; its other columns stay.
    """
    entities = instants(shop, view)
    found = historical(shop, view, entities)
    assert [row["label"] for row in found] == list(range(len(entities)))
    for asked, answered in zip(entities.to_dict("records"), found, strict=True):
        key = tuple(asked[k] for k in KEYS[view])
        assert tuple(answered[k] for k in KEYS[view]) == key
        at = asked["event_timestamp"].to_pydatetime().replace(tzinfo=None)
        expected = as_of(shop, view, key, at)
        ours = {name: answered[name] for name in FEATURES[view]}
        assert not differences(ours, {n: expected[n] for n in FEATURES[view]}), (key, at)


def test_a_training_set_joins_all_views_of_a_service(shop: Shop) -> None:
    """With the request's columns in the frame, the on-demand view is computed too."""
    stock = shop.reference["inventory_levels"][-1]
    route = shop.reference["route_conditions"][-1]
    at = max(stock["event_timestamp"], route["event_timestamp"])
    entities = pd.DataFrame(
        {
            "user_id": [1, 2],
            "warehouse_id": stock["warehouse_id"],
            "product_id": stock["product_id"],
            "route_id": route["route_id"],
            "quantity": [1, 2],
            "price": [5.0, 6.0],
            "weight_kg": [1.0, 2.0],
            "event_timestamp": [at.replace(tzinfo=UTC)] * 2,
        }
    )
    service = shop.store.get_feature_service("ppo_agent_v1")
    job = shop.store.get_historical_features(entity_df=entities, features=service)
    for asked, row in zip(entities.to_dict("records"), job.to_df().to_dict("records"), strict=True):
        known = {n: None if pd.isna(row[n]) else row[n] for n in (*OPERANDS, *NAMES, "orders_30d")}
        request = {name: asked[name] for name in ("quantity", "price", "weight_kg")}
        expected = decision_context(**request, **{name: known[name] for name in OPERANDS})
        assert not differences({name: known[name] for name in NAMES}, expected)
        newest = as_of(shop, "user_orders", (asked["user_id"],), at)
        assert known["orders_30d"] == newest["orders_30d"]


def test_the_entities_may_be_a_query(shop: Shop) -> None:
    """SQL that DuckDB runs, for frames that are too large or lie in files."""
    row = shop.reference["user_orders"][-1]
    (found,) = historical(
        shop,
        "user_orders",
        f"SELECT {row['user_id']}::BIGINT AS user_id, "
        f"TIMESTAMPTZ '{row['event_timestamp']}+00' AS event_timestamp",
    )
    names = FEATURES["user_orders"]
    assert not differences({n: found[n] for n in names}, {n: row[n] for n in names})


def test_a_view_whose_files_are_gone_is_not_empty(shop: Shop) -> None:
    """It has rows, which cannot be read."""
    folder = shop.processor.config.offline_path / "route_conditions"
    hidden = folder.with_name("hidden")
    folder.rename(hidden)
    try:
        with pytest.raises(CorruptFileError, match=r"route_conditions_\d+.parquet is missing"):
            historical(shop, "route_conditions", instants(shop, "route_conditions")[:3])
    finally:
        hidden.rename(folder)


# Keeping the online store right


def test_a_correction_of_the_newest_row_reaches_the_online_store(shop: Shop) -> None:
    """By the next cycle, though its event time lies before the end of the last materialization."""
    alive = {
        user: row
        for (user,), row in shop.newest("user_intent").items()
        if row["event_timestamp"] > shop.materialized_at - TTL["user_intent"]
    }
    user, row = min(alive.items(), key=lambda item: item[1]["event_timestamp"])
    assert row["event_timestamp"] < max(r["event_timestamp"] for r in alive.values())
    last = max(
        (s for s in shop.logs["sessions"] if s["user_id"] == user),
        key=lambda s: (s["timestamp"], s["seq"]),
    )
    seq = 1 + max(r["seq"] for t in ("users", "sessions", "clickstream") for r in shop.logs[t])
    corrected = {**last, "seq": seq, "op": "U", "session_duration": last["session_duration"] + 11}
    append_changes(shop.processor.data, {"sessions": [corrected]})
    shop.logs["sessions"].append(corrected)
    report = shop.processor.run_cycle()
    assert list(report.materialized) == ["user_intent"]
    (online,) = shop.online("user_intent", [{"user_id": user}])
    assert online["session_duration"] == corrected["session_duration"]
    del shop.reference
    assert shop.newest("user_intent")[(user,)]["event_timestamp"] == row["event_timestamp"]


def write(shop: Shop, user: int, at: datetime, duration: int) -> None:
    """Write one user_intent row straight to the online store, as Feast's push does."""
    values: Row = dict.fromkeys(FEATURES["user_intent"], 0)
    floats = {"intent_score": 0.5, "urgency_score": 0.5, "conversion_rate_7d": 0.5}
    row = {**values, **floats, "session_duration": duration}
    frame = pd.DataFrame([{"user_id": user, "event_timestamp": at, "created_timestamp": at, **row}])
    shop.store.write_to_online_store("user_intent", frame)


@pytest.mark.parametrize(
    ("offset", "wins"),
    [
        (timedelta(days=-3), False),
        (timedelta(seconds=-1), False),
        (-MICROSECOND, False),
        (timedelta(0), True),
        (MICROSECOND, True),
        (timedelta(days=1), True),
    ],
)
@pytest.mark.parametrize("fraction", [0, 1, 999_999])
def test_an_older_row_never_overwrites_a_newer_one(
    shop: Shop, offset: timedelta, wins: bool, fraction: int
) -> None:
    """To the microsecond, whoever writes last; the same time again is a correction and wins."""
    at = utc_now().replace(microsecond=fraction) - timedelta(days=2)
    user = 1000 + fraction + int(offset / MICROSECOND) % 999_983
    write(shop, user, at, 1)
    write(shop, user, at + offset, 2)
    (online,) = shop.online("user_intent", [{"user_id": user}])
    assert online["session_duration"] == (2 if wins else 1)


def test_the_online_store_is_the_private_server_of_the_data_directory(shop: Shop) -> None:
    """Nothing had to be installed, configured or started for it."""
    endpoint = ensure_server(shop.processor.data)
    assert not endpoint.started
    assert endpoint.directory is not None
    assert endpoint.directory.is_relative_to(shop.folder)
    with connect(endpoint) as client:
        assert client.dbsize() > 0


# Registry and tracking


def test_the_registry_is_replaced_in_one_step(shop: Shop) -> None:
    """Readers that look while it is written see the old one or the new one, whole."""
    from feast.infra.registry.registry import RegistryConfig
    from feast.protos.feast.core.Registry_pb2 import Registry

    from pipelines.feast_plugins.registry_store import DataDirRegistryStore

    path = shop.processor.config.registry_path
    writer = DataDirRegistryStore(RegistryConfig(path="registry.db"), shop.folder)
    whole = writer.get_registry_proto()
    sizes: set[int] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen = Registry()
            seen.ParseFromString(path.read_bytes())
            sizes.add(len(seen.feature_views))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(60):
            writer.update_registry_proto(whole)
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert sizes == {len(VIEWS)}
    assert [file.name for file in path.parent.glob("*registry*")] == ["registry.db"]


def test_tracking_stays_in_the_data_directory(shop: Shop) -> None:
    """Runs, what Feast logs of them, and artifacts; nothing falls into the working directory."""
    import mlflow

    with shop.store.mlflow.start_run(run_name="training"):
        entities = instants(shop, "user_orders")[:2]
        historical(shop, "user_orders", entities)
        mlflow.log_text("kept", "note.txt")
        run = mlflow.active_run().info.run_id
    found = mlflow.get_run(run)
    folder = shop.processor.config.mlflow_path
    assert "user_orders" in str(found.data.params | found.data.tags)
    (note,) = folder.rglob("note.txt")
    assert note.read_text() == "kept"
    assert note.is_relative_to(folder / "artifacts")
    assert mlflow.get_tracking_uri() == f"sqlite:///{folder / 'mlflow.db'}"
    assert list(Path.cwd().iterdir()) == []
