"""Texts of up to a megabyte, many at once: pieces are bounded by bytes too, not by rows alone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import MemoryFullError
from pipelines.lake import publishing
from pipelines.lake.publishing import write_parquet
from pipelines.lake.workspace import workspace
from pipelines.live_databases import LiveDatabases
from pipelines.settings import DataConfig
from pipelines.streaming import change_capture
from pipelines.streaming.change_capture import ChangeCapture


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """Live databases, in one of which the second and third change are a changed key's."""
    data = DataConfig(data_dir=tmp_path)
    with LiveDatabases.open(data) as databases:
        databases.create()
    with closing(sqlite3.connect(data.db_path / "supply_chain.db")) as live, live:
        live.execute("INSERT INTO suppliers VALUES ('s1', ?, 1.0)", ("x" * 900,))
        live.execute("UPDATE suppliers SET supplier_id = 's2'")
        live.execute("INSERT INTO suppliers VALUES ('s3', 'r', 1.0)")
    return data


@pytest.mark.parametrize(
    ("most", "pieces"),
    [(100, [[1], [2, 3], [4]]), (2_500, [[1], [2, 3], [4]]), (10_000, [[1, 2, 3, 4]])],
)
def test_a_micro_batch_of_long_rows_is_smaller(
    data: DataConfig, most: int, pieces: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One change at least, and both halves of a changed key; at the end there are no more."""
    monkeypatch.setattr(change_capture, "BYTES_AT_ONCE", most)
    capture = ChangeCapture("supply_chain", data)
    found, more = [], []
    after = 0
    while (changes := capture.read(after, 1_000)).num_rows:
        found.append(changes["seq"].to_pylist())
        more.append(capture.more)
        after = found[-1][-1]
    capture.close()
    assert found == pieces
    assert all(more[:-1])
    assert not more[-1]


def test_rows_of_long_texts_are_written_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, in their order, lists too."""
    monkeypatch.setattr(publishing, "BYTES_AT_ONCE", 300)
    schema = pa.schema([("name", pa.string()), ("many", pa.list_(pa.string()))])
    rows = [{"name": f"{n}" * 100, "many": [str(n)] * (n % 3)} for n in range(10)]
    long = pa.schema([("name", pa.large_string()), ("many", pa.large_list(pa.large_string()))])
    batch = pa.RecordBatch.from_pylist(rows, schema=long)
    table = publishing.Table(tmp_path / "a.parquet", "log", "a", schema, None, [batch])
    staged = write_parquet(table)
    assert staged is not None
    assert staged.file.rows == 10
    assert pq.read_table(staged.partial).to_pylist() == rows
    assert pq.ParquetFile(staged.partial).num_row_groups > 3


def test_a_workspace_yields_record_batches_of_any_size(tmp_path: Path) -> None:
    """DuckDB refuses to make one of more than 2 GB of text with the shorter offsets."""
    with workspace(tmp_path / "w", 10**9) as connection, connection.cursor() as cursor:
        for made in (connection, cursor):
            reader = made.execute("SELECT 'a' AS name").to_arrow_reader(10)
            assert reader.schema == pa.schema([("name", pa.large_string())])


def test_too_little_memory_is_one_line(tmp_path: Path) -> None:
    """A workspace that finds no room for a few vectors of long texts says so."""

    def fill() -> None:
        with workspace(tmp_path / "w", 50_000_000) as connection:
            connection.execute(
                "CREATE TABLE long AS SELECT repeat('x', 1000000) || range AS a FROM range(2000)"
            )

    with pytest.raises(MemoryFullError, match=r"^not enough memory [^\n]* nothing is lost$"):
        fill()
