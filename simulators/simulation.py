"""Playing a world: the past as fast as it goes, the present in step with the clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import simpy
import sqlalchemy as sa

from pipelines.errors import SimulationError, UsageError
from pipelines.live_databases import LiveDatabases, orders, shipments, translate_errors, users
from simulators.checkpoint import Simulation
from simulators.feed import Feed
from simulators.fulfilment import Fulfilment, Process
from simulators.outbox import Outbox
from simulators.transit import condition_rows
from simulators.world import DAY_US, HOUR_US

HISTORY_CHUNK_US: Final = 12 * HOUR_US
LIVE_TICK_S: Final = 0.25
LIVE_SAVE_EVERY_S: Final = 5.0

Progress = Callable[[float, int], None]


@dataclass(frozen=True)
class SimulationReport:
    """What a run wrote.

    Attributes:
        rows: inserted or changed rows by table (change_log rows not counted).
        seconds: wall-clock time of the run.
        simulated_from: naive UTC, the beginning of the run.
        simulated_until: naive UTC; every row is earlier.
    """

    rows: dict[str, int]
    seconds: float
    simulated_from: datetime
    simulated_until: datetime

    @property
    def total_rows(self) -> int:
        """Rows of all tables."""
        return sum(self.rows.values())


def fill_history(
    databases: LiveDatabases,
    simulation: Simulation,
    until: datetime,
    progress: Progress | None = None,
) -> SimulationReport:
    """Simulate from where the world stands to `until`, as fast as it goes.

    Schema and first rows are made where they are missing. Nothing happens when the world is
    already past `until`. An interrupt leaves a world that goes on from its last commit.

    Args:
        databases: the four live databases.
        simulation: from `load_or_create`; moves on with the run.
        until: naive UTC.
        progress: called after each commit with the fraction done and the rows written so far.

    Raises:
        SimulationError: the databases do not hold the world that `simulation` is about.
        LiveDatabaseError: a database refused.
    """
    began = time.perf_counter()
    end = simulation.world.microseconds(until)
    first = simulation.state.now
    simulated_from = simulation.simulated_until
    engine = _Engine(databases, simulation)
    rows = 0
    with _saved_state(simulation):
        while simulation.state.now < end:
            # Chunks end on the clock, not relative to the start, so that runs can be compared.
            after = (simulation.state.now // HISTORY_CHUNK_US + 1) * HISTORY_CHUNK_US
            engine.advance(min(after, end))
            rows += engine.outbox.write()
            simulation.save()
            if progress is not None:
                progress((simulation.state.now - first) / (end - first), rows)
    return engine.report(began, simulated_from)


def run_live(
    databases: LiveDatabases,
    simulation: Simulation,
    *,
    speed: float = 1.0,
    stop: threading.Event,
    present: Callable[[], datetime] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Any] | None = None,
    progress: Callable[[datetime, int], None] | None = None,
) -> SimulationReport:
    """Go on from where the world stands, `speed` simulated seconds a second, until `stop` is set.

    Rows are committed within a quarter of a second of their time. At a speed above 1 the world
    runs ahead of the wall clock, unless `present` says what it must not pass: readers refuse rows
    from the future.

    Args:
        databases: the four live databases.
        simulation: from `load_or_create`, brought up to now by `fill_history`.
        speed: above 0.
        stop: set it to end the run after the current commit.
        present: gives the present time, naive UTC; None lets the world run ahead of it.
        clock: seconds, monotonic.
        sleep: waits that many seconds; by default a wait that `stop` cuts short.
        progress: called after each commit with the simulated time and the rows written so far.

    Raises:
        UsageError: `speed` is not above 0.
        SimulationError: the databases do not hold the world that `simulation` is about.
        LiveDatabaseError: a database refused.
    """
    if not speed > 0:
        raise UsageError(f"speed = {speed} is not allowed: it must be above 0")
    wait = stop.wait if sleep is None else sleep
    began, rows = time.perf_counter(), 0
    simulated_from, first = simulation.simulated_until, simulation.state.now
    engine = _Engine(databases, simulation)
    with _saved_state(simulation):
        opened = saved = clock()
        while not stop.is_set():
            wait(LIVE_TICK_S)
            due = first + int((clock() - opened) * speed * 1e6)
            if present is not None:
                due = min(due, simulation.world.microseconds(present()))
            if due <= simulation.state.now:
                continue
            while simulation.state.now < due:
                engine.advance(min(due, simulation.state.now + HISTORY_CHUNK_US))
                rows += engine.outbox.write()
            if clock() - saved >= LIVE_SAVE_EVERY_S:
                simulation.save()
                saved = clock()
            if progress is not None:
                progress(simulation.simulated_until, rows)
        simulation.save()
    return engine.report(began, simulated_from)


class _saved_state:
    """On any failure, go back to what simulation.json says: memory may be half a step ahead."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._simulation.reload()


