"""What the delay model is asked and judged by: labels, split, and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import torch

from pipelines.models.delay.dataset import GAP, split
from pipelines.models.delay.evaluation import (
    auc,
    calibration_error,
    evaluation,
    judge,
    r2,
)
from pipelines.models.delay.fit_baselines import RouteMean, usual
from pipelines.models.delay.labels import _SHIPMENTS, ROUTES, Logs, delays, labels, probes_of, tails
from pipelines.models.delay.training import FitConfig, fit, graph
from pipelines.models.fulfilment.tables import _SHIPPED
from pipelines.training.task import Dataset

START = np.datetime64("2026-03-01T00:00:00", "us")
HOUR = np.timedelta64(3600, "s")
Shipment = tuple[str, float, float, float | None]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing by more threads, and wait for them on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def at(hours: float) -> np.datetime64:
    return START + np.timedelta64(round(hours * 3600), "s")


def logs_of(shipments: list[Shipment], end: float) -> Logs:
    """Routes a (10 base hours) and b (20); shipments (route, sent, promised, delivered) by hour."""
    routes = pd.DataFrame(
        {
            "route_id": ["a", "b"],
            "origin_id": ["S1", "W1"],
            "destination_id": ["W1", "R1"],
            "mode": ["air", "road"],
            "base_hours": [10.0, 20.0],
        }
    )
    rows = [
        (route, at(sent), at(promised), pd.NaT if done is None else at(done), 2.0)
        for route, sent, promised, done in shipments
    ]
    names = ["route_id", "shipped_at", "promised_at", "delivered_at", "carbon_kg"]
    frame = pd.DataFrame(rows, columns=names)
    frame["delivered_at"] = pd.to_datetime(frame["delivered_at"]).astype("datetime64[us]")
    published = pd.DataFrame(
        [(r, at(h), h / 100, 0.5) for h in range(30) for r in ("a", "b")],
        columns=["route_id", "updated_at", "delay_risk", "congestion"],
    )
    return Logs(routes, frame, published, {"W1": ["p"]}, at(end))


def test_the_delay_index_is_known_without_a_delivery() -> None:
    """One base time after the promise it is 1, come or not; before, the shipment is late so far."""
    found = delays(
        logs_of([("a", 1, 11, None), ("a", 2, 12, 17), ("b", 3, 20, 19), ("b", 4, 24, None)], 40)
    )
    assert found["index"].tolist() == [1.0, 0.5, 0.0, 0.8]
    assert found["late"].tolist() == [1.0, 1.0, 0.0, 1.0]
    known = ((found["known_at"].to_numpy() - START) / HOUR).tolist()
    assert known == [21.0, 22.0, 40.0, 44.0]


def test_a_label_counts_what_leaves_in_the_next_24_hours() -> None:
    """After the moment, up to 24 hours later; not at the moment itself."""
    sent = [("a", 0, 5, 5), ("a", 1, 6, 16), ("a", 24, 30, 30), ("a", 25, 30, 30)]
    found, known_at = labels(logs_of(sent, 90), np.array([at(0)]))
    assert found["shipments"].tolist() == [2, 0]
    assert found["late"].tolist() == [0.5, 0]
    assert found["index"].tolist() == [0.5, 0]
    assert found["hours"].tolist() == [5, 0]
    assert found["risk"] == pytest.approx([np.mean(np.arange(1, 25)) / 100] * 2)
    assert known_at.tolist() == [at(40).item(), at(24).item()]


def test_a_row_is_not_used_before_all_of_it_is_known() -> None:
    """Dropping the unknown ones alone would keep the punctual and forget the late."""
    sent: list[Shipment] = [("a", 1, 11, 11), ("a", 2, 30, None)]
    assert labels(logs_of(sent, 39), np.array([at(0)]))[0]["shipments"].tolist() == [0, 0]
    assert labels(logs_of(sent, 40), np.array([at(0)]))[0]["shipments"].tolist() == [2, 0]


def test_a_route_without_hours_is_late_or_not_and_an_unknown_one_counts_nowhere() -> None:
    """Neither divides by nothing, nor are its shipments taken for another route's."""
    sent: list[Shipment] = [("a", 1, 1, 3), ("a", 2, 2, 2), ("gone", 3, 4, 9)]
    logs = logs_of(sent, 40)
    logs.routes["base_hours"] = [0.0, 20.0]
    found = delays(logs)
    assert found["index"].tolist() == [1.0, 0.0]
    assert found["route"].tolist() == [0, 0]
    assert labels(logs, np.array([at(0)]))[0]["index"].tolist() == [0.5, 0.0]
    assert tails(logs, at(30)) == {"": 1.0}


