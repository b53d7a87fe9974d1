"""The shop from the logs and Feast: places, goods, routes, recorded orders.

Features come from one retrieval of `ppo_agent_v1`; the delays that shipments met afterwards come
from the log of shipments and are the environment's hidden truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.models.fulfilment.shop_arrays import shop_of, true_delays
from pipelines.models.fulfilment.tables import Tables, check_enough, read_tables, usable_orders
from pipelines.models.fulfilment.world import Lines, Shop
from pipelines.training.memory import too_large
from pipelines.training.source import EVENT_TIMESTAMP, TrainingDataError, TrainingSource
from pipelines.training.task import Predictor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROUTE_FEATURES: Final = (
    "delay_risk",
    "congestion",
    "carbon_cost",
    "deliveries_24h",
    "late_rate_24h",
    "mean_delay_hours_24h",
    "mean_delay_hours_7d",
    "efficiency_score",
    "carbon_per_tonne_km",
)
USER_FEATURES: Final = (
    *("intent_score", "urgency_score", "action_diversity", "products_viewed"),
    *("session_duration", "sessions_1d", "sessions_7d", "carts_7d", "purchases_7d"),
    *("conversion_rate_7d", "order_value", "orders_7d", "orders_30d", "spend_30d"),
    *("avg_order_value_30d", "express_share_30d", "hour_of_day", "day_of_week"),
    *("is_weekend", "days_since_previous_order"),
)
_DAY: Final = 24
# Bytes, see `memory`: of a look at a route, features and all; of a position; of an order; of a
# region that warehouses stand in, which is a number in each option that the agent sees.
_A_LOOK, _A_POSITION, _AN_ORDER, _A_REGION = 3500, 120, 6000, 4_500_000
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
    features = _features(source, tables, orders, looks)
    routes = tables.routes
    seen = {
        name: _numbers(features, name)[len(orders) :].reshape(len(looks), -1)
        for name in ROUTE_FEATURES
    }
    carbon = routes.carbon_cost.to_numpy(np.float64)
    known = ~np.isnan(seen["carbon_cost"])
    seen["carbon_cost"] = np.where(known, seen["carbon_cost"], carbon)
    urgency = _urgency(source, intent, tables, orders, features)
    expected, late = _forecasts(delay, routes, features.slice(len(orders)), seen)
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


def _features(
    source: TrainingSource, tables: Tables, orders: pd.DataFrame, looks: NDArray[np.datetime64]
) -> pa.Table:
    """ppo_agent_v1 at every order's time, then for every look at every route."""
    routes = tables.routes.route_id
    first = orders.iloc[0]
    at_orders = pd.DataFrame(
        {
            "user_id": orders.user_id,
            "warehouse_id": orders.warehouse_id,
            "product_id": orders.product_id,
            "route_id": routes.iloc[0],
            "quantity": orders.quantity,
            "price": orders.price.astype(float),
            # Just before it: no feature may count the order that is decided.
            EVENT_TIMESTAMP: orders.order_timestamp - pd.Timedelta(microseconds=1),
        }
    )
    at_looks = pd.DataFrame(
        {
            "user_id": first.user_id,
            "warehouse_id": first.warehouse_id,
            "product_id": first.product_id,
            "route_id": np.tile(routes.to_numpy(), len(looks)),
            "quantity": first.quantity,
            "price": float(first.price),
            EVENT_TIMESTAMP: np.repeat(looks, len(routes)),
        }
    )
    frame = pd.concat([at_orders, at_looks], ignore_index=True)
    weight = tables.products.set_index("product_id").weight_kg
    frame["weight_kg"] = frame.product_id.map(weight).astype(float) * frame.quantity
    return source.historical(frame, "ppo_agent_v1")


def _numbers(table: pa.Table, name: str) -> Floats:
    return np.asarray(table[name].to_pandas().astype("float64"), dtype=np.float64)


def _urgency(
    source: TrainingSource,
    intent: Predictor | None,
    tables: Tables,
    orders: pd.DataFrame,
    features: pa.Table,
) -> Floats:
    """(lines,) 0–1: the intent model's forecast for the session before the order, if there is
    one."""
    score = _numbers(features, "urgency_score")[: len(orders)]
    urgency = np.minimum(np.nan_to_num(score, nan=1.0) / 2, 1.0)
    if intent is None:
        return urgency
    before = tables.sessions[tables.sessions.id.isin(orders.id)]
    table = source.historical(before, "intent_transformer_v1")
    columns = {name: table[name].to_pylist() for name in table.column_names}
    forecast = dict(zip(columns["id"], intent.predict(columns)["urgency"].tolist(), strict=True))
    known = orders.id.map(forecast).to_numpy(np.float64)
    return np.where(np.isnan(known), urgency, np.clip(known, 0, 1))


def _forecasts(
    delay: Predictor | None, routes: pd.DataFrame, rows: pa.Table, seen: dict[str, Floats]
) -> tuple[Floats, Floats]:
    """(looks, routes) expected hours of delay and probability of one."""
    if delay is None:
        day, week = seen["mean_delay_hours_24h"], seen["mean_delay_hours_7d"]
        expected = np.nan_to_num(np.where(np.isnan(day), week, day))
        rate, risk = seen["late_rate_24h"], seen["delay_risk"]
        return expected, np.nan_to_num(np.where(np.isnan(rate), risk, rate))
    looks = rows.num_rows // len(routes)
    text = ("route_id", "risk_category")
    columns: dict[str, Any] = {name: _numbers(rows, name) for name in ROUTE_FEATURES}
    columns |= {name: np.array(rows[name].to_pylist(), dtype=object) for name in text}
    columns[EVENT_TIMESTAMP] = rows[EVENT_TIMESTAMP].to_numpy()
    for name in ("origin_id", "destination_id", "mode", "distance_km", "base_hours", "base_cost"):
        columns[name] = np.tile(routes[name].to_numpy(), looks)
    for name in ("warehouse_stock_ratio", "warehouse_low_stock_share", "warehouse_days_of_cover"):
        columns[name] = np.full(rows.num_rows, np.nan)
    columns["snapshot"] = np.repeat(np.arange(looks), len(routes))
    forecast = delay.predict(columns)
    expected, late = (
        np.asarray(forecast[name], np.float64).reshape(looks, -1)
        for name in ("expected_delay_hours", "late_probability")
    )
    return expected, late


def _history(
    shop: Shop,
    orders: pd.DataFrame,
    features: pa.Table,
    urgency: Floats,
    origin: np.datetime64,
    days: int,
) -> ShopHistory:
    count = len(orders)
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
        features={name: _numbers(features, name)[:count] for name in USER_FEATURES},
        preferred=features["preferred_shipping_method"].to_pandas().to_numpy(object)[:count],
        weight=np.ones(count),
    )
    timestamps = orders.order_timestamp.to_numpy().astype("datetime64[us]")
    return ShopHistory(shop, lines, orders.user_id.to_numpy(np.int64), timestamps, origin, days)
