"""Shops that lack something, by model: each trains, or is refused in one line that says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fulfilment_shop import DAYS, little_lines, little_shop
from test_delay_labels import snapshots_of
from test_intent_dataset import dataset_of, log

from pipelines.models.delay.task import GnnTask
from pipelines.models.delay.training import FitConfig
from pipelines.models.fulfilment.episodes import split
from pipelines.models.fulfilment.shop import ShopHistory
from pipelines.models.fulfilment.task import PpoTask
from pipelines.models.fulfilment.training import PpoConfig
from pipelines.models.fulfilment.world import NONE, FulfilmentConfig, Lines, Shop
from pipelines.models.intent.features import USER_FEATURES
from pipelines.models.intent.task import IntentTask
from pipelines.models.intent.transformer import IntentConfig
from pipelines.registry.packaging import outputs_of, read_package, write_package
from pipelines.training.source import TrainingDataError
from pipelines.training.task import Dataset, Task, Trained

INTENT = IntentTask(IntentConfig(width=8, heads=2, members=1, epochs=1))
PPO = PpoTask(
    config=FulfilmentConfig(orders=40, days=2),
    quick_settings=PpoConfig(priced=2, desks=2, steps=80, rollout=40, batch=40, epochs=1),
    quick_episodes=2,
)
NOW_KNOWN = 3.0


class QuickGnn(GnnTask):
    """Fits for one epoch."""

    def train(self, *given: Any, **named: Any) -> Trained:
        """As the task does."""
        return super().train(*given, **named, config=FitConfig(epochs=1))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing by more threads, and wait for them on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check(task: Task, data: Dataset, folder: Path, seeds: tuple[int, ...] = (0,)) -> Trained:
    """Train, draw, package, load: what is served scores as it did, on finite numbers."""
    trained = task.train(data, seeds=seeds, quick=True, progress=lambda *_: None)
    for draw in trained.figures.values():
        assert draw().axes
    candidates = [trained.model, *trained.baselines]
    for number, one in enumerate(c for c in candidates if c.kind is not None):
        assert one.kind is not None
        write_package(one.predictor, one.kind, folder / str(number))
        served = read_package(folder / str(number))
        assert np.isfinite(task.evaluate(served, data).losses).all(), one.name
        shown = dict(trained.example)
        before = outputs_of(served, shown)
        for name in trained.unknown:  # it gets values one day, and the model does not mind
            if name in shown:
                shown[name] = np.full(len(shown[name]), NOW_KNOWN)
        for name, values in outputs_of(served, shown).items():
            assert np.array_equal(values, before[name]), (one.name, name)
    return trained


# Intent


def only_views(frame: pd.DataFrame) -> None:
    """Nobody searches or fills a cart."""
    frame.loc[frame.action != "purchase", "action"] = "view"


def everybody_buys(frame: pd.DataFrame) -> None:
    """The last event of every session is a purchase."""
    frame.loc[~frame.session_id.duplicated(keep="last"), "action"] = "purchase"


def nobody_buys(frame: pd.DataFrame) -> None:
    """No purchase at all."""
    frame.loc[frame.action == "purchase", "action"] = "view"


def one_buys(frame: pd.DataFrame) -> None:
    """A single purchase, early on."""
    nobody_buys(frame)
    frame.loc[(frame.session_id == "s00002").to_numpy().nonzero()[0][-1], "action"] = "purchase"


def no_times(frame: pd.DataFrame) -> None:
    """All pages are looked at for equally long."""
    frame["scroll"] = 0.0


def no_features(data: Dataset) -> None:
    """As where intent_signals is empty, and sessions are not counted."""
    data.columns.update({name: np.full(len(data), np.nan) for name in USER_FEATURES})


def one_known_feature(data: Dataset) -> None:
    """Only one of the customer's features was ever there."""
    no_features(data)
    data.columns["carts_7d"] = np.arange(len(data), dtype=np.float64) % 3


