"""The live audit: a change that no trigger has recorded cannot stay unnoticed."""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import used_directory
from live_logs import offline_rows
from test_cli import synchrochain

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.errors import SynchroChainError
from pipelines.live_databases import METADATA, LiveDatabases, install_triggers, open_engine
from pipelines.monitoring.live_tables import LiveAudit, audit_live
from pipelines.settings import PROJECT_ROOT, DataConfig

NOW = datetime(2026, 5, 1, 12)
AT = "2026-05-01 11:00:00.000000"
ORDER = "INSERT INTO orders VALUES (?, 1, 'p1', 1, 2.5, 'w1', 'standard', ?, 'placed')"


class Shop:
    """A small shop on live tables, and a batch flow that looks at them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = NOW
        self.processor = BatchProcessor(
            BatchConfig(retention_days=5), DataConfig(), clock=lambda: self.now
        )

    def execute(self, name: str, statement: str, *values: Any) -> None:
        """One commit of the shop's; what commit time it gets is `now`."""
        path = self.folder / "live_databases" / f"{name}.db"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(statement, values)
            connection.execute(
                "UPDATE change_log SET committed_at = ? WHERE seq = (SELECT max(seq) FROM "
                "change_log) AND committed_at NOT LIKE '%.000000'",
                (f"{self.now:%Y-%m-%d %H:%M:%S}.000000",),
            )

    def rows(self, name: str, query: str) -> list[Any]:
        """What a query finds in a live database."""
        path = self.folder / "live_databases" / f"{name}.db"
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(query).fetchall()

    def unrecorded(self, name: str, table: str, *statements: str) -> None:
        """What happens while a table has no triggers, which are back afterwards."""
        engine = open_engine(DataConfig().database_url(name))
        path = self.folder / "live_databases" / f"{name}.db"
        with closing(sqlite3.connect(path)) as connection, connection:
            for event in ("insert", "update", "delete"):
                connection.execute(f"DROP TRIGGER {table}_{event}_to_change_log")
            for statement in statements:
                connection.execute(statement)
        install_triggers(engine, METADATA[name])
        engine.dispose()

    def cycle(self) -> None:
        self.processor.run_cycle(update=False)

    def audit(self) -> LiveAudit:
        return audit_live(DataConfig(), self.processor.config, now=lambda: self.now)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with used_directory(tmp_path):
        with LiveDatabases.open(DataConfig()) as databases:
            databases.create()
        shop = Shop(tmp_path)
        for user in range(1, 4):
            shop.execute("users", "INSERT INTO users VALUES (?, 'north', ?)", user, AT)
        shop.execute("inventory", "INSERT INTO warehouses VALUES ('w1', 'north', 1.5, 2.5, 9)")
        shop.execute("inventory", "INSERT INTO products VALUES ('p1', 'c', 0.1, 0.30000000000004)")
        shop.execute(
            "inventory", "INSERT INTO inventory VALUES ('w1', 'p1', 5, 0, 2, 1.0 / 3, ?)", AT
        )
        shop.execute(
            "users",
            "INSERT INTO user_sessions VALUES ('s1', 1, '[\"p1\"]', '[]', 3, ?, '{}')",
            AT,
        )
        for number in range(1, 6):
            shop.execute("orders", ORDER, number, AT)
        yield shop


def figures(report: LiveAudit, table: str) -> tuple[int, int, int, int, int]:
    found = report.tables[table]
    return found.missing, found.gone, found.differing, found.rejected, found.not_comparable


def test_a_log_that_says_what_the_tables_hold(shop: Shop) -> None:
    """Read by the batch flow or not yet, in part or not at all; with equal digests."""
    shop.cycle()
    shop.execute("orders", "UPDATE orders SET id = 9, status = 'shipped' WHERE id = 1")
    shop.execute("orders", "DELETE FROM orders WHERE id = 2")
    shop.execute("orders", ORDER, 7, AT)
    for _ in range(2):
        report = shop.audit()
        assert report.unexplained == 0
        for table in report.tables.values():
            assert (table.rows, table.digest) == (table.logged, table.digest_logged)
        shop.cycle()


