"""Cycle after cycle, what a drawn group's batch plan computes anew adds up to all of history."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime, timedelta
from random import Random

import duckdb
import pytest
from declarations import Key, Row, compare, load
from drawn_groups import DrawnGroup, drawn_group
from drawn_logs import Logs, drawn_logs

from pipelines.batch.affected import affected_rows
from pipelines.errors import DeclarationError
from pipelines.features.groups import all_groups
from pipelines.features.views import View
from pipelines.tables.known import LOGS

KEYS = 25
GROUPS = 6
ROWS_AT_ONCE = 40  # so that most groups are computed in parts
CREATED = datetime(2024, 6, 1)


@pytest.mark.parametrize("cycles", [2, 5])
def test_cycles_add_up_to_the_whole(cycles: int) -> None:
    """However the logs are cut, and whatever is late: the newest version of each row is right."""
    rng = Random(cycles)
    made = 0
    while made < GROUPS:
        drawn = drawn_group(rng)
        try:
            all_groups((), (drawn.declared,), LOGS)
        except DeclarationError:
            continue
        made += 1
        check(drawn, drawn_logs(rng, drawn.space, KEYS, drawn.widths), cycles)


def check(drawn: DrawnGroup, logs: Logs, cycles: int) -> None:
    """Run the cycles, and compare with the reference of all that is there."""
    view = View(drawn.declared)
    seqs = sorted(row["seq"] for rows in logs.values() for row in rows)
    cuts = [seqs[len(seqs) * n // cycles] for n in range(cycles)] if seqs else []
    found: dict[Key, dict[datetime, Row]] = {}
    for number, first in enumerate(cuts):
        end = cuts[number + 1] if number + 1 < len(cuts) else seqs[-1] + 1
        with closing(duckdb.connect()) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for prefix, low, high in (("old", 0, first), ("new", first, end)):
                part = {
                    name: [row for row in logs[name] if low <= row["seq"] < high]
                    for name in drawn.declared.logs
                }
                load(connection, part)
                for name in part:
                    connection.execute(f'ALTER TABLE "{name}" RENAME TO {prefix}_{name}')
            created = CREATED + timedelta(days=number)
            for batch in affected_rows(connection, view, created, rows_at_once=ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    row.pop("created_timestamp")
                    key = tuple(row[name] for name in view.keys)
                    found.setdefault(key, {})[row["event_timestamp"]] = row
    wanted = drawn.meaning.rows(logs)
    ours = {
        key: [found.get(key, {}).get(row["event_timestamp"], {}) for row in rows]
        for key, rows in wanted.items()
    }
    for key, rows in wanted.items():
        missing = [
            r["event_timestamp"] for r, mine in zip(rows, ours[key], strict=True) if not mine
        ]
        assert not missing, f"{cycles} cycles: {drawn}\n{key} has no rows at {missing}"
    compare(f"{cycles} cycles: {drawn}", logs, ours, wanted)
