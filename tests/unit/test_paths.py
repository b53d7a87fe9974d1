"""Paths that mean something else to the programs they are given to."""

from __future__ import annotations

import glob
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
import sqlalchemy as sa

from pipelines.errors import ConfigurationError
from pipelines.live_databases import open_engine, sqlite_path
from pipelines.paths import duckdb_pattern, read_lines, read_parquet, sqlite_url
from pipelines.settings import BatchConfig, DataConfig

NAMES = (
    *("plain", "a [b]", "[!a]", "]x[", "*", "**", "a?b", "{a,b}", "~", "-", "%2F %d %", "a#b"),
    *(
        "it's",
        'say "so"',
        "back\\slash",
        "b\\s [x]",
        "ü 東",
        "a=1",
        "user_id=5",
        "a;b&c=d",
        "file:x",
    ),
)


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with such a name, and beside it what a pattern would match too."""
    for name in ("abc", "a b", "axb", "x", "b", "b[s x", "backXslash"):
        beside = tmp_path / name
        beside.mkdir()
        write(beside / "1.parquet", 999)
    folder = tmp_path / request.param
    folder.mkdir()
    return folder


def write(path: Path, user: int) -> None:
    to = str(path).replace("'", "''")
    duckdb.execute(f"COPY (SELECT {user} AS user_id, 2 AS stock) TO '{to}' (FORMAT parquet)")


def test_exactly_the_named_files_are_read(folder: Path) -> None:
    """Nothing in a path is a pattern, and no folder's name is a column."""
    write(folder / "1.parquet", 7)
    write(folder / "2.parquet", 8)
    relation = read_parquet([folder / "1.parquet", folder / "2.parquet"])
    found = duckdb.sql(f"FROM {relation} ORDER BY user_id")
    assert found.columns == ["user_id", "stock"]
    assert found.fetchall() == [(7, 2), (8, 2)]


def test_a_view_s_pattern_matches_its_folder_alone(folder: Path) -> None:
    """To DuckDB and to Python alike."""
    config = BatchConfig(data_dir=folder)
    path = config.offline_path / "user_intent" / "1.parquet"
    path.parent.mkdir(parents=True)
    write(path, 7)
    pattern = config.offline_pattern("user_intent")
    found = duckdb.execute("SELECT file FROM glob(?)", [pattern]).fetchall()
    assert [file for (file,) in found] == glob.glob(pattern) == [str(path)]


def test_a_database_lies_where_its_url_says(folder: Path) -> None:
    """SQLAlchemy opens that file, `sqlite_path` finds it again, and no other file comes to be."""
    path = folder / "orders.db"
    url = sqlite_url(path)
    assert sqlite_path(url) == path
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE seen (stock)"))
        connection.execute(sa.text("INSERT INTO seen VALUES (7)"))
    engine.dispose()
    assert sorted(os.listdir(folder)) == ["orders.db"]
    with closing(sqlite3.connect(path)) as found:
        assert found.execute("SELECT stock FROM seen").fetchall() == [(7,)]


@pytest.mark.parametrize("name", ["two\nlines", "red\x1b[31m", "\x00", "no utf-8 \udcff"])
def test_a_path_that_nobody_could_read_in_a_line_is_refused(tmp_path: Path, name: str) -> None:
    """With control characters, or bytes that are no text."""
    for config in (DataConfig, BatchConfig):
        with pytest.raises(ConfigurationError, match=r"data_dir = .* must be a path"):
            config(data_dir=tmp_path / name)


def test_a_pattern_is_only_what_means_something() -> None:
    """Ordinary paths stay readable."""
    assert duckdb_pattern("/srv/shop-1/data_2") == "/srv/shop-1/data_2"


def test_a_line_may_be_as_long_as_a_refused_row(tmp_path: Path) -> None:
    """Some columns of a megabyte of control characters, each seven bytes in a line."""
    lines = tmp_path / "a.jsonl"
    long = "\\\\u0001" * 5_000_000
    lines.write_text(f'{{"seq": 1, "row": "{long}"}}\n{{"seq": 2}}\n', "utf-8")
    relation = read_lines([lines], {"seq": "BIGINT", "row": "VARCHAR"})
    with closing(duckdb.connect()) as connection:
        found = connection.execute(f"SELECT seq, length(row) FROM {relation} ORDER BY seq")
        assert found.fetchall() == [(1, 30_000_000), (2, None)]