def test_probes_are_spread_over_what_a_warehouse_carries_now() -> None:
    """At most a dozen, evenly over the ids; a position that was deleted is none."""
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE inventory AS SELECT 'W1' AS warehouse_id, format('P{:03d}', n) AS "
            "product_id, 'I' AS op, 100 - n AS seq FROM range(31) t(n) "
            "UNION ALL VALUES ('W2', 'P1', 'I', 1), ('W3', 'P1', 'I', 2), ('W3', 'P1', 'D', 3), "
            "('W1', 'P030', 'D', 200), ('W1', 'P000', 'U', 201)"
        )
        found = probes_of(connection)
    assert found == {"W1": [f"P{n:03d}" for n in range(0, 24, 2)], "W2": ["P1"]}


def test_routes_are_those_that_serving_looks_at() -> None:
    """As they are now; one that is deleted is none, one that is there again is one."""
    columns = "route_id, origin_id, destination_id, mode, distance_km, base_hours, base_cost"
    with duckdb.connect() as connection:
        connection.execute(
            f"CREATE TABLE routes AS SELECT * FROM (VALUES "
            "('r1', 'W1', 'north', 'road', 100, 10, 1, 5.0, TIMESTAMP '2026-01-01', 'I', 1), "
            "('r1', 'W1', 'north', 'road', 120, 11, 2, 6.0, TIMESTAMP '2026-01-02', 'U', 2), "
            "('r2', 'W1', 'south', 'air', 90, 5, 8, 90.0, TIMESTAMP '2026-01-01', 'I', 3), "
            "('r2', 'W1', 'south', 'air', 90, 5, 8, 90.0, TIMESTAMP '2026-01-03', 'D', 4), "
            "('r3', 'W1', 'south', 'rail', 95, 9, 1, 9.0, TIMESTAMP '2026-01-01', 'I', 5), "
            "('r3', 'W1', 'south', 'rail', 95, 9, 1, 9.0, TIMESTAMP '2026-01-02', 'D', 6), "
            "('r3', 'W2', 'south', 'rail', 70, 8, 1, 9.0, TIMESTAMP '2026-01-03', 'I', 7)"
            f") AS rows({columns}, carbon_cost, updated_at, op, seq)"
        )
        found = connection.execute(ROUTES).df()
    assert found.route_id.tolist() == ["r1", "r3"]
    assert found.origin_id.tolist() == ["W1", "W2"]
    assert found.distance_km.tolist() == [120.0, 70.0]
    assert found.carbon_cost.tolist() == [5.0, 9.0]


def test_tails_allow_for_what_has_not_arrived() -> None:
    """A log-normal's mean per capped mean is found again, with the longest delays still unseen."""
    rng = np.random.default_rng(0)
    delay = 10 * np.exp(-0.5 + 1.1 * rng.standard_normal(4000))
    sent = np.sort(rng.uniform(0, 100, 4000))
    rows = [
        ("a", float(s), float(s + 10), float(s + 10 + d) if s + 10 + d < 120 else None)
        for s, d in zip(sent, delay, strict=True)
    ]
    assert sum(row[3] is None for row in rows) > 150
    truth = np.mean(delay) / np.mean(np.minimum(delay, 10.0))
    assert tails(logs_of(rows, 120), at(100))["air"] == pytest.approx(truth, rel=0.1)


