"""Logs that are declared late, or for a while not: nothing of them is lost, nothing doubled."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from documented import python_blocks
from outside_shop import NOW, USERS, change, furniture, write
from stream_batch import BatchProcess, batch_process

from pipelines.batch import BatchConfig, BatchProcessor
from pipelines.lake.state import PipelineState
from pipelines.lake.workspace import read_files
from pipelines.settings import PROJECT_ROOT, DataConfig

Row = dict[str, Any]
LATER = NOW + timedelta(days=1)


class Shop:
    """A data directory, and change logs that are written as triggers would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = DataConfig(data_dir=folder)
        self.state = PipelineState(BatchConfig(data_dir=folder).state_path)

    def database(self, name: str) -> sqlite3.Connection:
        """A connection to a live database."""
        return sqlite3.connect(self.data.db_path / f"{name}.db")

    def returns(self, *numbers: int, at: datetime = NOW) -> None:
        """Append returns, each with an order before it that the batch flow reads anyway."""
        user = random.Random(0).choice(USERS)
        order = furniture()[-1]["row"]
        found = []
        for number in numbers:
            row = {
                "return_id": number,
                "order_id": 1,
                "user_id": user,
                "reason": "size",
                "refund": 1.0,
                "returned_at": at - timedelta(minutes=number),
            }
            found.append(change("orders", "orders", 100 + number, order | {"id": 100 + number}, at))
            found.append(change("orders", "returns", number, row, at))
        write(self.database, found)

    def published(self, kind: str, name: str) -> list[Row]:
        """The rows of one kind and name."""
        files = self.state.files(kind, name)
        if not files:
            return []
        with duckdb.connect() as connection:
            rows = connection.execute(f"SELECT * FROM {read_files(files)}").to_arrow_table()
        found: list[Row] = rows.to_pylist()
        return found


@pytest.fixture
def shop(tmp_path: Path, modules: Path) -> Shop:
    """With a table of returns, and what they refer to."""
    made = Shop(tmp_path / "data")
    knowing_python(
        modules,
        "from pipelines.live_databases import LiveDatabases",
        "from pipelines.settings import DataConfig",
        f"LiveDatabases.open(DataConfig(data_dir={str(made.folder)!r})).create()",
    )
    write(made.database, furniture())
    return made


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the module `shop_returns` of the documentation is."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "shop_returns.py").write_text(python_blocks("docs/features.md")[-1], "utf-8")
    return folder


@pytest.fixture(scope="module")
def without() -> Iterator[BatchProcess]:
    """A batch flow that knows nothing of returns."""
    with batch_process() as process:
        yield process


@pytest.fixture(scope="module")
def knowing(modules: Path) -> Iterator[BatchProcess]:
    """One that knows them."""
    with batch_process("shop_returns", str(modules)) as process:
        yield process


def cycle(batch: BatchProcess, shop: Shop) -> Row:
    report = batch.cycle(shop.folder, LATER)
    assert "error" not in report, report
    return report


def test_a_table_is_read_from_the_beginning_once_it_is_declared(
    shop: Shop, without: BatchProcess, knowing: BatchProcess
) -> None:
    """Though the offset of its database has passed its changes: its group has all of history."""
    shop.returns(*range(1, 11))
    cycle(without, shop)
    assert shop.published("log", "returns") == []
    assert cycle(knowing, shop)["changes"] == 10
    assert sorted(row["return_id"] for row in shop.published("log", "returns")) == [*range(1, 11)]
    counts = [row["returns_30d"] for row in shop.published("view", "user_returns")]
    assert sorted(counts) == [*range(1, 11)]
    assert cycle(knowing, shop)["changes"] == 0


def test_a_table_that_was_not_declared_for_a_while_is_read_from_where_it_stood(
    shop: Shop, without: BatchProcess, knowing: BatchProcess
) -> None:
    """Each change once, also after the module was away twice."""
    shop.returns(1, 2)
    cycle(knowing, shop)
    for numbers in ((3, 4), (5,)):
        shop.returns(*numbers)
        cycle(without, shop)
    cycle(without, shop)
    shop.returns(6)
    assert cycle(knowing, shop)["changes"] == 3 + 2
    cycle(without, shop)
    shop.returns(7)
    cycle(knowing, shop)
    found = Counter(row["return_id"] for row in shop.published("log", "returns"))
    assert found == dict.fromkeys(range(1, 8), 1)
    assert len(shop.published("view", "user_returns")) == 7


