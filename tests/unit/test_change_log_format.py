"""Format 2 of the change log: what the triggers record, and how an older log comes up to date."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pipelines.change_log.reader import ChangeLogReader
from pipelines.errors import ContractError, TriggersError
from pipelines.live_databases import (
    FORMAT,
    LONGEST,
    METADATA,
    LiveDatabases,
    change_log_state,
    check_contract,
    create_schema,
    install_triggers,
    open_engine,
    transaction,
    unknown_rows,
    upgrade_change_log,
    users_db,
)
from pipelines.live_databases.triggers import format_1_statements, trigger_statements
from pipelines.settings import DATABASE_NAMES, DataConfig

NOON = "2026-01-31 12:00:00.000000"
LOG = "SELECT seq, op, key, row, old_key FROM change_log ORDER BY seq"
FORMAT_1 = """CREATE TABLE change_log (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, table_name TEXT NOT NULL,
    op TEXT NOT NULL CHECK (op IN ('I', 'U', 'D')), key TEXT NOT NULL, row TEXT NOT NULL,
    committed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')
)"""
REBUILD = (
    "CREATE TABLE new_users (user_id INTEGER PRIMARY KEY, region TEXT NOT NULL, "
    "signed_up_at DATETIME NOT NULL CHECK (signed_up_at > ''))",
    "INSERT INTO new_users SELECT * FROM users",
    "DROP TABLE users",
    "ALTER TABLE new_users RENAME TO users",
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    """The users' database, new."""
    engine = open_engine(f"sqlite:///{tmp_path}/users.db")
    create_schema(engine, users_db)
    yield engine
    engine.dispose()


@pytest.fixture
def older(tmp_path: Path) -> Iterator[sa.Engine]:
    """The users' database as version 0.5 made it, with one change in its log."""
    engine = open_engine(f"sqlite:///{tmp_path}/users.db")
    users_db.create_all(engine)
    run(engine, FORMAT_1, *(s for t in users_db.sorted_tables for s in _format_1(t)))
    run(engine, f"INSERT INTO users VALUES (1, 'north', '{NOON}')")
    yield engine
    engine.dispose()


def _format_1(table: sa.Table) -> list[str]:
    return list(format_1_statements(table).values())


def run(engine: sa.Engine, *statements: str) -> list[Any]:
    """Statements in one transaction without foreign keys; what the last one found."""
    with closing(sqlite3.connect(str(engine.url.database))) as connection, connection:
        for statement in statements:
            found = connection.execute(statement).fetchall()
        return found


def test_an_update_of_a_key_is_a_deletion_and_an_update(engine: sa.Engine) -> None:
    """Of one transaction: the old row leaves, the new one says where it was before."""
    run(engine, f"INSERT INTO users VALUES (1, 'north', '{NOON}')")
    run(engine, "UPDATE users SET user_id = 2, region = 'south'")
    old = {"user_id": 1, "region": "north", "signed_up_at": NOON}
    new = {"user_id": 2, "region": "south", "signed_up_at": NOON}
    assert [(*row[:3], json.loads(row[3]), row[4]) for row in run(engine, LOG)] == [
        (1, "I", "[1]", old, None),
        (2, "D", "[1]", old, None),
        (3, "U", "[2]", new, "[1]"),
    ]


def test_an_update_that_sets_the_key_to_itself_is_an_update(engine: sa.Engine) -> None:
    """As an ORM writes it that names every column."""
    run(engine, f"INSERT INTO users VALUES (1, 'north', '{NOON}')")
    run(engine, "UPDATE users SET user_id = 1, region = 'south'")
    assert [(row[1], row[4]) for row in run(engine, LOG)] == [("I", None), ("U", None)]


def test_the_case_of_a_key_is_part_of_it(tmp_path: Path) -> None:
    """Though a shop's column compares without it."""
    engine = open_engine(f"sqlite:///{tmp_path}/supply_chain.db")
    run(
        engine,
        "CREATE TABLE suppliers (supplier_id TEXT PRIMARY KEY COLLATE NOCASE, region TEXT, "
        "lead_time_days REAL) WITHOUT ROWID",
    )
    create_schema(engine, METADATA["supply_chain"])
    run(engine, "INSERT INTO suppliers VALUES ('s1', 'r', 1.5)")
    run(engine, "UPDATE suppliers SET supplier_id = 'S1'")
    assert [(row[1], row[2], row[4]) for row in run(engine, LOG)] == [
        ("I", '["s1"]', None),
        ("D", '["s1"]', None),
        ("U", '["S1"]', '["s1"]'),
    ]