class _Engine:
    """The SimPy environment of one run, in whole simulated microseconds."""

    def __init__(self, databases: LiveDatabases, simulation: Simulation) -> None:
        self._simulation = simulation
        world, state = simulation.world, simulation.state
        databases.create()
        _check(databases, simulation)
        if not simulation.path.exists():
            simulation.save()  # before the first row, so that a crash is followed by the same world
        self.outbox = Outbox(databases, world)
        self._env = simpy.Environment(initial_time=state.now)
        self._fulfilment = Fulfilment(self._env, world, state, self.outbox)
        self._feed = Feed(world, state, self.outbox)
        self._fulfilment.start()
        if not state.populated:
            self._populate()
        for day in range(max(state.now // DAY_US - 1, 0), state.now // DAY_US):
            self._env.process(self._shop(day))
        self._env.process(self._open_days())

    def advance(self, until: int) -> None:
        """Simulate up to a time, which is itself left for the next call."""
        state = self._simulation.state
        self._env.run(until=until)
        self._feed.emit(state.now, until)
        for hour in range(state.now // HOUR_US, (until - 1) // HOUR_US + 1):
            self.outbox.rows["conditions"] += [
                row
                for row in condition_rows(self._simulation.world, self._fulfilment.transit, hour)
                if state.now <= row[0] < until
            ]
        state.now = until

    def report(self, began: float, simulated_from: datetime) -> SimulationReport:
        """What was written since the engine was made."""
        return SimulationReport(
            rows=dict(self.outbox.written),
            seconds=time.perf_counter() - began,
            simulated_from=simulated_from,
            simulated_until=self._simulation.simulated_until,
        )

    def _open_days(self) -> Process:
        day = int(self._env.now) // DAY_US
        while True:
            self._env.process(self._shop(day))
            day += 1
            yield self._env.timeout(day * DAY_US - self._env.now)

    def _shop(self, day: int) -> Process:
        """Play the purchases of the sessions that start on a day."""
        for basket in self._feed.script(day).baskets:
            if basket.time < self._env.now:
                continue
            yield self._env.timeout(basket.time - self._env.now)
            if self._fulfilment.place(basket):
                self._feed.purchase(day, basket)

    def _populate(self) -> None:
        world, state, rows = self._simulation.world, self._simulation.state, self.outbox.rows
        network, catalogue, people = world.network, world.catalogue, world.population
        now = state.now
        joined = (now - 1 - people.signed_up_before * 1e6).astype("int64").tolist()
        regions = [network.region_ids[region] for region in people.region.tolist()]
        rows["users"] += list(zip(range(1, len(people) + 1), regions, joined, strict=True))
        for w, warehouse_id in enumerate(network.warehouse_ids):
            latitude, longitude = network.warehouse_places[w].round(4).tolist()
            region_id = network.region_ids[network.warehouse_region[w]]
            rows["warehouses"].append(
                (warehouse_id, region_id, latitude, longitude, network.capacity[w])
            )
        rows["products"] += list(
            zip(
                catalogue.ids,
                catalogue.categories,
                catalogue.prices,
                catalogue.weights_kg,
                strict=True,
            )
        )
        for s, supplier_id in enumerate(network.supplier_ids):
            region_id = network.region_ids[network.supplier_region[s]]
            rows["suppliers"].append((supplier_id, region_id, network.lead_time_days[s]))
        conditions = condition_rows(world, self._fulfilment.transit, now // HOUR_US)
        for route, (_, _, congestion, risk) in zip(network.routes, conditions, strict=True):
            rows["routes"].append(
                (
                    route.route_id,
                    route.origin_id,
                    route.destination_id,
                    route.mode,
                    route.distance_km,
                    route.base_hours,
                    route.base_cost,
                    route.carbon_cost,
                    risk,
                    congestion,
                    now - 1,
                )
            )
        self._fulfilment.open()
        state.populated = True


def _check(databases: LiveDatabases, simulation: Simulation) -> None:
    """Make sure that the databases and simulation.json hold the same world."""
    state, path = simulation.state, simulation.path
    people = _scalar(databases["users"], sa.select(sa.func.count()).select_from(users))
    if not path.exists():
        if people:
            raise SimulationError(
                f"the live databases hold rows but {path} is missing: restore that file, or "
                "delete the live databases to start another world"
            )
        return
    last_order = _scalar(databases["orders"], sa.select(sa.func.max(orders.c.id)))
    last_shipment = _scalar(
        databases["supply_chain"], sa.select(sa.func.max(shipments.c.shipment_id))
    )
    expected = simulation.world.config.users if state.populated else 0
    behind = last_order < state.next_order - 1 or last_shipment < state.next_shipment - 1
    if people < expected or behind:
        raise SimulationError(
            f"the live databases are older than {path}: restore both from the same backup, or "
            "delete both to start another world"
        )


def _scalar(engine: sa.Engine, query: sa.Select[Any]) -> int:
    with translate_errors(str(engine.url.database)), engine.connect() as connection:
        return int(connection.execute(query).scalar() or 0)