def test_what_no_trigger_has_recorded_is_found(shop: Shop) -> None:
    """By table, with keys: an insertion, an update, a deletion; the digests differ."""
    shop.cycle()
    shop.unrecorded(
        "users",
        "users",
        f"INSERT INTO users VALUES (77, 'south', '{AT}')",
        "UPDATE users SET region = 'south' WHERE user_id = 2",
        "DELETE FROM users WHERE user_id = 3",
    )
    shop.cycle()
    report = shop.audit()
    assert figures(report, "users") == (1, 1, 1, 0, 0)
    users = report.tables["users"]
    assert users.keys == ("user_id=2", "user_id=3", "user_id=77")
    assert users.digest != users.digest_logged
    assert report.unexplained == 3
    answer = synchrochain("audit", "--live", "--json")
    assert answer.status == 1
    assert "rows: 3 (users)" in answer.err
    assert answer.document["tables"]["users"]["missing"] == 1
    assert "users, some that differ: user_id=2" in synchrochain("audit", "--live").out
    assert "see docs/own-database.md" in answer.err
    text = (PROJECT_ROOT / "docs" / "own-database.md").read_text("utf-8")
    (remedy,) = re.findall(r"```sql\n(UPDATE users .*?)```", text, flags=re.DOTALL)
    for statement in remedy.strip().split("\n"):
        shop.execute("users", statement)
    assert shop.audit().unexplained == 0
    assert synchrochain("audit", "--live").status == 0


def test_rows_that_were_rejected_are_known(shop: Shop) -> None:
    """In quarantine or not read yet, for a broken rule, a BLOB or an unknown parent."""
    shop.cycle()
    shop.execute("orders", ORDER, 11, "yesterday")
    shop.execute("orders", "UPDATE orders SET user_id = 900 WHERE id = 1")
    shop.cycle()
    shop.execute("orders", "UPDATE orders SET quantity = x'01' WHERE id = 2")
    shop.execute("orders", "UPDATE orders SET user_id = 901 WHERE id = 3")
    report = shop.audit()
    assert figures(report, "orders") == (0, 0, 0, 4, 0)
    assert report.unexplained == 0


def test_people_may_edit_the_quarantine_and_put_it_away(shop: Shop) -> None:
    """What is not rejected there any more differs for a reason that nobody knows."""
    shop.cycle()
    shop.execute("orders", ORDER, 11, "yesterday")
    shop.cycle()
    shop.execute("orders", ORDER, 12, "tomorrow")
    shop.cycle()
    one, other = sorted((shop.folder / "quarantine" / "orders").iterdir())
    one.unlink()
    other.write_text("{not JSON\n" + other.read_text("utf-8"), "utf-8")
    assert figures(shop.audit(), "orders") == (0, 0, 0, 2, 0)
    assert shop.processor.run_cycle(update=False).quarantined == {}


def test_an_earlier_rejection_hides_no_change_that_no_trigger_has_recorded(shop: Shop) -> None:
    """Only a row that is as it was rejected is missing with a reason."""
    shop.execute("users", "INSERT INTO users VALUES (8, 'north', 'yesterday')")
    shop.execute("orders", "UPDATE orders SET user_id = 900 WHERE id = 1")
    for level in (-5, -6):
        shop.execute("inventory", f"UPDATE inventory SET current_stock = {level}")
        shop.cycle()
        assert figures(shop.audit(), "inventory") == (0, 0, 0, 1, 0)
    shop.unrecorded("inventory", "inventory", "UPDATE inventory SET current_stock = 777")
    shop.unrecorded("users", "users", f"UPDATE users SET signed_up_at = '{AT}' WHERE user_id = 8")
    shop.unrecorded("orders", "orders", "UPDATE orders SET user_id = 901 WHERE id = 1")
    report = shop.audit()
    assert figures(report, "inventory") == figures(report, "orders") == (0, 0, 1, 0, 0)
    assert figures(report, "users") == (1, 0, 0, 0, 0)
    shop.unrecorded("inventory", "inventory", "DELETE FROM inventory")
    assert figures(shop.audit(), "inventory") == (0, 1, 0, 0, 0)


