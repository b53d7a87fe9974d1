"""A shop at a steady rate: commits the changes of a simulated world as if they happened now.

A process of its own, so that it stands to the streamer as a real shop does. It reads commands from
standard input and answers on standard output, a JSON document a line:

    {"prepare": 30000}                 → {"ready": 30000}           fewer when the load runs out
    {"play": 500.0}                    → {"offers": [...]} … {"done": {...}}

Changes go into the live tables, and the triggers there write the change log. An event time is the
instant just before its commit, at least a microsecond after the one before; another time in a row
keeps its distance to it. What the simulator did at one instant is committed together: one
transaction per database, parents first.
"""

from __future__ import annotations

import gc
import json
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from pipelines.lake.clock import unix_now
from pipelines.live_databases import METADATA
from pipelines.settings import DATABASE_NAMES

COMMIT_ORDER: Final = ("users", "orders", "inventory", "supply_chain")
HAPPENS: Final[Mapping[str, tuple[str, ...]]] = {
    "users": ("signed_up_at",),
    "user_sessions": ("timestamp",),
    "clickstream": ("event_timestamp",),
    "orders": ("order_timestamp",),
    "inventory": ("updated_at",),
    "routes": ("updated_at",),
    "shipments": ("delivered_at", "shipped_at"),
}
"""The column that says when a change happened: the first one that is not null."""
SHOWN_IN: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "user_sessions": ("user_intent", ("user_id",)),
    "clickstream": ("session_events", ("session_id",)),
    "orders": ("user_orders", ("user_id",)),
    "inventory": ("inventory_levels", ("warehouse_id", "product_id")),
    "routes": ("route_conditions", ("route_id",)),
    "shipments": ("route_conditions", ("route_id",)),
}
"""The feature view that a change shows in, and the view's entity key."""
LARGEST_GROUP: Final = 1000
_MICROSECOND: Final = timedelta(microseconds=1)
_EPOCH: Final = datetime(1970, 1, 1)


class Change(NamedTuple):
    """One change, ready to be written.

    `unit` numbers the simulated instants; `at` is the place in `values` of the time at which it
    happens, −1 for none; `others` are places of other times, with their distance in microseconds.
    """

    unit: int
    database: str
    table: str
    sql: str
    values: list[Any]
    at: int
    others: tuple[tuple[int, int], ...]
    view: str | None
    key: dict[str, Any]


class Offer(NamedTuple):
    """The newest change of a view in one commit, for a prober to look for.

    `event` is microseconds since 1970, `committed` is `time.monotonic_ns()`; `changes` is how many
    changes of the view the group had.
    """

    view: str
    key: dict[str, Any]
    event: int
    committed: int
    changes: int


@dataclass(frozen=True)
class _Plan:
    sql: str
    columns: tuple[str, ...]
    times: tuple[str, ...]


