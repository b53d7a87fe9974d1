"""The load of the freshness benchmark is a shop like any other: its changes pass every check."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from pipelines.batch import BatchProcessor
from pipelines.benchmarks.freshness_probe import Probes
from pipelines.benchmarks.freshness_world import last_changes, live_path, make_load, make_world
from pipelines.benchmarks.steady_load import HAPPENS, Change, Offer, Shop, play, read_load
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.settings import DATABASE_NAMES

NOW = datetime(2024, 4, 1, 12)
GROUPS = (1, 1, 2, 7, 40, 150)
"""How many changes are committed at once, over and over."""


class Present:
    """Microseconds since 1970; a millisecond later at each look."""

    def __init__(self, instant: datetime) -> None:
        self.microseconds = int(instant.replace(tzinfo=UTC).timestamp() * 1e6)

    def __call__(self) -> int:
        self.microseconds += 1000
        return self.microseconds


@pytest.fixture
def load(tmp_path: Path) -> list[Change]:
    """What happens next in a world that lies in `tmp_path`."""
    make_world(tmp_path, users=120, days=3, now=NOW)
    path = tmp_path / "load.db"
    count = make_load(tmp_path, tmp_path / "next", 3000, path, lambda _: None)
    changes = list(read_load(path))
    assert len(changes) == count >= 3000
    assert not (tmp_path / "next").exists()
    return changes


def written_since(home: Path, database: str, seq: int) -> list[tuple[str, str, dict[str, Any]]]:
    with closing(sqlite3.connect(live_path(home, database))) as connection:
        found = connection.execute(
            "SELECT table_name, op, row FROM change_log WHERE seq > ? ORDER BY seq", (seq,)
        )
        return [(table, op, json.loads(row)) for table, op, row in found]


def commit_in_groups(shop: Shop, changes: Sequence[Change]) -> list[Offer]:
    source, offers = iter(changes), []
    while True:
        for size in GROUPS:
            group = list(islice(source, size))
            if not group:
                return offers
            offers += shop.commit(group)


def test_the_load_passes_the_checks_and_its_event_times_only_grow(
    load: list[Change], processor: BatchProcessor, tmp_path: Path
) -> None:
    """All of it arrives, nothing is refused, no two changes of a database share a time."""
    assert not processor.run_cycle(update=False).quarantined
    before = last_changes(tmp_path)
    shop = Shop({name: live_path(tmp_path, name) for name in DATABASE_NAMES}, Present(NOW))
    offers = commit_in_groups(shop, load)
    shop.close()

    report = processor.run_cycle(update=False)
    assert report.changes == len(load)
    assert not report.quarantined
    assert report.feature_rows.keys() >= {offer.view for offer in offers}
    for name in DATABASE_NAMES:
        instants = [
            next(row[column] for column in HAPPENS[table] if row[column] is not None)
            for table, op, row in written_since(tmp_path, name, before[name])
            if (table, op) != ("orders", "U")  # a change of status leaves the order's time alone
        ]
        assert instants == sorted(set(instants))
        assert not instants or instants[0] > str(NOW)


def test_other_times_keep_their_distance(load: list[Change], tmp_path: Path) -> None:
    """A shipment is as late as the simulator made it."""
    before = last_changes(tmp_path)["supply_chain"]
    shop = Shop({name: live_path(tmp_path, name) for name in DATABASE_NAMES}, Present(NOW))
    shipments = [change for change in load if change.table == "shipments"]
    with closing(sqlite3.connect(tmp_path / "load.db")) as connection:
        simulated = [
            json.loads(row)
            for (row,) in connection.execute(
                "SELECT row FROM load WHERE table_name = 'shipments' ORDER BY position"
            )
        ]
    commit_in_groups(shop, shipments)
    shop.close()
    played = [row for _, _, row in written_since(tmp_path, "supply_chain", before)]
    assert [distances(row) for row in played] == [distances(row) for row in simulated]
    assert any(row["delivered_at"] for row in played)


def distances(row: dict[str, Any]) -> list[timedelta | None]:
    """From the shipping to the promise and to the delivery."""
    shipped = datetime.fromisoformat(row["shipped_at"])
    times = (row["promised_at"], row["delivered_at"])
    return [time and datetime.fromisoformat(time) - shipped for time in times]


def test_a_view_of_which_nothing_was_committed_has_no_latency() -> None:
    """It is in the answer, with nulls, beside those that were probed."""
    found = Probes(latencies={"user_intent": [2.0, 4.0]}).figures()
    assert found["probes"] == 2
    assert found["by_view"].keys() == VIEWS_BY_NAME.keys()
    assert found["by_view"]["user_intent"] == {"probes": 2, "p50_ms": 4.0, "p99_ms": 4.0}
    assert found["by_view"]["user_orders"] == {"probes": 0, "p50_ms": None, "p99_ms": None}


def test_changes_are_committed_when_they_are_due(load: list[Change]) -> None:
    """At the rate asked for, what happened at one time together, whatever a commit takes."""
    now, groups = [0.0], []

    def commit(changes: Sequence[Change]) -> None:
        groups.append([change.unit for change in changes])
        now[0] += 0.001

    def sleep(seconds: float) -> None:
        now[0] += seconds

    report = play(load[:1000], 500.0, commit, clock=lambda: now[0], sleep=sleep)
    assert report["changes"] == sum(map(len, groups)) == 1000
    assert report["seconds"] == pytest.approx(2.0, abs=0.02)
    assert report["late_max_ms"] < 10
    units = [unit for group in groups for unit in sorted(set(group))]
    assert units == sorted(set(units))
