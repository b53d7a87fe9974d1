"""The shop as the logs and Feast know it: places, goods, routes, recorded orders.

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

from pipelines.models import tariff
from pipelines.models.fulfilment_world import NONE, Lines, Shop
from pipelines.training.source import EVENT_TIMESTAMP, TrainingDataError, TrainingSource
from pipelines.training.task import Predictor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CANDIDATES: Final = 4  # nearest warehouses that are options
FEWEST_LINES: Final = 20
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
_AHEAD_HOURS: Final = 24  # shipments of so many hours from now show how a route really was
_PRIOR_SHIPMENTS: Final = 8.0  # by which few shipments are drawn to their route's mean
_PRIOR_ROUTE: Final = 20.0  # and a route's to its mode's
_LONGEST_DELAY: Final = 96.0  # hours; or one shipment of freight's tail would make a route's day
_PRIOR_UNITS: Final = 0.5  # that every product is taken to have sold beyond its sales

_ROUTES: Final = """
    SELECT route_id, origin_id, destination_id, mode, distance_km, base_hours, base_cost,
        arg_min(carbon_cost, seq) AS carbon_cost
    FROM routes WHERE op <> 'D' GROUP BY ALL ORDER BY route_id"""
_ORDERS: Final = """
    SELECT o.id, o.user_id, u.region, o.product_id, o.quantity, o.price, o.warehouse_id,
        o.shipping_method, o.order_timestamp AS moment, o.committed_at
    FROM orders o JOIN (SELECT user_id, arg_max(region, seq) AS region FROM users
        WHERE op <> 'D' GROUP BY user_id) u USING (user_id)
    WHERE o.op = 'I' ORDER BY o.order_timestamp, o.id"""
_SHIPPED: Final = """
    SELECT route_id, shipped_at, promised_at, delivered_at FROM shipments WHERE op <> 'D'
    QUALIFY row_number() OVER (PARTITION BY shipment_id ORDER BY seq DESC) = 1"""
# Who supplies a product is seen from what came in; else by all who deliver to the warehouse.
_LEADS: Final = """
    WITH inbound AS (SELECT DISTINCT route_id, destination_id, base_hours, lead_time_days
        FROM routes JOIN suppliers ON origin_id = supplier_id
        WHERE routes.op = 'I' AND suppliers.op = 'I')
    SELECT destination_id AS warehouse_id, product_id,
        avg(lead_time_days + base_hours / 24) AS days, grouping(product_id) = 1 AS of_all
    FROM inbound LEFT JOIN (SELECT DISTINCT route_id, product_id FROM shipments
        WHERE product_id IS NOT NULL) USING (route_id)
    GROUP BY GROUPING SETS ((destination_id, product_id), (destination_id))"""
_SESSIONS: Final = """
    SELECT o.id, c.session_id, o.user_id, c.event_timestamp
    FROM orders o ASOF JOIN (SELECT user_id, session_id, event_timestamp FROM clickstream
        WHERE op = 'I' AND action <> 'purchase') c
        ON o.user_id = c.user_id AND o.order_timestamp > c.event_timestamp
    WHERE o.op = 'I' ORDER BY o.id"""


@dataclass(frozen=True)
class History:
    """The shop with its recorded orders.

    Attributes:
        shop, lines: for the environment.
        users, moments: (lines,) who ordered, and when (datetime64[us]).
        days: number of days of history, the first one at `origin`.
    """

    shop: Shop
    lines: Lines
    users: Ints
    moments: NDArray[np.datetime64]
    origin: np.datetime64
    days: int


@dataclass(frozen=True)
class _Tables:
    """What the logs say, as frames."""

    routes: pd.DataFrame
    warehouses: pd.DataFrame
    products: pd.DataFrame
    carried: pd.DataFrame
    orders: pd.DataFrame
    shipped: pd.DataFrame
    leads: pd.DataFrame
    sessions: pd.DataFrame


def read_history(
    source: TrainingSource,
    *,
    stride: int,
    since: datetime | None = None,
    intent: Predictor | None = None,
    delay: Predictor | None = None,
) -> History:
    """Logs and features of the whole history, or of what was recorded after `since`.

    Args:
        source: where both come from.
        stride: hours between two looks at the routes.
        since: only orders recorded after this moment.
        intent, delay: served models whose forecasts the policies see; the features' own without.

    Raises:
        TrainingDataError: there are too few orders.
    """
    tables = _read(source, with_sessions=intent is not None)
    orders = tables.orders
    if since is not None:
        orders = orders[orders.moment > since].reset_index(drop=True)
    if len(orders) < FEWEST_LINES:
        raise TrainingDataError(
            f"{len(orders)} orders are too few to draw episodes from, {FEWEST_LINES} are needed: "
            "let the shop run for longer, e.g. `synchrochain run --days 30`"
        )
    origin = np.datetime64(orders.moment.min().floor("D"), "us")
    days = int((orders.moment.max() - pd.Timestamp(origin)) // pd.Timedelta(days=1)) + 1
    looks = origin + np.arange(0, days * _DAY, stride) * np.timedelta64(1, "h")
    features = _features(source, tables, orders, looks)
    routes = tables.routes
    by_hour = {
        name: _by_hour(features, name, len(orders), len(looks), stride) for name in ROUTE_FEATURES
    }
    carbon = routes.carbon_cost.to_numpy(np.float64)
    known = ~np.isnan(by_hour["carbon_cost"])
    by_hour["carbon_cost"] = np.where(known, by_hour["carbon_cost"], carbon)
    urgency = _urgency(source, intent, tables, orders, features)
    expected, late = _forecasts(delay, routes, features, len(orders), len(looks), by_hour, stride)
    shop = _shop(tables, by_hour, expected, late, _truth(tables, origin, days))
    return _history(shop, orders, features, urgency, origin, days)


def _read(source: TrainingSource, *, with_sessions: bool) -> _Tables:
    names = ("routes", "warehouses", "products", "inventory", "orders", "users", "shipments")
    with source.logs(*names, "suppliers", "clickstream") as logs:

        def frame(query: str) -> pd.DataFrame:
            return logs.sql(query).df()

        newest = "SELECT * FROM {0} WHERE op <> 'D' QUALIFY row_number() OVER (PARTITION BY {1} "
        newest += "ORDER BY seq DESC) = 1 ORDER BY {1}"
        return _Tables(
            routes=frame(_ROUTES),
            warehouses=frame(newest.format("warehouses", "warehouse_id")),
            products=frame(newest.format("products", "product_id")),
            carried=frame(newest.format("inventory", "warehouse_id, product_id")),
            orders=frame(_ORDERS),
            shipped=frame(_SHIPPED),
            leads=frame(_LEADS),
            sessions=frame(_SESSIONS) if with_sessions else pd.DataFrame(),
        )


def _features(
    source: TrainingSource, tables: _Tables, orders: pd.DataFrame, looks: NDArray[np.datetime64]
) -> pa.Table:
    """ppo_agent_v1 at every order's moment, then for every look at every route."""
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
            # Just before it: when an order is decided, no feature counts it yet.
            EVENT_TIMESTAMP: orders.moment - pd.Timedelta(microseconds=1),
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


