"""What a fulfilment episode is made of: prices, the shop, recorded orders, and drawn demand.

Arrays only. Sizes: W warehouses, R regions, P products, Q routes, K candidate warehouses of an
order, M shipping methods, O = K·M options, L looks at the routes in the history, B episodes, T
orders, D days, S shelves that an episode's orders can reach: at most T·K, however many there are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rng = np.random.Generator

NONE: Final = -1
DAY_HOURS: Final = 24


@dataclass(frozen=True)
class FulfilmentConfig:
    """Prices of the reward, and the stress that demand puts on stock and capacity.

    Prices ($): `value_of_hour` an hour late for a shopper of urgency weight 1, `carbon_price` per
    kgCO2e, `margin_share` of the order's value and `goodwill` per order that nobody can serve. The
    urgency weight is `patience` + (1 − patience) · 2 · urgency.

    Stress: an episode has `orders` orders in `days` days, drawn from blocks of `block_days`
    recorded days; a day's demand varies log-normally (`day_sd`), one day is a peak of `peak` times,
    and for `promotion_days` the share `promotion` of orders is for one product. Shelves are filled
    up to `least` units more than `cover` times what is expected to sell until the next delivery;
    suppliers take `lead_scale` times their lead time, log-normal with `lead_sd`. All warehouses
    together can pack `capacity_slack` times the orders of an average day.

    Raises:
        ValueError: a value is not positive, or a share is above 1.
    """

    value_of_hour: float = 1.0
    carbon_price: float = 0.1
    margin_share: float = 0.35
    goodwill: float = 25.0
    patience: float = 0.3

    orders: int = 1000
    days: int = 4
    block_days: int = 7
    day_sd: float = 0.15
    peak: float = 1.25
    promotion: float = 0.05
    promotion_days: int = 2
    least: int = 30
    cover: float = 3.0
    lead_scale: float = 0.1
    lead_sd: float = 0.5
    capacity_slack: float = 1.75

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            most = 1 if field.name in ("margin_share", "patience", "promotion") else float("inf")
            if not 0 < value <= most:
                raise ValueError(
                    f"FulfilmentConfig.{field.name} = {value!r}: above 0, at most {most}"
                )

    def urgency_weight(self, urgency: NDArray[Any]) -> NDArray[Any]:
        """How much more an hour counts for a shopper in a hurry; 1 for an urgency of 0.5."""
        return np.asarray(self.patience + (1 - self.patience) * 2 * urgency)


@dataclass(frozen=True)
class Shop:
    """What does not change by deciding: places, goods, routes, and how routes have been doing.

    Attributes:
        warehouses … methods: names; `warehouse_regions` (W,) where the warehouses stand.
        candidates: (R, P, K) warehouses that serve a region with a product, nearest first, −1 none.
        route_of: (W, R, M) route that a method takes, −1 none.
        base_hours, base_cost: (Q,) of the routes.
        price, weight: (P,) $ and kg.
        demand: (W, P) expected units per order of the shop that the warehouse is nearest for.
        lead_days: (W, P) of the supplier.
        capacity: (W,) share of all packing that a warehouse can do.
        conditions: feature of route_conditions → (L, Q); each holds until the next look.
        forecast_delay, forecast_late: (L, Q) forecasts that a policy sees: hours, probability.
        true_delay: (L, Q) mean hours of delay that a shipment met; hidden from policies.
        carbon: (Q,) kgCO2e per tonne, by which the reward counts.
        carbon_intensity: (W, P) kgCO2e held in a unit.
        look_hours: hours from one look at the routes to the next.
    """

    warehouses: list[str]
    regions: list[str]
    products: list[str]
    routes: list[str]
    methods: tuple[str, ...]
    candidates: Ints
    route_of: Ints
    base_hours: Floats
    base_cost: Floats
    cost_factor: Floats
    promise_factor: Floats
    fixed_cost: float
    carbon: Floats
    price: Floats
    weight: Floats
    demand: Floats
    lead_days: Floats
    capacity: Floats
    conditions: dict[str, Floats]
    forecast_delay: Floats
    forecast_late: Floats
    true_delay: Floats
    carbon_intensity: Floats
    warehouse_regions: NDArray[Any]
    look_hours: int = 1


@dataclass(frozen=True)
class Lines:
    """Recorded orders, (N,) arrays; `day` counts from the first hour of the shop's history.

    `time` is the hour of the day with its fraction, `features` those of user_intent and
    user_orders as of the order's time, by name, `preferred` the customer's preferred method,
    `weight` the relative probability that a line is drawn.
    """

    day: Ints
    time: Floats
    region: Ints
    product: Ints
    quantity: Ints
    method: Ints
    urgency: Floats
    features: dict[str, Floats]
    preferred: NDArray[Any]
    weight: Floats

    def __len__(self) -> int:
        return len(self.day)

    def where(self, chosen: NDArray[Any]) -> Lines:
        """Some of the lines, by mask or index."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "features"}
        features = {name: column[chosen] for name, column in self.features.items()}
        return Lines(**{name: v[chosen] for name, v in values.items()}, features=features)


