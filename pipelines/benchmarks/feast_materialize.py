"""Materialization, end to end: stock Feast, ours, and raw HSETs on the same server."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipelines.benchmarks import Say
from pipelines.benchmarks.feast_figures import (
    Figures,
    in_turns,
    median,
    paired_ratio,
    rounded,
    rows_per_s,
)
from pipelines.benchmarks.feast_limits import (
    PIPELINES,
    benchmark_program,
    hash_shape,
    hset_rows_per_s,
)
from pipelines.benchmarks.feast_space import Space
from pipelines.benchmarks.feast_world import (
    KEY,
    Settings,
    View,
    Views,
    apply,
    open_ours,
    open_stock,
    sized,
    write_views,
)
from pipelines.benchmarks.feast_writer import written_rows_per_s
from pipelines.errors import SynchroChainError
from pipelines.feast_plugins.repository import quiet

TRIED: Final[tuple[Settings, ...]] = (
    {},
    {"pull_latest_features": True},
    {"online_write_batch_size": 100},
    {"online_write_batch_size": 1000},
    {"online_write_batch_size": 10_000},
)
"""Stock's settings of materialization; the one that is fastest in a first run is measured."""
GROWTH_REPEATS: Final = 3
LIMIT_TIMES: Final = 4  # as many rows by the limit, which a second is enough for
SAMPLE: Final = 500
AGREEMENT: Final = 1.5
"""Factor within which our own writer and Redis's benchmark, where it is installed, should agree."""


def measure_materialize(space: Space, keys: int, repeats: int, say: Say) -> Figures:
    """Rows a second into emptied keys, one row of nine features a key.

    `growth` is what ten times the keys cost ours, in time.

    Args:
        space: where files and Redis are.
        keys: how many at full size.
        repeats: measurements, of which the best counts.
        say: called with each step.

    Raises:
        SynchroChainError: ours and stock did not store the same.
    """
    say(f"materialize: generating {keys:,} keys, a tenth and ten times of them")
    view = View("full", keys, keys)
    tenth, tenfold = sized(view, 0.1, "tenth"), sized(view, 10, "tenfold")
    views = write_views(space.folder / "materialize", (view, tenth, tenfold))
    ours, usual = open_ours(views), open_stock(space, views, online={})

    say("materialize: ours and stock on the same keys, compared")
    for store in (ours, usual):
        apply(store, views)
        materialize(store, views, [tenth])
    _check_equal(space, views, tenth)
    setting = _fastest_setting(space, views, view, say)
    stock = open_stock(space, views, materialization=setting)
    limit, other = _limits(space, LIMIT_TIMES * keys, len(view.features) + 1, say)

    seconds: dict[str, list[float]] = {"stock": [], "defaults": [], "ours": [], "again": []}
    rates: dict[str, list[float]] = {"limit": [], "other": []}

    def stock_once() -> None:
        seconds["stock"].append(_into_emptied(space, stock, views, view))

    def defaults_once() -> None:
        seconds["defaults"].append(_into_emptied(space, usual, views, view))

    def ours_once() -> None:
        seconds["ours"].append(_into_emptied(space, ours, views, view))
        seconds["again"].append(materialize(ours, views, [view]))

    def limit_once() -> None:
        space.empty()
        rates["limit"].append(limit.rate())

    def other_once() -> None:
        if other is not None:
            space.empty()
            rates["other"].append(other.rate())

    sides = {
        "stock": stock_once,
        "ours": ours_once,
        "limit": limit_once,
        "stock with its defaults": defaults_once,
        **({} if other is None else {other.name: other_once}),
    }
    for name, run in in_turns(sides, repeats):
        say(f"materialize: {name}, {keys:,} keys")
        run()
    found = {name: rows_per_s(keys, median(taken)) for name, taken in seconds.items()}
    limit_rate, other_rate = median(rates["limit"]), median(rates["other"])
    say(f"materialize: {agreement(limit_rate, other_rate)}")
    return {
        "keys": keys,
        "features": len(view.features),
        "repeats": repeats,
        "stock_rows_per_s": found["stock"],
        "ours_rows_per_s": found["ours"],
        "limit_rows_per_s": None if limit_rate is None else round(limit_rate),
        "redis_benchmark_rows_per_s": None if other_rate is None else round(other_rate),
        "agreement": agreement(limit_rate, other_rate),
        "ratio_to_stock": paired_ratio(seconds["stock"], seconds["ours"]),
        "ratio_to_limit": paired_ratio([keys / r for r in rates["limit"]], seconds["ours"]),
        "growth": _growth(space, ours, views, (view, tenfold), say),
        "stock_defaults_rows_per_s": found["defaults"],
        "ours_again_rows_per_s": found["again"],
        "stock_setting": dict(setting),
        "limit_setting": limit.setting,
        "seconds": {name: [rounded(s) for s in taken] for name, taken in seconds.items()},
    }