def _by_hour(table: pa.Table, name: str, skip: int, looks: int, stride: int) -> Floats:
    """(hours, routes) of a feature; between two looks the former holds."""
    return np.repeat(_numbers(table, name)[skip:].reshape(looks, -1), stride, axis=0)


def _urgency(
    source: TrainingSource,
    intent: Predictor | None,
    tables: _Tables,
    orders: pd.DataFrame,
    features: pa.Table,
) -> Floats:
    """(lines,) 0–1: what the intent model says of the session before the order, if there is one."""
    score = _numbers(features, "urgency_score")[: len(orders)]
    urgency = np.minimum(np.nan_to_num(score, nan=1.0) / 2, 1.0)
    if intent is None:
        return urgency
    before = tables.sessions[tables.sessions.id.isin(orders.id)]
    table = source.historical(before, "intent_transformer_v1")
    columns = {name: table[name].to_pylist() for name in table.column_names}
    told = dict(zip(columns["id"], intent.predict(columns)["urgency"].tolist(), strict=True))
    said = orders.id.map(told).to_numpy(np.float64)
    return np.where(np.isnan(said), urgency, np.clip(said, 0, 1))


def _forecasts(
    delay: Predictor | None,
    routes: pd.DataFrame,
    features: pa.Table,
    skip: int,
    looks: int,
    by_hour: dict[str, Floats],
    stride: int,
) -> tuple[Floats, Floats]:
    """(hours, routes) expected hours of delay and probability of one."""
    if delay is None:
        day, week = by_hour["mean_delay_hours_24h"], by_hour["mean_delay_hours_7d"]
        expected = np.nan_to_num(np.where(np.isnan(day), week, day))
        rate, risk = by_hour["late_rate_24h"], by_hour["delay_risk"]
        return expected, np.nan_to_num(np.where(np.isnan(rate), risk, rate))
    rows = features.slice(skip)
    columns: dict[str, Any] = {name: rows[name].to_pylist() for name in rows.column_names}
    for name in ("origin_id", "destination_id", "mode", "distance_km", "base_hours", "base_cost"):
        columns[name] = np.tile(routes[name].to_numpy(), looks)
    for name in ("warehouse_stock_ratio", "warehouse_low_stock_share", "warehouse_days_of_cover"):
        columns[name] = np.full(rows.num_rows, np.nan)
    columns["snapshot"] = np.repeat(np.arange(looks), len(routes))
    told = delay.predict(columns)
    expected, late = (
        np.repeat(np.asarray(told[name], np.float64).reshape(looks, -1), stride, axis=0)
        for name in ("expected_delay_hours", "late_probability")
    )
    return expected, late