@dataclass(frozen=True)
class Episodes:
    """Drawn demand and supply of B episodes; nothing in it depends on decisions.

    Attributes:
        line: (B, T) index into the lines: who orders, when, how.
        product, quantity: (B, T), of another line.
        day: (B, T) of the episode, never falling; `time`: (B, T) hours since the episode's start.
        look: (B, T) index into the shop's history of routes.
        shelf: (B, T, K) the shelf of each candidate warehouse, an index into the next ones.
        code: (B, S) warehouse · P + product of a shelf, increasing; −1 beyond an episode's last.
        target: (B, S) units that a shelf is filled up to; `reorder_point` likewise.
        stock: (B, S) at the start.
        arriving: (B, D, S) units that come in before each day, ordered before the start.
        leads: (B, D, S) days until what is ordered before a day arrives.
        capacity: (W,) orders that a warehouse can pack in a day.
    """

    lines: Lines
    line: Ints
    product: Ints
    quantity: Ints
    day: Ints
    time: Floats
    look: Ints
    shelf: NDArray[np.int32]
    code: Ints
    target: Ints
    reorder_point: Ints
    stock: Ints
    arriving: NDArray[np.int32]
    leads: NDArray[np.int8]
    capacity: Ints

    def __len__(self) -> int:
        return len(self.line)

    def take(self, which: Ints) -> Episodes:
        """Some of them, by index."""
        shared = {"lines", "capacity"}
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Episodes(**{n: v if n in shared else v[which] for n, v in values.items()})


