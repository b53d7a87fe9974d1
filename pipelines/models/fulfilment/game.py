"""The order desk as a game: many episodes at once, in numpy.

Each step is one order; the action is an option, warehouse · M + method. Warehouses review their
shelves at midnight and order what was sold, which fills them up to their target when it arrives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.features.inventory_levels import LOW_STOCK
from pipelines.features.route_conditions import HIGH_RISK, MEDIUM_RISK
from pipelines.models.fulfilment.features import HOUR, wanted_hours
from pipelines.models.fulfilment.world import (
    DAY_HOURS,
    NONE,
    Episodes,
    FulfilmentConfig,
    Shop,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Columns = dict[str, NDArray[Any]]


class FulfilmentGame:
    """B episodes in step. Its state is the stock and what has happened to it.

    Attributes:
        decided: number of orders decided so far; every episode is at the same order.
        fixed: column → (B, T, O) what deciding does not change.
        cost: (B, T, O) $ that an option truly costs, hidden delay included; `ship_cost` ($),
            `late_hours` and `carbon_kg` are what it is made of.
        loss: (B, T) $ lost when an order is not served.

    Args:
        shop: places, goods and routes.
        config: prices of the reward.
        episodes: the orders and the stock to begin with.
    """

    def __init__(self, shop: Shop, config: FulfilmentConfig, episodes: Episodes) -> None:
        self.shop, self.config, self.episodes = shop, config, episodes
        self._rows = np.arange(len(episodes))
        self._describe()
        self.reset()

    def reset(self) -> None:
        """Back to the first order of the same episodes."""
        e = self.episodes
        batch, shelves = e.stock.shape
        self.decided = 0
        self.stock = e.stock.copy()
        self.arriving = e.arriving.copy()
        self.used = np.zeros((batch, shelves), dtype=np.int64)
        self.recent = np.zeros((batch, shelves), dtype=np.int64)
        self.packed = np.zeros((batch, self.shop.demand.shape[0]), dtype=np.int64)
        self.sold = np.full((batch, self.length), NONE)  # shelf of each order
        self.taken = np.full((batch, self.length), NONE)  # option of each order
        self._today = np.zeros(batch, dtype=np.int64)
        self._oldest = np.zeros(batch, dtype=np.int64)
        self._advance()

    @property
    def length(self) -> int:
        """Orders per episode."""
        return int(self.episodes.line.shape[1])

    @property
    def done(self) -> bool:
        """All orders are decided."""
        return self.decided == self.length

    @property
    def options(self) -> int:
        """Options of an order, feasible or not."""
        return int(self.shop.candidates.shape[2]) * len(self.shop.methods)

    def feasible(self) -> Bools:
        """(B, O) options that can be carried out now."""
        return (
            np.repeat(self._can, len(self.shop.methods), axis=1) & self.has_route[:, self.decided]
        )

    def stock_columns(self) -> Columns:
        """(B, O) columns that follow from stock: inventory_levels and what is made from it."""
        now, methods = self.decided, len(self.shop.methods)
        product, quantity = self.episodes.product[:, now], self.quantity[:, now]
        rows, place = self._rows[:, None], np.maximum(self.candidates[:, now], 0)
        there, shelf = self.candidates[:, now] != NONE, self.episodes.shelf[:, now]
        level = np.where(there, self.stock[rows, shelf], 0)
        demand = np.where(there, self.recent[rows, shelf], 0)
        reorder = np.maximum(self.episodes.reorder_point[rows, shelf], 1)
        left = self.packing_left()[rows, place]
        with np.errstate(divide="ignore", invalid="ignore"):
            cover = np.where(demand > 0, level / demand, np.nan)
        columns = {
            "stock_level": level,
            "stock_ratio": level / reorder,
            "carbon_intensity": self.shop.carbon_intensity[place, product[:, None]],
            "is_low_stock": level < LOW_STOCK,
            "demand_24h": demand,
            "days_of_cover": cover,
            "capacity_left": left,
            "stock_after_order": level - quantity[:, None],
        }
        wide = {name: np.repeat(column, methods, axis=1) for name, column in columns.items()}
        same = {name: self.fixed[name][:, now] for name in ("quantity", HOUR)}
        return {**wide, **same, "feasible": self.feasible()}

    def packing_left(self) -> Floats:
        """(B, W) share of the day's packing that is left; none where nothing can be packed."""
        capacity = self.episodes.capacity
        return np.asarray(np.maximum(1 - self.packed / np.maximum(capacity, 1), 0) * (capacity > 0))

    def warehouse_region(self) -> NDArray[Any]:
        """(B, T, O) region in which each option's warehouse stands, as text."""
        place = np.maximum(self.candidates, 0)
        regions = self.shop.warehouse_regions.astype(np.str_)
        return np.repeat(regions[place], len(self.shop.methods), axis=2)

    def overview(self) -> Floats:
        """(B, W + 4) how the day stands: packing left by warehouse, time of day and of episode."""
        hours = self.episodes.time[:, self.decided, None]
        angle = 2 * np.pi * hours / DAY_HOURS
        left = self.packing_left()
        share = hours / (self.config.days * DAY_HOURS)
        day = hours % DAY_HOURS / DAY_HOURS
        return np.concatenate([left, day, share, np.sin(angle), np.cos(angle)], axis=1)

    def columns(self) -> Columns:
        """(B, O) every column of the served model's input, for the order at hand."""
        fixed = {name: column[:, self.decided] for name, column in self.fixed.items()}
        return {**fixed, **self._texts(fixed["delay_risk"]), **self.stock_columns()}

    def _texts(self, risk: Floats) -> Columns:
        shop, shape = self.shop, (len(self.episodes), self.options)
        methods = np.array(shop.methods, dtype=object)
        place = np.repeat(self.candidates[:, self.decided], len(methods), axis=1)
        preferred = self.episodes.lines.preferred[self.episodes.line[:, self.decided]][:, None]
        levels = np.array(["low", "medium", "high", None], dtype=object)
        level = (risk >= MEDIUM_RISK).astype(np.int64) + (risk >= HIGH_RISK)
        categories = levels[np.where(np.isnan(risk), 3, level)]
        return {
            "shipping_method": np.broadcast_to(
                np.tile(methods, place.shape[1] // len(methods)), shape
            ),
            "warehouse_region": shop.warehouse_regions[np.maximum(place, 0)],
            "preferred_shipping_method": np.broadcast_to(preferred, shape),
            "risk_category": categories,
        }

    def step(self, actions: Ints) -> Floats:
        """Carry out one option per episode; an infeasible one loses the order.

        Returns:
            (B,) rewards in $, at most 0.
        """
        now, rows = self.decided, self._rows
        able = self.feasible()[rows, actions]
        rewards = np.where(able, -self.cost[rows, now, actions], -self.loss[:, now])
        warehouse = self.candidates[rows, now, actions // len(self.shop.methods)]
        served, place = rows[able], warehouse[able]
        column = (actions // len(self.shop.methods))[able]
        shelf, quantity = self.episodes.shelf[served, now, column], self.quantity[served, now]
        self.stock[served, shelf] -= quantity
        self.used[served, shelf] += quantity
        self.recent[served, shelf] += quantity
        self.sold[served, now] = shelf
        self.packed[served, place] += 1
        self.taken[served, now] = actions[able]
        self.decided += 1
        if not self.done:
            self._advance()
        return np.asarray(rewards)

    def _advance(self) -> None:
        """Let the time until the next order pass: midnights, and what a day ago has left."""
        e, now = self.episodes, self.decided
        while (behind := np.flatnonzero(self._today < e.day[:, now])).size:
            self._today[behind] += 1
            day = self._today[behind]
            self.stock[behind] += self.arriving[behind, day]
            due = day[:, None] + e.leads[behind, day]
            r, s = np.nonzero((self.used[behind] > 0) & (due < self.config.days))
            self.arriving[behind[r], due[r, s], s] += self.used[behind[r], s].astype(np.int32)
            self.used[behind] = 0
            self.packed[behind] = 0
        while True:
            oldest = np.minimum(self._oldest, self.length - 1)
            past = e.time[self._rows, oldest] <= e.time[:, now] - DAY_HOURS
            gone = np.flatnonzero(past & (self._oldest < now))
            if not gone.size:
                break
            which = self._oldest[gone]
            served = self.sold[gone, which] != NONE
            b, t = gone[served], which[served]
            self.recent[b, self.sold[b, t]] -= self.quantity[b, t]
            self._oldest[gone] += 1
        place = self.candidates[:, now]
        there = np.maximum(place, 0)
        rows = self._rows[:, None]
        enough = self.stock[rows, e.shelf[:, now]] >= self.quantity[:, now, None]
        room = self.packed[rows, there] < e.capacity[there]
        self._can: Bools = (place != NONE) & enough & room

    def _describe(self) -> None:
        """Work out every column and cost that decisions leave alone."""
        shop, config, e = self.shop, self.config, self.episodes
        lines, methods = e.lines, len(shop.methods)
        region = lines.region[e.line]
        self.quantity: Ints = e.quantity
        self.candidates: Ints = shop.candidates[region, e.product]  # (B, T, K)
        place = np.maximum(self.candidates, 0)
        route = shop.route_of[place, region[:, :, None]]  # (B, T, K, M)
        route = np.where((self.candidates == NONE)[..., None], NONE, route)
        route = route.reshape(*route.shape[:2], -1)
        self.has_route: Bools = route != NONE
        route = np.maximum(route, 0)
        method = np.tile(np.arange(methods), self.candidates.shape[2])
        price = shop.price[e.product][..., None]
        weight = (shop.weight[e.product] * self.quantity)[..., None]
        quantity = self.quantity[..., None]
        look = e.look[..., None]
        urgency = lines.urgency[e.line][..., None]
        promised = shop.base_hours[route] * shop.promise_factor[method]
        wished = lines.method[e.line]
        on_offer = np.where(self.has_route, promised, np.inf)
        wanted = wanted_hours(on_offer, method == wished[..., None])[..., None]
        ship_cost = shop.fixed_cost + weight * shop.base_cost[route] * shop.cost_factor[method]
        seen = {name: table[look, route] for name, table in shop.conditions.items()}
        whole = np.broadcast_shapes(route.shape)
        user = {name: column[e.line][..., None] for name, column in lines.features.items()}
        columns = {
            **seen,
            **user,
            "quantity": quantity,
            "price": price,
            "weight_kg": weight,
            "ship_cost": ship_cost,
            "promised_hours": promised,
            "wanted_hours": wanted,
            "expected_delay_hours": shop.forecast_delay[look, route],
            "late_probability": shop.forecast_late[look, route],
            "urgency": urgency,
            HOUR: np.floor(lines.time[e.line])[..., None],
            "order_carbon_kg": seen["carbon_cost"] * weight / 1000,
            "urgency_weighted_delay": user["urgency_score"] * seen["mean_delay_hours_24h"],
            "value_at_risk": quantity * price * seen["late_rate_24h"],
        }
        self.fixed: Columns = {n: np.broadcast_to(c, whole) for n, c in columns.items()}
        late = np.maximum(promised - wanted, 0) + shop.true_delay[look, route]
        hourly = config.value_of_hour * config.urgency_weight(urgency)
        carbon = shop.carbon[route] * weight / 1000
        self.late_hours: Floats = late
        self.carbon_kg: Floats = carbon
        self.ship_cost: Floats = ship_cost
        self.cost: Floats = ship_cost + hourly * late + config.carbon_price * carbon
        value = self.quantity * shop.price[e.product]
        self.loss: Floats = config.margin_share * value + config.goodwill