def _truth(tables: _Tables, origin: np.datetime64, days: int) -> Floats:
    """(hours, routes) mean delay of the shipments that left in the next 24 hours.

    Few shipments are drawn to their route's mean, and routes of few shipments to their mode's. What
    is not there yet at the end of the log counts as arriving then.
    """
    shipped, routes, hours = tables.shipped, tables.routes, days * _DAY
    number = pd.Series(range(len(routes)), index=routes.route_id)
    at = ((shipped.shipped_at - pd.Timestamp(origin)) // pd.Timedelta(hours=1)).to_numpy()
    end = shipped.shipped_at.max()
    arrived = shipped.delivered_at.fillna(end)
    delay = (arrived - shipped.promised_at).dt.total_seconds().to_numpy() / 3600
    delay = np.clip(delay, 0, _LONGEST_DELAY)
    route = shipped.route_id.map(number).to_numpy()
    inside = (at >= 0) & (at < hours + _AHEAD_HOURS)
    count = np.zeros((hours + _AHEAD_HOURS + 1, len(routes)))
    total = np.zeros_like(count)
    np.add.at(count, (at[inside] + 1, route[inside]), 1.0)
    np.add.at(total, (at[inside] + 1, route[inside]), delay[inside])
    sums, counts = np.cumsum(total, axis=0), np.cumsum(count, axis=0)
    modes = pd.factorize(routes["mode"])[0]
    by_mode = np.bincount(modes, sums[-1]) / np.maximum(np.bincount(modes, counts[-1]), 1)
    mean = (sums[-1] + _PRIOR_ROUTE * by_mode[modes]) / (counts[-1] + _PRIOR_ROUTE)
    ahead = sums[_AHEAD_HOURS:-1] - sums[: -_AHEAD_HOURS - 1]
    seen = counts[_AHEAD_HOURS:-1] - counts[: -_AHEAD_HOURS - 1]
    return np.asarray((ahead + _PRIOR_SHIPMENTS * mean) / (seen + _PRIOR_SHIPMENTS))


def _shop(
    tables: _Tables, conditions: dict[str, Floats], expected: Floats, late: Floats, truth: Floats
) -> Shop:
    """Put places, goods and routes into arrays."""
    routes, products = tables.routes, tables.products
    warehouses = tables.warehouses.warehouse_id.tolist()
    outbound = routes[routes.origin_id.isin(warehouses)]
    regions = sorted(outbound.destination_id.unique())
    place = {name: number for number, name in enumerate(warehouses)}
    goods = {name: number for number, name in enumerate(products.product_id)}
    shape = (len(warehouses), len(products))

    route_of = np.full((len(warehouses), len(regions), len(tariff.SHIPPING_METHODS)), NONE)
    away = np.full((len(regions), len(warehouses)), np.inf)
    for (origin, region), group in outbound.groupby(["origin_id", "destination_id"]):
        w, r = place[str(origin)], regions.index(region)
        by_mode = dict(zip(group["mode"], group.index, strict=True))
        for m, method in enumerate(tariff.SHIPPING_METHODS):
            mode = tariff.mode_of(method, by_mode)
            route_of[w, r, m] = NONE if mode is None else by_mode[mode]
        away[r, w] = group.distance_km[group["mode"] == "road"].min()
        if np.isnan(away[r, w]):
            away[r, w] = group.distance_km.min()
    carries = np.zeros(shape, dtype=bool)
    intensity = np.full(shape, np.nan)
    there = tables.carried.warehouse_id.map(place), tables.carried.product_id.map(goods)
    carries[there] = True
    held = tables.carried.current_stock.where(tables.carried.current_stock > 0)
    intensity[there] = tables.carried.carbon_footprint / held
    candidates = np.full((len(regions), len(products), CANDIDATES), NONE)
    for r in range(len(regions)):
        for p in range(len(products)):
            near = [w for w in np.argsort(away[r]) if carries[w, p] and away[r, w] < np.inf]
            candidates[r, p, : len(near[:CANDIDATES])] = near[:CANDIDATES]
    lead = np.zeros(shape)
    general = tables.leads[tables.leads.of_all]
    lead[:] = (
        general.set_index("warehouse_id").days.reindex(warehouses).fillna(7.0).to_numpy()[:, None]
    )
    special = tables.leads[~tables.leads.of_all & tables.leads.product_id.isin(goods)]
    lead[special.warehouse_id.map(place), special.product_id.map(goods)] = special.days
    return Shop(
        warehouses=warehouses,
        regions=regions,
        products=products.product_id.tolist(),
        routes=routes.route_id.tolist(),
        methods=tariff.SHIPPING_METHODS,
        candidates=candidates,
        route_of=route_of,
        base_hours=routes.base_hours.to_numpy(np.float64),
        base_cost=routes.base_cost.to_numpy(np.float64),
        cost_factor=np.array([tariff.COST_FACTOR[m] for m in tariff.SHIPPING_METHODS]),
        promise_factor=np.array([tariff.PROMISE_FACTOR[m] for m in tariff.SHIPPING_METHODS]),
        fixed_cost=tariff.FIXED_COST,
        carbon=routes.carbon_cost.to_numpy(np.float64),
        price=products.unit_price.to_numpy(np.float64),
        weight=products.weight_kg.to_numpy(np.float64),
        demand=_demand(tables.orders, candidates, regions, goods, carries),
        lead_days=lead,
        capacity=(tables.warehouses.capacity / tables.warehouses.capacity.sum()).to_numpy(
            np.float64
        ),
        conditions=conditions,
        forecast_delay=expected,
        forecast_late=late,
        true_delay=truth,
        carbon_intensity=intensity,
        warehouse_regions=tables.warehouses.region.to_numpy(object),
    )


def _demand(
    orders: pd.DataFrame,
    candidates: Ints,
    regions: list[str],
    goods: dict[str, int],
    carries: NDArray[np.bool_],
) -> Floats:
    """(W, P) expected units per order of the shop where a warehouse is nearest; −1 not carried."""
    units = np.full(len(goods), _PRIOR_UNITS)
    np.add.at(units, orders.product_id.map(goods).to_numpy(), orders.quantity.to_numpy())
    share = orders.region.value_counts().reindex(regions).fillna(0).to_numpy() + 1.0
    share = share / share.sum()
    demand = np.zeros(carries.shape)
    rows, columns = np.nonzero(candidates[..., 0] != NONE)
    nearest = candidates[rows, columns, 0]
    np.add.at(demand, (nearest, columns), share[rows] * units[columns] / len(orders))
    return np.where(carries, demand, -1.0)


def _history(
    shop: Shop,
    orders: pd.DataFrame,
    features: pa.Table,
    urgency: Floats,
    origin: np.datetime64,
    days: int,
) -> History:
    count = len(orders)
    since = (orders.moment - pd.Timestamp(origin)).dt.total_seconds().to_numpy() / 3600
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
    moments = orders.moment.to_numpy().astype("datetime64[us]")
    return History(shop, lines, orders.user_id.to_numpy(np.int64), moments, origin, days)