def test_rows_that_are_back_as_they_were_are_as_the_log_says(shop: Shop) -> None:
    """Deleted and inserted again, or with keys exchanged: their time is that of the deletion in the
    log, their own in the table. It stays so when the deletion has expired."""
    route = "INSERT INTO routes VALUES (?, 'w1', ?, 'air', 9, 8, 7, 6, 0.5, 0.5, ?)"
    for name in "ab":
        shop.execute("supply_chain", route, name, name, AT)
    shop.cycle()
    (row,) = shop.rows("inventory", "SELECT * FROM inventory")
    shop.execute("inventory", "DELETE FROM inventory")
    shop.execute("inventory", f"INSERT INTO inventory VALUES {row}")
    for old, new in ("ac", "ba", "cb"):
        shop.execute(
            "supply_chain", f"UPDATE routes SET route_id = '{new}' WHERE route_id = '{old}'"
        )
    shop.execute("inventory", "UPDATE products SET category = 'd'")
    for _ in range(4):
        report = shop.audit()
        for table in ("inventory", "routes"):
            found = report.tables[table]
            assert figures(report, table) == (0, 0, 0, 0, 0)
            assert (found.rows, found.digest) == (found.logged, found.digest_logged)
        shop.cycle()
        shop.now += timedelta(days=36)
    shop.unrecorded("inventory", "inventory", "UPDATE inventory SET current_stock = 9")
    assert figures(shop.audit(), "inventory") == (0, 0, 1, 0, 0)


def test_what_is_older_than_the_logs_is_not_compared(shop: Shop) -> None:
    """It is counted, and said; what is newer is compared as ever."""
    shop.cycle()
    shop.now += timedelta(days=100)
    now = f"{shop.now:%Y-%m-%d %H:%M:%S}.000000"
    session = "INSERT INTO user_sessions VALUES (?, 1, '[]', '[]', 3, ?, '{}')"
    for name in ("s2", "s3"):
        shop.execute("users", session, name, now)
    shop.cycle()
    shop.cycle()
    report = shop.audit()
    assert figures(report, "user_sessions") == (0, 0, 0, 0, 1)
    assert report.unexplained == 0
    shop.unrecorded(
        "users",
        "user_sessions",
        f"UPDATE user_sessions SET session_duration = 4, timestamp = '{now}'",
    )
    assert figures(shop.audit(), "user_sessions") == (1, 0, 2, 0, 0)


def test_a_deleted_parent_does_not_come_back_with_a_rebuild(shop: Shop) -> None:
    """Trimming keeps its deletion as it keeps its insertion, and the change of a key."""
    shop.execute("users", "DELETE FROM users WHERE user_id = 3")
    shop.execute("users", "UPDATE users SET user_id = 8 WHERE user_id = 2")
    shop.cycle()
    shop.now += timedelta(days=100)
    shop.cycle()
    shop.processor.rebuild()
    shop.cycle()
    assert figures(shop.audit(), "users") == (0, 0, 0, 0, 0)


def features(shop: Shop) -> list[dict[str, Any]]:
    return offline_rows(shop.processor, "user_orders")