def materialize(store: Any, views: Views, wanted: list[View]) -> float:
    """Seconds of one call of `materialize`, from the first row to the last.

    Args:
        store: a feature store.
        views: the generated files.
        wanted: the views to materialize.
    """
    with quiet():
        began = time.perf_counter()
        store.materialize(views.start, views.end, [view.name for view in wanted])
        return time.perf_counter() - began


def _into_emptied(space: Space, store: Any, views: Views, view: View) -> float:
    space.empty()
    seconds = materialize(store, views, [view])
    stored: Any = space.client.dbsize()
    if stored != view.keys:
        raise SynchroChainError(
            f"{store.project} stored {stored:,} keys of {view.keys:,}: its speed counts for nothing"
        )
    return seconds


def _fastest_setting(space: Space, views: Views, view: View, say: Say) -> Settings:
    stores = [open_stock(space, views, materialization=setting) for setting in TRIED]
    taken = []
    for setting, store in zip(TRIED, stores, strict=True):
        taken.append(_into_emptied(space, store, views, view))
        words = ", ".join(f"{name}: {value}" for name, value in setting.items()) or "defaults"
        say(f"materialize: stock, {view.keys:,} keys, {words}: {taken[-1]:.2f} s")
    return TRIED[taken.index(min(taken))]


@dataclass(frozen=True)
class _Limit:
    """One way to write what stock stores, at its fastest number of connections and commands."""

    name: str
    setting: str
    rate: Callable[[], float]


def _limits(space: Space, rows: int, fields: int, say: Say) -> tuple[_Limit, _Limit | None]:
    """Our own writer, and Redis's benchmark if it is installed, on what stock has just stored."""
    arguments, program = hash_shape(space, fields), benchmark_program(space)
    ways = {"our own writer": partial(written_rows_per_s, space, arguments, rows)}
    if program is not None:
        ways[Path(program).name] = partial(hset_rows_per_s, program, space, arguments, rows)
    found = []
    for name, way in ways.items():
        rates = []
        for pipeline in PIPELINES:
            space.empty()
            rates.append(way(pipeline))
        best = PIPELINES[rates.index(max(rates))]
        text = f"{name} with {best[0]} connections, {best[1]} commands in flight on each"
        say(f"materialize: limit: {text}")
        found.append(_Limit(name, text, partial(way, best)))
    return found[0], found[1] if len(found) > 1 else None


def agreement(limit: float | None, other: float | None) -> str:
    """Whether the limit is one: Redis's own benchmark writes about as fast, where it is there."""
    if limit is None or other is None:
        return "redis-benchmark is not installed: the limit is our own writer's alone"
    factor = limit / other
    agreement = "agree" if 1 / AGREEMENT <= factor <= AGREEMENT else "DISAGREE"
    return f"our own writer and redis-benchmark {agreement}: {factor:.2f} times its rows a second"


def _growth(
    space: Space, ours: Any, views: Views, pair: tuple[View, View], say: Say
) -> float | None:
    seconds: dict[str, list[float]] = {view.name: [] for view in pair}
    for repeat in range(GROWTH_REPEATS):
        for view in pair if repeat % 2 else pair[::-1]:
            say(f"materialize: ours, {view.keys:,} keys")
            seconds[view.name].append(_into_emptied(space, ours, views, view))
    small, large = (seconds[view.name] for view in pair)
    return paired_ratio(large, small)


def _check_equal(space: Space, views: Views, view: View) -> None:
    """What stock reads of its own rows and of ours is the same."""
    numbers = np.random.default_rng(3).choice(view.keys, min(SAMPLE, view.keys), replace=False)
    wanted = [f"{view.name}:{name}" for name in view.features]
    read = {}
    for project in ("stock", "ours"):
        store = open_stock(space, views, project=project)
        with quiet():
            answer = store.get_online_features(features=wanted, entity_rows={KEY: numbers.tolist()})
        read[project] = answer.to_dict()
    compare(read["ours"], read["stock"], "what ours materialized")


def compare(ours: Figures, stock: Figures, what: str) -> None:
    """Stop at the first feature in which two answers, columns of values by name, differ.

    Args:
        ours: columns of values by name.
        stock: those that must be there.
        what: was asked, for the message.

    Raises:
        SynchroChainError: it names the feature, the row and both values.
    """
    if ours.keys() != stock.keys():
        raise SynchroChainError(f"{what} differs from stock: {sorted(ours.keys() ^ stock.keys())}")
    if all(value is None for name, column in stock.items() if name != KEY for value in column):
        raise SynchroChainError(f"{what}: stock itself found nothing to compare with")
    for name, column in stock.items():
        for row, (expected, given) in enumerate(zip(column, ours[name], strict=True)):
            if given != expected or type(given) is not type(expected):
                raise SynchroChainError(
                    f"{what} differs from stock: {name} of row {row} is {given!r}, not {expected!r}"
                )
