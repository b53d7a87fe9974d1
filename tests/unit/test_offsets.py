"""An offset is of one change log: another history is recognised, however long it is."""

from __future__ import annotations

import itertools
import re
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipelines.change_log.offsets import Offset, verify_row
from pipelines.change_log.reader import ChangeLogReader
from pipelines.errors import ChangeLogGapError, OtherHistoryError
from pipelines.live_databases import create_schema, open_engine, supply_chain_db

WRITE = "INSERT INTO suppliers VALUES (?, 'r', 1.0)"


class Shop:
    """One database with its change log, of which copies are made and put back."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "supply_chain.db"
        self.reader = ChangeLogReader("supply_chain", f"sqlite:///{self.path}")
        self._names = itertools.count()
        engine = open_engine(f"sqlite:///{self.path}")
        create_schema(engine, supply_chain_db)
        engine.dispose()
        self.rows: list[int] = []
        """What was written, in order: `seq` n is the n-th."""

    def execute(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement, values)

    def write(self, count: int) -> None:
        for _ in range(count):
            number = next(self._names)
            self.execute(WRITE, f"s{number}")
            self.rows.append(number)

    def copy(self) -> tuple[Path, list[int]]:
        path = self.path.with_name(f"copy {next(self._names)}")
        with closing(sqlite3.connect(self.path)) as source, closing(sqlite3.connect(path)) as to:
            source.backup(to)
        return path, list(self.rows)

    def put_back(self, copy: tuple[Path, list[int]], *, over: bool) -> None:
        """In place of the file, or into it."""
        path, rows = copy
        if over:
            with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(self.path)) as to:
                old.backup(to)
        else:
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            shutil.copy(path, self.path)
        self.rows = list(rows)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


class Histories(RuleBasedStateMachine):
    """A shop that writes, is read, trimmed, copied and put back, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.shop = Shop(self.folder)
        self.offset = Offset(0)
        self.read: list[int] = []
        self.copies: list[tuple[Path, list[int], int]] = []
        self.removed = 0

    @rule(count=st.integers(1, 4))
    def write(self, count: int) -> None:
        self.shop.write(count)

    @property
    def ours(self) -> bool:
        """Whether the log begins with what was read."""
        return self.shop.rows[: len(self.read)] == self.read

    @rule()
    def read_on(self) -> None:
        # Who starts anew takes what is left.
        if self.ours and (not self.read or self.removed <= len(self.read)):
            self.offset = self.shop.reader.end(self.offset)
            self.read = list(self.shop.rows)
            assert self.offset.seq == len(self.read)
        else:
            with pytest.raises(ChangeLogGapError):
                self.shop.reader.end(self.offset)

    @rule(upto=st.integers(0, 100))
    def remove(self, upto: int) -> None:
        """Whoever it is: trimming keeps more than this."""
        upto = min(upto, len(self.read) if self.ours else 0)
        self.shop.execute("DELETE FROM change_log WHERE seq <= ?", upto)
        self.removed = max(self.removed, upto)

    @rule()
    def copy(self) -> None:
        self.copies.append((*self.shop.copy(), self.removed))

    @precondition(lambda self: self.copies)
    @rule(data=st.data(), over=st.booleans(), later=st.integers(0, 9))
    def put_back(self, data: st.DataObject, over: bool, later: int) -> None:
        path, rows, self.removed = data.draw(st.sampled_from(self.copies))
        self.shop.put_back((path, rows), over=over)
        self.shop.write(later)

    @rule()
    def start_over(self) -> None:
        self.offset, self.read = Offset(0), []

    @invariant()
    def another_history_is_recognised(self) -> None:
        if not self.ours:
            with pytest.raises(OtherHistoryError):
                self.shop.reader.end(self.offset)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


Histories.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestHistories = Histories.TestCase


@pytest.mark.parametrize("over", [True, False], ids=["into the file", "another file"])
@pytest.mark.parametrize("later", [1, 5, 9], ids=["shorter", "equal", "longer"])
def test_an_older_copy_is_another_history(shop: Shop, later: int, over: bool) -> None:
    """However far the shop has gone on since it was put back."""
    shop.write(3)
    copy = shop.copy()
    shop.write(5)
    offset = shop.reader.end()
    shop.put_back(copy, over=over)
    shop.write(later)
    with pytest.raises(OtherHistoryError, match=r"older copy.*`synchrochain batch --rebuild`"):
        shop.reader.end(offset)


def test_a_copy_of_what_was_read_is_the_same_history(shop: Shop) -> None:
    """As when a database is moved to another machine; it goes on there."""
    shop.write(3)
    offset = shop.reader.end()
    copy = shop.copy()
    shop.put_back(copy, over=False)
    shop.write(2)
    assert shop.reader.end(offset).seq == 5


def test_another_log_is_another_history(shop: Shop, tmp_path: Path) -> None:
    """Though as long, with the same rows."""
    shop.write(3)
    (tmp_path / "other").mkdir()
    other = Shop(tmp_path / "other")
    other.write(3)
    with pytest.raises(OtherHistoryError, match="is another one than was read before"):
        other.reader.end(shop.reader.end())


def test_a_position_of_an_older_format_is_taken_as_it_stands(shop: Shop) -> None:
    """It has but a number; the next one is bound."""
    shop.write(3)
    end = shop.reader.end(Offset(2))
    assert end.seq == 3
    assert end.identity
    assert end.nonce


def test_of_two_readers_each_is_looked_at(shop: Shop) -> None:
    """One may have read on in a history that the other knows the beginning of."""
    shop.write(3)
    copy, slower = shop.copy(), shop.reader.end()
    shop.write(2)
    faster = shop.reader.end()
    shop.put_back(copy, over=True)
    shop.write(4)
    assert shop.reader.end(slower).seq == 7
    said = f"{shop.path}: the change log has another change 5 than was read before: "
    with pytest.raises(OtherHistoryError, match=f"^{re.escape(said)}"):
        shop.reader.end(slower, faster)


def test_a_row_that_was_read_before_has_the_nonce_that_it_had() -> None:
    """One of format 1 had none, and is taken as it stands."""
    for expected, found in (("a", "a"), (None, "a"), (None, None)):
        verify_row("shop.db", 7, expected, found)
    for other in ("b", None):
        said = "shop.db: the change log has another change 7 than was read before: "
        with pytest.raises(OtherHistoryError, match=f"^{re.escape(said)}"):
            verify_row("shop.db", 7, "a", other)
