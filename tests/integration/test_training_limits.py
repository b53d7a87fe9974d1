"""Shops that lack something or have too much of it, from their change logs to trained models."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import new_directory, used_directory

from pipelines.batch import BatchProcessor
from pipelines.batch.update import apply
from pipelines.lake.state import PipelineState
from pipelines.models.delay.dataset import build
from pipelines.models.delay.task import GnnTask
from pipelines.models.delay.training import FitConfig
from pipelines.models.fulfilment.shop import read_history
from pipelines.models.fulfilment.task import PpoTask
from pipelines.models.fulfilment.training import PpoConfig
from pipelines.models.fulfilment.world import FulfilmentConfig
from pipelines.models.intent.dataset import make_dataset
from pipelines.models.intent.task import IntentTask
from pipelines.models.intent.transformer import IntentConfig
from pipelines.settings import BatchConfig, DataConfig
from pipelines.training.source import TrainingDataError, TrainingSource
from pipelines.training.task import Trained

INTENT = IntentTask(IntentConfig(width=8, heads=2, members=1, epochs=1))
PPO = PpoTask(
    config=FulfilmentConfig(orders=40, days=2),
    quick_settings=PpoConfig(priced=2, desks=2, steps=80, rollout=40, batch=40, epochs=1),
    quick_episodes=2,
)
QUICK: dict[str, Any] = {"seeds": (0,), "quick": True, "progress": lambda *_: None}


@contextmanager
def altered(shop: Path, **statements: str) -> Iterator[TrainingSource]:
    """A shop whose change logs, by database, were other ones; processed and used inside."""
    with new_directory() as path, used_directory(path):
        shutil.copytree(shop / "live_databases", path / "live_databases")
        for name, script in statements.items():
            with closing(sqlite3.connect(path / "live_databases" / f"{name}.db")) as live:
                live.executescript(script)
        config = BatchConfig(data_dir=path)
        apply(config, PipelineState(config.state_path))
        BatchProcessor(config, DataConfig(data_dir=path)).run_cycle(update=False)
        yield TrainingSource(config)


def again(source: TrainingSource, memory: int | None = None) -> TrainingSource:
    """The same directory, nothing retrieved yet, with so much memory."""
    found = TrainingSource(source.config, _store=source.store)
    if memory is not None:
        found.memory = memory
    return found


POOR_USERS = """
    UPDATE change_log SET row = json_set(row, '$.intent_signals', '{}')
        WHERE table_name = 'user_sessions';
    UPDATE change_log SET row = json_set(row, '$.action', 'view') WHERE table_name = 'clickstream'
        AND json_extract(row, '$.action') IN ('search', 'remove_from_cart');
    UPDATE change_log SET row = json_set(row, '$.region', 'Atlantis') WHERE table_name = 'users'
        AND json_extract(row, '$.user_id') = {lost};
"""
POOR_SUPPLY = """
    DELETE FROM change_log WHERE table_name = 'suppliers';
    UPDATE change_log SET row = json_set(row, '$.base_cost', 9.5) WHERE table_name = 'routes'
        AND op = 'U' AND seq % 7 = 0;
"""


def test_every_model_trains_in_a_poor_shop(small_shop: Path) -> None:
    """No signals, no searches, no suppliers, customers whom no route reaches, changing prices.

    What no model could learn from, and which orders are left out, is in the notes.
    """
    with closing(sqlite3.connect(small_shop / "live_databases" / "orders.db")) as live:
        (lost,) = live.execute(
            "SELECT user_id FROM orders GROUP BY user_id ORDER BY count(*), user_id LIMIT 1"
        ).fetchone()
    users = POOR_USERS.replace("{lost}", str(lost))
    with altered(small_shop, users=users, supply_chain=POOR_SUPPLY) as source:
        trained: dict[str, Trained] = {}
        notes: dict[str, list[str]] = {}
        for task in (INTENT, GnnTask(), PPO):
            mine = again(source)
            data = task.dataset(mine, quick=True)
            more = {"config": FitConfig(epochs=1)} if isinstance(task, GnnTask) else {}
            trained[task.name] = task.train(data, **QUICK, **more)
            notes[task.name] = mine.notes
    assert trained["intent"].unknown == ["intent_score", "urgency_score"]
    assert {"intent_score", "urgency_score"} <= set(trained["ppo"].unknown)
    assert notes["intent"] == notes["gnn"] == []
    (line,) = notes["ppo"]
    assert line.startswith("1 of ")
    assert line.endswith(" orders are left out: 1 whose customer's region no route goes to")


BARE_USERS = """
    UPDATE change_log SET row = json_set(row, '$.action', 'view')
        WHERE json_extract(row, '$.action') = 'purchase';
    UPDATE change_log SET row = json_set(row, '$.region', 'Atlantis') WHERE table_name = 'users';