@pytest.mark.parametrize("recursive", ["ON", "OFF"])
def test_a_replaced_row_is_one_change_or_two(engine: sa.Engine, recursive: str) -> None:
    """`INSERT OR REPLACE` deletes the old row, in the log only with recursive triggers."""
    insert = "INSERT OR REPLACE INTO users VALUES (1, 'north', '2026-01-31')"
    run(engine, f"PRAGMA recursive_triggers = {recursive}", insert, insert)
    expected = ["I", "D", "I"] if recursive == "ON" else ["I", "I"]
    assert [row[1] for row in run(engine, LOG)] == expected


@pytest.mark.parametrize("name", DATABASE_NAMES)
def test_no_value_fails_the_writer(tmp_path: Path, name: str) -> None:
    """Any column of any table, keys too: a BLOB, an infinity, no UTF-8, a zero byte, malformed
    JSON; each is recorded as JSON, in an insertion, an update and a deletion."""
    engine = open_engine(f"sqlite:///{tmp_path}/{name}.db")
    create_schema(engine, METADATA[name])
    odd = ["x'0a00ff'", "9e999", "CAST(x'ff41' AS TEXT)", "'a' || char(0)", "'{'", "zeroblob(1e6)"]
    count = 0
    for table in METADATA[name].sorted_tables:
        columns = [f'"{column.name}"' for column in table.columns]
        for position, changed in enumerate(table.columns):
            for value in odd:
                if changed.primary_key and isinstance(changed.type, sa.Integer):
                    break  # of an integer key SQLite itself allows nothing else
                values = [str(count * 100 + n) for n in range(len(columns))]
                values[position] = value
                run(
                    engine,
                    f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join(values)})",
                    f"UPDATE {table.name} SET {columns[-1]} = {columns[-1]}",
                    f"UPDATE {table.name} SET {columns[position]} = {value}",
                    f"DELETE FROM {table.name}",
                )
                count += 1
    with closing(sqlite3.connect(str(engine.url.database))) as connection:
        connection.text_factory = bytes
        rows = connection.execute("SELECT op, key, row FROM change_log").fetchall()
    assert len(rows) == 4 * count
    for op, key, row in rows:
        assert op in (b"I", b"U", b"D")
        assert json.loads(key.decode("utf-8", "replace").replace("Inf", "Infinity"))
        assert json.loads(row.decode("utf-8", "replace").replace("Inf", "Infinity"))


def test_a_blob_is_recorded_by_name_and_first_bytes(engine: sa.Engine) -> None:
    """So that the reader can say which column; a long one is cut."""
    run(engine, "INSERT INTO users VALUES (1, x'0102', zeroblob(1000000))")
    ((*_, row, _),) = run(engine, LOG)
    assert json.loads(row) == {
        "user_id": 1,
        "region": "X'0102'",
        "signed_up_at": "X'" + "00" * 32 + "'",
        "$blob": "region signed_up_at ",
        "$long": None,
    }


@pytest.mark.parametrize("filler", ["x", "\0", "\x01", '"'])
def test_texts_that_are_too_long_for_one_row_are_recorded_by_name(
    tmp_path: Path, filler: str
) -> None:
    """A row that SQLite just allows is too long as JSON, which control characters make six times
    as long; in the key too."""
    engine = open_engine(f"sqlite:///{tmp_path}/inventory.db")
    create_schema(engine, METADATA["inventory"])
    long = "a" + filler * 12_000_000
    with closing(sqlite3.connect(str(engine.url.database))) as shop, shop:
        shop.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 36_001_000)  # as 1 GB is otherwise
        shop.execute("INSERT INTO products VALUES (?1, ?1, 1, ?1)", (long,))
        shop.execute("UPDATE products SET category = 'c', product_id = ?1 || 'b'", (long,))
        shop.execute("UPDATE products SET weight_kg = 1")
        shop.execute("DELETE FROM products")
    rows = run(engine, "SELECT op, json_extract(row, '$.$long') FROM change_log ORDER BY seq")
    assert rows == [
        ("I", "product_id category weight_kg "),
        ("D", "product_id category weight_kg "),
        ("U", "product_id weight_kg "),
        ("U", "product_id "),
        ("D", "product_id "),
    ]
    assert run(engine, "SELECT max(length(key) + length(row)) < 1000 FROM change_log") == [(1,)]


