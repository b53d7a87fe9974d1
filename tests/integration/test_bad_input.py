"""What goes wrong outside: bad rows, damaged files, locked databases, full disks, killed cycles."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
import stamina.instrumentation
from comparing import differences
from conftest import Clock
from live_logs import append_changes, complete_log, offline_rows, parts_of
from random_log import Logs
from reference import VIEWS, compute

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.batch.transform import Validated, transform
from pipelines.change_log.reading import plan, read, readers_of
from pipelines.errors import (
    ChangeLogGapError,
    ContractError,
    CorruptFileError,
    CycleInProgressError,
    LiveDatabaseBusyError,
    LiveDatabaseError,
    StorageFullError,
)
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.lake.publishing import move_into_place, stage
from pipelines.lake.rejected import Rejected
from pipelines.lake.state import BATCH_READER
from pipelines.lake.workspace import attach_history, read_files, workspace
from pipelines.settings import DATABASE_NAMES, DataConfig
from pipelines.tables.known import LOGS
from pipelines.validation.check import check

Row = dict[str, Any]
COMMITTED = "2024-03-31 12:00:00.000000"
ORDER = {
    "id": 900_001,
    "user_id": 1,
    "product_id": "p1",
    "quantity": 2,
    "price": 10.5,
    "warehouse_id": "w1",
    "shipping_method": "express",
    "order_timestamp": "2024-03-31 11:59:59.000000",
    "status": "placed",
}
CLICK = {
    "event_id": 900_001,
    "session_id": "s1",
    "user_id": 2,
    "product_id": "p1",
    "action": "add_to_cart",
    "time_on_page": 3.0,
    "scroll_depth": 0.5,
    "event_timestamp": "2024-03-31 11:59:59.000000",
}
SHIPMENT = {
    "shipment_id": 900_001,
    "order_id": None,
    "route_id": "r1",
    "warehouse_id": "w1",
    "product_id": None,
    "quantity": None,
    "shipping_method": "economy",
    "weight_kg": 1.0,
    "cost": 1.0,
    "carbon_kg": 1.0,
    "shipped_at": "2024-03-30 00:00:00.000000",
    "promised_at": "2024-03-31 00:00:00.000000",
    "delivered_at": None,
    "status": "in_transit",
}
DATABASE_OF = {log.table: log.database for log in LOGS}


@pytest.fixture
def world(data: DataConfig) -> Logs:
    """A small log without a fault, in the live databases."""
    logs = complete_log(3, size=25)
    append_changes(data, logs)
    return logs


@pytest.fixture
def impatient(tmp_path: Path, clock: Clock) -> BatchProcessor:
    """Waits only briefly for locks."""
    return BatchProcessor(
        BatchConfig(
            data_dir=tmp_path, retention_days=30 * 365, retry_attempts=3, retry_max_wait=0.01
        ),
        DataConfig(data_dir=tmp_path, busy_timeout=0.01),
        clock=clock,
    )


def database(data: DataConfig, name: str) -> Path:
    return data.db_path / f"{name}.db"


def change(
    data: DataConfig, table: str, row: Row | str, op: str = "I", committed_at: str = COMMITTED
) -> int:
    """Append one change as a trigger would; its number."""
    text = row if isinstance(row, str) else json.dumps(row)
    with closing(sqlite3.connect(database(data, DATABASE_OF[table]))) as connection, connection:
        cursor = connection.execute(
            "INSERT INTO change_log (table_name, op, key, row, committed_at) "
            "VALUES (?, ?, '[]', ?, ?)",
            (table, op, text, committed_at),
        )
        return int(cursor.lastrowid or 0)


def rejected(processor: BatchProcessor, table: str) -> dict[int, str]:
    """Reason by number of the change, from the quarantine files on disk."""
    files = sorted((processor.config.quarantine_path / table).glob("*.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    assert len({line["seq"] for line in lines}) == len(lines)
    return {line["seq"]: line["reason"] for line in lines}


def logged(processor: BatchProcessor, log: str) -> list[Row]:
    """The processed log as its files hold it."""
    files = processor.state.files("log", log)
    if not files:
        return []
    found = duckdb.sql(f"SELECT * FROM {read_files(files)} ORDER BY seq")
    return found.to_arrow_table().to_pylist()


def files_on_disk(processor: BatchProcessor) -> list[Path]:
    """Everything in the folders of published files, hidden files included."""
    config = processor.config
    folders = (config.processed_data_path, config.offline_path, config.quarantine_path)
    return sorted(p for folder in folders for p in folder.rglob("*") if not p.is_dir())


def published(processor: BatchProcessor) -> list[Path]:
    kinds = ("log", "view", "quarantine")
    return sorted(file.path for kind in kinds for file in processor.state.files(kind))


def assert_nothing_happened(processor: BatchProcessor) -> None:
    assert files_on_disk(processor) == []
    assert published(processor) == []
    assert processor.state.offsets(BATCH_READER) == {}
    assert not (processor.config.data_dir / "staging").exists() or not any(
        (processor.config.data_dir / "staging").iterdir()
    )


def assert_equals_reference(processor: BatchProcessor, logs: Logs) -> None:
    """Every view's offline source says what the reference says of these logs."""
    for view in VIEWS:
        keys = (*VIEWS_BY_NAME[view].keys, "event_timestamp")
        ours = {tuple(r[k] for k in keys): r for r in offline_rows(processor, view)}
        theirs = {tuple(r[k] for k in keys): r for r in compute(view, logs)}
        assert ours.keys() >= theirs.keys(), view
        for key, row in theirs.items():
            assert not differences(ours[key], row), (view, key)


