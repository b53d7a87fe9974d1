"""The contract with the world: four databases, each with a change log that misses nothing."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pipelines.errors import (
    ConfigurationError,
    ContractError,
    LiveDatabaseBusyError,
    LiveDatabaseError,
)
from pipelines.live_databases import (
    METADATA,
    LiveDatabases,
    check_contract,
    create_schema,
    open_engine,
    sqlite_path,
    translate_errors,
)
from pipelines.paths import sqlite_url
from pipelines.settings import DATABASE_NAMES, DataConfig

NOON = "2026-01-31 12:00:00.000001"
# One row per table, parents first, and the column that the update changes.
ROWS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "users": ({"user_id": 1, "region": "north", "signed_up_at": NOON}, "region", "süd"),
    "user_sessions": (
        {
            "session_id": "s1",
            "user_id": 1,
            "products_viewed": '["p1", "p\\"2"]',
            "actions_performed": "[]",
            "session_duration": 3,
            "timestamp": NOON,
            "intent_signals": '{"click_rate": 0.5}',
        },
        "session_duration",
        4,
    ),
    "clickstream": (
        {
            "event_id": 1,
            "session_id": "s1",
            "user_id": 1,
            "product_id": None,
            "action": "view",
            "time_on_page": 1.5,
            "scroll_depth": 0.25,
            "event_timestamp": NOON,
        },
        "product_id",
        "p1",
    ),
    "warehouses": (
        {"warehouse_id": "w1", "region": "r", "latitude": 1.5, "longitude": 2.5, "capacity": 9},
        "capacity",
        10,
    ),
    "products": (
        {"product_id": "p1", "category": "c", "unit_price": 9.99, "weight_kg": 0.5},
        "unit_price",
        10.49,
    ),
    "inventory": (
        {
            "warehouse_id": "w1",
            "product_id": "p1",
            "current_stock": 5,
            "reserved_stock": 0,
            "reorder_point": 2,
            "carbon_footprint": 1.25,
            "updated_at": NOON,
        },
        "current_stock",
        4,
    ),
    "orders": (
        {
            "id": 1,
            "user_id": 1,
            "product_id": "p1",
            "quantity": 2,
            "price": 9.99,
            "warehouse_id": "w1",
            "shipping_method": "express",
            "order_timestamp": NOON,
            "status": "placed",
        },
        "status",
        "shipped",
    ),
    "suppliers": ({"supplier_id": "u1", "region": "r", "lead_time_days": 3.5}, "region", "s"),
    "routes": (
        {
            "route_id": "r1",
            "origin_id": "w1",
            "destination_id": "n",
            "mode": "rail",
            "distance_km": 10.5,
            "base_hours": 1.5,
            "base_cost": 2.5,
            "carbon_cost": 3.5,
            "delay_risk": 0.5,
            "congestion": 0.5,
            "updated_at": NOON,
        },
        "delay_risk",
        0.75,
    ),
    "shipments": (
        {
            "shipment_id": 1,
            "order_id": None,
            "route_id": "r1",
            "warehouse_id": "w1",
            "product_id": None,
            "quantity": None,
            "shipping_method": "economy",
            "weight_kg": 1.5,
            "cost": 2.5,
            "carbon_kg": 0.5,
            "shipped_at": NOON,
            "promised_at": NOON,
            "delivered_at": None,
            "status": "in_transit",
        },
        "delivered_at",
        NOON,
    ),
}
TABLES = {
    table.name: (name, table)
    for name, metadata in METADATA.items()
    for table in metadata.sorted_tables
}


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    return DataConfig(data_dir=tmp_path, busy_timeout=0.05)


@pytest.fixture
def live(config: DataConfig) -> Iterator[LiveDatabases]:
    """The four live databases, new."""
    with LiveDatabases.open(config) as databases:
        databases.create()
        yield databases


def insert(engine: sa.Engine, table: str, row: dict[str, Any]) -> None:
    names, marks = ", ".join(f'"{n}"' for n in row), ", ".join("?" for _ in row)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values())
        )


def insert_with_parents(engine: sa.Engine, table: str) -> None:
    database, _ = TABLES[table]
    for parent in METADATA[database].sorted_tables:
        if parent.name != table and any(
            key.column.table is parent for key in _all_keys(TABLES[table][1])
        ):
            insert(engine, parent.name, ROWS[parent.name][0])
    insert(engine, table, ROWS[table][0])


def _all_keys(table: sa.Table) -> set[sa.ForeignKey]:
    """Foreign keys of the table and of the tables it refers to."""
    own = set(table.foreign_keys)
    return own.union(*(_all_keys(key.column.table) for key in own))


def changes(engine: sa.Engine, table: str) -> list[tuple[str, list[Any], dict[str, Any]]]:
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT op, key, row FROM change_log WHERE table_name = ? ORDER BY seq", (table,)
        ).all()
    return [(op, json.loads(key), json.loads(row)) for op, key, row in found]


def test_the_sample_rows_cover_every_table() -> None:
    """A new table needs a row above."""
    assert ROWS.keys() == TABLES.keys()


@pytest.mark.parametrize("name", DATABASE_NAMES)
def test_a_live_database_is_durable_and_strict(live: LiveDatabases, name: str) -> None:
    """WAL mode, every commit synced to disk, foreign keys enforced."""
    with live[name].connect() as connection:
        found = {
            pragma: connection.exec_driver_sql(f"PRAGMA {pragma}").scalar()
            for pragma in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="only on Unix: modes")
def test_only_the_owner_can_read_a_live_database(live: LiveDatabases, config: DataConfig) -> None:
    """The file, its write-ahead log, its shared memory and their folder."""
    with live["users"].begin() as connection:
        connection.exec_driver_sql("INSERT INTO users VALUES (1, 'north', '2026-01-01')")
        files = sorted(config.db_path.glob("users.db*"))
        assert [file.name for file in files] == ["users.db", "users.db-shm", "users.db-wal"]
        modes = {stat.S_IMODE(file.stat().st_mode) for file in files}
    assert modes == {0o600}
    assert stat.S_IMODE(config.db_path.stat().st_mode) == 0o700


def test_opening_a_live_database_leaves_the_locks_of_others_alone(
    live: LiveDatabases, config: DataConfig
) -> None:
    """Of this process: else the last connection of another one removes the log of our commits."""
    path = config.db_path / "users.db"
    elsewhere = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1])\n"
        "connection.execute('SELECT count(*) FROM users').fetchone()\n"
        "connection.close()"
    )
    live.dispose()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO users VALUES (1, 'north', '2024-01-01 00:00:00.000000')")
        connection.commit()
        open_engine(config.database_url("users")).dispose()
        subprocess.run([sys.executable, "-c", elsewhere, path], check=True, timeout=60)
        assert path.with_name("users.db-wal").exists()
        connection.execute("INSERT INTO users VALUES (2, 'north', '2024-01-01 00:00:00.000000')")
        connection.commit()
        with live["users"].connect() as another:
            assert another.scalar(sa.text("SELECT count(*) FROM users")) == 2


def test_an_orphan_is_refused_by_the_database(live: LiveDatabases) -> None:
    """A session of nobody cannot be written, and leaves no change."""
    with pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"):
        insert(live["users"], "user_sessions", ROWS["user_sessions"][0])
    assert changes(live["users"], "user_sessions") == []


@pytest.mark.parametrize("table", TABLES)
def test_each_change_of_a_row_is_logged_once(live: LiveDatabases, table: str) -> None:
    """Insertion, update and deletion: op, key as a JSON array, the row as the table holds it."""
    name, definition = TABLES[table]
    engine = live[name]
    row, column, value = ROWS[table]
    insert_with_parents(engine, table)
    keys = [key.name for key in definition.primary_key]
    where = " AND ".join(f"{key} = ?" for key in keys)
    values = tuple(row[key] for key in keys)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f'UPDATE {table} SET "{column}" = ? WHERE {where}', (value, *values)
        )
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM {table} WHERE {where}", values)
    updated = row | {column: value}
    assert changes(engine, table) == [
        ("I", list(values), row),
        ("U", list(values), updated),
        ("D", list(values), updated),
    ]


def test_many_rows_in_one_statement_are_as_many_changes(live: LiveDatabases) -> None:
    """A trigger fires per row, not per statement; the numbers follow the order of the rows."""
    engine = live["users"]
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO users VALUES (1, 'a', '2026-01-01'), (2, 'b', '2026-01-01')"
        )
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET region = 'c'")
    assert [(op, key) for op, key, _ in changes(engine, "users")] == [
        ("I", [1]),
        ("I", [2]),
        ("U", [1]),
        ("U", [2]),
    ]


def test_a_change_carries_the_time_of_its_commit(live: LiveDatabases) -> None:
    """UTC, in the form of every other time stamp: a space and six digits of a second."""
    insert(live["users"], "users", ROWS["users"][0])
    with live["users"].connect() as connection:
        committed, now = connection.exec_driver_sql(
            "SELECT committed_at, strftime('%Y-%m-%d %H:%M:%f000', 'now') FROM change_log"
        ).one()
    assert len(committed) == len(NOON)
    assert committed[:10] == now[:10]
    assert committed <= now


def test_a_transaction_that_is_rolled_back_leaves_no_change(live: LiveDatabases) -> None:
    """The change and its record are one transaction."""
    with live["users"].connect() as connection:
        connection.exec_driver_sql("INSERT INTO users VALUES (1, 'north', '2026-01-01')")
        connection.rollback()
    assert changes(live["users"], "users") == []


def test_a_number_is_never_used_again(live: LiveDatabases) -> None:
    """A trimmed change log goes on counting, so that no reader takes a new change for an old."""
    engine = live["users"]
    insert(engine, "users", ROWS["users"][0])
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM change_log")
    insert(engine, "users", ROWS["users"][0] | {"user_id": 2})
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT seq FROM change_log").scalars().all() == [2]


def test_malformed_json_does_not_stop_the_writer(live: LiveDatabases) -> None:
    """It is logged as it is; to refuse it is the reader's business."""
    insert(live["users"], "users", ROWS["users"][0])
    broken = ROWS["user_sessions"][0] | {"products_viewed": '["p1"', "intent_signals": "\x01{"}
    insert(live["users"], "user_sessions", broken)
    assert changes(live["users"], "user_sessions") == [("I", ["s1"], broken)]


