"""The reader of a change log: which changes, in what pieces, as what text; it never writes."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.change_log import reader as change_log_reader
from pipelines.change_log.reader import SCHEMA, ChangeLogReader, decoded
from pipelines.errors import ContractError, LiveDatabaseError
from pipelines.live_databases import create_schema, open_engine, supply_chain_db


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with five changes."""
    path = tmp_path / "supply_chain.db"
    engine = open_engine(f"sqlite:///{path}")
    create_schema(engine, supply_chain_db)
    engine.dispose()
    with closing(sqlite3.connect(path)) as live, live:
        for number in range(5):
            live.execute("INSERT INTO suppliers VALUES (?, 'r', 1.0)", (f"s{number}",))
    return path


@pytest.fixture
def reader(path: Path) -> ChangeLogReader:
    return ChangeLogReader("supply_chain", f"sqlite:///{path}", busy_timeout=0.05)


@pytest.mark.parametrize(
    ("after", "upto", "size", "pieces"),
    [
        (0, 5, 100, [[1, 2, 3, 4, 5]]),
        (0, 5, 2, [[1, 2], [3, 4], [5]]),
        (1, 4, 100, [[2, 3, 4]]),
        (4, 5, 1, [[5]]),
        (5, 5, 100, []),
        (6, 5, 100, []),
    ],
)
def test_changes_after_one_up_to_another_come_in_pieces(
    reader: ChangeLogReader, after: int, upto: int, size: int, pieces: list[list[int]]
) -> None:
    """The first is read already, the last is not; no piece is larger than asked for."""
    batches = [batch for batch in reader.batches(after, upto, size) if batch.num_rows]
    assert [batch.column("seq").to_pylist() for batch in batches] == pieces
    assert all(batch.schema == SCHEMA for batch in batches)


def test_what_is_no_text_becomes_text_that_can_be_refused(
    path: Path, reader: ChangeLogReader
) -> None:
    """A damaged byte is U+FFFD and its neighbours stay; nulls stay null."""
    with closing(sqlite3.connect(path)) as live, live:
        live.execute("UPDATE change_log SET \"row\" = CAST(X'7B22FF227D' AS TEXT) WHERE seq = 2")
        live.execute("UPDATE change_log SET old_key = 'a key' WHERE seq = 1")
    (batch,) = reader.batches(0, 5, 100)
    rows = batch.column("row").to_pylist()
    assert rows[1] == '{"\ufffd"}'
    assert '"s2"' in rows[2]
    assert batch.column("old_key").to_pylist() == ["a key", *[None] * 4]
    assert batch.schema == SCHEMA
    assert decoded(b"a\xff\xc3\xa9") == "a\ufffdé"


def test_long_rows_come_in_smaller_pieces(
    path: Path, reader: ChangeLogReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the texts of none take more than they may, of the log nor of a live table."""
    monkeypatch.setattr(change_log_reader, "BYTES_AT_ONCE", 2_000)
    monkeypatch.setattr(change_log_reader, "SMALL_DATABASE", 0)
    with closing(sqlite3.connect(path)) as live, live:
        live.execute("INSERT INTO suppliers VALUES ('long', ?, 1.0)", ("x" * 900,))
    sizes = [batch.num_rows for batch in reader.batches(0, 6, 100)]
    assert sum(sizes) == 6
    assert max(sizes) == 2
    with reader.snapshot(100) as snapshot:
        rows = snapshot.rows(supply_chain_db.tables["suppliers"], "2024-01-01 00:00:00.000000")
        sizes = [batch.num_rows for batch in rows]
    assert sum(sizes) == 6
    assert max(sizes) == 2


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_key_that_changed_after_many_that_did_not_is_read(
    path: Path, reader: ChangeLogReader, size: int
) -> None:
    """The first batch, in which no key changed, does not confirm the type of old keys."""
    with closing(sqlite3.connect(path)) as live, live:
        live.execute("UPDATE change_log SET old_key = '[\"old\"]' WHERE seq = 4")
    found = [k for batch in reader.batches(0, 5, size) for k in batch.column("old_key").to_pylist()]
    assert found == [None, None, None, '["old"]', None]


def test_the_contract_is_that_of_the_database_of_this_name(
    path: Path, reader: ChangeLogReader
) -> None:
    """Complete it passes; a table less, and it is named."""
    reader.check()
    with closing(sqlite3.connect(path)) as live, live:
        live.execute("DROP TABLE suppliers")
    with pytest.raises(ContractError, match="suppliers"):
        reader.check()


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """The line names the file, the command and the setting."""
    reader = ChangeLogReader("supply_chain", f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(LiveDatabaseError) as caught:
        reader.check()
    assert str(caught.value) == (
        f"{tmp_path / 'none.db'} does not exist: fill it with `synchrochain simulate`, or set "
        "SYNCHROCHAIN_SUPPLY_CHAIN_URL to your own database"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_knows_where_its_log_ends_and_what_was_removed(
    path: Path, reader: ChangeLogReader
) -> None:
    """The rows as their triggers would record them, in pieces; the end also of an empty log."""
    table = supply_chain_db.tables["suppliers"]
    for upto, ends in ((0, (5, 0)), (2, (5, 2)), (5, (5, 5))):
        with closing(sqlite3.connect(path)) as live, live:
            live.execute("DELETE FROM change_log WHERE seq <= ?", (upto,))
        with reader.snapshot(2) as snapshot:
            assert (snapshot.end, snapshot.removed) == ends
            batches = list(snapshot.rows(table, "2026-06-17 12:00:00"))
        assert [batch.num_rows for batch in batches if batch.num_rows] == [2, 2, 1]
        rows = [row for batch in batches for row in batch.to_pylist()]
        names = [json.loads(row["row"])["supplier_id"] for row in rows]
        assert names == [f"s{number}" for number in range(5)]
        assert {(r["table_name"], r["op"], r["committed_at"], r["old_key"]) for r in rows} == {
            ("suppliers", "I", "2026-06-17 12:00:00", None)
        }


def files(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and digest of every file but SQLite's own shared memory."""
    for file in sorted(folder.iterdir()):
        if not file.name.endswith("-shm"):
            yield file.name, hashlib.sha256(file.read_bytes()).hexdigest()


def test_reading_writes_nothing(path: Path, reader: ChangeLogReader) -> None:
    """Not even where there is nothing to read."""
    before = [one for one in files(path.parent) if "-wal" not in one[0]]
    list(reader.batches(0, 5, 2))
    reader.end()
    assert [one for one in files(path.parent) if "-wal" not in one[0]] == before
