"""A little shop for the tests of fulfilment: three warehouses, two regions, four products."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.models.fulfilment.game import FulfilmentGame
from pipelines.models.fulfilment.tariff import (
    COST_FACTOR,
    FIXED_COST,
    METHODS,
    PROMISE_FACTOR,
)
from pipelines.models.fulfilment.world import (
    FulfilmentConfig,
    Lines,
    Shop,
    draw_episodes,
)

DAYS = 6
FEATURES = ("intent_score", "urgency_score", "express_share_30d", "is_weekend")


def little_shop(seed: int = 0) -> Shop:
    """Warehouse w is 5·(1 + |w − r|) hours by road from region r; air takes half, at four times."""
    rng = np.random.default_rng(seed)
    warehouses, regions, products, hours = 3, 2, 4, DAYS * 24
    route_of = np.empty((warehouses, regions, len(METHODS)), dtype=np.int64)
    base_hours, base_cost, carbon, names = [], [], [], []
    for w in range(warehouses):
        for r in range(regions):
            for mode, pace, price, kg in (("road", 1.0, 1.0, 80.0), ("air", 0.5, 4.0, 1200.0)):
                names.append(f"W{w}-R{r}-{mode}")
                base_hours.append(5.0 * (1 + abs(w - r)) * pace)
                base_cost.append((1.0 + abs(w - r)) * price)
                carbon.append(kg)
            first = len(names) - 2
            route_of[w, r] = [first, first, first + 1, first + 1]
    near = np.array([[0, 1, 2], [1, 0, 2]])
    candidates = np.repeat(near[:, None], products, axis=1)
    shape = (hours, len(names))
    conditions = {
        "delay_risk": rng.uniform(0, 0.6, shape),
        "congestion": rng.uniform(0, 1, shape),
        "carbon_cost": np.broadcast_to(np.array(carbon), shape).copy(),
        "deliveries_24h": rng.integers(0, 9, shape).astype(float),
        "late_rate_24h": rng.uniform(0, 0.4, shape),
        "mean_delay_hours_24h": rng.exponential(2, shape),
        "mean_delay_hours_7d": rng.exponential(2, shape),
        "efficiency_score": rng.uniform(0.5, 1, shape),
        "carbon_per_tonne_km": np.full(shape, 0.126),
    }
    demand = np.full((warehouses, products), 0.02)
    demand[:2] = 0.2
    return Shop(
        warehouses=["W0", "W1", "W2"],
        regions=["R0", "R1"],
        products=[f"P{p}" for p in range(products)],
        routes=names,
        methods=METHODS,
        candidates=candidates,
        route_of=route_of,
        base_hours=np.array(base_hours),
        base_cost=np.array(base_cost),
        cost_factor=np.array([COST_FACTOR[m] for m in METHODS]),
        promise_factor=np.array([PROMISE_FACTOR[m] for m in METHODS]),
        fixed_cost=FIXED_COST,
        carbon=np.array(carbon),
        price=np.array([10.0, 30.0, 60.0, 120.0]),
        weight=np.array([0.5, 1.0, 3.0, 8.0]),
        demand=demand,
        lead_days=np.full((warehouses, products), 8.0),
        capacity=np.array([0.3, 0.3, 0.4]),
        conditions=conditions,
        forecast_delay=conditions["mean_delay_hours_24h"],
        forecast_late=conditions["late_rate_24h"],
        true_delay=rng.exponential(1.5, shape),
        carbon_intensity=np.full((warehouses, products), 4.0),
        warehouse_regions=np.array(["R0", "R1", "R2"], dtype=object),
    )


def little_lines(count: int = 200, seed: int = 1) -> Lines:
    """Recorded orders over all days."""
    rng = np.random.default_rng(seed)
    time = np.sort(rng.uniform(0, 24, count))
    features = {name: rng.uniform(0, 1, count) for name in FEATURES}
    return Lines(
        day=rng.integers(0, DAYS, count),
        time=time,
        region=rng.integers(0, 2, count),
        product=rng.integers(0, 4, count),
        quantity=rng.geometric(0.5, count),
        method=rng.integers(0, len(METHODS), count),
        urgency=rng.uniform(0, 1, count),
        features={**features, "hour_of_day": np.floor(time)},
        preferred=np.full(count, "standard", dtype=object),
        weight=np.ones(count),
    )


def little_game(
    *,
    episodes: int = 2,
    seed: int = 0,
    rng: np.random.Generator | None = None,
    **settings: Any,
) -> FulfilmentGame:
    """A game under stress of 60 orders in 3 days; `settings` go to the configuration."""
    config = FulfilmentConfig(
        **{"orders": 60, "days": 3, "least": 8, "cover": 1.0, "capacity_slack": 1.2, **settings}
    )
    chance = rng if rng is not None else np.random.default_rng(seed)
    shop = little_shop()
    drawn = draw_episodes(shop, little_lines(), config, chance, episodes, (0, DAYS))
    return FulfilmentGame(shop, config, drawn)