def test_making_the_schema_twice_changes_nothing(live: LiveDatabases) -> None:
    """Neither rows nor triggers are doubled."""
    insert(live["users"], "users", ROWS["users"][0])
    live.create()
    insert(live["users"], "users", ROWS["users"][0] | {"user_id": 2})
    assert len(changes(live["users"], "users")) == 2


@pytest.mark.parametrize("name", DATABASE_NAMES)
def test_our_own_schema_keeps_the_contract(live: LiveDatabases, name: str) -> None:
    """What we create, the pipelines accept."""
    check_contract(live[name], METADATA[name])


@pytest.mark.parametrize("table", ["clickstream", "change_log"])
def test_a_missing_table_is_named(live: LiveDatabases, table: str) -> None:
    """With the file, and what to do."""
    with live["users"].begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE {table}")
    with pytest.raises(ContractError, match=rf"users\.db has no table '{table}'.*(create|make) it"):
        check_contract(live["users"], METADATA["users"])


def test_a_missing_column_is_named(live: LiveDatabases) -> None:
    """With the columns that are there."""
    with live["supply_chain"].begin() as connection:
        connection.exec_driver_sql("ALTER TABLE suppliers RENAME COLUMN region TO area")
    with pytest.raises(ContractError, match=r"'suppliers' has no column 'region'; it has: area"):
        check_contract(live["supply_chain"], METADATA["supply_chain"])