def test_a_forgotten_setting_gives_nothing_up(shop: Shop, knowing: BatchProcess) -> None:
    """A cycle without it, say by cron, changes nothing: one line says what to set."""
    shop.returns(1, 2)
    cycle(knowing, shop)
    before = shop.published("view", "user_returns")
    lines = (
        "from pipelines.batch import BatchConfig, BatchProcessor",
        "from pipelines.settings import DataConfig",
        "from pipelines.errors import SynchroChainError",
        f"folder = {str(shop.folder)!r}",
        "processor = BatchProcessor(BatchConfig(data_dir=folder), DataConfig(data_dir=folder))",
        "try: processor.run_cycle(update=False)",
        "except SynchroChainError as error: print(error)",
    )
    said = python(None, *lines)
    assert said == (
        "user_returns: declared by shop_returns, and SYNCHROCHAIN_FEATURES is not set here: set it"
        " as before, or to nothing (SYNCHROCHAIN_FEATURES=) to give their rows up\n"
    )
    assert shop.published("view", "user_returns") == before
    assert python("", *lines) == ""
    assert shop.published("view", "user_returns") == []


def test_what_is_not_declared_is_not_trimmed(shop: Shop) -> None:
    """Nobody has read it; what is declared goes when it has expired."""
    old = NOW - timedelta(days=90)
    shipments = [change("supply_chain", "shipments", number, {}, old) for number in (1, 2)]
    visits = [change("supply_chain", "visits", number, {}, old) for number in (1, 2, 3)]
    newest = change("supply_chain", "shipments", 3, {}, LATER)
    write(shop.database, [*shipments, *visits, newest])
    config = BatchConfig(data_dir=shop.folder, retention_days=30)
    processor = BatchProcessor(config, shop.data, clock=lambda: LATER)
    processor.run_cycle(update=False)
    with shop.database("supply_chain") as live:
        query = "SELECT table_name, count(*) FROM change_log GROUP BY 1"
        left = dict(live.execute(query).fetchall())
    assert (left["visits"], left["shipments"]) == (3, 1)


def test_the_streamer_waits_for_a_cycle_that_has_read_the_table(
    shop: Shop, without: BatchProcess, knowing: BatchProcess, modules: Path
) -> None:
    """Its windows would lack what came before; the line says what to do, and that helps."""
    shop.returns(1)
    cycle(without, shop)
    said = stream(shop, modules)
    assert "no batch cycle has read returns since it was declared" in said
    assert "`synchrochain batch --once`" in said
    cycle(knowing, shop)
    assert "no batch cycle" not in stream(shop, modules)


def stream(shop: Shop, modules: Path) -> str:
    """What stands in the way of a streamer that knows returns."""
    return knowing_python(
        modules,
        "from pipelines.lake.declared_logs import check_read",
        "from pipelines.lake.state import PipelineState",
        "from pipelines.errors import SynchroChainError",
        f"state = PipelineState(__import__('pathlib').Path({str(shop.state.path)!r}))",
        "try: check_read(state)",
        "except SynchroChainError as error: print(error)",
    )


def knowing_python(modules: Path, *lines: str) -> str:
    """What lines of Python print in a process that knows returns."""
    return python("shop_returns", *lines, path=str(modules))


def python(features: str | None, *lines: str, path: str = "") -> str:
    """What lines of Python print; without `features` the setting is not there."""
    environment = dict(os.environ)
    environment.pop("SYNCHROCHAIN_FEATURES", None)
    paths = [path, str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]
    if features is not None:
        environment["SYNCHROCHAIN_FEATURES"] = features
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout


def test_other_columns_ask_for_a_rebuild(
    shop: Shop, knowing: BatchProcess, modules: Path, tmp_path: Path
) -> None:
    """One line says so, and nothing is published; the rebuild has them."""
    shop.returns(1)
    cycle(knowing, shop)
    text = (modules / "shop_returns.py").read_text("utf-8")
    other = text.replace('money("refund", at_least=0)', 'text("refund")')
    other = other[: other.index("RETURNED = ")]  # the table alone
    (tmp_path / "shop_returns.py").write_text(other, "utf-8")
    with batch_process("shop_returns", str(tmp_path)) as changed:
        report = changed.cycle(shop.folder, LATER)
        assert "log returns: it has other columns" in report["error"]
        assert "batch --rebuild --once" in report["error"]