def test_a_text_of_the_longest_kind_is_recorded_whole(engine: sa.Engine) -> None:
    """By bytes, not characters."""
    run(engine, f"INSERT INTO users VALUES (1, '{'é' * (LONGEST // 2)}', '')")
    run(engine, f"INSERT INTO users VALUES (2, '{'é' * (LONGEST // 2)}x', '')")
    whole, cut = (json.loads(row[3]) for row in run(engine, LOG))
    assert (len(whole["region"]), "$long" in whole) == (LONGEST // 2, False)
    assert (len(cut["region"]), cut["$long"]) == (34, "region ")


@pytest.mark.parametrize(
    "setting",
    [
        "recursive_triggers = ON",
        "ignore_check_constraints = ON",
        "defer_foreign_keys = ON",
        "legacy_alter_table = ON",
        "case_sensitive_like = ON",
        "reverse_unordered_selects = ON",
    ],
)
def test_what_a_writer_sets_on_its_connection_changes_nothing(
    engine: sa.Engine, setting: str
) -> None:
    """Each of its changes is recorded as ever."""
    run(
        engine,
        f"PRAGMA {setting}",
        f"INSERT INTO users VALUES (1, 'a', '{NOON}')",
        "UPDATE users SET region = 'b'",
        "UPDATE users SET user_id = 2",
        "DELETE FROM users",
    )
    assert [row[1] for row in run(engine, LOG)] == ["I", "U", "D", "U", "D"]


def test_a_deletion_that_a_foreign_key_brings_about_is_recorded(tmp_path: Path) -> None:
    """As a cascade in a shop's own tables."""
    engine = open_engine(f"sqlite:///{tmp_path}/users.db")
    run(
        engine,
        "CREATE TABLE users (user_id INTEGER PRIMARY KEY, region TEXT, signed_up_at TEXT)",
        "CREATE TABLE user_sessions (session_id TEXT PRIMARY KEY, user_id INTEGER REFERENCES users "
        "ON DELETE CASCADE ON UPDATE CASCADE, products_viewed, actions_performed, "
        "session_duration, timestamp, intent_signals)",
    )
    create_schema(engine, users_db)
    with closing(sqlite3.connect(str(engine.url.database))) as shop, shop:
        shop.execute("PRAGMA foreign_keys = ON")
        shop.execute("INSERT INTO users VALUES (1, 'a', '')")
        shop.execute("INSERT INTO user_sessions VALUES ('s', 1, '[]', '[]', 1, '', '{}')")
        shop.execute("UPDATE users SET user_id = 2")
        shop.execute("DELETE FROM users")
    changes = run(engine, "SELECT table_name, op FROM change_log ORDER BY seq")
    assert sorted(changes[2:]) == [
        ("user_sessions", "D"),
        ("user_sessions", "U"),
        *[("users", op) for op in "DDU"],
    ]


def test_a_table_whose_columns_change_is_recorded_on(engine: sa.Engine) -> None:
    """Columns that are added or dropped beside ours; one of ours cannot be dropped unnoticed."""
    run(engine, "ALTER TABLE users ADD COLUMN note TEXT DEFAULT 'n'")
    run(engine, f"INSERT INTO users VALUES (1, 'a', '{NOON}', 'x')")
    run(engine, "ALTER TABLE users DROP COLUMN note", "UPDATE users SET region = 'b'")
    check_contract(engine, users_db)
    assert [row[1] for row in run(engine, LOG)] == ["I", "U"]
    with pytest.raises(sqlite3.OperationalError, match="error in trigger users_insert"):
        run(engine, "ALTER TABLE users DROP COLUMN region")
    run(engine, "ALTER TABLE users RENAME COLUMN region TO area", "UPDATE users SET area = 'c'")
    assert len(run(engine, LOG)) == 3
    with pytest.raises(ContractError, match="'users' has no column 'region'"):
        check_contract(engine, users_db)


def test_each_change_has_a_nonce_of_its_own(engine: sa.Engine) -> None:
    """One that was appended by hand too."""
    run(engine, f"INSERT INTO users VALUES (1, 'a', '{NOON}'), (2, 'a', '{NOON}')")
    run(
        engine, "INSERT INTO change_log (table_name, op, key, row) VALUES ('users', 'U', '[1]', '')"
    )
    nonces = {nonce for (nonce,) in run(engine, "SELECT nonce FROM change_log")}
    assert len(nonces) == 3
    assert all(len(nonce) == 16 for nonce in nonces)


def test_the_log_remembers_the_last_change_that_was_removed(engine: sa.Engine) -> None:
    """With its nonce, whoever removed it."""
    run(engine, f"INSERT INTO users VALUES (1, 'a', '{NOON}'), (2, 'a', '{NOON}'), (3, 'b', '')")
    ((nonce,),) = run(engine, "SELECT nonce FROM change_log WHERE seq = 2")
    run(engine, "DELETE FROM change_log WHERE seq <= 2")
    info = run(engine, "SELECT removed_seq, removed_nonce FROM change_log_info")
    assert info == [(2, nonce)]


def test_numbers_go_on_when_the_log_is_emptied_and_its_count_set_back(engine: sa.Engine) -> None:
    """No change has the number of one that readers have read; more rows at once, and later ones."""
    run(engine, f"INSERT INTO users VALUES (1, 'a', '{NOON}'), (2, 'a', '{NOON}'), (3, 'b', '')")
    run(engine, "DELETE FROM change_log", "DELETE FROM sqlite_sequence")
    run(engine, "UPDATE users SET region = 'c' WHERE user_id < 3", "DELETE FROM users")
    assert [row[:2] for row in run(engine, LOG)] == [
        (4, "U"),
        (5, "U"),
        (6, "D"),
        (7, "D"),
        (8, "D"),
    ]


def test_changes_that_are_put_back_keep_their_numbers(engine: sa.Engine) -> None:
    """As the remedy for changes that went before they were read wants it."""
    run(engine, f"INSERT INTO users VALUES (1, 'a', '{NOON}'), (2, 'a', '{NOON}'), (3, 'b', '')")
    run(engine, "CREATE TABLE kept AS SELECT * FROM change_log WHERE seq > 1")
    run(engine, "DELETE FROM change_log WHERE seq > 1", "INSERT INTO change_log SELECT * FROM kept")
    assert [row[0] for row in run(engine, LOG)] == [1, 2, 3]


def test_an_older_log_comes_up_to_date(older: sa.Engine) -> None:
    """With its rows and numbers, and new triggers; a second time there is nothing to do."""
    with pytest.raises(ContractError, match=r"format 1.*batch --once"):
        check_contract(older, users_db)
    assert upgrade_change_log(older, users_db)
    assert not upgrade_change_log(older, users_db)
    check_contract(older, users_db)
    run(older, "UPDATE users SET user_id = 2")
    assert [(row[0], row[1], row[4]) for row in run(older, LOG)] == [
        (1, "I", None),
        (2, "D", None),
        (3, "U", "[1]"),
    ]
    assert unknown_rows(older) == []


def test_the_reader_brings_its_own_log_up_to_date(older: sa.Engine) -> None:
    """And says whether there was anything to do."""
    reader = ChangeLogReader("users", str(older.url))
    assert [reader.upgrade() for _ in range(2)] == [True, False]
    assert reader.end().identity


def test_an_older_log_comes_up_to_date_while_a_shop_writes(older: sa.Engine) -> None:
    """Over connections that are open, with statements that are prepared."""
    with closing(sqlite3.connect(str(older.url.database), isolation_level=None)) as shop:
        insert = "INSERT INTO users VALUES (?, 'north', '2026-01-31')"
        shop.execute(insert, (2,))
        upgrade_change_log(older, users_db)
        shop.execute(insert, (3,))
        nonces = shop.execute("SELECT nonce IS NULL FROM change_log ORDER BY seq").fetchall()
    assert nonces == [(1,), (1,), (0,)]


def test_an_upgrade_that_is_killed_leaves_the_older_log(older: sa.Engine) -> None:
    """It is one transaction."""

    def killed() -> None:
        with transaction(older, writes=True) as connection:
            connection.execute("ALTER TABLE change_log ADD COLUMN nonce TEXT")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert upgrade_change_log(older, users_db)
    check_contract(older, users_db)


def unrecorded_by_format_1(engine: sa.Engine) -> None:
    """A key that an UPDATE leaves, a deletion and an insertion without triggers."""
    run(engine, "INSERT INTO users VALUES (2, 'a', '2026-01-31'), (3, 'a', '2026-01-31')")
    run(engine, "UPDATE users SET user_id = 9 WHERE user_id = 2")
    events = ("insert", "delete")
    triggers = run(engine, "SELECT sql FROM sqlite_master WHERE name LIKE 'users@_%' ESCAPE '@'")
    run(engine, *(f"DROP TRIGGER users_{event}_to_change_log" for event in events))
    run(engine, "DELETE FROM users WHERE user_id = 3")
    run(engine, "INSERT INTO users VALUES (7, 'a', '2026-01-31'), (8, 'a', '2000-01-31')")
    run(engine, *(sql for (sql,) in triggers if "AFTER UPDATE" not in sql))


@pytest.mark.parametrize("killed", [False, True])
def test_an_upgrade_finds_rows_of_which_the_older_log_says_other_keys(
    older: sa.Engine, killed: bool
) -> None:
    """What is there no more is logged as deleted, what the log does not know noted; a kill in the
    middle is said, and the next one finishes it."""
    unrecorded_by_format_1(older)
    if killed:
        child = os.fork()
        if not child:
            at_the_comparison(older, lambda: os.kill(os.getpid(), signal.SIGKILL))
            upgrade_change_log(older, users_db)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        with pytest.raises(TriggersError, match="was not compared to the end"):
            check_contract(older, users_db)
    assert upgrade_change_log(older, users_db)
    assert not upgrade_change_log(older, users_db)
    check_contract(older, users_db)
    gone = "SELECT key, json_extract(row, '$.user_id') FROM change_log WHERE op = 'D' ORDER BY seq"
    assert run(older, gone) == [("[2]", 2), ("[3]", 3)]
    assert [(found.table, found.rows) for found in unknown_rows(older)] == [("users", 2)]


def test_an_upgrade_does_not_take_for_unknown_what_was_trimmed(older: sa.Engine) -> None:
    """Of a log that has lost its beginning, rows count that are newer than what is left."""
    run(older, "DELETE FROM change_log")
    unrecorded_by_format_1(older)
    run(older, "UPDATE change_log SET committed_at = '2026-01-20'")
    upgrade_change_log(older, users_db)
    assert run(older, "SELECT key FROM change_log_unknown") == [("[1]",), ("[7]",)]


def test_an_upgrade_does_not_hide_that_triggers_were_missing(older: sa.Engine) -> None:
    """Of a table that has lost one, the others are left as they are, so that it shows."""
    run(older, "DROP TRIGGER users_update_to_change_log")
    upgrade_change_log(older, users_db)
    with pytest.raises(ContractError, match=r"users \(missing: UPDATE; of format 1: INSERT, DEL"):
        check_contract(older, users_db)


def test_a_log_of_a_newer_format_is_refused(engine: sa.Engine) -> None:
    """By whoever reads, makes or mends, in one line."""
    run(engine, f"UPDATE change_log_info SET format = {FORMAT + 1}")
    for use in (check_contract, create_schema, install_triggers):
        with pytest.raises(ContractError, match=r"format 3, made by a newer version") as caught:
            use(engine, users_db)
        assert "\n" not in str(caught.value)


def test_a_rebuilt_table_has_lost_its_triggers(engine: sa.Engine) -> None:
    """The usual migration; making the schema again does not hide it."""
    run(engine, f"INSERT INTO users VALUES (1, 'a', '{NOON}')", *REBUILD)
    ((at,),) = run(engine, "SELECT committed_at FROM change_log")
    create_schema(engine, users_db)
    with pytest.raises(ContractError) as caught:
        check_contract(engine, users_db)
    assert str(caught.value) == (
        f"{engine.url.database}: triggers are not what they should be: users (missing: INSERT, "
        f"UPDATE, DELETE); changes may be missing since {at}: mend them with "
        "`synchrochain triggers --install`"
    )


FAULTS = {
    "dropped": "DROP TRIGGER users_delete_to_change_log",
    "the log's own": "DROP TRIGGER change_log_appended",
    "an empty one instead": "DROP TRIGGER users_insert_to_change_log; "
    "CREATE TRIGGER users_insert_to_change_log AFTER INSERT ON users BEGIN SELECT 1; END",
    "on another table": "DROP TRIGGER users_insert_to_change_log; CREATE TABLE old_users (a); "
    "CREATE TRIGGER users_insert_to_change_log AFTER INSERT ON old_users BEGIN SELECT 1; END",
    "a renamed table": "ALTER TABLE clickstream RENAME TO old_clicks; "
    "CREATE TABLE clickstream AS SELECT * FROM old_clicks",
    "no column for the nonce": "DROP TRIGGER change_log_appended; "
    "DROP TRIGGER change_log_removed; ALTER TABLE change_log RENAME COLUMN nonce TO other",
    "no information": "DELETE FROM change_log_info",
    "no log": "DROP TABLE change_log",
    "no gaps": "DROP TABLE change_log_gaps",
    "changes swallowed": 'CREATE TRIGGER "a ""b" BEFORE INSERT ON change_log '
    "WHEN NEW.table_name = 'users' BEGIN SELECT RAISE(IGNORE); END",
    "changes removed": "CREATE TRIGGER tidy AFTER INSERT ON Change_Log BEGIN "
    "DELETE FROM change_log; END",
    "unknown rows removed": "CREATE TRIGGER tidy AFTER INSERT ON change_log_unknown BEGIN "
    "DELETE FROM change_log_unknown; END",
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_the_log_needs_is_missed_and_made_again(engine: sa.Engine, fault: str) -> None:
    """Each time with the command that mends it, after which every change is recorded."""
    run(engine, *fault.split("; ")) if "BEGIN" not in fault else _script(engine, fault)
    with pytest.raises(ContractError, match=r"`synchrochain triggers --install`$"):
        check_contract(engine, users_db)
    install_triggers(engine, users_db)
    check_contract(engine, users_db)
    run(engine, f"INSERT INTO users VALUES (77, 'a', '{NOON}')", "DELETE FROM users")
    assert [row[1] for row in run(engine, LOG)] == ["I", "D"]


def _script(engine: sa.Engine, statements: str) -> None:
    with closing(sqlite3.connect(str(engine.url.database))) as connection:
        connection.executescript(statements)


def test_a_table_renamed_and_back_keeps_its_triggers(engine: sa.Engine) -> None:
    """SQLite writes them anew, with other quotes."""
    for table in ("users", "change_log"):
        run(engine, f"ALTER TABLE {table} RENAME TO away", f"ALTER TABLE away RENAME TO {table}")
    check_contract(engine, users_db)


def test_names_are_the_same_in_letters_of_another_case(engine: sa.Engine) -> None:
    """Of tables, columns and triggers, as for SQLite; a text in a trigger is another one."""
    for old, new in (("users", "Users"), ("change_log", "CHANGE_LOG")):
        run(engine, f"ALTER TABLE {old} RENAME TO away", f"ALTER TABLE away RENAME TO {new}")
    run(engine, "ALTER TABLE users RENAME COLUMN region TO REGION")
    check_contract(engine, users_db)
    create_schema(engine, users_db)
    run(engine, *(s.replace(" users ", " USERS ") for s in REBUILD))
    with pytest.raises(TriggersError, match=r"users \(missing: INSERT, UPDATE, DELETE\)"):
        check_contract(engine, users_db)
    for trigger in trigger_statements(users_db.tables["users"]).values():
        run(engine, trigger.replace('"users', '"USERS'))
    check_contract(engine, users_db)
    run(engine, f"INSERT INTO users VALUES (1, 'a', '{NOON}')", "DELETE FROM users")
    assert [row[1] for row in run(engine, LOG)] == ["I", "D"]
    run(engine, "DROP TRIGGER users_delete_to_change_log")
    run(
        engine, trigger_statements(users_db.tables["users"])["DELETE"].replace("'users'", "'Users'")
    )
    with pytest.raises(TriggersError, match=r"users \(altered: DELETE\)"):
        check_contract(engine, users_db)


def test_a_copy_keeps_its_triggers(engine: sa.Engine, tmp_path: Path) -> None:
    """Made by `VACUUM INTO`, and written to as an attached database."""
    with closing(sqlite3.connect(str(engine.url.database))) as connection:
        connection.execute(f"VACUUM INTO '{tmp_path}/copy.db'")
        connection.execute(f"ATTACH '{tmp_path}/copy.db' AS copy")
        connection.execute("INSERT INTO copy.users VALUES (1, 'a', '2026-01-31')")
        connection.commit()
    copy = open_engine(f"sqlite:///{tmp_path}/copy.db")
    check_contract(copy, users_db)
    assert len(run(copy, LOG)) == 1
    assert run(engine, LOG) == []


def test_a_view_in_place_of_a_table_is_named(engine: sa.Engine) -> None:
    """Triggers of ours cannot follow what is behind it."""
    run(engine, "ALTER TABLE clickstream RENAME TO clicks", "CREATE VIEW clickstream AS SELECT 1")
    with pytest.raises(ContractError, match=r"only a view of that name.*'clickstream'"):
        check_contract(engine, users_db)


def test_a_generated_column_is_recorded(tmp_path: Path) -> None:
    """It is a column like any other."""
    engine = open_engine(f"sqlite:///{tmp_path}/users.db")
    run(
        engine,
        "CREATE TABLE users (user_id INTEGER PRIMARY KEY, city TEXT, signed_up_at TEXT, "
        "region TEXT AS (upper(city)))",
    )
    create_schema(engine, users_db)
    check_contract(engine, users_db)
    run(engine, "INSERT INTO users (user_id, city, signed_up_at) VALUES (1, 'ulm', '2026')")
    ((*_, row, _),) = run(engine, LOG)
    assert json.loads(row)["region"] == "ULM"


def test_triggers_are_not_made_for_a_column_that_is_not_there(tmp_path: Path) -> None:
    """They would fail every writer."""
    engine = open_engine(f"sqlite:///{tmp_path}/users.db")
    run(engine, "CREATE TABLE users (user_id INTEGER PRIMARY KEY, signed_up_at TEXT)")
    with pytest.raises(ContractError, match="'users' has no column 'region'"):
        create_schema(engine, users_db)
    run(engine, "INSERT INTO users VALUES (1, '2026')")


def test_rows_that_were_there_before_the_triggers_are_unknown(tmp_path: Path) -> None:
    """Until the log says what they hold: appended by hand, changed or deleted."""
    config = DataConfig(data_dir=tmp_path)
    with LiveDatabases.open(config) as databases:
        engine = databases["users"]
        users_db.create_all(engine)
        run(engine, f"INSERT INTO users VALUES (1, 'a', '{NOON}'), (2, 'b', ''), (3, 'c', '')")
        databases.create()
        (found,) = unknown_rows(engine)
        assert (found.table, found.rows, found.since) == ("users", 3, None)
        assert str(found).startswith("3 rows of users changed without triggers (before 20")
        run(engine, "UPDATE users SET region = 'd' WHERE user_id = 1")
        run(engine, "DELETE FROM users WHERE user_id = 2")
        assert [one.rows for one in unknown_rows(engine)] == [1]
        run(
            engine,
            "INSERT INTO change_log (table_name, op, key, row) SELECT 'users', 'I', "
            "json_array(user_id), json_object('user_id', user_id) FROM users WHERE user_id = 3",
        )
        assert unknown_rows(engine) == []


def test_what_changed_while_triggers_were_missing_is_unknown(engine: sa.Engine) -> None:
    """Inserted, updated and deleted rows; not those that are as the log says."""
    rows = ", ".join(f"({n}, 'a', '{NOON}')" for n in range(1, 6))
    run(engine, f"INSERT INTO users VALUES {rows}", *REBUILD)
    run(
        engine,
        f"INSERT INTO users VALUES (6, 'a', '{NOON}')",
        "UPDATE users SET region = 'b' WHERE user_id = 1",
        "DELETE FROM users WHERE user_id = 2",
    )
    ((at,),) = run(engine, "SELECT max(committed_at) FROM change_log")
    (gap,) = install_triggers(engine, users_db)
    assert (gap.table, gap.since, gap.unknown_rows, gap.not_comparable) == ("users", at, 3, 0)
    unknown = run(engine, "SELECT key FROM change_log_unknown ORDER BY key")
    assert unknown == [("[1]",), ("[2]",), ("[6]",)]
    assert install_triggers(engine, users_db) == []


def test_what_was_trimmed_from_the_log_cannot_be_compared(engine: sa.Engine) -> None:
    """Unless the row itself says that it is newer than the last change recorded."""
    run(
        engine,
        "INSERT INTO users VALUES (1, 'a', '2026-01-01'), (2, 'a', '2026-01-01')",
        "DELETE FROM change_log WHERE seq = 1",
        *REBUILD,
        "INSERT INTO users VALUES (3, 'a', '2026-01-01'), (4, 'a', '9999-01-01')",
    )
    (gap,) = install_triggers(engine, users_db)
    assert (gap.unknown_rows, gap.not_comparable) == (1, 2)
    assert run(engine, "SELECT key FROM change_log_unknown") == [("[4]",)]


def at_the_comparison(engine: sa.Engine, act: Callable[[], object]) -> None:
    """Do something just when the table and the log are compared."""

    def traced(statement: str) -> None:
        if statement.startswith("CREATE TEMP TABLE differing"):
            act()

    sa.event.listen(engine, "connect", lambda made, _record: made.set_trace_callback(traced))
    engine.dispose()  # connections of before have no such callback


def test_writers_go_on_while_the_table_is_compared(engine: sa.Engine) -> None:
    """No lock is held meanwhile, and what they write is known: it is in the log."""
    rows = ", ".join(f"({n}, 'a', '{NOON}')" for n in range(1, 4))
    run(engine, *REBUILD, f"INSERT INTO users VALUES {rows}")
    written = []

    def write() -> None:
        with closing(sqlite3.connect(str(engine.url.database), timeout=0)) as shop, shop:
            shop.execute("INSERT INTO users VALUES (9, 'a', '2026-01-31')")
            shop.execute("UPDATE users SET region = 'b' WHERE user_id = 2")
            written.append(9)

    at_the_comparison(engine, write)
    install_triggers(engine, users_db)
    assert written == [9]
    keys = run(engine, "SELECT key FROM change_log_unknown ORDER BY key")
    assert keys == [("[1]",), ("[3]",)]


def test_an_installation_that_is_killed_is_not_taken_for_a_whole_one(engine: sa.Engine) -> None:
    """The triggers are there, but what they missed was not found out: that is said, and done by
    the next one."""
    run(engine, *REBUILD, f"INSERT INTO users VALUES (1, 'a', '{NOON}'), (2, 'a', '{NOON}')")
    child = os.fork()
    if not child:
        at_the_comparison(engine, lambda: os.kill(os.getpid(), signal.SIGKILL))
        install_triggers(engine, users_db)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    run(engine, "UPDATE users SET region = 'b' WHERE user_id = 2")
    with pytest.raises(TriggersError, match=r"in users while .* run `synchrochain triggers --inst"):
        check_contract(engine, users_db)
    (gap,) = install_triggers(engine, users_db)
    assert (gap.table, gap.unknown_rows) == ("users", 1)
    check_contract(engine, users_db)
    assert run(engine, "SELECT key FROM change_log_unknown") == [("[1]",)]


@pytest.mark.parametrize("at", ["2026-01-31T13:30:00+01:00", "2026-01-31T12:30:00Z"])
def test_rows_are_newer_than_the_last_change_by_the_time_that_they_mean(
    engine: sa.Engine, at: str
) -> None:
    """Not by how it is written."""
    log = "INSERT INTO change_log (table_name, op, key, row, committed_at) VALUES"
    run(
        engine,
        f"{log} ('users', 'U', '[7]', '{{}}', '2026-01-31 12:00'), ('users', 'D', '[7]', '', "
        "'2026-01-31 12:00:00.000000')",
        "DELETE FROM change_log WHERE seq = 1",
        *REBUILD,
        f"INSERT INTO users VALUES (1, 'a', '{at}'), (2, 'a', '2026-01-31T12:30:00+01:00')",
    )
    (gap,) = install_triggers(engine, users_db)
    assert (gap.unknown_rows, gap.not_comparable) == (1, 1)


def test_a_log_made_anew_is_another_log(engine: sa.Engine) -> None:
    """Its numbers begin again, so no reader may take it for the old one."""
    with transaction(engine) as connection:
        before = change_log_state(connection, users_db).identity
    run(engine, "DROP TABLE change_log")
    install_triggers(engine, users_db)
    with transaction(engine) as connection:
        assert change_log_state(connection, users_db).identity != before
