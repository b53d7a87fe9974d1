"""The documentation's code does what it says: every block of Python, SQL and shell is run."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from conftest import new_directory, used_directory
from documented import blocks, declarations_forgotten, pages, python_blocks

from pipelines.change_log.reader import ChangeLogReader
from pipelines.live_databases import LiveDatabases
from pipelines.serving.orders import Order
from pipelines.settings import PROJECT_ROOT, DataConfig

RUN_HERE: Final = {
    ("README.md", "python"): 1,
    ("docs/architecture.md", "python"): 2,  # by test_data_layer
    ("docs/feast.md", "python"): 1,
    ("docs/operations.md", "python"): 1,
    ("docs/own-database.md", "python"): 1,
    ("docs/own-database.md", "sql"): 2,
    ("docs/features.md", "python"): 5,  # by test_adding_a_feature and test_outside_groups
}
"""Blocks by page and language that a test of this module runs; a new one needs a test."""


def test_no_block_is_forgotten() -> None:
    """Whoever writes a new block of code into a page adds the test that runs it."""
    counted = {
        (page, kind): len(blocks(page, kind)) for page in pages() for kind in ("python", "sql")
    }
    assert {which: count for which, count in counted.items() if count} == RUN_HERE


@pytest.mark.usefixtures("in_small_shop")
def test_the_readme_reads_features_online_and_as_of_a_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both answers name the user that was asked for."""
    monkeypatch.chdir(PROJECT_ROOT)
    names: dict[str, Any] = {}
    exec(python_blocks("README.md")[0], names)
    assert names["online"].to_dict()["user_id"] == [42]
    assert names["training"].to_df()["user_id"].tolist() == [42]
    assert "intent_score" in capsys.readouterr().out


@pytest.mark.usefixtures("in_small_shop")
def test_feast_reads_features_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the page about Feast; and the page about operations turns stale values into errors."""
    monkeypatch.chdir(PROJECT_ROOT)
    names: dict[str, Any] = {}
    exec(python_blocks("docs/feast.md")[0], names)
    names |= {"features": ["user_intent:intent_score"], "rows": [{"user_id": 42}]}
    exec(python_blocks("docs/operations.md")[0], names)  # Redis is there: it answers


@pytest.mark.usefixtures("in_small_shop")
def test_feast_commands_work_in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """`feast apply`, `materialize-incremental` and the others, as the page writes them."""
    from click.testing import CliRunner
    from feast.cli.cli import cli

    monkeypatch.chdir(PROJECT_ROOT / "feature_repo")
    (shell,) = (code for code in blocks("docs/feast.md", "") if "feast apply" in code)
    ran = []
    monkeypatch.setattr(sys, "path", list(sys.path))
    for line in shell.splitlines():
        words = shlex.split(
            line.replace("$(date -u +%Y-%m-%dT%H:%M:%S)", "2026-01-31T12:00:00"), comments=True
        )
        if words[:1] != ["feast"]:
            continue
        serves = words[1] in ("ui", "serve")  # until Ctrl-C
        with declarations_forgotten():
            found = CliRunner().invoke(cli, [*words[1:], *(["--help"] if serves else [])])
        assert found.exit_code == 0, found.output
        ran.append(words[1])
    assert ran == ["apply", "materialize-incremental", "feature-views", "ui", "serve"]


def test_the_order_of_the_decisions_page_is_one() -> None:
    """What is posted with curl there is an order that the API takes."""
    (command,) = (code for code in blocks("docs/decisions-api.md", "") if "curl" in code)
    words = shlex.split(command)
    order = Order(**json.loads(words[words.index("-d") + 1]))
    assert (order.user_id, order.product_id) == (42, "P0007")


@pytest.fixture
def own_directory() -> Iterator[Path]:
    """An empty data directory that every part of this process uses."""
    with new_directory() as path, used_directory(path):
        yield path


def test_a_shop_of_ones_own_is_created_and_repaired(own_directory: Path) -> None:
    """The tables and triggers are made; rows that the log does not know get into it by the SQL."""
    exec(python_blocks("docs/own-database.md")[0], {})
    data = DataConfig()
    databases = LiveDatabases.open(data)
    reader = ChangeLogReader("users", data.database_url("users"), data.busy_timeout)
    repair, record = blocks("docs/own-database.md", "sql")
    with databases["users"].begin() as connection:
        for user in (2, 3, 77):
            row = {"user_id": user, "region": "north", "signed_up_at": "2026-01-31 12:00:00.000000"}
            connection.execute(
                sa.text("INSERT INTO users VALUES (:user_id, :region, :signed_up_at)"), row
            )
        connection.execute(sa.text("DELETE FROM change_log WHERE op = 'I'"))
        connection.execute(
            sa.text("INSERT INTO change_log_unknown SELECT 'users', json_array(user_id) FROM users")
        )
        for statement in (repair, *record.split(";\n")):
            connection.exec_driver_sql(statement)
        logged = connection.exec_driver_sql("SELECT op, key FROM change_log ORDER BY seq").all()
    databases.dispose()
    assert list(reader.unknown_rows()) == []
    assert [tuple(row) for row in logged] == [
        *(("I", f"[{user}]") for user in (2, 3, 77)),
        *(("U", f"[{user}]") for user in (2, 77)),
        ("D", "[3]"),
    ]
    assert own_directory.is_dir()