@pytest.mark.parametrize(
    ("world", "features", "unknown"),
    [
        (only_views, None, 0),
        (everybody_buys, None, 0),
        (nobody_buys, None, 0),
        (one_buys, no_features, len(USER_FEATURES)),
        (no_times, one_known_feature, len(USER_FEATURES) - 1),
    ],
)
def test_intent_trains_in_a_shop_that_lacks_something(
    world: Callable[[pd.DataFrame], None],
    features: Callable[[Dataset], None] | None,
    unknown: int,
    tmp_path: Path,
) -> None:
    """Whatever customers never do, and whatever is never known of them."""
    frame = log(150)
    world(frame)
    data = dataset_of(frame)
    if features is not None:
        features(data)
    trained = check(INTENT, data, tmp_path)
    assert len(trained.unknown) == unknown
    assert not set(trained.unknown) & set(trained.reference)


def test_intent_needs_sessions_of_three_events_to_judge_by() -> None:
    """A shop of one-click visits is told so."""
    frame = log(150)
    place = frame.groupby("session_id").cumcount()
    with pytest.raises(TrainingDataError, match="no session of the hold-out has 3 events"):
        INTENT.train(
            dataset_of(frame[place < 2].reset_index(drop=True)),
            seeds=(0,),
            quick=True,
            progress=lambda *_: None,
        )


# Delays


def no_conditions(data: Dataset) -> None:
    """Nothing was ever published of routes, and nothing delivered lately."""
    for name in ("delay_risk", "congestion", "carbon_cost", "deliveries_24h"):
        data.columns[name] = np.full(len(data), np.nan)
    for name in ("published", "risk", "congestion"):
        data.labels[name] = np.zeros(len(data))


def never_late(data: Dataset) -> None:
    """Every shipment is on time and weighs nothing."""
    for name in ("late", "index", "hours", "carbon"):
        data.labels[name] = np.zeros(len(data))


def always_late(data: Dataset) -> None:
    """Every shipment is as late as can be."""
    for name in ("late", "index"):
        data.labels[name] = np.where(data.labels["shipments"] > 0, 1.0, 0.0)


def one_training_day(data: Dataset) -> None:
    """Shipments on one day before the test alone: a seed's draw of days may miss it."""
    days = (data.timestamps - data.timestamps.min()) // np.timedelta64(24, "h")
    cut = (data.extra["cut"] - data.timestamps.min()) // np.timedelta64(24, "h")
    data.labels["shipments"][(days != 2) & (days < cut)] = 0


def one_route(data: Dataset) -> Dataset:
    """A single route, so nothing to compare places by."""
    rows = data.columns["route_id"] == "a"
    return Dataset(
        {name: values[rows] for name, values in data.columns.items()},
        {name: values[rows] for name, values in data.labels.items()},
        data.timestamps[rows],
        data.groups[rows],
        data.extra,
    )


@pytest.mark.parametrize(
    ("world", "unknown"),
    [
        (no_conditions, 10),
        (never_late, 6),
        (always_late, 6),
        (one_training_day, 6),
        (one_route, 6),
    ],
)
def test_delays_are_learnt_in_a_shop_that_lacks_something(
    world: Callable[[Dataset], Dataset | None], unknown: int, tmp_path: Path
) -> None:
    """Whatever is never published, and however all shipments are alike."""
    data = snapshots_of(12)
    data = world(data) or data
    trained = check(QuickGnn(), data, tmp_path, seeds=(0, 1))
    assert len(trained.unknown) == unknown
    assert not set(trained.unknown) & set(trained.reference)


def test_delays_need_shipments_on_both_sides() -> None:
    """A shop whose first shipment left yesterday is told so."""
    data = snapshots_of(12)
    data.labels["shipments"][data.timestamps < data.extra["cut"]] = 0
    with pytest.raises(TrainingDataError, match="0 rows to train on and"):
        check(QuickGnn(), data, Path())


# Fulfilment


def no_history(shop: Shop, lines: Lines) -> tuple[Shop, Lines]:
    """Nothing was ever known of routes or customers."""
    conditions = {n: np.full_like(t, np.nan) for n, t in shop.conditions.items()}
    conditions["carbon_cost"] = shop.conditions["carbon_cost"]
    features = {n: np.full_like(v, np.nan) for n, v in lines.features.items()}
    return replace(shop, conditions=conditions), replace(lines, features=features)


