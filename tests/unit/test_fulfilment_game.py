"""The order desk as a game, and what a policy sees of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fulfilment_shop import little_game, little_lines, little_shop

from pipelines.models.fulfilment.clairvoyant import best_plan
from pipelines.models.fulfilment.features import wanted_hours
from pipelines.models.fulfilment.game import FulfilmentGame
from pipelines.models.fulfilment.policies import play, random_feasible, weighed
from pipelines.models.fulfilment.training import option_prices
from pipelines.models.fulfilment.training_observation import Observer, masks
from pipelines.models.fulfilment.world import FulfilmentConfig, draw_episodes

WEIGHTS = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])


def test_observations_fit_their_layout_and_the_game_ends_after_its_last_order() -> None:
    """Finite numbers of the size that the layout says, all zero in the end; every order costs."""
    game = little_game(episodes=1)
    observer = Observer(game, WEIGHTS, ["R1"])
    rewards = []
    while not game.done:
        seen = observer.flat()
        assert seen.dtype == np.float32
        assert seen.shape == (1, observer.layout.size)
        assert np.isfinite(seen).all()
        rewards.append(float(game.step(masks(game.feasible()).argmax(axis=1))[0]))
    assert len(rewards) == little_game(episodes=1).length
    assert max(rewards) < 0
    assert not observer.flat().any()


def test_stock_never_falls_below_zero_and_capacity_is_kept() -> None:
    """Whatever is chosen, a warehouse ships what it has, and packs what it can."""
    game = little_game(episodes=6)
    rng = np.random.default_rng(1)
    while not game.done:
        game.step(rng.integers(0, game.options, len(game.episodes)))
        assert (game.stock >= 0).all()
        assert (game.packed <= game.episodes.capacity).all()


def test_what_is_not_feasible_is_masked_by_stock_and_by_packing() -> None:
    """An empty shelf or a full day takes a warehouse's options off the list."""
    game = little_game(episodes=2)
    before = game.feasible()
    assert before.any()
    episodes = replace(game.episodes, stock=game.episodes.stock.copy())
    episodes.stock[0, game.episodes.shelf[0, 0, 0]] = 0
    emptied = FulfilmentGame(game.shop, game.config, episodes)
    methods = len(game.shop.methods)
    assert not emptied.feasible()[0, :methods].any()
    full = replace(game.episodes, capacity=np.zeros_like(game.episodes.capacity))
    closed = FulfilmentGame(game.shop, game.config, full)
    assert not closed.feasible().any()
    assert masks(closed.feasible()).sum() == len(closed.episodes)


def test_a_shelf_is_filled_up_again_with_what_was_sold() -> None:
    """What is sold on a day is ordered at midnight and comes in after its lead time."""
    game = little_game(episodes=4)
    everything = game.episodes.stock + game.episodes.arriving.sum(axis=1)
    rng = np.random.default_rng(2)
    while not game.done:
        game.step(rng.integers(0, game.options, len(game.episodes)))
    later = game.arriving.copy()
    later[np.arange(game.config.days) <= game.episodes.day[:, -1:]] = 0
    assert (game.stock + later.sum(axis=1) <= everything).all()
    assert game.arriving.sum() > game.episodes.arriving.sum()


def test_demand_of_the_last_day_is_counted_by_warehouse_and_product() -> None:
    """demand_24h holds what was shipped in the 24 hours before the order at hand, no more."""
    game = little_game(episodes=3)
    rng = np.random.default_rng(4)
    for _ in range(game.length - 1):
        game.step(rng.integers(0, game.options, 3))
    now = game.episodes.time[:, game.decided]
    for episode in range(3):
        counted = np.zeros_like(game.recent[episode])
        for turn in range(game.decided):
            shelf = game.sold[episode, turn]
            if shelf >= 0 and game.episodes.time[episode, turn] > now[episode] - 24:
                counted[shelf] += game.quantity[episode, turn]
        assert (counted == game.recent[episode]).all()


def test_the_hour_of_an_order_is_its_own_and_not_that_of_the_order_before() -> None:
    """`decision_hour` is what serving gives: the hour at which the order is decided."""
    game = little_game(episodes=2)
    lines, line = game.episodes.lines, game.episodes.line
    hours = game.fixed["decision_hour"]
    assert (hours == np.floor(lines.time[line])[..., None]).all()
    assert (game.stock_columns()["decision_hour"] == hours[:, 0]).all()