def draw_episodes(
    shop: Shop, lines: Lines, config: FulfilmentConfig, rng: Rng, count: int, days: tuple[int, int]
) -> Episodes:
    """Episodes from blocks of recorded days, more intense than they were.

    Who orders, when and how, and what is ordered, come from two lines of the same block: as few
    lines stand for many orders, a product would otherwise go to a handful of places only.

    Args:
        shop, lines, config: lines are those of the split.
        rng: all chance comes from it.
        count: number of episodes.
        days: first and last day (exclusive) of the history on which routes may be seen.
    """
    size, length = config.orders, config.days
    known = np.unique(lines.day)
    by_day = {int(day): np.flatnonzero(lines.day == day) for day in known}
    line = np.empty((count, size), dtype=np.int64)
    day = np.empty((count, size), dtype=np.int64)
    goods = np.empty((count, size), dtype=np.int64)
    product = np.empty_like(goods)
    latest = max(days[1] - length, days[0])
    start = rng.integers(days[0], latest + 1, count)
    for e in range(count):
        weights = np.exp(config.day_sd * rng.standard_normal(length))
        weights[rng.integers(length)] *= config.peak
        numbers = rng.multinomial(size, weights / weights.sum())
        pool = np.empty(0, dtype=np.int64)
        chosen, bought = [], []
        for d, number in enumerate(numbers.tolist()):
            if d % config.block_days == 0:
                first = rng.integers(len(known))
                block = known[np.arange(first, first + config.block_days) % len(known)]
                pool = np.concatenate([by_day[int(b)] for b in block])
            chance = lines.weight[pool] / lines.weight[pool].sum()
            drawn = rng.choice(pool, number, p=chance)
            chosen.append(drawn[np.argsort(lines.time[drawn], kind="stable")])
            bought.append(rng.choice(pool, number))
        line[e], day[e] = np.concatenate(chosen), np.repeat(np.arange(length), numbers)
        goods[e] = np.concatenate(bought)
        product[e] = lines.product[goods[e]]
        promoted, since = lines.product[rng.integers(len(lines))], rng.integers(length)
        on = (day[e] >= since) & (day[e] < since + config.promotion_days)
        product[e][on & (rng.random(size) < config.promotion)] = promoted
    time = day * DAY_HOURS + lines.time[line]
    hour = start[:, None] * DAY_HOURS + time.astype(np.int64)
    look = np.minimum(hour // shop.look_hours, len(shop.true_delay) - 1)
    quantity = lines.quantity[goods]
    shelf, code = shelves_of(shop.candidates[lines.region[line], product], product, shop)
    supply = _supply(shop, config, rng, code)
    return Episodes(lines, line, product, quantity, day, time, look, shelf, code, *supply)


def shelves_of(candidates: Ints, product: Ints, shop: Shop) -> tuple[NDArray[np.int32], Ints]:
    """The shelves that an episode's orders can reach: `shelf` and `code` of Episodes.

    Args:
        candidates: (B, T, K) warehouses.
        product: (B, T).
        shop: whose products are counted.
    """
    there = candidates != NONE
    code = candidates * shop.demand.shape[1] + product[..., None]
    shelf = np.zeros(candidates.shape, dtype=np.int32)
    found = []
    for e in range(len(product)):
        known, index = np.unique(code[e][there[e]], return_inverse=True)
        shelf[e][there[e]] = index
        found.append(known)
    codes = np.full((len(found), max(1, *map(len, found))), NONE, dtype=np.int64)
    for e, known in enumerate(found):
        codes[e, : len(known)] = known
    return shelf, codes


def _supply(shop: Shop, config: FulfilmentConfig, rng: Rng, code: Ints) -> tuple[Any, ...]:
    """Targets, first stock, what is on its way, lead times and capacity, of each shelf."""
    count, shelves = code.shape
    place, goods = np.divmod(code, shop.demand.shape[1])
    demand = np.where(code != NONE, shop.demand[place, goods], NONE)
    per_day = demand * config.orders / config.days
    lead = shop.lead_days[place, goods] * config.lead_scale
    over_lead = np.maximum(per_day, 0) * (lead + 1)
    target = np.ceil(config.cover * (over_lead + np.sqrt(over_lead))) + config.least
    target = np.where(demand < 0, 0, target).astype(np.int64)
    reorder = np.maximum(np.ceil(per_day * lead), 1).astype(np.int64)
    spread = np.exp(config.lead_sd * rng.standard_normal((count, config.days, shelves)))
    leads = np.clip(np.rint(lead[:, None] * spread), 1, 100).astype(np.int8)
    stock = np.rint(target * rng.uniform(0.2, 1.0, (count, shelves))).astype(np.int64)
    arriving = np.zeros((count, config.days, shelves), dtype=np.int32)
    due = np.minimum(leads[:, 0], config.days).astype(np.int64)
    within = due < config.days
    e, s = np.nonzero(within)
    arriving[e, due[within], s] = (target - stock)[within]
    packed = np.ceil(config.capacity_slack * config.orders / config.days * shop.capacity)
    return target, reorder, stock, arriving, leads, packed.astype(np.int64)
