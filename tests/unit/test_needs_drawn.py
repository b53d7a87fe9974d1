"""What a drawn group is said to need is enough: its newest rows follow from that alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from random import Random

import duckdb
import pytest
from declarations import Row, compare, load, rows_by_key, run
from drawn_groups import DrawnGroup, drawn_group
from drawn_logs import Logs, drawn_logs

from pipelines.errors import DeclarationError
from pipelines.features.compilers.newest_row import newest_row
from pipelines.features.groups import all_groups
from pipelines.features.views import View
from pipelines.streaming.hot_tables import (
    HASH,
    create_tables,
    eviction,
    feeding,
    hot_values,
    logs_of_view,
    source_of,
)
from pipelines.streaming.warming import _needed
from pipelines.tables.known import LOGS

KEYS = 40
GROUPS = 25


def flowing_groups(rng: Random) -> Iterator[DrawnGroup]:
    """Groups that the real-time flow computes."""
    while True:
        drawn = drawn_group(rng)
        try:
            all_groups((), (drawn.declared,), LOGS)
        except DeclarationError:
            continue
        if View(drawn.declared).is_streamed:
            yield drawn


@pytest.mark.parametrize("way", ["warmed", "evicted"])
def test_newest_rows_follow_from_what_is_needed(way: str) -> None:
    """Of keys whose newest row is not before the watermark; be the rest never taken in, or
    forgotten."""
    rng = Random(20)
    compared = 0
    for drawn, _ in zip(flowing_groups(rng), range(GROUPS), strict=False):
        logs = drawn_logs(rng, drawn.space, KEYS, drawn.widths)
        with closing(duckdb.connect()) as connection:
            load(connection, {name: logs[name] for name in drawn.declared.logs})
            compared += check(connection, drawn, logs, way)
    assert compared > GROUPS * KEYS / 10


def check(connection: duckdb.DuckDBPyConnection, drawn: DrawnGroup, logs: Logs, way: str) -> int:
    """Compare the newest rows; how many keys there were to compare."""
    view = View(drawn.declared)
    whole = newest_of(connection, view)
    times = sorted(row["event_timestamp"] for rows in whole.values() for row in rows)
    watermark = times[len(times) // 2] if times else datetime(2024, 1, 1)
    connection.execute("SET search_path = 'main'")
    create_tables(connection, view)
    for log in logs_of_view(view):
        source = source_of(view, log)
        good = f'main."{log}" WHERE {feeding(view, log)}'
        needed = _needed(source, good, watermark) if source and way == "warmed" else ""
        connection.execute(
            f"INSERT INTO {view.name}.hot_{log} SELECT {hot_values(view, log)} FROM {good} {needed}"
        )
    if way == "evicted":
        for source in view.sources:
            connection.execute(eviction(view, source, watermark))
    for source in view.sources:
        hot = f"{view.name}.hot_{source.log}"
        connection.execute(f"INSERT INTO {view.name}.doing SELECT DISTINCT {HASH} FROM {hot}")
    connection.execute(f"SET search_path = '{view.name}'")
    narrowed = newest_of(connection, view)
    recent = {k: rows for k, rows in whole.items() if rows[0]["event_timestamp"] >= watermark}
    found = {key: narrowed.get(key, []) for key in recent}
    compare(f"{way} at {watermark}: {drawn}", logs, found, recent)
    return len(recent)


def newest_of(
    connection: duckdb.DuckDBPyConnection, view: View
) -> dict[tuple[object, ...], list[Row]]:
    """Each key's newest row."""
    return rows_by_key(view.group, run(connection, newest_row(view.group)))
