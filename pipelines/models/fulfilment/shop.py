"""The shop from the logs and Feast: places, goods, routes, recorded orders.

Features come from one retrieval of `ppo_agent_v1`; the delays that shipments met afterwards come
from the log of shipments and are the environment's hidden truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.features.columns import EVENT_TIMESTAMP
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.models.delay.dataset import retrieve_network
from pipelines.models.delay.features import (
    CONSTANTS,
    ROUTE_FEATURES,
    forecast_or_past,
    keys_of,
    network_columns,
    past_delays,
)
from pipelines.models.fulfilment.shop_arrays import shop_of, true_delays
from pipelines.models.fulfilment.tables import Tables, check_enough, read_tables, usable_orders
from pipelines.models.fulfilment.world import Lines, Shop
from pipelines.models.intent.features import INTENT_COLUMNS, intent_columns, past_urgency
from pipelines.registry.columns import OBJECTS, Columns, as_column
from pipelines.registry.packaging import Predictor
from pipelines.training.memory import too_large
from pipelines.training.source import TrainingDataError, TrainingSource

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

USER_FEATURES: Final = tuple(
    name
    for view in ("user_intent", "user_orders")
    for name in VIEWS_BY_NAME[view].features
    if name not in OBJECTS
)
PREFERRED: Final = "preferred_shipping_method"
_DAY: Final = 24
# Bytes, see `memory`: of a look at a route, features and all; of a position; of an order; of a
# region that warehouses stand in, which is a number in each option that the agent sees.
_A_LOOK, _A_POSITION, _AN_ORDER, _A_REGION = 3500, 120, 6000, 6_800_000
_LOOK_HOURS: Final = (3, 6, 12, 24)  # between two looks at the routes, as memory allows
_FEWEST_DAYS: Final = 14  # that must fit, or all that there are


@dataclass(frozen=True)
class ShopHistory:
    """The shop with its recorded orders.

    Attributes:
        shop, lines: for the environment.
        users, timestamps: (lines,) who ordered, and when (datetime64[us], UTC).
        days: number of days of history, the first one at `origin`.
    """

    shop: Shop
    lines: Lines
    users: Ints
    timestamps: NDArray[np.datetime64]
    origin: np.datetime64
    days: int


def read_history(
    source: TrainingSource,
    *,
    since: datetime | None = None,
    intent: Predictor | None = None,
    delay: Predictor | None = None,
) -> ShopHistory:
    """Logs and features of the whole history, or of what was recorded after `since`.

    Where memory is short, routes are looked at less often, or only the newest days are read; the
    source's notes say so.

    Args:
        source: of logs and features.
        since: only orders placed after this time (UTC, naive).
        intent, delay: served models whose forecasts the policies see; the features' own without.

    Raises:
        TrainingDataError: there are too few orders or options, or more data than memory holds.
    """
    tables = read_tables(source, with_sessions=intent is not None)
    orders, left_out = usable_orders(tables)
    if since is not None:
        orders = orders[orders.order_timestamp > since].reset_index(drop=True)
    check_enough(orders, left_out)
    first, last = orders.order_timestamp.min().floor("D"), orders.order_timestamp.max()
    days = int((last - first) // pd.Timedelta(days=1)) + 1
    hours, kept = _what_fits(source, tables, len(orders), days)
    first += pd.Timedelta(days=days - kept)
    orders = orders[orders.order_timestamp >= first].reset_index(drop=True)
    check_enough(orders, left_out)
    source.notes += [left_out] if left_out else []
    origin = np.datetime64(first, "us")
    looks = origin + np.arange(0, kept * _DAY, hours) * np.timedelta64(1, "h")
    features = _at_orders(source, tables, orders)
    routes = tables.routes
    columns = _at_looks(source, tables, looks)
    seen = {
        name: values.reshape(len(looks), -1)
        for name, values in columns.items()
        if name in ROUTE_FEATURES and name not in OBJECTS
    }
    expected, late = (part.reshape(len(looks), -1) for part in _forecasts(delay, columns))
    carbon = routes.carbon_cost.to_numpy(np.float64)
    known = ~np.isnan(seen["carbon_cost"])
    seen["carbon_cost"] = np.where(known, seen["carbon_cost"], carbon)
    urgency = _urgency(source, intent, tables, orders, features)
    truth = true_delays(tables, origin, len(looks), hours)
    shop = shop_of(tables, orders, seen, expected, late, truth, hours)
    return _history(shop, orders, features, urgency, origin, kept)


def _what_fits(source: TrainingSource, tables: Tables, orders: int, days: int) -> tuple[int, int]:
    """Hours between two looks at the routes, and the newest days that are read.

    Raises:
        TrainingDataError: not even two weeks of the shop fit.
    """
    routes, positions = len(tables.routes), tables.carried.num_rows
    size = len(tables.warehouses) * len(tables.products)
    fixed = _A_POSITION * size + _AN_ORDER * orders
    fixed += _A_REGION * tables.warehouses.region.nunique()
    a_day = routes * _A_LOOK * _DAY
    free = source.memory - fixed
    fewest = min(days, _FEWEST_DAYS)
    if a_day * fewest / _LOOK_HOURS[-1] > free:
        needed = fixed + a_day * fewest / _LOOK_HOURS[-1]
        what = f"{fewest} days of {routes:,} routes, {orders:,} orders and {positions:,} positions"
        raise TrainingDataError(too_large(what, needed, source.memory))
    hours = next((h for h in _LOOK_HOURS if a_day * days / h <= free), _LOOK_HOURS[-1])
    kept = min(days, int(free * hours // a_day))
    if hours > _LOOK_HOURS[0]:
        source.notes.append(
            f"{days:,} days of {routes:,} routes would take more memory than there is: routes are "
            f"looked at every {hours} hours"
            + (f", and the newest {kept:,} days are read" if kept < days else "")
        )
    return hours, kept


def _at_orders(source: TrainingSource, tables: Tables, orders: pd.DataFrame) -> pa.Table:
    """ppo_agent_v1 at every order's time."""
    weight = tables.products.set_index("product_id").weight_kg
    frame = pd.DataFrame(
        {
            "user_id": orders.user_id,
            "warehouse_id": orders.warehouse_id,
            "product_id": orders.product_id,
            "route_id": tables.routes.route_id.iloc[0],
            "quantity": orders.quantity,
            "price": orders.price.astype(float),
            "weight_kg": orders.product_id.map(weight).astype(float) * orders.quantity,
            # Just before it: no feature may count the order that is decided.
            EVENT_TIMESTAMP: orders.order_timestamp - pd.Timedelta(microseconds=1),
        }
    )
    return source.historical(frame, "ppo_agent_v1")


