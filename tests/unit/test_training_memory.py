"""What training takes of memory does not grow with what nobody orders, and is estimated before."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from fulfilment_shop import little_lines, little_shop

from pipelines.models.fulfilment.game import FulfilmentGame
from pipelines.models.fulfilment.shop_arrays import CANDIDATES, nearest_carriers
from pipelines.models.fulfilment.world import FulfilmentConfig, draw_episodes
from pipelines.serving.config import ServingConfig
from pipelines.training.memory import amount, room, too_large

WAREHOUSES, PRODUCTS, REGIONS = 183, 24_895, 12


@pytest.mark.parametrize("seed", range(4))
def test_candidates_are_the_nearest_warehouses_that_carry_a_product(seed: int) -> None:
    """As a plain loop over regions, products and warehouses finds them, ties by their order."""
    rng = np.random.default_rng(seed)
    away = rng.integers(1, 6, (3, 7)).astype(float)
    away[rng.random(away.shape) < 0.3] = np.inf
    carries = rng.random((7, 11)) < 0.5
    found = nearest_carriers(away, carries)
    most = 0
    for r in range(3):
        near = [w for w in np.argsort(away[r], kind="stable") if away[r, w] < np.inf]
        for p in range(11):
            wanted = [w for w in near if carries[w, p]][:CANDIDATES]
            assert found[r, p].tolist() == wanted + [-1] * (found.shape[2] - len(wanted))
            most = max(most, len(wanted))
    assert found.shape[2] == most
    assert ServingConfig().max_warehouses == CANDIDATES


def test_episodes_of_a_shop_with_millions_of_positions_are_small() -> None:
    """183 warehouses and 24,895 products: only shelves that an order can reach are kept."""
    rng = np.random.default_rng(0)
    shape = (WAREHOUSES, PRODUCTS)
    small = little_shop()
    shop = replace(
        small,
        warehouses=[f"W{n}" for n in range(WAREHOUSES)],
        products=[f"P{n}" for n in range(PRODUCTS)],
        candidates=rng.integers(0, WAREHOUSES, (REGIONS, PRODUCTS, CANDIDATES)),
        route_of=np.zeros((WAREHOUSES, REGIONS, 4), dtype=np.int64),
        price=np.ones(PRODUCTS),
        weight=np.ones(PRODUCTS),
        demand=np.full(shape, 0.01),
        lead_days=np.full(shape, 3.0),
        capacity=np.full(WAREHOUSES, 1 / WAREHOUSES),
        carbon_intensity=np.ones(shape),
        warehouse_regions=np.array(["R"] * WAREHOUSES, dtype=object),
    )
    lines = little_lines(2000)
    lines = replace(
        lines,
        product=rng.integers(0, PRODUCTS, 2000),
        region=rng.integers(0, REGIONS, 2000),
    )
    config = FulfilmentConfig()
    tracemalloc.start()
    try:
        episodes = draw_episodes(shop, lines, config, rng, 64, (0, 6))
        _, peak = tracemalloc.get_traced_memory()
        game = FulfilmentGame(shop, config, episodes.take(np.arange(8)))
        game.step(np.zeros(8, dtype=np.int64))
    finally:
        tracemalloc.stop()
    assert peak < 150e6
    assert episodes.stock.shape[1] <= config.orders * CANDIDATES
    assert sum(a.nbytes for a in vars(episodes).values() if isinstance(a, np.ndarray)) < 50e6


def test_shelves_are_where_the_orders_can_be_served_from() -> None:
    """Each candidate's shelf is that warehouse's of that product, and no other is kept."""
    shop, config = little_shop(), FulfilmentConfig(orders=30, days=2)
    episodes = draw_episodes(shop, little_lines(), config, np.random.default_rng(1), 3, (0, 6))
    candidates = shop.candidates[episodes.lines.region[episodes.line], episodes.product]
    for e in range(3):
        codes = episodes.code[e][episodes.shelf[e]]
        wanted = candidates[e] * len(shop.products) + episodes.product[e][:, None]
        assert (codes == wanted).all()
        kept = episodes.code[e][episodes.code[e] >= 0]
        assert set(kept) == set(wanted.ravel())


def test_what_does_not_fit_is_one_line_with_the_estimate() -> None:
    """Whose shop's property it is, how much that would be, and what to do."""
    line = too_large("9 days of 36,600 routes", 31e9, 4.04e9)
    assert line.startswith("9 days of 36,600 routes would take about 31.0 GB of memory to train")
    assert "4.0 GB may be used here" in line
    assert amount(2.5e6) == "2.5 MB"
    assert room() > 0
