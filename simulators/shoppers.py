"""What shoppers will do on a day: sessions driven by a hidden intent, made all at once.

A day's script is a pure function of (seed, day). It is played against the shop's stock later; only
its purchases depend on what is still there.

Figures: 72 % of sessions bounce within 3 pages, engaged ones have a log-normal number of pages
(median 20, p90 80, p99 231: UCI Online Shoppers); 6–8 % of sessions add to the cart (Baymard) and
about 28 % of those buy (Coveo SIGIR eCom'21: 22 %); busiest 20–22 h, quietest 3–5 h, Monday 15 %
and Friday 13 % of the week.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.live_databases import ACTIONS
from simulators.draws import Kind, generator
from simulators.world import DAY_US, World

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

VIEW, SEARCH, ADD, REMOVE, CHECKOUT, PURCHASE = range(len(ACTIONS))
NOTHING: Final = -1

SESSIONS_PER_USER_DAY: Final = 0.1185
HOUR_WEIGHTS: Final = (
    *(2.9, 2.0, 1.4, 1.05, 0.95, 1.05, 1.5, 2.3, 3.3, 4.1, 4.6, 4.9),
    *(5.1, 5.0, 4.9, 4.9, 5.0, 5.2, 5.6, 6.2, 7.0, 7.4, 6.9, 4.6),
)
WEEKDAY_SHARES: Final = (0.150, 0.144, 0.144, 0.144, 0.130, 0.144, 0.144)  # Monday first
# A script never runs on for longer than this after its day, so two scripts cover any time.
LONGEST_SESSION_US: Final = DAY_US // 2

_BOUNCE: Final = 0.72
_BOUNCE_PAGES: Final = (0.62, 0.25, 0.13)
_LOG_PAGES: Final = (np.log(21.0), 1.09)
_MOST_PAGES: Final = 400


class Intent(IntEnum):
    """The hidden state of a shopper within a session."""

    BROWSING = 0
    COMPARING = 1
    DECIDED = 2


# Chances per event; rows are states. Actions leave the rest of the probability to viewing.
_NEXT: Final = np.array(
    [[0.9930, 0.0064, 0.0006], [0.0100, 0.9850, 0.0050], [0.0030, 0.0090, 0.9880]]
)
_FIRST: Final = (0.61, 0.26, 0.13)
_SEARCH: Final = np.array([0.12, 0.30, 0.18])
_ADD: Final = np.array([0.0013, 0.0115, 0.095])
_REMOVE: Final = np.array([0.02, 0.04, 0.02])  # with something in the cart
_CHECKOUT: Final = np.array([0.002, 0.006, 0.058])  # with something in the cart
_BUY: Final = np.array([0.15, 0.25, 0.72])  # after a checkout
# How an intent shows, with wide overlap: seconds on a page, scroll depth, looking again.
_LOG_DWELL: Final = np.log([17.0, 26.0, 30.0])
_LOG_DWELL_SD: Final = 0.95
_SCROLL: Final = np.array([-0.40, 0.15, 0.40])
_AGAIN: Final = np.array([0.10, 0.35, 0.45])
_SEARCH_LANDS: Final = 0.4  # share of searches that end on a product
_LONGEST_PAGE_S: Final = 1500.0  # a session ends after 30 minutes of silence
_FOLLOWS_HABIT: Final = 0.7
_CART_SIZE: Final = 12
_MORE_UNITS: Final = 0.5  # quantity is 1 + geometric
# A control world's purchase is a coin tossed at the end of any session, cart or no cart.
_COIN: Final = 0.0185
_COIN_TWO_LINES: Final = 0.64  # share of its baskets with a second product


@dataclass(frozen=True)
class Basket:
    """A planned purchase: product numbers, units, and a uniform number each for want of stock."""

    time: int
    event: int
    user: int
    method: int
    products: list[int]
    quantities: list[int]
    luck: list[float]


@dataclass(frozen=True)
class DayScript:
    """All sessions that start on one day; event arrays are in order of time.

    `time` is simulated microseconds; `session` numbers sessions of this script; `product` is −1
    for none; `intent` is hidden and never leaves memory.
    """

    day: int
    users: Ints  # (sessions,) user index
    session_ids: list[str]
    time: Ints  # (events,) and so on
    session: Ints
    position: Ints  # place within the session, 0 first
    action: Ints
    product: Ints
    time_on_page: Floats
    scroll_depth: Floats
    intent: Ints
    is_last: Bools  # last event of its session apart from a purchase
    baskets: list[Basket]


def day_script(world: World, day: int) -> DayScript:
    """The sessions that start on `day` (0 is the day of the world's origin)."""
    config = world.config
    rng = generator(config.seed, Kind.SESSIONS, day)
    weekday = (world.origin.weekday() + day) % 7
    expected = config.users * SESSIONS_PER_USER_DAY * 7 * WEEKDAY_SHARES[weekday]
    count = int(rng.poisson(expected))
    hours = np.asarray(HOUR_WEIGHTS) / sum(HOUR_WEIGHTS)
    hour = rng.choice(24, count, p=hours)
    start = ((day * 24 + hour) * 3600.0 + rng.random(count) * 3600.0) * 1e6
    users = world.population.pick(rng.random(count))
    engaged = rng.random(count) >= _BOUNCE
    pages = np.where(
        engaged,
        np.clip(np.exp(rng.normal(*_LOG_PAGES, count)), 4, _MOST_PAGES),
        rng.choice(3, count, p=_BOUNCE_PAGES) + 1,
    ).astype(np.int64)
    # Longest first: step k of the chain then concerns the first few sessions only.
    longest_first = np.argsort(-pages, kind="stable")
    pages = pages[longest_first]
    readiness = np.ones(count) if config.no_signal else world.population.readiness[users]
    walk = _walk(rng, pages, readiness, world, day)

    slots = pages + 1  # one more for a purchase
    session = np.repeat(np.arange(count), slots)
    offset = np.concatenate([[0], np.cumsum(slots)])
    state = walk.intent
    dwell = np.exp(_LOG_DWELL[state] + _LOG_DWELL_SD * rng.standard_normal(len(session)))
    dwell = np.clip(dwell, 1.0, _LONGEST_PAGE_S).round(3)
    tilt = _SCROLL[state] + rng.normal(0, 1.0, len(session))
    scroll = (1 / (1 + np.exp(-tilt))).round(4)
    steps = (dwell + rng.uniform(0.2, 1.5, len(session))) * 1e6
    passed = np.cumsum(steps)
    before = np.concatenate([[0.0], passed])[offset[:-1]]
    since = passed - before[session] - steps[offset[:-1]][session]
    time = (start[longest_first][session] + since).astype(np.int64)

    opened = start[longest_first] >= world.microseconds(world.start)
    keep = walk.happens & (since < LONGEST_SESSION_US) & opened[session]
    ordinary = np.flatnonzero(keep & (walk.action != PURCHASE))
    is_last = np.zeros(len(session), dtype=bool)
    is_last[ordinary[np.diff(session[ordinary], append=NOTHING) != 0]] = True

    by_start = np.argsort(start[longest_first], kind="stable")
    rank = np.empty(count, dtype=np.int64)
    rank[by_start] = np.arange(count)
    chosen = np.flatnonzero(keep)
    chosen = chosen[np.lexsort((rank[session[chosen]], time[chosen]))]
    place_of = np.full(len(session), NOTHING)
    place_of[chosen] = np.arange(len(chosen))
    users = users[longest_first]
    return DayScript(
        day=day,
        users=users[by_start],
        session_ids=[f"{day:05d}-{number:06d}" for number in range(count)],
        time=time[chosen],
        session=rank[session[chosen]],
        position=(np.arange(len(session)) - offset[session])[chosen],
        action=walk.action[chosen],
        product=walk.product[chosen],
        time_on_page=dwell[chosen],
        scroll_depth=scroll[chosen],
        intent=state[chosen],
        is_last=is_last[chosen],
        baskets=_baskets(world, rng, walk, keep, session, time, users, place_of),
    )


@dataclass(frozen=True)
class _Walk:
    """The chain's outcome over slots, session after session, and the carts at a purchase."""

    intent: Ints
    action: Ints
    product: Ints
    happens: Bools
    carts: dict[int, list[int]]  # slot of the purchase → products in the cart


def _walk(
    rng: np.random.Generator, pages: Ints, readiness: Floats, world: World, day: int
) -> _Walk:
    """Run the hidden chain of every session in step and let it act."""
    no_signal = world.config.no_signal
    count, size = len(pages), int(pages.sum()) + len(pages)
    offset = np.concatenate([[0], np.cumsum(pages + 1)])[:-1]
    intent = np.zeros(size, dtype=np.int64)
    action = np.full(size, VIEW)
    product = np.full(size, NOTHING)
    happens = np.zeros(size, dtype=bool)
    u_state, u_action, u_again, u_lands, u_buy = rng.random((5, size))
    fresh = world.catalogue.pick(day, rng.random(size))
    cart = np.full((count, _CART_SIZE), NOTHING)
    in_cart = np.zeros(count, dtype=np.int64)
    seen = np.full(count, NOTHING)
    seen_before = np.full(count, NOTHING)
    buying = np.zeros(count, dtype=bool)
    done = np.zeros(count, dtype=bool)
    carts: dict[int, list[int]] = {}
    next_cumulative = np.cumsum(_NEXT, axis=1)[:, :2]
    decided = np.minimum(_FIRST[2] * readiness, 0.6)
    state = np.where(
        u_state[offset] < decided, 2, np.where(u_state[offset] < decided + _FIRST[1], 1, 0)
    )
    # With the longest first, sessions that still have a slot at step k are the first `left[k]`.
    left = np.searchsorted(-(pages + 1), -np.arange(int(pages[0]) + 1 if count else 0), "left")
    for k, m in enumerate(left.tolist()):
        slot = offset[:m] + k
        if k:
            draw, now = u_state[slot], state[:m]
            limits = next_cumulative[now]
            state[:m] = (draw >= limits[:, 0]).astype(np.int64) + (draw >= limits[:, 1])
        now = state[:m]
        intent[slot] = now
        buys = buying[:m] & ~done[:m]
        acts = ~done[:m] & ~buys & (k < pages[:m])
        happens[slot] = buys | acts
        for s in np.flatnonzero(buys).tolist():
            action[slot[s]] = PURCHASE
            carts[int(slot[s])] = list(dict.fromkeys(cart[s, : in_cart[s]].tolist()))
            product[slot[s]] = carts[int(slot[s])][0]
        done[:m] |= buys

        full = in_cart[:m] > 0
        can_add = (seen[:m] != NOTHING) & (in_cart[:m] < _CART_SIZE)
        draw = u_action[slot]
        adds = _ADD[now] * can_add
        removes = adds + _REMOVE[now] * full
        checks = removes + _CHECKOUT[now] * full
        searches = checks + _SEARCH[now]
        what = np.full(m, VIEW)
        what[draw < searches] = SEARCH
        what[draw < checks] = CHECKOUT
        what[draw < removes] = REMOVE
        what[draw < adds] = ADD
        again = (u_again[slot] < _AGAIN[now]) & (seen[:m] != NOTHING)
        back = again & (u_lands[slot] < 0.5) & (seen_before[:m] != NOTHING)
        shown = np.where(back, seen_before[:m], np.where(again, seen[:m], fresh[slot]))
        views = acts & (what == VIEW)
        lands = acts & (what == SEARCH) & (u_lands[slot] < _SEARCH_LANDS)
        product[slot[views]] = shown[views]
        product[slot[lands]] = fresh[slot[lands]]
        action[slot[acts]] = what[acts]
        moved = views & (shown != seen[:m])
        seen_before[:m][moved] = seen[:m][moved]
        seen[:m][views] = shown[views]
        for s in np.flatnonzero(acts & (what >= ADD)).tolist():
            held = int(in_cart[s])
            if what[s] == ADD:
                cart[s, held] = product[slot[s]] = seen[s]
                in_cart[s] += 1
                continue
            product[slot[s]] = cart[s, held - 1]
            if what[s] == REMOVE:
                in_cart[s] -= 1
            elif not no_signal:
                buying[s] = u_buy[slot[s]] < _BUY[now[s]]
    if no_signal:
        _toss_coins(u_buy[offset], offset, pages, action, product, happens, carts, fresh)
    return _Walk(intent, action, product, happens, carts)


def _toss_coins(
    draw: Floats,
    offset: Ints,
    pages: Ints,
    action: Ints,
    product: Ints,
    happens: Bools,
    carts: dict[int, list[int]],
    fresh: Ints,
) -> None:
    """End sessions in a purchase by a coin that looks neither at the shopper nor at the past."""
    slots = (offset + pages)[draw < _COIN]
    action[slots] = PURCHASE
    happens[slots] = True
    two = (draw[draw < _COIN] < _COIN * _COIN_TWO_LINES).tolist()
    for slot, more in zip(slots.tolist(), two, strict=True):
        carts[slot] = list(dict.fromkeys(fresh[slot - more : slot + 1].tolist()))
        product[slot] = carts[slot][0]


def _baskets(
    world: World,
    rng: np.random.Generator,
    walk: _Walk,
    keep: Bools,
    session: Ints,
    time: Ints,
    users: Ints,
    place_of: Ints,
) -> list[Basket]:
    baskets = []
    for slot, products in sorted(walk.carts.items()):
        quantities = rng.geometric(1 - _MORE_UNITS, len(products)).tolist()
        luck = rng.random(len(products)).tolist()
        habit, other = rng.random(2)
        if not keep[slot]:
            continue
        user = int(users[session[slot]])
        method = int(world.population.method[user])
        if habit >= _FOLLOWS_HABIT:
            method = int(world.population.pick_methods(np.array([other]))[0])
        when, event = int(time[slot]), int(place_of[slot])
        baskets.append(Basket(when, event, user, method, products, quantities, luck))
    return sorted(baskets, key=lambda basket: basket.event)