def _at_looks(source: TrainingSource, tables: Tables, looks: NDArray[np.datetime64]) -> Columns:
    """The delay model's input at every look: all routes, and the stock of their warehouses."""
    routes = {name: tables.routes[name].tolist() for name in CONSTANTS}
    keys = keys_of(routes, tables.probes)
    read = retrieve_network(source, keys, looks)
    found = dict(zip(read.column_names, read.columns, strict=True))
    columns = network_columns(routes, keys["warehouse_id"], found, len(looks))
    return {**columns, "snapshot": np.repeat(np.arange(len(looks)), len(tables.routes))}


def _urgency(
    source: TrainingSource,
    intent: Predictor | None,
    tables: Tables,
    orders: pd.DataFrame,
    features: pa.Table,
) -> Floats:
    """(lines,) 0–1: the intent model's forecast just before the order, if there is a model."""
    past = past_urgency(as_column("urgency_score", features["urgency_score"]))
    if intent is None:
        return past
    before = tables.sessions[tables.sessions.id.isin(orders.id)]
    table = source.historical(before, "intent_transformer_v1")
    columns = intent_columns({name: table[name].to_pylist() for name in INTENT_COLUMNS})
    found = np.asarray(intent.predict(columns)["urgency"], dtype=np.float64)
    forecast = dict(zip(table["id"].to_pylist(), found.tolist(), strict=True))
    known = orders.id.map(forecast).to_numpy(np.float64)
    return np.where(np.isfinite(known), np.clip(known, 0, 1), past)


def _forecasts(delay: Predictor | None, columns: Columns) -> tuple[Floats, Floats]:
    """(looks * routes,) expected hours of delay and probability of one."""
    if delay is None:
        return past_delays(columns)
    found = delay.predict(columns)
    hours, late, _ = forecast_or_past(
        found["expected_delay_hours"], found["late_probability"], columns
    )
    return hours, late


def _history(
    shop: Shop,
    orders: pd.DataFrame,
    features: pa.Table,
    urgency: Floats,
    origin: np.datetime64,
    days: int,
) -> ShopHistory:
    since = (orders.order_timestamp - pd.Timestamp(origin)).dt.total_seconds().to_numpy() / 3600
    day = (since // _DAY).astype(np.int64)

    def numbers(column: str, names: Sequence[str]) -> Ints:
        known = {name: number for number, name in enumerate(names)}
        return np.array(orders[column].map(known), dtype=np.int64)

    lines = Lines(
        day=day,
        time=since - day * _DAY,
        region=numbers("region", shop.regions),
        product=numbers("product_id", shop.products),
        quantity=orders.quantity.to_numpy(np.int64),
        method=numbers("shipping_method", shop.methods),
        urgency=urgency,
        features={name: as_column(name, features[name]) for name in USER_FEATURES},
        preferred=as_column(PREFERRED, features[PREFERRED]),
        weight=np.ones(len(orders)),
    )
    timestamps = orders.order_timestamp.to_numpy().astype("datetime64[us]")
    return ShopHistory(shop, lines, orders.user_id.to_numpy(np.int64), timestamps, origin, days)
