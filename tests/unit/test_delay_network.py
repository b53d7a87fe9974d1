"""The graph network, its inputs, and the stock that it is told about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.models.delay.features import (
    INPUTS,
    MEASURES,
    aggregate_stock,
    inputs,
    keys_of,
    neighbour_means,
)
from pipelines.models.delay.network import GnnConfig, Graph, Scale, SupplyGnn, Targets, loss


def network_columns(routes: int = 6, seed: int = 0) -> dict[str, Any]:
    """A chain S1 → W1 → R1 … of routes with random conditions."""
    rng = np.random.default_rng(seed)
    return {
        "route_id": np.array([f"r{n}" for n in range(routes)], dtype=object),
        "origin_id": np.array([f"P{n}" for n in range(routes)], dtype=object),
        "destination_id": np.array([f"P{n + 1}" for n in range(routes)], dtype=object),
        "mode": np.array(["air", "road", "rail", "sea"] * routes, dtype=object)[:routes],
        "distance_km": rng.uniform(100, 2000, routes),
        "base_hours": rng.uniform(5, 100, routes),
        "base_cost": rng.uniform(1, 10, routes),
        "delay_risk": rng.uniform(0.05, 0.4, routes),
        "congestion": rng.uniform(0.1, 0.8, routes),
        "carbon_cost": rng.uniform(10, 900, routes),
        "deliveries_24h": rng.integers(0, 9, routes).astype(float),
        "late_rate_24h": rng.uniform(0, 0.5, routes),
        "mean_delay_hours_24h": rng.uniform(0, 20, routes),
        "mean_delay_hours_7d": rng.uniform(0, 20, routes),
        "risk_category": np.full(routes, "low", dtype=object),
        "efficiency_score": rng.uniform(0.5, 1, routes),
        "carbon_per_tonne_km": rng.uniform(0.01, 2, routes),
        "warehouse_stock_ratio": rng.uniform(0, 3, routes),
        "warehouse_low_stock_share": rng.uniform(0, 1, routes),
        "warehouse_days_of_cover": rng.uniform(0, 30, routes),
    }


def network_of(rounds: int = 2, seed: int = 0) -> SupplyGnn:
    """A network whose last layer says something."""
    torch.manual_seed(seed)
    made = SupplyGnn(GnnConfig(8, rounds, 0.0), torch.zeros(INPUTS), torch.ones(INPUTS))
    torch.nn.init.normal_(made.forecast.weight, std=0.3)
    return made.eval()


def late(network: SupplyGnn, columns: dict[str, Any], graph: Graph | None = None) -> np.ndarray:
    values = torch.from_numpy(inputs(columns).astype(np.float32))
    with torch.inference_mode():
        return network(values, graph or Graph.of(columns)).late.numpy()


def test_a_warehouses_routes_ask_for_its_probes_in_turn() -> None:
    """One row per route carries both keys; a route without a warehouse asks for nothing."""
    routes = {
        "route_id": ["r1", "r2", "r3", "r4"],
        "origin_id": ["W1", "S1", "S1", "W1"],
        "destination_id": ["north", "north", "W1", "W2"],
    }
    asked = keys_of(routes, {"W1": ["a", "b"], "W2": ["c"]})
    assert asked["route_id"] == routes["route_id"]
    assert list(zip(asked["warehouse_id"], asked["product_id"], strict=True)) == [
        ("W1", "a"),
        ("", ""),
        ("W1", "b"),
        ("W1", "a"),
    ]


def test_stock_is_the_mean_over_the_probes_that_are_known() -> None:
    """Nulls are left out; a warehouse of which nothing is known has NaN."""
    found = aggregate_stock(
        np.array(["W1", "W2", "W1", "W3"]),
        {
            "stock_ratio": [1.0, 5.0, None, None],
            "is_low_stock": [1.0, 0.0, 0.0, None],
            "days_of_cover": [2.0, None, 4.0, None],
        },
    )
    assert found["warehouse_stock_ratio"] == pytest.approx([1, 5, 1, np.nan], nan_ok=True)
    assert found["warehouse_low_stock_share"] == pytest.approx([0.5, 0, 0.5, np.nan], nan_ok=True)
    assert found["warehouse_days_of_cover"] == pytest.approx([3, np.nan, 3, np.nan], nan_ok=True)


def test_few_deliveries_leave_the_late_rate_near_the_usual_one() -> None:
    """One late delivery of one says less than ten of ten."""
    columns = network_columns(3)
    columns |= {"deliveries_24h": [0.0, 1.0, 10.0], "late_rate_24h": [np.nan, 1.0, 1.0]}
    none, one, ten = inputs(columns)[:, MEASURES.index("late_rate")]
    assert none == pytest.approx(np.log(0.12 / 0.88))
    assert none < one < ten


def test_unknown_values_stay_unknown_in_the_inputs() -> None:
    """NaN, None and impossible numbers are NaN; an unknown mode is none of the four."""
    columns = network_columns(2)
    columns |= {"congestion": [None, 0.5], "distance_km": [-1.0, 100.0], "mode": ["drone", "air"]}
    found = inputs(columns)
    assert np.isnan(found[0, [MEASURES.index("congestion"), MEASURES.index("distance")]]).all()
    assert found[:, len(MEASURES) :].sum(axis=1).tolist() == [0.0, 1.0]


def test_what_a_neighbour_shows_reaches_a_route_round_by_round() -> None:
    """With one round the routes at its places are heard, not those one place further."""
    columns = network_columns(6)
    changed = {**columns, "congestion": columns["congestion"].copy()}
    changed["congestion"][0] = 0.99
    network = network_of(rounds=1)
    assert network.overall is not None
    torch.nn.init.zeros_(network.overall.weight)
    moved = np.abs(late(network, columns) - late(network, changed)) > 1e-6
    assert moved.tolist() == [True, True, False, False, False, False]


def test_without_rounds_each_route_stands_alone() -> None:
    """The network without edges answers a route the same in any company."""
    columns, network = network_columns(6), network_of(rounds=0)
    alone = {name: values[2:3] for name, values in columns.items()}
    assert late(network, alone) == pytest.approx(late(network, columns)[2:3], abs=1e-5)


def test_the_order_and_names_of_routes_do_not_matter() -> None:
    """Nothing is learned about a route by name: permuted and renamed rows get the same answers."""
    columns, network = network_columns(6), network_of()
    order = np.array([3, 1, 5, 0, 2, 4])
    other = {name: values[order] for name, values in columns.items()}
    for name in ("origin_id", "destination_id", "route_id"):
        other[name] = np.array([f"new-{value}" for value in other[name]], dtype=object)
    assert late(network, other) == pytest.approx(late(network, columns)[order], abs=1e-5)


def test_nothing_passes_between_snapshots() -> None:
    """Two snapshots in one call are answered as each alone."""
    first, second, network = network_columns(5, 1), network_columns(5, 2), network_of()
    both = {name: np.concatenate([first[name], second[name]]) for name in first}
    both["snapshot"] = np.repeat([7, 3], 5)
    apart = np.concatenate([late(network, first), late(network, second)])
    assert late(network, both) == pytest.approx(apart, abs=1e-5)


def test_copies_of_a_graph_stand_side_by_side() -> None:
    """`repeated` numbers the same nodes as a data set with that many snapshots."""
    columns = network_columns(4)
    twice = {name: np.concatenate([values, values]) for name, values in columns.items()}
    twice["snapshot"] = np.repeat([0, 1], 4)
    made, wanted = Graph.of(columns).repeated(2), Graph.of(twice)
    assert made.places == wanted.places
    assert made.place.tolist() == wanted.place.tolist()
    assert made.snapshot.tolist() == wanted.snapshot.tolist()


def test_neighbour_means_are_over_the_routes_at_each_end() -> None:
    """The middle route's origin also ends the first route; its destination starts the third."""
    columns = network_columns(3)
    risk = inputs(columns)[:, 0]
    found = neighbour_means(columns)
    assert found[1, 0] == pytest.approx((risk[0] + risk[1]) / 2)
    assert found[1, 1] == pytest.approx((risk[1] + risk[2]) / 2)


def test_rows_without_shipments_do_not_count_in_the_loss() -> None:
    """A label of a row of weight zero can be anything."""
    network, columns = network_of(), network_columns(4)
    forecast = network(torch.from_numpy(inputs(columns).astype(np.float32)), Graph.of(columns))
    half, weight = torch.full((4,), 0.5), torch.tensor([1.0, 2.0, 0.0, 3.0])
    targets = Targets(weight, half, half, half, half, half, published=weight)
    other = torch.tensor([0.5, 0.5, 0.9, 0.5])
    changed = replace(targets, late=other, index=other, carbon=other, risk=other)
    scale = Scale(0.1, 0.1, 0.1)
    assert float(loss(forecast, changed, scale)) == pytest.approx(
        float(loss(forecast, targets, scale))
    )
    counted = replace(changed, shipments=torch.ones(4))
    assert float(loss(forecast, counted, scale)) != pytest.approx(
        float(loss(forecast, targets, scale))
    )
