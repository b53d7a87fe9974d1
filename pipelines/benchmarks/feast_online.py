"""Online reads: stock Feast, ours, and redis-py alone on the same keys, in alternating blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import islice, pairwise
from typing import Any, Final

import numpy as np

from pipelines.benchmarks import Say
from pipelines.benchmarks.feast_figures import Figures, in_turns, quantiles_ms, ratio
from pipelines.benchmarks.feast_limits import hash_fields, hash_keys, hmget_of
from pipelines.benchmarks.feast_materialize import compare, materialize
from pipelines.benchmarks.feast_space import Space
from pipelines.benchmarks.feast_world import (
    KEY,
    SERVICE,
    VECTORS,
    View,
    apply,
    open_ours,
    open_stock,
    write_views,
)
from pipelines.errors import SynchroChainError
from pipelines.feast_plugins.repository import quiet
from pipelines.redis_server import connect

BLOCKS: Final = 10
WARM_UP: Final = 20
EXPIRES: Final = timedelta(days=90)  # longer than the files reach back
GROWTH: Final = (10, 100, 1000)
GROWTH_REQUESTS: Final = 100

FEATURES: Final = 27
STOCK_SETTINGS: Final = {
    "stock_plain": "read view by view",
    "stock_precomputed": "computed ahead (precompute_online)",
}

Read = Callable[[Sequence[int]], Any]
Prepare = Callable[[Sequence[int]], Callable[[], Any]]


def measure_online(space: Space, stored: int, requests: int, say: Say) -> Figures:
    """Milliseconds of requests for 27 features in 3 views, each of other keys among `stored`.

    Args:
        space: the server and the folder of this benchmark.
        stored: keys that requests choose from.
        requests: of one key; a fifth of them of a hundred keys.
        say: callback with a line on what is going on.

    Raises:
        SynchroChainError: ours and stock do not answer the same.
    """
    say(f"online: generating and materializing 3 views of {stored:,} keys")
    space.empty()
    names = ("clicks", "orders", "returns")
    ttls = (None, EXPIRES, None)
    views = write_views(
        space.folder / "online",
        [View(name, stored, stored, ttl) for name, ttl in zip(names, ttls, strict=True)],
    )
    stock, ours = open_stock(space, views), open_ours(views)
    for store in (stock, ours):
        apply(store, views)
        materialize(store, views, list(views.views))
    say("online: stock computes its vectors ahead")
    apply(stock, views, vectors=True)
    with quiet():
        stock.precompute_feature_service(VECTORS)
    _check_equal(stock, ours, stored)

    fields = [name for view in views.views for name in hash_fields(view)]
    with connect(space.endpoint) as client:

        def limit(users: Sequence[int]) -> Callable[[], Any]:
            run = hmget_of(client, hash_keys("ours", users), fields)
            if any(reply[-1] is None for reply in run()):
                raise SynchroChainError("redis-py found no event time where ours stored one")
            return run

        found: Figures = {}
        for count, requested in ((1, requests), (100, max(requests // 5, BLOCKS))):
            say(f"online: {requested:,} requests of {count} keys")
            found[f"online_{count}"] = _measure(stock, ours, limit, stored, count, requested)
    say("online: growth")
    found["online_growth"] = _growth(ours, stored)
    return found


def asked(store: Any, *, service: str = SERVICE, rows: bool, full: bool = False) -> Read:
    """A request for the service's features, to be sent again and again.

    Args:
        store: a feature store.
        service: its feature service.
        rows: keys as a list of dicts, else as columns.
        full: whether names hold the view's.
    """
    features = store.get_feature_service(service)

    def read(users: Sequence[int]) -> Any:
        keys: Any = [{KEY: user} for user in users] if rows else {KEY: users}
        return store.get_online_features(
            features=features, entity_rows=keys, full_feature_names=full
        )

    return read


def _measure(
    stock: Any, ours: Any, limit: Prepare, stored: int, count: int, requests: int
) -> Figures:
    rows = count == 1
    vectors = asked(stock, service=VECTORS, rows=rows, full=True)
    main = {
        "stock_plain": _to_dict(asked(stock, rows=rows)),
        "stock_precomputed": _to_dict(vectors),
        "ours": _to_dict(asked(ours, rows=rows)),
        "limit": limit,
    }
    beside = {
        "stock_plain_other_form": _to_dict(asked(stock, rows=not rows)),
        "ours_other_form": _to_dict(asked(ours, rows=not rows)),
        "ours_proto": _proto(asked(ours, rows=rows)),
    }
    seconds = _timed({name: (side, count) for name, side in main.items()}, stored, requests)
    fewer = max(requests // 2, BLOCKS)
    seconds |= _timed({name: (side, count) for name, side in beside.items()}, stored, fewer)
    figures: Figures = {}
    for name, taken in seconds.items():
        figures[f"{name}_p50_ms"], figures[f"{name}_p99_ms"] = quantiles_ms(taken)
    fastest = min(("stock_plain", "stock_precomputed"), key=lambda n: figures[f"{n}_p50_ms"])
    return {
        "keys": count,
        "features": FEATURES,
        "requests": requests,
        "entity_rows": "a list of dicts" if rows else "columns",
        "stock_setting": STOCK_SETTINGS[fastest],
        "stock_p50_ms": figures[f"{fastest}_p50_ms"],
        "stock_p99_ms": figures[f"{fastest}_p99_ms"],
        **figures,
        "ratio_to_stock": ratio(figures[f"{fastest}_p50_ms"], figures["ours_p50_ms"]),
        "ratio_to_stock_plain": ratio(figures["stock_plain_p50_ms"], figures["ours_p50_ms"]),
        "ratio_to_limit": ratio(figures["ours_p50_ms"], figures["limit_p50_ms"]),
    }


def _to_dict(read: Read) -> Prepare:
    return lambda users: lambda: read(users).to_dict()


def _proto(read: Read) -> Prepare:
    return lambda users: lambda: read(users).proto


def _timed(
    sides: Mapping[str, tuple[Prepare, int]], stored: int, requests: int
) -> dict[str, list[float]]:
    """Seconds of every request of each side, which names its keys per request.

    The sides take turns, block by block; those with as many keys ask for the same ones.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for prepare, count in sides.values():
        for users in _users(stored, count, WARM_UP, BLOCKS):
            prepare(users)()
    turns = in_turns(sides, BLOCKS)
    for block in range(BLOCKS):
        for name, (prepare, count) in islice(turns, len(sides)):
            drawn = _users(stored, count, requests // BLOCKS, block)
            for run in [prepare(users) for users in drawn]:
                began = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _users(stored: int, count: int, requests: int, seed: int) -> Iterator[list[int]]:
    rng = np.random.default_rng((count, seed))
    for _ in range(requests):
        yield rng.choice(stored, count, replace=count > stored).tolist()


def _growth(ours: Any, stored: int) -> Figures:
    read = _to_dict(asked(ours, rows=False))
    seconds = _timed({str(count): (read, count) for count in GROWTH}, stored, GROWTH_REQUESTS)
    p50 = {count: quantiles_ms(seconds[str(count)])[0] for count in GROWTH}
    figures: Figures = {f"ours_{count}_keys_p50_ms": value for count, value in p50.items()}
    for few, many in pairwise(GROWTH):
        figures[f"from_{few}_to_{many}"] = ratio(p50[many], p50[few])
    return figures


def _check_equal(stock: Any, ours: Any, stored: int) -> None:
    users = [*range(0, stored, max(1, stored // 200)), stored + 1]  # the last one is not there
    for rows in (True, False):
        compare(
            asked(ours, rows=rows)(users).to_dict(),
            asked(stock, rows=rows)(users).to_dict(),
            "what ours answers",
        )
    vectors = asked(stock, service=VECTORS, rows=False, full=True)(users[:-1]).to_dict()
    compare(asked(ours, rows=False, full=True)(users[:-1]).to_dict(), vectors, "what ours answers")
