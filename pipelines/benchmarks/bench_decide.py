"""Decisions in numbers: one by one on one core, in batches, and over HTTP.

A decision is timed from the call to its return: features from Redis through Feast, three models,
the answer, and the record in the log. What keeps the network and the models up to date runs beside
it in threads, as it does in the server. The deciding thread is held to one core; Redis is another
process. `cpu_p50_ms` is what the thread itself computed: when it is far below `p50_ms`, others were
using the machine, as `load_before` (processes that wanted to run in the minute before) says too.
"""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from pipelines.benchmarks import Say
from pipelines.benchmarks.decide_http import round_trips
from pipelines.benchmarks.decide_stopwatch import PARTS, Stopwatch
from pipelines.benchmarks.decide_world import sample_orders, world_at
from pipelines.errors import UsageError
from pipelines.registry.signatures import MODELS
from pipelines.serving.decisions import Decision
from pipelines.serving.forecasts import RULE
from pipelines.serving.loading import Absent
from pipelines.serving.orchestrator import ModelOrchestrator, freeze_garbage
from pipelines.serving.orders import Order

WARM_UP: Final = 200
TOGETHER: Final = 100
BATCHES: Final = 10
HTTP_ORDERS: Final = 500
__all__ = ["PARTS", "measure"]


def measure(
    data_dir: Path | None = None,
    orders: int = 1000,
    say: Say = print,
    *,
    over_http: bool = True,
    models_needed: bool = True,
) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        data_dir: a filled world with registered models; a new, small one is made if None.
        orders: how many are decided one by one.
        say: callback with a line on what is going on.
        over_http: also measure round trips to a server.
        models_needed: whether a missing champion is an error.

    Raises:
        UsageError: there is no filled world, or a champion is missing.
    """
    load = os.getloadavg()[0]
    with world_at(data_dir, say) as (data, batch):
        with ModelOrchestrator.open(data, batch) as orchestrator:
            kinds = _champions(orchestrator, models_needed)
            drawn = sample_orders(orchestrator.databases, orders)
            with _one_core():
                found = _measure(orchestrator, drawn, say)
        if over_http:
            say("orders over HTTP")
            taken = round_trips(drawn[:HTTP_ORDERS], WARM_UP)
            found["http"] = _figures(taken)
    return {
        **found,
        "models": kinds,
        "orders": orders,
        "load_before": round(load, 2),
        "feast": version("feast"),
        "targets": {"p50_ms": 10, "p99_ms": 30, "orders_per_s": 200},
    }


def _measure(orchestrator: ModelOrchestrator, orders: Sequence[Order], say: Say) -> dict[str, Any]:
    say("warming up")
    for order in orders[:WARM_UP]:
        orchestrator.decide(order)
    freeze_garbage()  # as the server does when it has started
    try:
        say(f"{len(orders):,} orders one by one")
        taken, worked, decided = [], [], []
        for order in orders:
            began, busy = time.perf_counter(), time.thread_time()
            decided.append(orchestrator.decide(order))
            taken.append((time.perf_counter() - began) * 1000)
            worked.append((time.thread_time() - busy) * 1000)
        say("the same with a stopwatch")
        stopwatch = Stopwatch()
        for order in orders:
            orchestrator.decide_many([order], stopwatch)
        say(f"{BATCHES} × {TOGETHER} orders together")
        batches = []
        for number in range(BATCHES):
            some = [orders[(number * TOGETHER + n) % len(orders)] for n in range(TOGETHER)]
            began = time.perf_counter()
            orchestrator.decide_many(some)
            batches.append(time.perf_counter() - began)
    finally:
        gc.unfreeze()
    figures = _figures(taken)
    return {
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
        "orders_per_s": round(TOGETHER * BATCHES / sum(batches), 1),
        "max_ms": figures["max_ms"],
        "cpu_p50_ms": round(statistics.median(worked), 2),
        "slowest_batch_ms": round(max(batches) * 1000, 1),
        "p50_ms_by_part": stopwatch.medians(),
        "options_per_order": round(statistics.mean(len(d.alternatives) for d in decided), 1),
        "decided_by_model": _share(decided, lambda d: d.models["decision"].version is not None),
        "without_fallback": _share(decided, lambda d: not d.fallbacks),
        "logged": _share(decided, lambda d: d.logged),
    }


def _champions(orchestrator: ModelOrchestrator, needed: bool) -> dict[str, str]:
    kinds = {}
    for model in MODELS:
        found = orchestrator.models.get(model)
        if isinstance(found, Absent):
            if needed:
                raise UsageError(f"there is nothing to measure yet: {found.why}")
            kinds[model] = RULE
        else:
            kinds[model] = f"{found.kind} {found.version}"
    return kinds


def _figures(taken: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return {
        "p50_ms": round(cuts[49], 2),
        "p99_ms": round(cuts[98], 2),
        "max_ms": round(max(taken), 2),
    }


def _share(decided: Sequence[Decision], holds: Callable[[Decision], bool]) -> float:
    return round(sum(map(holds, decided)) / len(decided), 3)


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Hold this thread to one core; those that are running already stay where they are."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
