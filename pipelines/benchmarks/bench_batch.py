"""The batch flow in numbers: a backfill against pandas, and a small cycle on a long history.

Both sides of the backfill start from the same live databases and end with the same five views in
Parquet files; both are timed in this run, in turns, each time in a fresh process (so neither
suffers from the other's memory) and without the time it takes to import its libraries; compiling
the features is timed. Ours does more in that time: it checks every row, writes the processed logs
too, checksums pages and files, and syncs them. Medians are reported, and every run beside them.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil
import sqlalchemy as sa

from pipelines import live_databases as live
from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.benchmarks import Say
from pipelines.benchmarks.batch_equality import differing_rows, fingerprints
from pipelines.benchmarks.pandas_features import features_from_change_logs
from pipelines.errors import SynchroChainError
from pipelines.features.views import VIEWS
from pipelines.lake.clock import utc_now
from pipelines.live_databases import LiveDatabases
from pipelines.settings import DATABASE_NAMES, DataConfig, foreign_environment

ROUNDS: Final = 3
CYCLES: Final = 7
CLICKS_PER_DAY: Final = 1.25
"""Of a user of the simulated shop, on average."""
SESSIONS, CLICKS_PER_SESSION, ROUTES, DELIVERIES, STOCKS, ORDERS = 125, 6, 75, 15, 12, 8
"""A thousand changes, in the proportions of a simulated shop of a million clickstream events."""
CHANGES: Final = SESSIONS * (1 + CLICKS_PER_SESSION) + ROUTES + 2 * DELIVERIES + STOCKS + ORDERS
UNBOUNDED: Final = 2**40
"""Bytes; more than any machine has that this runs on."""


def measure(
    events: int = 1_000_000,
    say: Say = print,
    *,
    days: int = 30,
    rounds: int = ROUNDS,
    cycles: int = CYCLES,
) -> dict[str, Any]:
    """Run the benchmark in a temporary directory, which is removed at the end.

    Args:
        events: clickstream events of the large world, about; the small one has a tenth.
        say: callback with a line on what is going on.
        days: how much time the events are spread over.
        rounds: how often each side backfills.
        cycles: how many small cycles are measured in each world.

    Returns:
        Rows are changes read from the change logs, per second from end to end.

    Raises:
        SynchroChainError: the two sides' features are not equal, or a side failed.
    """
    with tempfile.TemporaryDirectory(prefix="synchrochain-bench-") as folder:
        home = Path(folder)
        large = _world(home / "large", events, days, say)
        small = _world(home / "small", events // 10, days, say)
        backfill = _backfill(home, large, rounds, say)
        say("backfilling the small world")
        _run_aside("ours", small, home / "ours-small")
        outputs = {large: home / "ours", small: home / "ours-small"}
        small_cycles = _cycles(outputs, cycles, say)
    return {
        **backfill,
        "cycle_ratio_10x_history": _ratio(small_cycles[large], small_cycles[small]),
        "cycle_changes": CHANGES,
        "cycle_seconds": small_cycles[large],
        "cycle_seconds_tenth_history": small_cycles[small],
        **_versions(),
    }


def measure_memory(events: int, memory: int, say: Say = print, *, days: int = 30) -> dict[str, Any]:
    """Backfill once within a bound of memory and once without, in a temporary directory.

    Args:
        events: clickstream events of the world, about.
        memory: `BatchConfig.memory` of the first, bytes.
        say: callback with a line on what is going on.
        days: how much time the events are spread over.

    Returns:
        Of both the seconds and the most resident memory that the process ever had.

    Raises:
        SynchroChainError: the two publish other features, or one failed.
    """
    with tempfile.TemporaryDirectory(prefix="synchrochain-bench-") as folder:
        home = Path(folder)
        world = _world(home / "world", events, days, say)
        runs, features = {}, {}
        for name, bound in (("bounded", memory), ("unbounded", UNBOUNDED)):
            run = runs[name] = _run_aside("ours", world, home / name, str(bound))
            say(f"{name}: {run['seconds']:.1f} s, {run['peak_bytes']:,} bytes")
            features[name] = fingerprints(home / name)
            shutil.rmtree(home / name)
    if features["bounded"] != features["unbounded"]:
        raise SynchroChainError(f"other features within {memory:,} bytes: {features}")
    found = runs["bounded"]
    return {
        "changes": found["changes"],
        "clickstream_events": found["clickstream"],
        "feature_rows": found["feature_rows"],
        "memory_bytes": memory,
        "equal": True,
        **{
            f"{name}_{figure}": run[figure]
            for name, run in runs.items()
            for figure in ("peak_bytes", "seconds", "steps")
        },
        **_versions(),
    }


def _versions() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("duckdb", "pandas", "pyarrow")},
        "cores": os.cpu_count(),
    }


def _world(home: Path, events: int, days: int, say: Say) -> Path:
    """A simulated shop in a new directory."""
    from simulators import WorldConfig, fill_history, load_or_create

    now = utc_now()
    config = WorldConfig(users=max(20, round(events / days / CLICKS_PER_DAY)), days=days)
    reported = [0.0]

    def progress(done: float, rows: int) -> None:
        if done >= reported[0]:
            say(f"simulating {config.users:,} users: {done:.0%}, {rows:,} rows")
            reported[0] = done + 0.2

    with LiveDatabases.open(_data(home)) as databases:
        fill_history(databases, load_or_create(home, config, now), now, progress)
    return home


def _backfill(home: Path, world: Path, rounds: int, say: Say) -> dict[str, Any]:
    """Both sides in turns, and whether they agree."""
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "pandas": []}
    for turn in range(rounds):
        for side, found in runs.items():
            if (home / side).exists():
                shutil.rmtree(home / side)
            found.append(_run_aside(side, world, home / side))
            say(f"backfill {turn + 1} of {rounds}, {side}: {found[-1]['seconds']:.2f} s")
    say("comparing the results")
    differing = differing_rows(home / "ours", home / "pandas")
    if any(differing.values()):
        raise SynchroChainError(f"ours and pandas differ, in rows of a view: {differing}")
    ours, pandas = ([run["seconds"] for run in runs[side]] for side in ("ours", "pandas"))
    last = runs["ours"][-1]
    changes = last["changes"]
    if last["without_rows"]:
        say(f"nothing to compare in {', '.join(last['without_rows'])}: this world has no such rows")
    return {
        "rows_per_s": round(changes / statistics.median(ours)),
        "pandas_rows_per_s": round(changes / statistics.median(pandas)),
        "ratio": _ratio(pandas, ours),
        "equal": True,
        "changes": changes,
        "clickstream_events": last["clickstream"],
        "feature_rows": last["feature_rows"],
        "views_without_rows": last["without_rows"],
        "seconds": ours,
        "steps": last["steps"],
        "pandas_seconds": pandas,
        "peak_bytes": max(run["peak_bytes"] for run in runs["ours"]),
        "pandas_peak_bytes": max(run["peak_bytes"] for run in runs["pandas"]),
        "written_bytes": last["bytes"],
        "pandas_written_bytes": runs["pandas"][-1]["bytes"],
    }


def _cycles(outputs: dict[Path, Path], count: int, say: Say) -> dict[Path, list[float]]:
    """Seconds of small cycles in each world, in turns; the first of each is not counted."""
    seconds: dict[Path, list[float]] = {world: [] for world in outputs}
    for number in range(count + 1):
        for world, output in outputs.items():
            data = _data(world)
            _append_changes(data, random.Random(number))
            processor = BatchProcessor(_config(output), data)
            started = time.perf_counter()
            report = processor.run_cycle(update=False)
            took = time.perf_counter() - started
            if report.changes != CHANGES or report.quarantined:
                raise SynchroChainError(f"a cycle took in {report.changes} of {CHANGES} changes")
            if number:
                seconds[world].append(round(took, 4))
    for world, found in seconds.items():
        say(f"cycle of {CHANGES} changes, {world.name} world: {statistics.median(found):.3f} s")
    return seconds


def _append_changes(data: DataConfig, dice: random.Random) -> None:
    """What happens in a shop meanwhile, written as any shop writes it: into the live tables."""
    with LiveDatabases.open(data) as databases:
        write = {name: databases[name].begin for name in DATABASE_NAMES}
        with write["inventory"]() as stock, write["users"]() as shop:
            places = _some(stock, live.inventory, ["warehouse_id", "product_id"], STOCKS, dice)
            clock = _Clock()
            for place in places:
                stock.execute(
                    sa.update(live.inventory)
                    .where(*(live.inventory.c[name] == value for name, value in place.items()))
                    .values(current_stock=dice.randrange(200), updated_at=clock())
                )
            users = [row["user_id"] for row in _some(shop, live.users, ["user_id"], SESSIONS, dice)]
            _insert_sessions(shop, users, places[0]["product_id"], dice, clock)
        with write["orders"]() as shop:
            _insert_orders(shop, users[:ORDERS], places[:ORDERS], clock)
        with write["supply_chain"]() as roads:
            routes = [
                row["route_id"] for row in _some(roads, live.routes, ["route_id"], ROUTES, dice)
            ]
            _move_goods(roads, routes, places[0]["warehouse_id"], dice, clock)


class _Clock:
    """A microsecond later with every call."""

    def __init__(self) -> None:
        self._now = utc_now()

    def __call__(self) -> datetime:
        self._now += timedelta(milliseconds=1)
        return self._now


def _some(
    connection: sa.Connection, table: sa.Table, columns: list[str], count: int, dice: random.Random
) -> list[dict[str, Any]]:
    """Rows drawn from a table, repeated where it has too few."""
    query = sa.select(*(table.c[name] for name in columns)).order_by(*table.primary_key)
    found = [dict(row) for row in connection.execute(query).mappings()]
    return dice.sample(found, count) if len(found) >= count else dice.choices(found, k=count)


def _insert_sessions(
    shop: sa.Connection, users: list[int], product: str, dice: random.Random, clock: _Clock
) -> None:
    event = shop.scalar(sa.select(sa.func.max(live.clickstream.c.event_id))) or 0
    for number, user in enumerate(users):
        who = {"session_id": f"bench-{event}-{number}", "user_id": user}
        started = clock()
        shop.execute(
            sa.insert(live.user_sessions).values(
                **who,
                products_viewed=[product],
                actions_performed=["view", "add_to_cart"],
                session_duration=dice.randrange(600),
                timestamp=started,
                intent_signals={"time_on_page": 9.5, "scroll_depth": 0.5, "click_rate": 0.2},
            )
        )
        clicks = [
            {
                "event_id": event + number * CLICKS_PER_SESSION + click + 1,
                "product_id": product,
                "action": dice.choice(live.ACTIONS),
                "time_on_page": dice.uniform(0, 60),
                "scroll_depth": dice.random(),
                "event_timestamp": clock(),
                **who,
            }
            for click in range(CLICKS_PER_SESSION)
        ]
        shop.execute(sa.insert(live.clickstream), clicks)


def _insert_orders(
    shop: sa.Connection, users: list[int], places: list[dict[str, Any]], clock: _Clock
) -> None:
    last = shop.scalar(sa.select(sa.func.max(live.orders.c.id))) or 0
    rows = [
        {
            "id": last + number + 1,
            "user_id": user,
            "quantity": 2,
            "price": "19.90",
            "shipping_method": "express",
            "order_timestamp": clock(),
            "status": "placed",
            **place,
        }
        for number, (user, place) in enumerate(zip(users, places, strict=True))
    ]
    shop.execute(sa.insert(live.orders), rows)


def _move_goods(
    roads: sa.Connection, routes: list[str], warehouse: str, dice: random.Random, clock: _Clock
) -> None:
    for route in routes:
        roads.execute(
            sa.update(live.routes)
            .where(live.routes.c.route_id == route)
            .values(congestion=dice.random(), updated_at=clock())
        )
    last = roads.scalar(sa.select(sa.func.max(live.shipments.c.shipment_id))) or 0
    for number in range(DELIVERIES):
        sent = clock() - timedelta(hours=5)
        roads.execute(
            sa.insert(live.shipments).values(
                shipment_id=last + number + 1,
                route_id=routes[number],
                warehouse_id=warehouse,
                shipping_method="express",
                weight_kg=2.0,
                cost=5.0,
                carbon_kg=0.5,
                shipped_at=sent,
                promised_at=sent + timedelta(hours=dice.randrange(1, 9)),
                status="in_transit",
            )
        )
        roads.execute(
            sa.update(live.shipments)
            .where(live.shipments.c.shipment_id == last + number + 1)
            .values(delivered_at=clock(), status="delivered")
        )


def _data(world: Path) -> DataConfig:
    # Named one by one: no variable of the caller's may send this to a real database.
    folder = world / "live_databases"
    urls: dict[str, Any] = {
        f"{name}_url": f"sqlite:///{folder / name}.db" for name in DATABASE_NAMES
    }
    return DataConfig(data_dir=world, db_path=folder, **urls)


def _config(output: Path, **values: Any) -> BatchConfig:
    store = output / "feature_store"
    return BatchConfig(
        data_dir=output,
        feature_store_path=store,
        processed_data_path=output / "processed",
        **values,
    )


def _ours(world: Path, output: Path, memory: str | None = None) -> dict[str, Any]:
    bound = {} if memory is None else {"memory": int(memory)}
    processor = BatchProcessor(_config(output, **bound), _data(world))
    _import("adbc_driver_sqlite.dbapi", "ibis.expr.sql", "ibis.backends.sql.compilers")
    started = time.perf_counter()
    report = processor.run_cycle(update=False)
    seconds = time.perf_counter() - started
    if report.quarantined:
        raise SynchroChainError(f"rows of the simulated world were rejected: {report.quarantined}")
    files = [file for kind in ("view", "log") for file in processor.state.files(kind)]
    return {
        "seconds": round(seconds, 3),
        "changes": report.changes,
        "clickstream": report.accepted.get("clickstream", 0),
        "feature_rows": sum(report.feature_rows.values()),
        "without_rows": [view.name for view in VIEWS if not report.feature_rows.get(view.name)],
        "steps": report.seconds,
        "bytes": sum(file.bytes for file in files),
        "peak_bytes": _own_peak(),
    }


def _own_peak() -> int:
    """The most resident memory that this process ever had, where the system says it; else 0."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return 0
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _pandas(world: Path, output: Path) -> dict[str, Any]:
    _import("pyarrow.parquet")
    output.mkdir()
    folder = world / "live_databases"
    started = time.perf_counter()
    frames = features_from_change_logs({name: folder / f"{name}.db" for name in DATABASE_NAMES})
    for view, frame in frames.items():
        frame.to_parquet(output / f"{view}.parquet")
    seconds = time.perf_counter() - started
    written = sum(path.stat().st_size for path in output.iterdir())
    return {"seconds": round(seconds, 3), "bytes": written}


def _import(*names: str) -> None:
    """What a side would import at its first use."""
    for name in names:
        import_module(name)


def _run_aside(side: str, world: Path, output: Path, *options: str) -> dict[str, Any]:
    """One side in a process of its own, with the most memory that it held."""
    command = [sys.executable, __file__, side, str(world), str(output), *options]
    with subprocess.Popen(
        command,
        env=foreign_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            peak = _peak_while(process)
            printed, complaint = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        reason = complaint.strip().splitlines()[-1:] or [f"status {process.returncode}"]
        raise SynchroChainError(f"benchmark, {side}: {reason[0]}")
    found: dict[str, Any] = json.loads(printed)
    return {**found, "peak_bytes": max(peak, found.get("peak_bytes", 0))}


def _peak_while(process: subprocess.Popen[str]) -> int:
    peak = 0
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.05)
    return peak


def _ratio(slow: list[float], fast: list[float]) -> float:
    return round(statistics.median(slow) / statistics.median(fast), 2)


if __name__ == "__main__":
    sides: dict[str, Any] = {"ours": _ours, "pandas": _pandas}
    print(json.dumps(sides[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])))