def snapshots_of(days: int = 20, seed: int = 0) -> Dataset:
    """Four routes in a ring, a snapshot every 6 hours; lateness follows the published risk."""
    rng = np.random.default_rng(seed)
    moments = START + np.arange(days * 4) * 6 * HOUR
    size, steps = 4, len(moments)
    rows = size * steps
    risk = np.repeat(rng.uniform(0.05, 0.6, steps), size) * rng.uniform(0.9, 1.1, rows)
    shipments = rng.integers(0, 6, rows).astype(float)
    late = np.where(shipments > 0, rng.binomial(np.maximum(shipments, 1).astype(int), risk), 0)
    share = late / np.maximum(shipments, 1)
    nothing = np.full(rows, np.nan)
    columns: dict[str, Any] = {
        "snapshot": np.repeat(np.arange(steps), size),
        "route_id": np.tile(np.array(list("abcd"), dtype=object), steps),
        "origin_id": np.tile(np.array(["1", "2", "3", "4"], dtype=object), steps),
        "destination_id": np.tile(np.array(["2", "3", "4", "1"], dtype=object), steps),
        "mode": np.tile(np.array(["air", "air", "road", "sea"], dtype=object), steps),
        "distance_km": np.full(rows, 300.0),
        "base_hours": np.full(rows, 24.0),
        "base_cost": np.full(rows, 2.0),
        "delay_risk": risk,
        "congestion": rng.uniform(0.2, 0.5, rows),
        "carbon_cost": np.full(rows, 30.0),
        "deliveries_24h": shipments,
        "late_rate_24h": nothing,
        "mean_delay_hours_24h": nothing,
        "mean_delay_hours_7d": nothing,
        "warehouse_stock_ratio": nothing,
        "warehouse_low_stock_share": nothing,
        "warehouse_days_of_cover": nothing,
    }
    found = {
        "shipments": shipments,
        "late": share,
        "index": share / 2,
        "hours": share * 12,
        "carbon": np.full(rows, 3.0),
        "risk": risk,
        "congestion": columns["congestion"],
        "published": np.ones(rows),
    }
    extra = {"cut": moments[int(steps * 0.65)], "all_test": False, "tails": {"": 2.0}}
    return Dataset(columns, found, np.repeat(moments, size), columns["route_id"], extra)


def test_training_ends_a_gap_before_the_test() -> None:
    """No shipment counts in a label on both sides, and all rows that count have labels."""
    data = snapshots_of()
    parts = split(data)
    gap = data.timestamps[parts.hold_out].min() - data.timestamps[parts.train].max()
    assert gap >= GAP >= np.timedelta64(24, "h")
    assert (data.labels["shipments"][parts.train | parts.hold_out] > 0).all()


def test_new_labels_are_hold_out_as_a_whole() -> None:
    """A data set of labels since a moment has nothing to train on."""
    data = snapshots_of()
    data.extra["all_test"] = True
    parts = split(data)
    assert not parts.train.any()
    assert (parts.hold_out == (data.labels["shipments"] > 0)).all()


def test_shuffled_edges_keep_how_many_routes_a_place_has() -> None:
    """Only which routes they are changes, and with the seed."""
    data = snapshots_of()
    true, dealt = graph(data, "true", 0), graph(data, "shuffled", 0)
    assert true.place.tolist() != dealt.place.tolist()
    for end in range(2):
        assert sorted(true.place[:, end].tolist()) == sorted(dealt.place[:, end].tolist())


def test_the_network_learns_what_there_is_to_learn() -> None:
    """Lateness that follows the published risk is forecast better than by the mean."""
    data = snapshots_of(40)
    parts = split(data)
    fitted = fit(data, parts.train, parts.hold_out, seed=0, config=FitConfig(epochs=30, rate=1e-2))
    assert fitted.training_loss[-1] < fitted.training_loss[0]
    habits = usual(data, parts.train, np.ones(len(data)))

    from pipelines.models.delay.predictor import Gnn

    found = evaluation(judge(Gnn(fitted.network, habits).predict, data))
    plain = RouteMean(data, parts.train, np.ones(len(data)), habits)
    assert found.metrics["r2"] > evaluation(judge(plain.predict, data)).metrics["r2"] + 0.05
    assert found.metrics["late_auc"] > 0.65