# Bad rows


@pytest.mark.parametrize(
    ("table", "row", "reason"),
    [
        ("orders", ORDER | {"user_id": 77}, "user_id = 77 is not in users"),
        ("orders", ORDER | {"product_id": "p77"}, "product_id = p77 is not in products"),
        ("orders", ORDER | {"warehouse_id": "w77"}, "warehouse_id = w77 is not in warehouses"),
        ("clickstream", CLICK | {"session_id": "s77"}, "session_id = s77 is not in user_sessions"),
        ("clickstream", CLICK | {"user_id": 77}, "user_id = 77 is not in users"),
        ("clickstream", CLICK | {"product_id": "p77"}, "product_id = p77 is not in products"),
        ("shipments", SHIPMENT | {"route_id": "r77"}, "route_id = r77 is not in routes"),
        ("shipments", SHIPMENT | {"order_id": 777_777}, "order_id = 777777 is not in orders"),
        ("shipments", SHIPMENT | {"warehouse_id": "w7"}, "warehouse_id = w7 is not in warehouses"),
    ],
)
def test_a_row_that_refers_to_nothing_is_rejected(
    processor: BatchProcessor,
    data: DataConfig,
    world: Logs,
    table: str,
    row: Row,
    reason: str,
) -> None:
    """With what it names and where that is not; everything else of the batch goes on."""
    seq = change(data, table, row)
    report = processor.run_cycle(update=False)
    assert rejected(processor, table) == {seq: reason}
    assert sum(report.accepted.values()) == sum(map(len, world.values()))