def test_further_tables_and_columns_are_welcome(live: LiveDatabases) -> None:
    """A shop's own database holds more than we need."""
    with live["users"].begin() as connection:
        connection.exec_driver_sql("ALTER TABLE users ADD COLUMN nickname TEXT")
        connection.exec_driver_sql("CREATE TABLE coupons (id INTEGER)")
    check_contract(live["users"], METADATA["users"])


def test_a_file_that_is_no_database_is_reported(tmp_path: Path) -> None:
    """By name, in one line, and it is left as it was."""
    path = tmp_path / "orders.db"
    path.write_bytes(b"This is a text file, not a database. " * 100)
    before = path.read_bytes()
    engine = open_engine(f"sqlite:///{path}")
    for use in (
        lambda: check_contract(engine, METADATA["orders"]),
        lambda: create_schema(engine, METADATA["orders"]),
    ):
        with pytest.raises(LiveDatabaseError, match=r"orders\.db is corrupt or not a database"):
            use()
    assert path.read_bytes() == before


def test_a_locked_database_is_reported_as_busy(live: LiveDatabases, config: DataConfig) -> None:
    """After the busy time-out; trying again may work, so the error has a class of its own."""
    path = config.db_path / "users.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(LiveDatabaseBusyError, match=r"users\.db is locked by another writer"),
            translate_errors(str(path)),
        ):
            insert(live["users"], "users", ROWS["users"][0])
    insert(live["users"], "users", ROWS["users"][0])