def one_warehouse(shop: Shop, lines: Lines) -> tuple[Shop, Lines]:
    """Only one warehouse carries anything."""
    candidates = np.full_like(shop.candidates, NONE)
    candidates[..., 0] = 0
    return replace(shop, candidates=candidates), lines


def one_way(shop: Shop, lines: Lines) -> tuple[Shop, Lines]:
    """One warehouse with one road to each region: there is nothing to choose."""
    shop, lines = one_warehouse(shop, lines)
    route_of = np.full_like(shop.route_of, NONE)
    route_of[..., 1] = shop.route_of[..., 1]
    return replace(shop, route_of=route_of), lines


def nobody_packs(shop: Shop, lines: Lines) -> tuple[Shop, Lines]:
    """A warehouse without capacity, and one that has it all."""
    return replace(shop, capacity=np.array([0.0, 1.0, 0.0])), lines


def a_region_without_routes(shop: Shop, lines: Lines) -> tuple[Shop, Lines]:
    """Orders of one region cannot be served by anybody."""
    candidates = shop.candidates.copy()
    candidates[1] = NONE
    return replace(shop, candidates=candidates), lines


def free_goods(shop: Shop, lines: Lines) -> tuple[Shop, Lines]:
    """Nothing costs or weighs anything, and everything is the same order."""
    nothing = np.zeros_like(shop.price)
    same = {n: np.full_like(v, v[0]) for n, v in lines.features.items()}
    return replace(shop, price=nothing, weight=nothing), replace(lines, features=same)


@pytest.mark.parametrize(
    "world",
    [no_history, one_warehouse, one_way, nobody_packs, a_region_without_routes, free_goods],
)
def test_fulfilment_is_learnt_in_a_shop_that_lacks_something(
    world: Callable[[Shop, Lines], tuple[Shop, Lines]], tmp_path: Path
) -> None:
    """Whatever there is to choose between, and whatever is known of it."""
    shop, lines = world(little_shop(), little_lines())
    trained = check(PPO, fulfilment_data(shop, lines), tmp_path)
    assert bool(trained.unknown) == (world is no_history)
    assert not set(trained.unknown) & set(trained.reference)


def fulfilment_data(shop: Shop, lines: Lines) -> Dataset:
    """Orders of forty customers over the shop's days."""
    users = np.arange(len(lines)) % 40
    moments = np.datetime64("2026-01-05", "us") + (
        (lines.day * 24 + lines.time) * 3_600_000_000
    ).astype("timedelta64[us]")
    history = ShopHistory(shop, lines, users, moments, np.datetime64("2026-01-05", "us"), DAYS)
    extra: dict[str, Any] = {"history": history, "since": None, "quick": True}
    return Dataset({}, {}, moments, users, extra)


@pytest.mark.parametrize("seed", range(8))
def test_a_handful_of_customers_is_split_with_orders_on_both_sides(seed: int) -> None:
    """A draw that leaves a part without orders is drawn anew."""
    lines = little_lines(60)
    history = fulfilment_data(little_shop(), lines).extra["history"]
    late = lines.day >= DAYS * 2 // 3
    users = np.where(late, np.arange(60) % 2, np.arange(60) % 7)
    train, test = split(replace(history, users=users), seed)
    assert min(len(train.lines), len(test.lines)) >= 2
    assert train.lines.day.max() < test.lines.day.min()


def test_fulfilment_needs_orders_of_several_customers() -> None:
    """A shop with one customer has nobody to judge by."""
    data = fulfilment_data(little_shop(), little_lines())
    history = data.extra["history"]
    data.extra["history"] = replace(history, users=np.zeros_like(history.users))
    with pytest.raises(TrainingDataError, match=r"by a part of 1 customers are too few"):
        PPO.train(data, seeds=(0,), quick=True, progress=lambda *_: None)