def test_what_was_mended_and_what_was_last_outlive_trimming_and_a_rebuild(shop: Shop) -> None:
    """The update that mended a rejected insertion, and the newest one of each key: everything that
    lasts is made anew as the live tables hold it, and nothing of it is too old to compare."""
    region = "UPDATE users SET region = ? WHERE user_id = ?"
    shop.execute("users", "INSERT INTO users VALUES (4, 'north', 'yesterday')")
    shop.execute("users", "UPDATE users SET signed_up_at = ? WHERE user_id = 4", AT)
    for place in ("south", "east"):
        shop.execute("users", region, place, 1)
        shop.execute("users", region, place, 4)
    shop.execute("users", "DELETE FROM users WHERE user_id = 2")
    shop.execute("users", "INSERT INTO users VALUES (2, 'north', ?)", AT)
    shop.execute("orders", ORDER.replace("1, 'p1', 1", "4, 'p1', 0"), 10, AT)
    shop.execute("orders", "UPDATE orders SET quantity = 3 WHERE id = 10")
    for status in ("shipped", "delivered"):
        shop.execute("orders", f"UPDATE orders SET status = '{status}' WHERE id = 10")
    shop.execute("inventory", "UPDATE inventory SET current_stock = 4")
    shop.execute("inventory", "UPDATE warehouses SET region = 'south'")
    shop.cycle()
    before = features(shop)
    shop.now += timedelta(days=100)
    shop.cycle()
    left = {op for (op,) in shop.rows("orders", "SELECT op FROM change_log WHERE key = '[10]'")}
    assert left == {"I", "U"}
    shop.processor.rebuild()
    shop.cycle()
    report = shop.audit()
    assert {t: figures(report, t) for t in report.tables if t != "user_sessions"} == {
        t: (0, 0, 0, 0, 0) for t in report.tables if t != "user_sessions"
    }
    assert features(shop) == before
    shop.unrecorded("users", "users", "UPDATE users SET region = 'west' WHERE user_id = 3")
    assert figures(shop.audit(), "users") == (0, 0, 1, 0, 0)


@pytest.mark.parametrize(
    ("committed_at", "goes"),
    [
        ("2026-04-26 11:59:59.999999", True),
        ("2026-04-26 12:00:00.000000", False),
        ("2026-04-26T11:59:59Z", True),
        ("2026-04-26 13:30:00+02:00", True),
        ("2026-04-26 10:30:00-0200", False),
        ("2026-04-26", True),
        ("2026-04-27", False),
        ("2026-04-26T12:00:00Z", False),
        ("2026-04-26 08:00:00-03:00", True),
        ("2030-01-01 00:00:00.000000", True),
        ("yesterday", True),
    ],
)
def test_changes_are_trimmed_by_the_time_that_they_mean(
    shop: Shop, committed_at: str, goes: bool
) -> None:
    """Whatever form it has; what says nothing goes with the expired changes around it."""
    shop.cycle()
    log = "SELECT seq FROM change_log WHERE table_name = 'shipments'"
    add = "INSERT INTO change_log (table_name, op, key, row, committed_at) VALUES "
    times = ("2026-04-20 00:00:00.000000", committed_at, "2026-04-25 00:00:00.000000", str(NOW))
    path = shop.folder / "live_databases" / "supply_chain.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        for at in times:
            connection.execute(f"{add} ('shipments', 'U', '[1]', '{{}}', ?)", (at,))
    shop.cycle()
    assert len(shop.rows("supply_chain", log)) == (1 if goes else 3)


def test_a_clock_that_is_behind_trims_nothing(shop: Shop) -> None:
    """To it, all that was ever committed lies in the future."""
    shop.now -= timedelta(days=365)
    shop.cycle()
    assert len(shop.rows("orders", "SELECT seq FROM change_log")) == 5


def test_a_busy_shop_is_looked_at_as_of_one_time(shop: Shop) -> None:
    """What is committed while it looks concerns neither side."""
    shop.cycle()
    number = iter(range(100, 10_000))
    rng = random.Random(1)

    def commit(_step: str, _rows: int) -> None:
        shop.execute("orders", ORDER, next(number), AT)
        shop.execute("orders", f"UPDATE orders SET quantity = {rng.randint(1, 9)}")
        shop.execute("orders", "DELETE FROM orders WHERE id = 3")

    report = audit_live(DataConfig(), shop.processor.config, now=lambda: NOW, progress=commit)
    assert report.unexplained == 0
    assert report.tables["orders"].rows >= 5


def test_there_must_be_something_to_compare(tmp_path: Path) -> None:
    """One line says what to run first."""
    with used_directory(tmp_path), pytest.raises(SynchroChainError, match=r"`.* batch --once`"):
        audit_live(DataConfig(), BatchConfig())