def test_an_order_waits_for_what_its_method_takes_from_the_nearest_warehouse_with_it() -> None:
    """Where no warehouse has it, the fastest option; without any option it waits for nothing."""
    none = np.inf
    promised = np.array([[none, 9.0, 5.0, 7.0], [none, 9.0, none, 7.0], [none, none, none, none]])
    asked = np.array([True, False, True, False])
    found = wanted_hours(promised, np.broadcast_to(asked, promised.shape))
    assert found.tolist() == [5.0, 7.0, 0.0]


def test_the_risk_of_a_route_of_which_nothing_is_known_has_no_category() -> None:
    """As in route_conditions, where it is null then."""
    shop = little_shop()
    seen = {**shop.conditions, "delay_risk": np.full_like(shop.conditions["delay_risk"], np.nan)}
    game = little_game(episodes=1)
    game = FulfilmentGame(replace(game.shop, conditions=seen), game.config, game.episodes)
    assert set(game.columns()["risk_category"].ravel()) == {None}


def test_the_same_seed_gives_the_same_episodes() -> None:
    """Common random numbers: policies meet the same demand, supply and delays."""
    first, second = little_game(seed=5), little_game(seed=5)
    assert (first.episodes.line == second.episodes.line).all()
    assert (first.episodes.leads == second.episodes.leads).all()
    assert (first.cost == second.cost).all()
    assert (first.episodes.line != little_game(seed=6).episodes.line).any()


def test_observations_do_not_tell_the_hidden_delay() -> None:
    """Another truth behind the same features changes costs, and nothing that a policy sees."""
    shop, config = little_shop(), FulfilmentConfig(orders=40, days=3)
    rng = np.random.default_rng(0)
    episodes = draw_episodes(shop, little_lines(), config, rng, 2, (0, 6))
    seen = Observer(FulfilmentGame(shop, config, episodes), WEIGHTS, ["R1"]).flat()
    other = replace(shop, true_delay=shop.true_delay + 9)
    changed = FulfilmentGame(other, config, episodes)
    assert (Observer(changed, WEIGHTS, ["R1"]).flat() == seen).all()
    assert (changed.cost > FulfilmentGame(shop, config, episodes).cost).all()


def test_no_policy_does_better_than_the_clairvoyant_plan() -> None:
    """It is an upper bound on every episode, and above the greedy rule under stress."""
    game = little_game(episodes=6)
    best = np.array([best_plan(game, e).value for e in range(6)]) / game.length
    for policy in (weighed(WEIGHTS), random_feasible(1)):
        assert (play(game, policy).value <= best + 1e-9).all()
    assert best.mean() > play(game, weighed(WEIGHTS)).value.mean()


def test_a_plan_without_scarcity_is_the_best_option_of_every_order() -> None:
    """With full shelves and endless packing nothing has a price."""
    game = little_game(episodes=1, least=10_000, capacity_slack=1000.0)
    episodes = replace(game.episodes, stock=game.episodes.stock + 10_000)
    game = FulfilmentGame(game.shop, game.config, episodes)
    plan = best_plan(game, 0)
    cost = np.where(game.has_route, game.cost, np.inf).min(axis=2)
    assert plan.value == pytest.approx(-np.minimum(cost, game.loss).sum())
    assert option_prices(game, [plan]).max() == 0


def test_prices_make_every_plan_pay_for_what_it_takes() -> None:
    """At the plan's prices no order could gain by another option: strong duality."""
    game = little_game(episodes=1)
    plan = best_plan(game, 0)
    prices = option_prices(game, [plan])
    assert prices.max() > 0
    at_prices = np.where(game.has_route, game.cost + prices, np.inf).min(axis=2)
    least = -np.minimum(at_prices, game.loss).sum()
    assert least <= plan.value + 1e-6


@pytest.mark.parametrize("wrong", [{"carbon_price": -1.0}, {"margin_share": 1.5}, {"orders": 0}])
def test_a_configuration_out_of_range_is_refused_by_name(wrong: dict[str, float]) -> None:
    """The message names the parameter and the value."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FulfilmentConfig(**wrong)  # type: ignore[arg-type]
