"""The delay models as they are served: saved, loaded, and asked about anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_delay_network import network_columns, network_of

from pipelines.models.delay.baselines import OUTPUTS, GradientBoosting, Persistence, Usual
from pipelines.models.delay.predictor import Gnn
from pipelines.registry.packaging import BrokenModelError, read_package, write_package

USUAL = Usual(
    late={"": 0.12, "air": 0.1, "road": 0.16},
    index={"": 0.07, "air": 0.03},
    carbon={"": 20.0, "air": 30.0},
    tails={"": 2.0, "sea": 5.0},
    base_hours=24.0,
)
NAMES = {
    "expected_delay_hours",
    "late_probability",
    "expected_carbon_kg",
    "delay_index",
    "expected_risk",
}


def boosted(*, neighbours: bool) -> GradientBoosting:
    """A few trees on noise."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    columns = network_columns(60)
    seen = GradientBoosting.inputs(columns, neighbours=neighbours)
    target = np.random.default_rng(1).uniform(0, 0.3, len(seen))
    trees = {
        name: HistGradientBoostingRegressor(max_iter=3, min_samples_leaf=5).fit(seen, target)
        for name in OUTPUTS
    }
    return GradientBoosting(trees, USUAL, neighbours=neighbours)


def served(kind: str) -> Any:
    if kind == "delay/gnn":
        return Gnn(network_of(), USUAL)
    if kind == "delay/persistence":
        return Persistence(USUAL)
    return boosted(neighbours=True)


KINDS = ("delay/gnn", "delay/gradient_boosting", "delay/persistence")


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_answers_as_before(kind: str, tmp_path: Path) -> None:
    """What is loaded from its package gives the same numbers."""
    model, columns = served(kind), network_columns(8)
    write_package(model, kind, tmp_path / "model")
    again = read_package(tmp_path / "model").predict(columns)
    for name, values in model.predict(columns).items():
        assert again[name] == pytest.approx(values), name


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_unknown_is_answered_in_range(kind: str) -> None:
    """Unknown numbers, modes and places give finite hours, shares in 0–1 and carbon from 0 up."""
    columns = network_columns(8)
    for name, values in columns.items():
        if name not in ("route_id", "origin_id", "destination_id", "mode", "risk_category"):
            columns[name] = [None] * len(values)
    columns["mode"] = np.array(["drone"] * 8, dtype=object)
    found = served(kind).predict(columns)
    assert set(found) == NAMES
    for name, values in found.items():
        assert len(values) == 8
        assert np.isfinite(values).all(), name
        assert (values >= 0).all(), name
        assert name.startswith("expected_") or (values <= 1).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_network_has_empty_answers(kind: str) -> None:
    """No rows in, no rows out."""
    columns = {name: values[:0] for name, values in network_columns(3).items()}
    assert {len(values) for values in served(kind).predict(columns).values()} == {0}


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    """Settings that do not belong to the weights are a broken model, not a wrong answer."""
    write_package(served("delay/gnn"), "delay/gnn", tmp_path / "model")
    other = Gnn(network_of(rounds=1), USUAL)
    (tmp_path / "other").mkdir()
    other.save(tmp_path / "other")
    (tmp_path / "model" / "settings.json").write_bytes(
        (tmp_path / "other" / "settings.json").read_bytes()
    )
    with pytest.raises(BrokenModelError):
        read_package(tmp_path / "model")
    with pytest.raises(RuntimeError):
        Gnn.load(tmp_path / "model")


def test_a_changed_network_is_seen_although_the_last_graph_is_kept() -> None:
    """A call with other places does not get the structure of the call before."""
    model, columns = served("delay/gnn"), network_columns(6)
    before = model.predict(columns)["late_probability"]
    other = {**columns, "destination_id": np.array(["P0"] * 6, dtype=object)}
    assert not np.allclose(model.predict(other)["late_probability"], before, atol=1e-6)
    assert model.predict(columns)["late_probability"] == pytest.approx(before)


def test_persistence_leans_on_the_last_day_the_more_was_delivered() -> None:
    """No delivery: the mode's usual rate. Many: the route's own."""
    columns = network_columns(2)
    columns |= {
        "mode": np.array(["air", "air"], dtype=object),
        "deliveries_24h": [0.0, 396.0],
        "late_rate_24h": [np.nan, 0.5],
    }
    found = Persistence(USUAL).predict(columns)["late_probability"]
    assert found == pytest.approx([0.1, 0.496])


def test_hours_follow_from_the_index_by_the_modes_tail() -> None:
    """index × base hours × mean hours per unit of index; a missing base time is the usual one."""
    columns = network_columns(2) | {"mode": np.array(["sea", "drone"], dtype=object)}
    columns["base_hours"] = np.array([100.0, np.nan])
    share = np.array([0.1, 0.1])
    found = USUAL.outputs(columns, late=share, index=share, risk=share, carbon=share)
    assert found["expected_delay_hours"] == pytest.approx([0.1 * 100 * 5, 0.1 * 24 * 2])