def test_each_database_can_lie_elsewhere(tmp_path: Path) -> None:
    """One URL per database; the others stay where they were."""
    url = f"sqlite:///{tmp_path}/shop/their_orders.db"
    config = DataConfig(data_dir=tmp_path / "data", orders_url=url)
    with LiveDatabases.open(config) as databases:
        databases.create()
    assert (tmp_path / "shop" / "their_orders.db").exists()
    assert sorted(file.name for file in config.db_path.glob("*.db")) == [
        "inventory.db",
        "supply_chain.db",
        "users.db",
    ]


@pytest.mark.parametrize("url", ["orders.db", "nosuch://shop/orders", "postgresql://shop:door/x"])
def test_a_url_that_cannot_be_used_is_a_wrong_setting(url: str) -> None:
    """One line with the URL and exit status 2."""
    with pytest.raises(
        ConfigurationError, match=f"database URL '{url}' cannot be used: "
    ) as caught:
        open_engine(url)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_refused_url_keeps_its_password_to_itself() -> None:
    """Error messages end in logs."""
    with pytest.raises(ConfigurationError, match=r"nosuch://shop:\*\*\*@host/orders") as caught:
        open_engine("nosuch://shop:hush@host/orders")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://host/orders",
        "mysql://host/orders",
        "sqlite+aiosqlite:////srv/orders.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file:memory?mode=memory&uri=true",
        "sqlite:////srv/orders.db?mode=ro",
        "sqlite://srv/orders.db",
    ],
)
def test_only_a_sqlite_file_is_a_live_database(url: str) -> None:
    """Another engine numbers changes in another order than it commits them: they would be lost."""
    with pytest.raises(ConfigurationError, match=r"sqlite:////srv/shop/orders\.db") as caught:
        sqlite_path(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a?b.db", "a%20b.db", "50 %.db", "a?b=c/x.db"])
def test_a_path_may_hold_what_ends_it_in_other_urls(tmp_path: Path, name: str) -> None:
    """Written by hand, or as our own settings write it."""
    for url in (f"sqlite:///{tmp_path}/{name}", sqlite_url(tmp_path / name)):
        assert sqlite_path(url) == tmp_path / name
        engine = open_engine(url)
        engine.connect().close()
        engine.dispose()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [tmp_path / name]