def test_a_seed_fits_the_same_network_again() -> None:
    """Initialisation, order and dropout come from the seed alone."""
    data = snapshots_of(10)
    parts = split(data)
    config = FitConfig(epochs=2)
    one, two = (fit(data, parts.train, parts.hold_out, seed=3, config=config) for _ in range(2))
    assert one.training_loss == two.training_loss
    assert one.test_loss == two.test_loss


def test_losses_are_by_route_and_day() -> None:
    """Overlapping snapshots of a day are not told as independent; every model has the same."""
    data = snapshots_of()
    parts = split(data)
    habits = usual(data, parts.train, np.ones(len(data)))
    plain = RouteMean(data, parts.train, np.ones(len(data)), habits)
    found = evaluation(judge(plain.predict, data))
    test = parts.hold_out
    days = ((data.timestamps[test] - data.timestamps.min()) // np.timedelta64(24, "h")).tolist()
    wanted = len(set(zip(days, data.columns["route_id"][test].tolist(), strict=True)))
    assert len(found.losses) == wanted
    assert found.units is not None
    assert set(found.units.tolist()) == set(days)


def test_metrics_weigh_rows_by_their_shipments() -> None:
    """A row of three shipments counts as three rows of one."""
    truth, told = np.array([0.2, 0.8, 0.5]), np.array([0.3, 0.6, 0.5])
    weight = np.array([1.0, 3.0, 2.0])
    times = weight.astype(int)
    ones = np.ones(6)
    assert r2(truth, told, weight) == pytest.approx(
        r2(np.repeat(truth, times), np.repeat(told, times), ones)
    )
    assert auc(told, truth, weight) == pytest.approx(
        auc(np.repeat(told, times), np.repeat(truth, times), ones)
    )


def test_auc_is_one_half_without_order() -> None:
    """The same score for all, or perfect order, are told as what they are."""
    late, one = np.array([1.0, 0.0, 1.0]), np.ones(3)
    assert auc(np.zeros(3), late, one) == pytest.approx(0.5)
    assert auc(late, late, one) == pytest.approx(1.0)


def test_a_calibrated_forecast_has_no_calibration_error() -> None:
    """Twice too high a forecast is wrong by its own half."""
    share = np.linspace(0.05, 0.4, 50)
    assert calibration_error(share, share, np.ones(50)) == pytest.approx(0.0)
    assert calibration_error(2 * share, share, np.ones(50)) == pytest.approx(share.mean())


@pytest.mark.parametrize("query", [_SHIPMENTS, _SHIPPED], ids=["labels", "shop"])
def test_a_reused_id_is_another_shipment_and_a_changed_one_is_not(query: str) -> None:
    """1 is deleted and given to another one; 2 becomes 3, which is deleted, and 2 is used again."""
    changes = [(1, "I"), (1, "U"), (1, "D"), (1, "I")]
    changes += [(2, "I"), (2, "M"), (3, "U"), (3, "U"), (3, "D"), (2, "I")]
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE shipments (seq BIGINT, shipment_id BIGINT, op VARCHAR, route_id VARCHAR, "
            "shipped_at TIMESTAMP, promised_at TIMESTAMP, delivered_at TIMESTAMP, carbon_kg DOUBLE)"
        )
        connection.executemany(
            "INSERT INTO shipments VALUES ($1, $2, $3, 'a', $4, $4, $4, 1.0)",
            [(seq, key, op, "2026-03-01") for seq, (key, op) in enumerate(changes, start=1)],
        )
        assert len(connection.execute(query).fetchall()) == 4
