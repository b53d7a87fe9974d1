"""A training set is noted so that it can be made again and compared, value by value."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import CorruptFileError, UnknownNameError
from pipelines.settings import BatchConfig
from pipelines.training.manifest import MANIFEST, rebuild, write_manifest
from pipelines.training.source import TrainingDataError, TrainingSource, digests

SERVICE = "intent_transformer_v1"


def moments(source: TrainingSource, rows: int = 200) -> pd.DataFrame:
    """Moments of clicks, the session and its user."""
    with source.logs("clickstream") as logs:
        return logs.sql(
            "SELECT session_id, user_id, event_timestamp FROM clickstream "
            f"ORDER BY event_timestamp, event_id LIMIT {rows}"
        ).df()


@pytest.fixture
def source(in_small_shop: Path) -> TrainingSource:
    return TrainingSource(BatchConfig())


def test_features_come_in_the_order_of_the_entities(source: TrainingSource) -> None:
    """Row by row they belong to the moments asked for, none later."""
    asked = moments(source).iloc[::-1].reset_index(drop=True)
    found = source.historical(asked, SERVICE)
    assert found["session_id"].to_pylist() == asked["session_id"].tolist()
    counts = np.array(found["event_count"].to_pylist())
    lengths = np.array([len(actions) for actions in found["actions"].to_pylist()])
    assert (lengths == np.minimum(counts, 32)).all()


def test_a_data_set_is_made_again_from_its_manifest(source: TrainingSource, tmp_path: Path) -> None:
    """The same features, while nothing has changed."""
    source.historical(moments(source), SERVICE)
    write_manifest(source, tmp_path / "run", task="intent", quick=True)
    report = rebuild(source.config, "abc", tmp_path / "run")
    assert report.identical
    assert [(made.rows, made.changed) for made in report.retrievals] == [(200, [])]
    assert report.definitions_changed == report.files_gone == []
    assert not report.code_changed


def test_what_changed_since_is_named(source: TrainingSource, tmp_path: Path) -> None:
    """A feature that answers otherwise now, a definition and the code, each by name."""
    table = source.historical(moments(source), SERVICE)
    write_manifest(source, tmp_path / "run", task="intent", quick=True)
    manifest = json.loads((tmp_path / "run" / MANIFEST).read_text())
    altered = table.set_column(
        table.column_names.index("event_count"),
        "event_count",
        pa.array([7] * table.num_rows, table["event_count"].type),
    )
    manifest["retrievals"][0]["columns"] = digests(altered)
    manifest["definitions"][SERVICE] = "another"
    manifest["code"]["sources_sha256"] = "another"
    (tmp_path / "run" / MANIFEST).write_text(json.dumps(manifest))
    report = rebuild(source.config, "abc", tmp_path / "run")
    assert not report.identical
    assert report.retrievals[0].changed == ["event_count"]
    assert report.definitions_changed == [SERVICE]
    assert report.code_changed


def test_a_damaged_manifest_is_refused_in_one_line(source: TrainingSource, tmp_path: Path) -> None:
    """Missing, truncated, or without its entity dataframes: which run, and what to do."""
    with pytest.raises(CorruptFileError, match="run abc is missing or damaged"):
        rebuild(source.config, "abc", tmp_path)
    source.historical(moments(source, 5), SERVICE)
    write_manifest(source, tmp_path / "run", task="intent", quick=True)
    shutil.rmtree(tmp_path / "run" / "entities")
    with pytest.raises(CorruptFileError, match="train again"):
        rebuild(source.config, "abc", tmp_path / "run")


def test_nothing_to_train_on_is_said(source: TrainingSource) -> None:
    """An empty frame and an unknown log are refused by name."""
    with pytest.raises(TrainingDataError, match=f"no rows to train on for {SERVICE}"):
        source.historical(moments(source, 0), SERVICE)
    with pytest.raises(UnknownNameError, match="no log 'clicks'"), source.logs("clicks"):
        pass


def test_digests_tell_values_not_chunks(tmp_path: Path) -> None:
    """A table in other chunks, sliced or read from a file is the same; another value is not."""
    table = pa.table({"a": [1.0, None, 3.0], "b": [["x"], None, []]})
    parts = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    pq.write_table(table, tmp_path / "t.parquet")
    assert digests(parts) == digests(table) == digests(pq.read_table(tmp_path / "t.parquet"))
    other = digests(pa.table({"a": [1.0, None, 4.0], "b": [["x"], None, []]}))
    assert other["a"] != digests(table)["a"]
    assert other["b"] == digests(table)["b"]
