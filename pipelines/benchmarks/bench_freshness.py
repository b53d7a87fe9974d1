"""Freshness in numbers: from a commit in SQLite to the features that Feast serves.

Four processes share two cores: a shop that commits at a steady rate (`steady_load`), the streamer,
Redis, and this one, which probes: it takes a change as soon as its commit has returned and reads
`FeatureStore.get_online_features` until the answer is as new as that change. A latency ends with
the return of that read, so none is below `pick_up_ms` + `read_ms`, and on average half a pause of
`freshness_probe.POLL_S` and half a read are in it too. Every change of the shop counts for the
rate, whatever its table; `clicks_per_s` says how many are clickstream events.

The shop has a past of a week, processed by the batch flow; what it does during the measurement is
what the simulator says happens next, at the speed that the rate asks for.
"""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.benchmarks import Say
from pipelines.benchmarks.freshness_probe import LoadProcess, Prober
from pipelines.benchmarks.freshness_run import LONG_S, WARM_UP_S, Bench
from pipelines.benchmarks.freshness_streamer import START_S, Streamer, streamer_command
from pipelines.benchmarks.freshness_world import config_of, make_load, make_world
from pipelines.benchmarks.own_settings import own_settings
from pipelines.errors import SynchroChainError
from pipelines.feast_plugins.repository import open_store
from pipelines.features.views import VIEWS
from pipelines.lake.clock import utc_now
from pipelines.redis_server import find_server, stop_server

USERS: Final = 50_000
DAYS: Final = 7
CORES: Final = 2
STEPS: Final = (2000, 3500, 5000, 6500, 8000, 10_000)
"""Rates that are tried, changes a second."""
TRIAL_S: Final = 15.0
HOLD_S: Final = 60.0
WARM_READS: Final = 200


def measure(
    rate: float = 500,
    seconds: float = 60,
    long: bool = False,
    say: Say = print,
    *,
    max_rate: bool = True,
    steps: Sequence[int] = STEPS,
    trial: float = TRIAL_S,
    hold: float = HOLD_S,
    streamer: Sequence[str] | None = None,
    users: int = USERS,
    days: int = DAYS,
) -> dict[str, Any]:
    """Run the benchmark in a temporary directory, which is removed at the end.

    Args:
        rate: changes a second of the measurement.
        seconds: how long it takes.
        long: also run for 10 minutes and watch the memory.
        say: callback with a line on what is going on.
        max_rate: also look for the highest rate that is held.
        steps: the rates to try, upwards.
        trial: seconds at each rate.
        hold: for how long the highest one must be held then.
        streamer: the command to measure, without its `--data-dir`; `synchrochain stream` if None.
        users: customers of the simulated shop.
        days: of history.

    Raises:
        SynchroChainError: the streamer ended, or never caught up.
    """
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="synchrochain-bench-") as folder,
        own_settings(Path(folder) / "data"),
        _on_few_cores(),
        contextlib.ExitStack() as stack,
    ):
        home, load = Path(folder) / "data", Path(folder) / "load.db"
        count = (WARM_UP_S + seconds + long * LONG_S) * rate
        if max_rate:
            count += trial * sum(steps) + hold * sum(sorted(steps)[-2:])
        say(f"simulating {users:,} users, {days} days")
        past = make_world(home, users, days, utc_now())
        changes = make_load(home, Path(folder) / "next", int(count), load, say)
        say(f"batch cycle over {past:,} changes")
        stack.callback(stop_server, config_of(home))
        BatchProcessor(BatchConfig(data_dir=home), config_of(home)).run_cycle()
        bench = stack.enter_context(
            _bench(home, load, changes, streamer or streamer_command(), say)
        )
        set_up = time.monotonic() - began
        found = bench.measured(rate, seconds)
        if long:
            found |= bench.long(rate)
        if max_rate:
            found |= bench.highest(steps, trial, hold)
        found["rss_mb"] = round(bench.streamer.rss_mb(), 1)
    return {
        "rate": rate,
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "max_rate_per_s": found.pop("max_rate_per_s", None),
        "rss_mb": found["rss_mb"],
        **found,
        "history_changes": past,
        "load_changes": changes,
        "set_up_seconds": round(set_up, 1),
        "python": platform.python_version(),
        "feast": version("feast"),
        "cores": CORES,
    }


@contextlib.contextmanager
def _bench(
    home: Path, load_path: Path, changes: int, command: Sequence[str], say: Say
) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        say("starting the streamer")
        streamer = Streamer(home, command)
        stack.callback(streamer.stop)
        load = LoadProcess(load_path, home / "live_databases")
        stack.callback(load.stop)
        prober = Prober(open_store(BatchConfig(data_dir=home)), load)
        took = streamer.catch_up(START_S)
        if took is None:
            raise SynchroChainError(
                f"the streamer has not caught up within {START_S:.0f} s: {streamer.lag():,} to go"
            )
        for number in range(WARM_READS):
            view = VIEWS[number % len(VIEWS)]
            prober.read(view.name, {k: 1 if k == "user_id" else "none" for k in view.keys})
        endpoint = find_server(config_of(home))
        gc.collect()
        gc.freeze()  # a pause of the prober's would look like the streamer's
        stack.callback(gc.unfreeze)
        redis = endpoint.pid if endpoint else None
        yield Bench(streamer, load, prober, redis, say, streamer.rss_mb(), changes)


@contextlib.contextmanager
def _on_few_cores() -> Iterator[None]:
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cores:
        os.sched_setaffinity(0, sorted(cores)[:CORES])
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