def test_a_row_may_refer_to_what_came_with_it_or_before(
    processor: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """To a row of the same batch, wherever it stands in it, and of an earlier one; to null."""
    change(data, "orders", ORDER | {"user_id": 77})
    user = {"user_id": 77, "region": "r", "signed_up_at": "2024-01-01 00:00:00"}
    change(data, "users", user)
    change(data, "shipments", SHIPMENT)
    assert processor.run_cycle(update=False).quarantined == {}
    change(data, "clickstream", CLICK | {"user_id": 77, "product_id": None})
    change(data, "shipments", SHIPMENT | {"shipment_id": 2, "order_id": ORDER["id"]})
    assert processor.run_cycle(update=False).quarantined == {}


def test_a_row_that_refers_to_a_rejected_one_is_rejected_too(
    processor: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """A bad user takes the user's orders along; so nothing hangs in the air."""
    user = {"user_id": 77, "region": None, "signed_up_at": "2024-01-01 00:00:00"}
    bad = change(data, "users", user)
    orphan = change(data, "orders", ORDER | {"user_id": 77})
    processor.run_cycle(update=False)
    assert rejected(processor, "users") == {bad: "region is missing"}
    assert rejected(processor, "orders") == {orphan: "user_id = 77 is not in users"}


@pytest.mark.parametrize("in_a_later_cycle", [False, True])
@pytest.mark.parametrize(("table", "row"), [("orders", ORDER), ("clickstream", CLICK)])
def test_a_second_insertion_is_an_update(
    processor: BatchProcessor,
    data: DataConfig,
    world: Logs,
    table: str,
    row: Row,
    in_a_later_cycle: bool,
) -> None:
    """So INSERT OR REPLACE is logged; the fact is the first one, and counts once."""
    key = "id" if table == "orders" else "event_id"
    first = change(data, table, row)
    if in_a_later_cycle:
        processor.run_cycle(update=False)
    again = [change(data, table, row), change(data, table, row | {"product_id": "p2"})]
    processor.run_cycle(update=False)
    assert rejected(processor, table) == {}
    ops = {r["seq"]: r["op"] for r in logged(processor, table) if r[key] == 900_001}
    assert ops == {first: "I"} | dict.fromkeys(again, "U")
    if table == "orders":
        rows = offline_rows(processor, "user_orders")
        newest = max((r for r in rows if r["user_id"] == 1), key=lambda r: r["event_timestamp"])
        assert newest["order_value"] == 21.0


def test_a_bad_first_delivery_does_not_shut_out_a_good_second(
    processor: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """Only what was accepted counts as delivered."""
    bad = change(data, "orders", ORDER | {"quantity": 0})
    good = change(data, "orders", ORDER)
    processor.run_cycle(update=False)
    assert list(rejected(processor, "orders")) == [bad]
    assert good in [row["seq"] for row in logged(processor, "orders")]


@pytest.mark.parametrize("in_a_later_cycle", [False, True])
def test_a_rejected_orphan_does_not_shut_out_a_good_second(
    processor: BatchProcessor, data: DataConfig, world: Logs, in_a_later_cycle: bool
) -> None:
    """Wherever cycles begin, the first insertion that is accepted is the one that counts."""
    orphan = change(data, "orders", ORDER | {"user_id": 77})
    if in_a_later_cycle:
        processor.run_cycle(update=False)
    good = change(data, "orders", ORDER)
    again = change(data, "orders", ORDER)
    processor.run_cycle(update=False)
    assert rejected(processor, "orders") == {orphan: "user_id = 77 is not in users"}
    ops = {row["seq"]: row["op"] for row in logged(processor, "orders")}
    assert (ops[good], ops[again]) == ("I", "U")


def test_an_update_is_no_second_delivery(
    processor: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """An order changes its status; a session and a stock row are written again and again."""
    change(data, "orders", ORDER)
    change(data, "orders", ORDER | {"status": "shipped"}, op="U")
    assert processor.run_cycle(update=False).quarantined == {}
    change(data, "orders", ORDER | {"status": "delivered"}, op="U")
    assert processor.run_cycle(update=False).quarantined == {}


def test_the_quarantine_keeps_the_change_as_it_was(
    processor: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """One JSON object per line: enough to find, mend and replay it."""
    malformed = '{"id": 1, "naïve\n'
    first = change(data, "orders", malformed)
    second = change(data, "orders", ORDER | {"quantity": 2.7}, op="U")
    report = processor.run_cycle(update=False)
    (file,) = (processor.config.quarantine_path / "orders").glob("*")
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert report.quarantined == {"orders": 2}
    common = {"table": "orders", "committed_at": COMMITTED, "cycle": report.cycle}
    assert lines == [
        common
        | {
            "seq": first,
            "op": "I",
            "row": malformed,
            "reason": "the row is not a JSON object",
        },
        common
        | {
            "seq": second,
            "op": "U",
            "row": json.dumps(ORDER | {"quantity": 2.7}),
            "reason": "quantity = 2.7 is not a whole number",
        },
    ]


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("orders", ORDER | {"order_timestamp": "-infinity"}),
        ("orders", ORDER | {"order_timestamp": "0044-03-15 (BC)"}),
        ("orders", ORDER | {"order_timestamp": "290000-01-01"}),
        ("orders", ORDER | {"id": 2**63}),
        ("orders", ORDER | {"quantity": 2**62}),
        ("shipments", SHIPMENT | {"weight_kg": 1e308}),
        ("shipments", SHIPMENT | {"promised_at": "infinity"}),
        ("shipments", SHIPMENT | {"shipped_at": "1970-01-01", "delivered_at": "2024-03-31"}),
    ],
)
def test_no_row_can_stop_the_flow(
    processor: BatchProcessor, data: DataConfig, world: Logs, table: str, row: Row
) -> None:
    """However absurd a value, its row is rejected or computed; the cycle ends well."""
    change(data, table, row)
    report = processor.run_cycle(update=False)
    assert report.changes == sum(map(len, world.values())) + 1
    processor.get_feature_summary()


def test_changes_of_unknown_tables_are_passed_over(
    processor: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """A shop logs more than we read; the offset moves on."""
    with closing(sqlite3.connect(database(data, "orders"))) as connection, connection:
        seq = connection.execute(
            "INSERT INTO change_log (table_name, op, key, row) VALUES ('coupons', 'I', '[]', '{')"
        ).lastrowid
    report = processor.run_cycle(update=False)
    assert report.quarantined == {}
    assert report.offsets["orders"] == seq


def corrupt(data: DataConfig, rng: random.Random, share: float) -> int:
    """Spoil rows of the change logs at random; how many."""
    spoiled = 0
    for name in DATABASE_NAMES:
        with closing(sqlite3.connect(database(data, name))) as connection, connection:
            for seq, text in connection.execute("SELECT seq, row FROM change_log").fetchall():
                if rng.random() < share:
                    spoiled += 1
                    connection.execute(
                        "UPDATE change_log SET row = ? WHERE seq = ?", (spoil(text, rng), seq)
                    )
    return spoiled


def spoil(text: str, rng: random.Random) -> str:
    if rng.random() < 0.3:
        return text[: rng.randrange(len(text))]
    row = json.loads(text)
    name = rng.choice(sorted(row))
    if rng.random() < 0.2:
        del row[name]
    else:
        garbage = ["x", -1, 2.7, None, [], {}, 1e300, "NaN", "9999-12-31 00:00:00", "[", "\x00"]
        row[name] = rng.choice(garbage)
    return json.dumps(row)


@pytest.mark.parametrize("seed", range(4))
def test_every_change_is_either_accepted_or_rejected(
    processor: BatchProcessor, data: DataConfig, seed: int
) -> None:
    """However a fifth of the rows is spoilt: none is lost, none counts twice, and the features
    are those of the accepted rows."""
    total = 0
    for part in parts_of(complete_log(seed, size=40), 3):
        append_changes(data, part)
        changes = sum(map(len, part.values()))
        if not total:
            corrupt(data, random.Random(seed), 0.2)
        report = processor.run_cycle(update=False)
        assert report.changes == changes
        assert sum(report.accepted.values()) + sum(report.quarantined.values()) == changes
        total += changes
    accepted = {log.name: logged(processor, log.name) for log in LOGS}
    reasons = {log.name: rejected(processor, log.table) for log in LOGS}
    assert sum(map(len, reasons.values())) > 0
    assert sum(map(len, accepted.values())) + sum(map(len, reasons.values())) == total
    for log in LOGS:
        seqs = [row["seq"] for row in accepted[log.name]]
        assert len(set(seqs)) == len(seqs)
        assert not set(seqs) & reasons[log.name].keys()
        assert all(reasons[log.name].values())
    for row in accepted["orders"] + accepted["products"]:
        row.update({name: float(row[name]) for name in ("price", "unit_price") if name in row})
    assert_equals_reference(processor, accepted)


# Damaged files


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "longer":
        path.write_bytes(path.read_bytes() + b"\0")
    else:
        content = bytearray(path.read_bytes())
        first = {"pages": 4, "footer": len(content) - 200}[how]
        content[first : first + 150] = b"\xff" * 150
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("log", "how"),
    [
        ("clickstream", "truncated"),
        ("clickstream", "missing"),
        ("clickstream", "longer"),
        ("orders", "pages"),
        ("orders", "footer"),
    ],
)
def test_a_damaged_log_file_stops_the_cycle(
    processor: BatchProcessor, data: DataConfig, world: Logs, log: str, how: str
) -> None:
    """It is named, with what to do; nothing is published, no offset moves. Once it is restored
    the next cycle goes on."""
    processor.run_cycle(update=False)
    change(data, "orders", ORDER)
    file = processor.state.files("log", log)[0].path
    content, before = file.read_bytes(), published(processor)
    offsets = processor.state.offsets(BATCH_READER)
    damage(file, how)
    with pytest.raises(CorruptFileError, match=file.name) as caught:
        processor.run_cycle(update=False)
    assert "--rebuild" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert published(processor) == before
    assert processor.state.offsets(BATCH_READER) == offsets
    cycle = processor.state.last_cycles(1)[0]
    assert (cycle.status, cycle.error) == ("failed", str(caught.value))
    file.write_bytes(content)
    assert processor.run_cycle(update=False).accepted == {"orders": 1}


def test_a_cycle_with_nothing_to_do_notices_damage_too(
    processor: BatchProcessor, world: Logs
) -> None:
    """A quiet night is the time to notice it."""
    processor.run_cycle(update=False)
    assert processor.run_cycle(update=False).changes == 0
    file = processor.state.files("log", "clickstream")[0].path
    damage(file, "truncated")
    with pytest.raises(CorruptFileError, match=rf"{file.name} has \d+ bytes instead of \d+"):
        processor.run_cycle(update=False)


# Live databases that cannot be used


@pytest.mark.parametrize("name", DATABASE_NAMES)
def test_a_missing_database_is_reported_and_not_created(
    processor: BatchProcessor, data: DataConfig, world: Logs, name: str
) -> None:
    """An empty database in its place would look like a shop without customers."""
    for file in data.db_path.glob(f"{name}.db*"):
        file.unlink()
    with pytest.raises(LiveDatabaseError, match=rf"{name}\.db does not exist: .*synchrochain sim"):
        processor.run_cycle(update=False)
    assert list(data.db_path.glob(f"{name}.db*")) == []
    assert_nothing_happened(processor)


def test_a_corrupt_database_is_reported(
    processor: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """By name; what was read of the others is not published."""
    path = database(data, "orders")
    path.write_bytes(b"\xff" * 8192)
    for companion in data.db_path.glob("orders.db-*"):
        companion.unlink()
    with pytest.raises(LiveDatabaseError, match=r"orders\.db is corrupt or not a database"):
        processor.run_cycle(update=False)
    assert path.read_bytes() == b"\xff" * 8192
    assert_nothing_happened(processor)


def test_damaged_pages_are_reported(
    processor: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """A database that opens well and breaks while it is read."""
    path = database(data, "users")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'change_log'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(path.read_bytes())
    content[(root - 1) * size : root * size] = b"\xff" * size
    path.write_bytes(content)
    with pytest.raises(LiveDatabaseError, match=r"users\.db is corrupt or not a database"):
        processor.run_cycle(update=False)
    assert_nothing_happened(processor)


def test_a_missing_column_is_reported(
    processor: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """By table and column, before anything is read."""
    with closing(sqlite3.connect(database(data, "supply_chain"))) as connection, connection:
        connection.execute("ALTER TABLE routes RENAME COLUMN congestion TO jam")
    with pytest.raises(ContractError, match="table 'routes' has no column 'congestion'"):
        processor.run_cycle(update=False)
    assert_nothing_happened(processor)


@contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """A database that lets nobody else in, not even to read."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        yield connection


def test_a_locked_database_is_tried_again(
    impatient: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """A lock that goes away costs a little time and nothing else."""
    retries = []
    with locked(database(data, "orders")) as connection:

        def release(details: stamina.instrumentation.RetryDetails) -> None:
            retries.append(details.caused_by)
            connection.close()

        stamina.instrumentation.set_on_retry_hooks([release])
        try:
            report = impatient.run_cycle(update=False)
        finally:
            stamina.instrumentation.set_on_retry_hooks(None)
    assert [type(error) for error in retries] == [LiveDatabaseBusyError]
    assert report.changes == sum(map(len, world.values()))
    assert_equals_reference(impatient, world)


def test_a_database_that_stays_locked_fails_the_cycle(
    impatient: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """After a few attempts, in words; the next cycle repeats it."""
    with (
        locked(database(data, "orders")),
        pytest.raises(LiveDatabaseBusyError, match=r"orders\.db is locked by another writer"),
    ):
        impatient.run_cycle(update=False)
    assert_nothing_happened(impatient)
    assert impatient.run_cycle(update=False).changes == sum(map(len, world.values()))


def test_changes_that_vanished_unread_are_noticed(
    processor: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """Going on would leave a hole in the history that nobody sees."""
    processor.run_cycle(update=False)
    offsets = processor.state.offsets(BATCH_READER)
    lost = change(data, "orders", ORDER)
    change(data, "orders", ORDER | {"id": 900_002})
    with closing(sqlite3.connect(database(data, "orders"))) as connection, connection:
        connection.execute("DELETE FROM change_log WHERE seq <= ?", (lost,))
    with pytest.raises(ChangeLogGapError, match=f"changes {lost} to {lost} are gone"):
        processor.run_cycle(update=False)
    assert processor.state.offsets(BATCH_READER) == offsets


def test_an_emptied_log_is_noticed(
    processor: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """Whoever empties the log also takes what was not read yet."""
    processor.run_cycle(update=False)
    offsets = processor.state.offsets(BATCH_READER)
    change(data, "orders", ORDER)
    with closing(sqlite3.connect(database(data, "orders"))) as connection, connection:
        connection.execute("DELETE FROM change_log")
    with pytest.raises(ChangeLogGapError, match=r"changes \d+ to \d+ are gone"):
        processor.run_cycle(update=False)
    assert processor.state.offsets(BATCH_READER) == offsets


def test_a_log_that_was_emptied_once_it_was_read_goes_on(
    processor: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """What was read is not needed any more; the log still knows where it ended."""
    processor.run_cycle(update=False)
    with closing(sqlite3.connect(database(data, "orders"))) as connection, connection:
        connection.execute("DELETE FROM change_log")
    assert processor.run_cycle(update=False).changes == 0
    change(data, "orders", ORDER)
    assert processor.run_cycle(update=False).changes == 1


def test_another_database_in_its_place_is_noticed(
    processor: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """A log that ends before the place where we stand is not the log that we read."""
    processor.run_cycle(update=False)
    offsets = processor.state.offsets(BATCH_READER)
    for file in data.db_path.glob("orders.db*"):
        file.unlink()
    append_changes(data, {})
    change(data, "orders", ORDER)
    with pytest.raises(ChangeLogGapError, match="another database lies in its place"):
        processor.run_cycle(update=False)
    assert processor.state.offsets(BATCH_READER) == offsets


# A full disk, a killed cycle, two cycles at once


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only on Linux: a device of it")
@pytest.mark.parametrize("where", ["first log", "last log", "quarantine", "view"])
def test_a_full_disk_leaves_no_trace(
    tmp_path: Path, data: DataConfig, world: Logs, clock: Clock, where: str
) -> None:
    """Whichever file does not fit, all files of the cycle go; with room the next one repeats it.

    The file is led to /dev/full, which answers every write as a full disk does.
    """
    config = BatchConfig(data_dir=tmp_path, retention_days=30 * 365)
    change(data, "shipments", "{}")
    last = {
        name: sum(len(world.get(log.name, [])) for log in LOGS if log.database == name)
        for name in DATABASE_NAMES
    }
    target = {
        "first log": config.processed_data_path / f"users_{1:012d}-{last['users']:012d}.parquet",
        "last log": config.processed_data_path
        / f"shipments_{1:012d}-{last['supply_chain'] + 1:012d}.parquet",
        "quarantine": config.quarantine_path / "shipments" / f"{1:08d}.jsonl",
        "view": config.offline_path / "route_conditions" / f"route_conditions_{1:08d}.parquet",
    }[where]

    def fill(_step: str, _rows: int) -> None:
        partial = target.with_name(f".{target.name}.partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        if not partial.is_symlink():
            partial.symlink_to("/dev/full")

    processor = BatchProcessor(config, data, clock=clock, progress=fill)
    with pytest.raises(StorageFullError, match="no room left on the disk of") as caught:
        processor.run_cycle(update=False)
    assert str(tmp_path) in str(caught.value)
    assert_nothing_happened(processor)
    roomy = BatchProcessor(config, data, clock=clock)
    assert roomy.run_cycle(update=False).quarantined == {"shipments": 1}
    assert_equals_reference(roomy, world)


@pytest.mark.parametrize("edge", ["rename", "fsync"])
@pytest.mark.parametrize("after", [0, 3])
def test_a_failure_while_publishing_leaves_no_trace(
    processor: BatchProcessor,
    world: Logs,
    monkeypatch: pytest.MonkeyPatch,
    edge: str,
    after: int,
) -> None:
    """Files that were renamed already are taken back: readers see all of a cycle or nothing."""
    real, calls = getattr(os, edge), []

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > after:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, edge, failing)
        with pytest.raises(StorageFullError):
            processor.run_cycle(update=False)
    assert len(calls) > after
    assert_nothing_happened(processor)
    processor.run_cycle(update=False)
    assert_equals_reference(processor, world)


@pytest.mark.parametrize("renamed", [False, True])
def test_a_killed_cycle_leaves_nothing_doubled(
    processor: BatchProcessor, data: DataConfig, world: Logs, clock: Clock, renamed: bool
) -> None:
    """Its files, written or even renamed, but never committed, are removed by the next cycle,
    which does the work again; its record says that it was interrupted."""
    processor.run_cycle(update=False)
    before = published(processor)
    change(data, "orders", ORDER)
    change(data, "orders", "{")
    cycle = processor.state.begin_cycle(clock())
    readers = readers_of(data)
    spans = plan(readers, processor.state.bound_offsets(BATCH_READER))
    folder = processor.config.data_dir / "staging" / "killed"
    with workspace(folder, processor.config.memory) as connection:
        read(connection, readers, spans, 1_000, lambda _rows: None)
        logs = {log.name: processor.state.files("log", log.name) for log in LOGS}
        attach_history(connection, logs)
        valid = Validated(cycle, clock(), spans, check(connection), Rejected())
        contents = transform(connection, processor.config, valid, lambda _step, _rows: None, {})
        staged = stage(contents)
    processor.state.add_pending(cycle, [one.file for one in staged.files], clock())
    if renamed:
        move_into_place(staged.files)
    assert len(files_on_disk(processor)) > len(before)
    assert published(processor) == before

    survivor = BatchProcessor(processor.config, data, clock=clock)
    report = survivor.run_cycle(update=False)
    assert (report.accepted, report.quarantined) == ({"orders": 1}, {"orders": 1})
    assert published(survivor) == files_on_disk(survivor)
    assert [row["id"] for row in logged(survivor, "orders")].count(ORDER["id"]) == 1
    assert len(rejected(survivor, "orders")) == 1
    interrupted = survivor.state.last_cycles(2)[1]
    assert (interrupted.id, interrupted.status, interrupted.error) == (
        cycle,
        "failed",
        "interrupted",
    )


def test_a_second_cycle_at_the_same_time_is_refused(
    processor: BatchProcessor, data: DataConfig, world: Logs, clock: Clock
) -> None:
    """It names the process that runs the first, which is not disturbed."""
    refusals = []

    def meddle(step: str, _rows: int) -> None:
        if step == "validate" and not refusals:
            with pytest.raises(CycleInProgressError) as caught:
                processor.run_cycle(update=False)
            refusals.append(caught.value)

    first = BatchProcessor(processor.config, data, clock=clock, progress=meddle)
    report = first.run_cycle(update=False)
    assert [error.pid for error in refusals] == [os.getpid()]
    assert f"process {os.getpid()}" in str(refusals[0])
    assert report.changes == sum(map(len, world.values()))
    assert processor.run_cycle(update=False).changes == 0


def test_a_blob_in_the_change_log_is_read_as_text(
    processor: BatchProcessor, data: DataConfig, world: Logs
) -> None:
    """Whoever writes the log by hand may bind bytes; no change before or after it is lost."""
    with closing(sqlite3.connect(database(data, "users"))) as connection, connection:
        (changes,) = connection.execute("SELECT count(*) FROM change_log").fetchone()
        connection.execute(
            "UPDATE change_log SET row = CAST(row AS BLOB) WHERE seq = ?", (changes // 2,)
        )
    report = processor.run_cycle(update=False)
    assert not report.quarantined
    assert sum(report.accepted[log] for log in ("users", "sessions", "clickstream")) == changes