"""


def test_a_bare_shop_is_told_what_it_lacks(small_shop: Path) -> None:
    """No purchases, no shipments, no customer whom a route reaches: a line each."""
    supply = "DELETE FROM change_log WHERE table_name = 'shipments'"
    with altered(small_shop, users=BARE_USERS, supply_chain=supply) as source:
        for task, line in (
            (INTENT, "0 sessions with a purchase are too few to learn from, 10 are needed"),
            (GnnTask(), "there are no routes or no shipments to learn delays from"),
            (PPO, r"0 orders are too few .* whose customer's region no route goes to"),
        ):
            with pytest.raises(TrainingDataError, match=line):
                task.dataset(again(source), quick=True)


def test_a_data_set_is_thinned_out_where_memory_is_short(in_small_shop: Path) -> None:
    """Fewer sessions, looks or snapshots over the same shop, and a note that says so."""
    source = TrainingSource(BatchConfig(data_dir=in_small_shop))
    whole = again(source)
    everything = make_dataset(whole)
    short = again(source, len(everything) * 15_000 * 9 // 10)
    some = make_dataset(short)
    assert 0.7 * len(everything) < len(some) < len(everything)
    assert some.timestamps.min() < everything.timestamps.min() + np.timedelta64(1, "D")
    assert whole.notes == []
    assert "prefixes of" in short.notes[0]
    assert "evenly over time" in short.notes[-1]

    regions = 6_800_000 * len(set(read_history(again(source)).shop.warehouse_regions))
    short = again(source, 18_000_000 + regions)
    history = read_history(short)
    assert history.shop.look_hours > 3
    assert history.days == read_history(again(source)).days
    assert "routes are looked at every" in short.notes[0]

    whole, short = again(source), again(source, 30_000_000)
    all_of_them, few = build(whole), build(short)
    assert len(np.unique(few.timestamps)) < len(np.unique(all_of_them.timestamps))
    assert few.timestamps.max() > all_of_them.timestamps.max() - np.timedelta64(1, "D")
    assert "hours apart" in short.notes[0]


def test_what_cannot_be_thinned_out_to_fit_is_refused(in_small_shop: Path) -> None:
    """In a line with the shop's size, the estimate and what there is."""
    source = TrainingSource(BatchConfig(data_dir=in_small_shop))
    size = r"would take about [\d.]+ [GM]B of memory to train on, and 1\.0 MB may be used here"
    for make, what in (
        (make_dataset, r"prefixes of [\d,]+ sessions"),
        (read_history, r"\d+ days of \d+ routes, \d+ orders and \d+ positions"),
        (build, r"changes of shipments and [\d,]+ of routes"),
    ):
        with pytest.raises(TrainingDataError, match=f"{what} {size}"):
            make(again(source, 1_000_000))


def test_a_log_of_too_many_events_is_read_by_whole_sessions(in_small_shop: Path) -> None:
    """Of every so many sessions one, with all of its events."""
    from pipelines.models.intent.dataset import read_events

    source = TrainingSource(BatchConfig(data_dir=in_small_shop))
    events = read_events(again(source))
    short = again(source, 4_000_000)
    some = read_events(short)
    assert 0 < len(some.ids) < len(events.ids)
    sizes = dict(zip(events.ids, events.size, strict=True))
    assert all(sizes[name] == size for name, size in zip(some.ids, some.size, strict=True))
    assert "sessions is read" in short.notes[0]


def test_rows_of_a_deleted_session_are_left_out(small_shop: Path) -> None:
    """From its deletion on there is nothing to foretell, whatever the log goes on to say."""
    with closing(sqlite3.connect(small_shop / "live_databases" / "users.db")) as live:
        session, middle = live.execute(
            "SELECT session_id, (SELECT event_timestamp FROM clickstream c WHERE c.session_id = "
            "s.session_id ORDER BY event_timestamp LIMIT 1 OFFSET 4) FROM user_sessions s "
            "WHERE (SELECT count(*) FROM clickstream c WHERE c.session_id = s.session_id) > 9 "
            "AND NOT EXISTS (SELECT 1 FROM clickstream c WHERE c.session_id = s.session_id AND "
            "action = 'purchase') ORDER BY timestamp LIMIT 1"
        ).fetchone()
    script = f"""
        DELETE FROM user_sessions WHERE session_id = '{session}';
        UPDATE change_log SET committed_at = '{middle}' WHERE op = 'D';
    """
    with altered(small_shop, users=script) as source:
        data = make_dataset(source)
    events, at = data.extra["events"], data.extra["at"]
    mine = events.ids[events.session[at]] == session
    assert events.place[at][mine].tolist() == [1, 2, 3, 4]