def read_load(path: Path) -> Iterator[Change]:
    """The changes of a load file (`freshness_world.make_load`), in the order of their instants."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        for unit, database, table, op, row in connection.execute(
            "SELECT unit, database, table_name, op, row FROM load ORDER BY position"
        ):
            yield _change(unit, database, table, op, json.loads(row))
    finally:
        connection.close()


class Shop:
    """Writes changes into the live databases.

    Args:
        paths: of the databases, by name.
        now: microseconds since 1970, UTC.
    """

    def __init__(self, paths: Mapping[str, Path], now: Callable[[], int]) -> None:
        self._now = now
        self._last = 0
        self._databases = {name: _connect(path) for name, path in paths.items()}

    def commit(self, changes: Sequence[Change]) -> list[Offer]:
        """Write changes as happening now, one transaction per database."""
        first = max(self._now(), self._last + 1)
        parts: dict[str, list[tuple[int, Change]]] = {}
        # The clock goes on by a microsecond a change, in the order in which they are committed.
        for instant, change in enumerate(sorted(changes, key=_commit_order), first):
            _set_times(change, instant)
            parts.setdefault(change.database, []).append((instant, change))
        self._last = first + len(changes) - 1
        offers: list[Offer] = []
        for name in COMMIT_ORDER:
            if name in parts:
                self._write(self._databases[name], [change for _, change in parts[name]])
                offers += _offers(parts[name], time.monotonic_ns())
        return offers

    def close(self) -> None:
        """Close the databases."""
        for connection in self._databases.values():
            connection.close()

    def _write(self, connection: sqlite3.Connection, changes: Sequence[Change]) -> None:
        execute = connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            for change in changes:
                if execute(change.sql, change.values).rowcount != 1:
                    raise RuntimeError(f"{change.table} has no row for {change.values}")
        except BaseException:
            execute("ROLLBACK")
            raise
        execute("COMMIT")


def play(
    changes: Sequence[Change],
    rate: float,
    commit: Callable[[Sequence[Change]], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Any] = time.sleep,
) -> dict[str, Any]:
    """Commit changes at `rate` a second: each unit when it is due, at high rates what is due.

    Args:
        changes: in order.
        rate: changes a second.
        commit: commits some of them.
        clock: seconds, monotonic.
        sleep: waits that many seconds.

    Returns:
        How many there were, the seconds taken, and how late commits were, in milliseconds.
    """
    pause = 0.002 if rate <= 1000 else 0.005 if rate <= 5000 else 0.01
    late: list[float] = []
    began, done = clock(), 0
    while done < len(changes):
        now = clock()
        due = int((now - began) * rate) + 1
        if due <= done:
            sleep(max(began + done / rate - now, 0.0))
            continue
        end = min(due, len(changes), done + LARGEST_GROUP)
        while end < len(changes) and changes[end].unit == changes[end - 1].unit:
            end += 1
        commit(changes[done:end])
        late.append(clock() - began - done / rate)
        done = end
        sleep(max(now + pause - clock(), 0.0))
    late.sort()
    return {
        "changes": done,
        "seconds": clock() - began,
        "late_p50_ms": _milliseconds(late, 0.5),
        "late_p99_ms": _milliseconds(late, 0.99),
        "late_max_ms": _milliseconds(late, 1.0),
    }


def _milliseconds(ordered: list[float], share: float) -> float:
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1e3, 2)


def _connect(path: Path) -> sqlite3.Connection:
    # Opened as the shop of the simulators opens it: see pipelines/live_databases.py.
    connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _commit_order(change: Change) -> tuple[int, int]:
    return _RANKS[change.database], change.unit


def _offers(written: Sequence[tuple[int, Change]], committed: int) -> list[Offer]:
    newest: dict[str, tuple[int, Change]] = {}
    counts: Counter[str] = Counter()
    for instant, change in written:
        if change.view is not None:
            newest[change.view] = instant, change
            counts[change.view] += 1
    return [
        Offer(view, change.key, instant, committed, counts[view])
        for view, (instant, change) in newest.items()
    ]


def _set_times(change: Change, instant: int) -> None:
    if change.at < 0:
        return
    change.values[change.at] = _text(instant)
    for place, distance in change.others:
        change.values[place] = _text(instant + distance)


def _text(instant: int) -> str:
    return f"{_EPOCH + instant * _MICROSECOND:%Y-%m-%d %H:%M:%S.%f}"


def _change(unit: int, database: str, table: str, op: str, row: dict[str, Any]) -> Change:
    plan = _PLANS[table, op]
    values = [row[column] for column in plan.columns]
    happens = next((name for name in plan.times if row[name] is not None), None)
    at, view = -1, None
    others: tuple[tuple[int, int], ...] = ()
    key: dict[str, Any] = {}
    if happens is not None:
        at = plan.columns.index(happens)
        event_time = datetime.fromisoformat(row[happens])
        others = tuple(
            (place, (datetime.fromisoformat(row[name]) - event_time) // _MICROSECOND)
            for place, name in enumerate(plan.columns)
            if name in _TIMES[table] and place != at and row[name] is not None
        )
        if table in SHOWN_IN and (table != "shipments" or row["delivered_at"] is not None):
            view, names = SHOWN_IN[table]
            key = {name: row[name] for name in names}
    return Change(unit, database, table, plan.sql, values, at, others, view, key)


def _plan(table: sa.Table, op: str) -> _Plan:
    keys = tuple(column.name for column in table.primary_key)
    columns = tuple(table.columns.keys())
    happens = HAPPENS.get(table.name, ())
    where = " AND ".join(f'"{name}" = ?' for name in keys)
    if op == "I":
        names = ", ".join(f'"{name}"' for name in columns)
        marks = ", ".join("?" * len(columns))
        return _Plan(f'INSERT INTO "{table.name}" ({names}) VALUES ({marks})', columns, happens)
    if op == "D":
        return _Plan(f'DELETE FROM "{table.name}" WHERE {where}', keys, ())
    changed = tuple(name for name in columns if name not in keys)
    if table.name == "orders":  # only its status changes; when it was placed is a fact
        changed, happens = ("status",), ()
    values = ", ".join(f'"{name}" = ?' for name in changed)
    return _Plan(f'UPDATE "{table.name}" SET {values} WHERE {where}', (*changed, *keys), happens)


_TABLES: Final = {t.name: t for name in DATABASE_NAMES for t in METADATA[name].sorted_tables}
_TIMES: Final = {
    name: {column.name for column in table.columns if isinstance(column.type, sa.DateTime)}
    for name, table in _TABLES.items()
}
_PLANS: Final = {(t.name, op): _plan(t, op) for t in _TABLES.values() for op in "IUD"}
_RANKS: Final = {name: rank for rank, name in enumerate(COMMIT_ORDER)}


def main(load: Path, folder: Path) -> None:
    """Take commands until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    shop = Shop({n: folder / f"{n}.db" for n in DATABASE_NAMES}, lambda: int(unix_now() * 1e6))
    source = read_load(load)
    prepared: list[Change] = []

    def answer(name: str, value: Any) -> None:
        sys.stdout.write(json.dumps({name: value}, separators=(",", ":")) + "\n")
        sys.stdout.flush()

    def commit(changes: Sequence[Change]) -> None:
        offers = shop.commit(changes)
        if offers:
            answer("offers", offers)

    for line in sys.stdin:
        command = json.loads(line)
        if "prepare" in command:
            prepared = list(islice(source, command["prepare"]))
            gc.collect()
            gc.freeze()
            gc.disable()  # a pause of its own would look like the streamer's
            answer("ready", len(prepared))
        else:
            before = time.process_time()
            report = play(prepared, command["play"], commit)
            report["cpu_seconds"] = round(time.process_time() - before, 3)
            report["clicks"] = sum(change.table == "clickstream" for change in prepared)
            prepared = []
            gc.enable()
            gc.unfreeze()
            answer("done", report)
    shop.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
