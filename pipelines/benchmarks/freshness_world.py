"""A shop with a past, and its next days kept apart as a load for `steady_load`."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pipelines.benchmarks import Say
from pipelines.benchmarks.steady_load import COMMIT_ORDER, HAPPENS
from pipelines.live_databases import LiveDatabases
from pipelines.settings import DATABASE_NAMES, DataConfig

STRETCH: Final = timedelta(hours=12)
_IN_TURN: Final = ("users", "user_sessions", "clickstream")
"""Tables of one database that refer to one another, parents first."""


def make_world(home: Path, users: int, days: int, now: datetime) -> int:
    """Simulate a shop up to `now` (naive UTC) into a data directory.

    Args:
        home: the data directory.
        users: how many shop there.
        days: of history.
        now: its end, UTC and naive.

    Returns:
        How many changes its change logs hold.
    """
    from simulators import WorldConfig, fill_history, load_or_create

    with LiveDatabases.open(config_of(home)) as databases:
        world = load_or_create(home, WorldConfig(users=users, days=days), now)
        fill_history(databases, world, now)
    return sum(last_changes(home).values())


def make_load(world: Path, scratch: Path, count: int, load: Path, say: Say) -> int:
    """Write what happens next in a world into a load file; the world itself stays as it is.

    Args:
        world: a data directory with a simulated shop.
        scratch: a directory to simulate in, removed at the end.
        count: how many changes at least.
        load: the file.
        say: callback with a line on what is going on.

    Returns:
        How many changes the load has.
    """
    from simulators import fill_history, load_or_create

    before = last_changes(world)  # closes the databases, so that the files are complete
    shutil.copytree(world, scratch)
    with LiveDatabases.open(config_of(scratch)) as databases:
        simulation = load_or_create(scratch, None, datetime.min)
        reported = found = 0
        while found < count:
            fill_history(databases, simulation, simulation.simulated_until + STRETCH)
            found = sum(last_changes(scratch).values()) - sum(before.values())
            if found - reported >= count / 5:
                reported = found
                say(f"simulating the load: {min(found, count):,} of {count:,} changes")
    found = _write(scratch, before, load)
    shutil.rmtree(scratch)
    return found


def last_changes(home: Path) -> dict[str, int]:
    """The last `seq` of each change log, 0 for an empty one."""
    found = {}
    for name in DATABASE_NAMES:
        path = live_path(home, name)
        with contextlib.closing(sqlite3.connect(path, timeout=5.0)) as connection:
            (last,) = connection.execute("SELECT max(seq) FROM change_log").fetchone()
            found[name] = int(last or 0)
    return found


def live_path(home: Path, database: str) -> Path:
    """The file of one live database."""
    return home / "live_databases" / f"{database}.db"


def config_of(home: Path) -> DataConfig:
    """The settings of a data directory, whatever the environment says of live databases."""
    urls: dict[str, Any] = {
        f"{name}_url": f"sqlite:///{live_path(home, name)}" for name in DATABASE_NAMES
    }
    return DataConfig(data_dir=home, db_path=home / "live_databases", **urls)


def _write(world: Path, after: dict[str, int], load: Path) -> int:
    """Sort what the change logs hold after these offsets by its event time, over all databases.

    An order's change of status carries no time of its own: it goes with the order before it.
    """
    parts = [
        f"SELECT {rank} AS rank, '{name}' AS database, seq, table_name, op, row, "
        f"{_event_time()} AS t FROM {name}.change_log WHERE seq > {after[name]}"
        for rank, name in enumerate(COMMIT_ORDER)
    ]
    turns = " ".join(f"WHEN '{table}' THEN {turn}" for turn, table in enumerate(_IN_TURN))
    with contextlib.closing(sqlite3.connect(load)) as connection:
        for name in COMMIT_ORDER:
            connection.execute(f"ATTACH ? AS {name}", (str(live_path(world, name)),))
        connection.execute(
            "CREATE TABLE load (position INTEGER PRIMARY KEY, unit INTEGER NOT NULL, "
            "database TEXT NOT NULL, table_name TEXT NOT NULL, op TEXT NOT NULL, row TEXT NOT NULL)"
        )
        cursor = connection.execute(
            f"INSERT INTO load (unit, database, table_name, op, row) "
            f"WITH changes AS ({' UNION ALL '.join(parts)}), timed AS (SELECT rank, database, seq, "
            "table_name, op, row, coalesce(t, max(t) OVER (PARTITION BY table_name "
            "ORDER BY seq), '') AS t FROM changes) "
            "SELECT dense_rank() OVER (ORDER BY t), database, table_name, op, row FROM timed "
            f"ORDER BY t, rank, CASE table_name {turns} ELSE 0 END, seq"
        )
        connection.commit()
        return cursor.rowcount


def _event_time() -> str:
    cases = []
    for table, columns in HAPPENS.items():
        values = [f"json_extract(row, '$.{column}')" for column in columns]
        value = f"coalesce({', '.join(values)})" if len(values) > 1 else values[0]
        only = " AND op = 'I'" if table == "orders" else ""
        cases.append(f"WHEN table_name = '{table}'{only} THEN {value}")
    return f"CASE {' '.join(cases)} END"
