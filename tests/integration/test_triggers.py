"""Triggers that are gone are noticed by all who read, and said until nothing is unknown."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import used_directory
from stream_helpers import StreamWorld
from stream_rows import order
from test_cli import synchrochain

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.errors import TriggersError
from pipelines.live_databases import (
    METADATA,
    LiveDatabases,
    install_triggers,
    open_engine,
    upgrade_change_log,
)
from pipelines.live_databases.triggers import format_1_statements
from pipelines.monitoring.status import collect_status
from pipelines.serving.orchestrator import ModelOrchestrator
from pipelines.settings import PROJECT_ROOT, DataConfig

FORMAT_1 = """CREATE TABLE change_log (seq INTEGER PRIMARY KEY AUTOINCREMENT,
    table_name TEXT NOT NULL, op TEXT NOT NULL, key TEXT NOT NULL, row TEXT NOT NULL,
    committed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'))"""
REBUILD = """
CREATE TABLE new_orders AS SELECT * FROM orders;
DROP TABLE orders;
CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER, product_id TEXT, quantity INTEGER,
    price NUMERIC, warehouse_id TEXT, shipping_method TEXT, order_timestamp DATETIME, status TEXT);
INSERT INTO orders SELECT * FROM new_orders;
DROP TABLE new_orders;
"""
MEND = "`synchrochain triggers --install`"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data directory whose live databases are there, with one customer."""
    with used_directory(tmp_path):
        with LiveDatabases.open(DataConfig()) as databases:
            databases.create()
        script(tmp_path, "users", "INSERT INTO users VALUES (1, 'north', '2024-01-01 00:00:00')")
        yield tmp_path


def script(folder: Path, name: str, statements: str) -> None:
    """What a migration does to a live database."""
    path = folder / "live_databases" / f"{name}.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)


def test_everybody_says_in_one_line_that_triggers_are_gone(folder: Path) -> None:
    """With the command that mends it, and exit status 1; whoever fills the shop mends nothing."""
    script(folder, "orders", REBUILD)
    lost = r"orders \(missing: INSERT, UPDATE, DELETE\)"
    serve = ["serve", "--port", "0"]
    for command in (["batch", "--once"], ["status"], ["status", "--json"], ["stream"], serve):
        answer = synchrochain(*command)
        assert answer.status == 1
        assert lost.replace("\\", "") in answer.complaint
        assert "changes may be missing since ever" in answer.complaint
        assert answer.complaint.endswith(MEND)
    data, config = DataConfig(), BatchConfig()
    with pytest.raises(TriggersError, match=lost), ModelOrchestrator.open(data, config):
        pass
    with pytest.raises(TriggersError, match=lost), LiveDatabases.open(data) as databases:
        databases.create()


def test_the_command_shows_and_mends(folder: Path) -> None:
    """By table; afterwards all is well, in words and as JSON."""
    assert synchrochain("triggers").status == 0
    script(folder, "orders", REBUILD)
    script(folder, "users", "DROP TRIGGER users_delete_to_change_log")
    answer = synchrochain("triggers", "--json")
    assert answer.status == 1
    assert answer.complaint.endswith(MEND)
    found = answer.document
    assert found["orders"]["tables"] == {"orders": "missing: INSERT, UPDATE, DELETE"}
    assert found["users"]["tables"]["users"] == "missing: DELETE"
    assert found["users"]["tables"]["clickstream"] == "ok"
    assert found["inventory"]["sound"]
    mended = synchrochain("triggers", "--install")
    assert mended.status == 0
    assert "users: not every change was recorded since 20" in " ".join(mended.out.split())
    assert synchrochain("status", "--json").status == 0


def test_what_batch_refuses_is_an_error_of_status_too(folder: Path) -> None:
    """A column or table that is not there is named by both in the same line."""
    for statement, said in (
        (
            "ALTER TABLE clickstream RENAME COLUMN scroll_depth TO sd",
            "has no column 'scroll_depth'",
        ),
        ("ALTER TABLE clickstream RENAME TO clicks", "has no table 'clickstream'"),
    ):
        script(folder, "users", statement)
        lines = {synchrochain(*c).complaint for c in (["batch", "--once"], ["status"])}
        assert len(lines) == 1
        assert said in lines.pop()
        assert synchrochain("status").status == 1


def test_triggers_of_others_on_the_log_are_named_and_removed(folder: Path) -> None:
    """What they have swallowed is noted; those on the shop's own tables are the shop's."""
    script(
        folder,
        "users",
        "CREATE TRIGGER filter BEFORE INSERT ON change_log WHEN NEW.table_name = 'users' "
        "BEGIN SELECT RAISE(IGNORE); END; "
        "CREATE TRIGGER own AFTER INSERT ON users BEGIN SELECT 1; END; "
        "INSERT INTO users VALUES (2, 'north', '2024-01-01 00:00:00')",
    )
    for command in (["batch", "--once"], ["status"]):
        answer = synchrochain(*command)
        assert answer.status == 1
        assert "not SynchroChain's may swallow or alter changes: filter; " in answer.complaint
    shown = synchrochain("triggers")
    assert shown.status == 1
    assert "users: triggers of others on the change log: filter" in " ".join(shown.out.split())
    assert synchrochain("triggers", "--install").status == 0
    found = synchrochain("status", "--json")
    assert found.status == 0
    assert "1 row of users" in found.document["databases"]["users"]["unknown_rows"]["users"]


def test_unique_columns_beside_the_key_are_named(folder: Path) -> None:
    """A row that is replaced for one is recorded only if the writer's connection asks for it."""
    assert "recursive_triggers" not in " ".join(synchrochain("triggers").out.split())
    script(
        folder,
        "users",
        "ALTER TABLE users ADD COLUMN email TEXT; CREATE UNIQUE INDEX mail ON users (email); "
        "CREATE UNIQUE INDEX two ON users (region, lower(email)); "
        "CREATE INDEX plain ON users (region)",
    )
    answer = synchrochain("triggers")
    assert answer.status == 0
    said = " ".join(answer.out.split())
    assert "users: users holds (email) once: a row that INSERT OR REPLACE removes" in said
    assert "users: users holds (region, an expression) once" in said
    assert said.count("recursive_triggers = ON") == 2


def test_databases_that_are_not_there_are_not_made(tmp_path: Path) -> None:
    """One line says which, and how it is filled."""
    with used_directory(tmp_path):
        answer = synchrochain("triggers", "--install")
        assert answer.status == 1
        assert "orders.db does not exist" in answer.complaint
        assert not (tmp_path / "live_databases").exists()


def test_rows_that_are_unknown_are_said_until_they_are_known(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By batch and status, with their number; they do not stop anything."""
    row = "1, 'p', 1, 1.0, 'w', 'standard', '2024-01-01 00:00:00', 'placed'"
    insert = f"INSERT INTO orders VALUES (1, {row}), (2, {row}), (3, {row});"
    script(folder, "orders", f"{REBUILD} {insert}")
    synchrochain("triggers", "--install")
    processor = BatchProcessor(BatchConfig(), DataConfig())
    report = processor.run_cycle(update=False)
    assert report.unknown_rows == {"orders": 3}
    assert "orders: 3 rows of orders changed without triggers (before 20" in caplog.text
    status = synchrochain("status")
    assert status.status == 0
    assert "rows unknown" in " ".join(status.out.split())
    assert "orders: 3 rows of orders changed without" in " ".join(status.out.split())
    script(folder, "orders", "UPDATE orders SET status = 'shipped'")
    report = processor.run_cycle(update=False)
    assert (report.unknown_rows, report.changes) == ({}, 3)
    assert (
        collect_status(processor.config, processor.data)["databases"]["orders"]["unknown_rows"]
        == {}
    )


def test_a_blob_is_rejected_with_its_reason(folder: Path) -> None:
    """As `numpy.int64` is written by sqlite3; the shop's own insertion goes through."""
    with closing(sqlite3.connect(folder / "live_databases" / "users.db")) as shop, shop:
        shop.execute("INSERT INTO users VALUES (2, ?, ?)", (b"\x01\x00", "2024-01-01 00:00:00"))
        shop.execute("INSERT INTO users VALUES (3, 'north', ?)", (b"\xff",))
    processor = BatchProcessor(BatchConfig(), DataConfig())
    assert processor.run_cycle(update=False).quarantined == {"users": 2}
    (file,) = processor.state.files("quarantine")
    lines = file.path.read_text("utf-8")
    assert "region holds a BLOB, not text" in lines
    assert "signed_up_at holds a BLOB, not a time stamp" in lines


def test_a_text_that_is_too_long_is_rejected_with_its_reason(folder: Path) -> None:
    """Though the rest of the row is fine; how deep a list is nested does no harm."""
    deep = "[" * 400_000 + "]" * 400_000
    session = "INSERT INTO user_sessions VALUES (?, 1, ?, '[]', 3, '2024-01-01 00:00:00', '{}')"
    with closing(sqlite3.connect(folder / "live_databases" / "users.db")) as shop, shop:
        shop.execute(session, ("long", json.dumps(["x" * 2_000_000])))
        shop.execute(session, ("deep", json.dumps([deep])))
        shop.execute(session, ("deeper", deep))
        shop.execute(session, ("open", deep[: len(deep) // 2]))
    processor = BatchProcessor(BatchConfig(), DataConfig())
    assert processor.run_cycle(update=False).quarantined == {"sessions": 2}
    (file,) = processor.state.files("quarantine")
    first, second = map(json.loads, file.path.read_text("utf-8").splitlines())
    assert first["reason"] == "products_viewed holds more than 1,000,000 bytes"
    assert second["reason"].startswith("products_viewed = [[[[")


def test_a_stream_notices_when_triggers_go_and_goes_on_when_they_are_back(
    world: StreamWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """It looks whenever the schema has changed; other streams are not concerned."""
    world.commit("orders", order(1))
    world.stream()
    with closing(world.database("orders")) as shop:
        shop.executescript(REBUILD)
    with pytest.raises(TriggersError, match=MEND):
        world.run("orders")
    world.run("users")
    engine = open_engine(world.config.database_url("orders"))
    install_triggers(engine, METADATA["orders"])
    engine.dispose()
    world.commit("orders", order(2))
    world.run("orders")
    assert world.counters("orders")["offset"] == 2


def test_a_stream_says_what_is_unknown_once(
    world: StreamWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """When it begins, not at each step."""
    with closing(world.database("orders")) as shop, shop:
        shop.execute("INSERT INTO change_log_unknown VALUES ('orders', '[1]')")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            world.flow.streams["orders"].check()
            world.run("orders")
    assert caplog.text.count("1 row of orders changed without triggers") == 1


def test_an_older_log_is_upgraded_by_a_cycle(folder: Path) -> None:
    """And never by a look at the status."""
    script(folder, "orders", "DROP TABLE orders; DROP TABLE change_log;")
    for table in ("info", "gaps", "unknown"):
        script(folder, "orders", f"DROP TABLE change_log_{table}")
    engine = open_engine(DataConfig().database_url("orders"))
    METADATA["orders"].create_all(engine)
    statements = format_1_statements(METADATA["orders"].tables["orders"]).values()
    script(folder, "orders", ";".join([FORMAT_1, *statements]))
    answer = synchrochain("status", "--json")
    assert answer.status == 0
    assert "format 1" in answer.document["databases"]["orders"]["error"]
    BatchProcessor(BatchConfig(), DataConfig()).run_cycle(update=False)
    assert not upgrade_change_log(engine, METADATA["orders"])
    engine.dispose()
    assert "error" not in synchrochain("status", "--json").document["databases"]["orders"]


def test_the_statement_of_the_documentation_makes_rows_known(folder: Path) -> None:
    """As it stands there; afterwards the customers are in the processed log."""
    text = (PROJECT_ROOT / "docs" / "own-database.md").read_text("utf-8")
    (statement,) = re.findall(r"```sql\n(INSERT INTO change_log .*?)```", text, flags=re.DOTALL)
    users = "".join(
        f"DROP TRIGGER users_{event}_to_change_log;" for event in ("insert", "update", "delete")
    )
    rows = "INSERT INTO users VALUES (7, 'north', '2024-01-01'), (8, 'south', '2024-01-01');"
    script(folder, "users", users + rows)
    synchrochain("triggers", "--install")
    processor = BatchProcessor(BatchConfig(), DataConfig())
    assert processor.run_cycle(update=False).unknown_rows == {"users": 2}
    script(folder, "users", statement)
    report = processor.run_cycle(update=False)
    assert (report.unknown_rows, report.accepted) == ({}, {"users": 2})
