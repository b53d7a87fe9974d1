"""The shop as arrays: who carries what, who delivers where, and the delays that shipments met."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.models.fulfilment import tariff
from pipelines.models.fulfilment.features import CANDIDATES
from pipelines.models.fulfilment.tables import Tables
from pipelines.models.fulfilment.world import NONE, Shop

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_AHEAD_HOURS: Final = 24  # shipments of so many hours from now show how a route really was
_PRIOR_SHIPMENTS: Final = 8.0  # by which few shipments are drawn to their route's mean
_PRIOR_ROUTE: Final = 20.0  # and a route's to its mode's
_LONGEST_DELAY: Final = 96.0  # hours; or one shipment of freight's tail would make a route's day
_PRIOR_UNITS: Final = 0.5  # that every product is taken to have sold beyond its sales
_USUAL_LEAD_DAYS: Final = 7.0  # where no supplier is known


def true_delays(tables: Tables, origin: np.datetime64, looks: int, hours: int) -> Floats:
    """(looks, routes) mean delay of the shipments that left in the 24 hours after a look.

    Means of few shipments shrink to their route's mean, and those of routes with few shipments to
    their mode's. A shipment under way at the end of the log counts as arriving then.

    Args:
        tables: the shop's tables.
        origin: time of the first look, UTC.
        looks: number of looks.
        hours: between two looks.
    """
    routes, ahead = tables.routes, _AHEAD_HOURS // hours
    number = pd.Index(routes.route_id).get_indexer(tables.shipped.route_id)
    shipped, number = tables.shipped[number >= 0], number[number >= 0]
    at = ((shipped.shipped_at - pd.Timestamp(origin)) // pd.Timedelta(hours=hours)).to_numpy()
    arrived = shipped.delivered_at.fillna(shipped.shipped_at.max())
    delay = (arrived - shipped.promised_at).dt.total_seconds().to_numpy() / 3600
    delay = np.clip(delay, 0, _LONGEST_DELAY)
    inside = (at >= 0) & (at < looks + ahead)
    count = np.zeros((looks + ahead + 1, len(routes)))
    total = np.zeros_like(count)
    np.add.at(count, (at[inside] + 1, number[inside]), 1.0)
    np.add.at(total, (at[inside] + 1, number[inside]), delay[inside])
    sums, counts = np.cumsum(total, axis=0), np.cumsum(count, axis=0)
    modes = pd.factorize(routes["mode"])[0]
    by_mode = np.bincount(modes, sums[-1]) / np.maximum(np.bincount(modes, counts[-1]), 1)
    mean = (sums[-1] + _PRIOR_ROUTE * by_mode[modes]) / (counts[-1] + _PRIOR_ROUTE)
    later = sums[ahead:-1] - sums[: -ahead - 1]
    seen = counts[ahead:-1] - counts[: -ahead - 1]
    return np.asarray((later + _PRIOR_SHIPMENTS * mean) / (seen + _PRIOR_SHIPMENTS))


def shop_of(
    tables: Tables,
    orders: pd.DataFrame,
    conditions: dict[str, Floats],
    expected: Floats,
    late: Floats,
    truth: Floats,
    look_hours: int,
) -> Shop:
    """Build the arrays of places, goods and routes.

    Args:
        tables: the shop's tables.
        orders: usable orders, for the demand.
        conditions: (looks, routes) by feature of route_conditions.
        expected: (looks, routes) forecast hours of delay.
        late: (looks, routes) forecast probability of a delay.
        truth: (looks, routes) mean hours of delay.
        look_hours: hours between two looks.
    """
    routes, products, outbound = tables.routes, tables.products, tables.outbound
    warehouses = tables.warehouses.warehouse_id.tolist()
    regions = sorted(outbound.destination_id.unique())
    place = {name: number for number, name in enumerate(warehouses)}
    region_number = {name: number for number, name in enumerate(regions)}
    shape = (len(warehouses), len(products))

    route_of = np.full((len(warehouses), len(regions), len(tariff.METHODS)), NONE)
    away = np.full((len(regions), len(warehouses)), np.inf)
    for (origin, region), group in outbound.groupby(["origin_id", "destination_id"]):
        w, r = place[str(origin)], region_number[str(region)]
        by_mode = dict(zip(group["mode"], group.index, strict=True))
        for m, method in enumerate(tariff.METHODS):
            mode = tariff.mode_of(method, by_mode)
            route_of[w, r, m] = NONE if mode is None else by_mode[mode]
        away[r, w] = tariff.distance(dict(zip(group["mode"], group.distance_km, strict=True)))
    carries, intensity = _positions(tables, warehouses)
    candidates = nearest_carriers(away, carries)
    lead = np.full(shape, _USUAL_LEAD_DAYS)
    of_all = tables.leads.of_all.astype(bool)
    general = tables.leads[of_all].set_index("warehouse_id").days.reindex(warehouses)
    lead[:] = general.astype(float).fillna(_USUAL_LEAD_DAYS).to_numpy()[:, None]
    special = tables.leads[~of_all]
    w = pd.Index(warehouses).get_indexer(special.warehouse_id)
    p = pd.Index(products.product_id).get_indexer(special.product_id)
    known = (w >= 0) & (p >= 0)
    lead[w[known], p[known]] = special.days[known]
    capacity = tables.warehouses.capacity.to_numpy(np.float64)
    whole = capacity.sum()
    sold = pd.Index(products.product_id).get_indexer(orders.product_id)
    return Shop(
        warehouses=warehouses,
        regions=regions,
        products=products.product_id.tolist(),
        routes=routes.route_id.tolist(),
        methods=tariff.METHODS,
        candidates=candidates,
        route_of=route_of,
        base_hours=routes.base_hours.to_numpy(np.float64),
        base_cost=routes.base_cost.to_numpy(np.float64),
        cost_factor=np.array([tariff.COST_FACTOR[m] for m in tariff.METHODS]),
        promise_factor=np.array([tariff.PROMISE_FACTOR[m] for m in tariff.METHODS]),
        fixed_cost=tariff.FIXED_COST,
        carbon=routes.carbon_cost.to_numpy(np.float64),
        price=products.unit_price.to_numpy(np.float64),
        weight=products.weight_kg.to_numpy(np.float64),
        demand=_demand(orders, sold, candidates, regions, carries),
        lead_days=lead,
        capacity=capacity / whole if whole > 0 else np.full(len(capacity), 1 / len(capacity)),
        conditions=conditions,
        forecast_delay=expected,
        forecast_late=late,
        true_delay=truth,
        carbon_intensity=intensity,
        warehouse_regions=tables.warehouses.region.to_numpy(object),
        look_hours=look_hours,
    )


def _positions(tables: Tables, warehouses: Sequence[str]) -> tuple[NDArray[np.bool_], Floats]:
    """(W, P) what is carried where, and kgCO2e held in a unit of it."""
    products = pa.array(tables.products.product_id, pa.string())
    shape = (len(warehouses), len(products))
    carries, intensity = np.zeros(shape, dtype=bool), np.full(shape, np.nan)
    columns = tables.carried.combine_chunks()
    w = pc.index_in(columns["warehouse_id"].cast(pa.string()), pa.array(warehouses, pa.string()))
    p = pc.index_in(columns["product_id"].cast(pa.string()), products)
    known = pc.and_(pc.is_valid(w), pc.is_valid(p))
    at = tuple(np.asarray(part.filter(known)) for part in (w, p))
    stock = np.asarray(columns["current_stock"].filter(known), dtype=np.float64)
    carries[at] = True
    held = np.where(stock > 0, stock, np.nan)
    intensity[at] = np.asarray(columns["carbon_footprint"].filter(known)) / held
    return carries, intensity


def nearest_carriers(away: Floats, carries: NDArray[np.bool_]) -> Ints:
    """(R, P, K) for each region and product the nearest warehouses that carry it, −1 for none.

    K is `CANDIDATES`, or what is found at most.

    Args:
        away: (R, W) distances, infinite where no route goes.
        carries: (W, P).
    """
    found = np.full((len(away), carries.shape[1], CANDIDATES), NONE)
    goods = np.arange(carries.shape[1])
    for region, distance in enumerate(away):
        near = np.argsort(distance, kind="stable")
        near = near[np.isfinite(distance[near])]
        left = carries[near]  # (reaching warehouses, P), a copy
        for k in range(min(CANDIDATES, len(near))):
            first = left.argmax(axis=0)
            there = left[first, goods]
            found[region, there, k] = near[first[there]]
            left[first, goods] = False
    return found[..., : max(1, int((found != NONE).any(axis=(0, 1)).sum()))]


def _demand(
    orders: pd.DataFrame,
    sold: NDArray[np.intp],
    candidates: Ints,
    regions: list[str],
    carries: NDArray[np.bool_],
) -> Floats:
    """(W, P) expected units per order of the shop where a warehouse is nearest; −1 not carried."""
    units = np.full(carries.shape[1], _PRIOR_UNITS)
    np.add.at(units, sold, orders.quantity.to_numpy())
    share = orders.region.value_counts().reindex(regions).fillna(0).to_numpy() + 1.0
    share = share / share.sum()
    demand = np.zeros(carries.shape)
    rows, columns = np.nonzero(candidates[..., 0] != NONE)
    nearest = candidates[rows, columns, 0]
    np.add.at(demand, (nearest, columns), share[rows] * units[columns] / len(orders))
    return np.where(carries, demand, -1.0)
