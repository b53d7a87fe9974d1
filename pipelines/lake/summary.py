"""Summary of the offline sources: size, freshness, completeness."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from pipelines.features.columns import EVENT_TIMESTAMP
from pipelines.features.views import VIEWS, View
from pipelines.lake.rejected import KIND as REJECTED
from pipelines.lake.set_aside import check_places
from pipelines.lake.state import PipelineState
from pipelines.lake.verification import check_strangers, read_again_if_made_anew, verified
from pipelines.lake.workspace import quoted, read_files
from pipelines.settings import BatchConfig


@dataclass(frozen=True)
class ViewSummary:
    """One view's offline source. `age_seconds` is the newest event's age, not the last run's."""

    rows: int
    keys: int
    files: int
    newest_event: datetime | None
    age_seconds: float | None
    null_share: dict[str, float]
    """By feature, 0–1."""


def summarize(state: PipelineState, offline: Path, now: datetime) -> dict[str, ViewSummary]:
    """A summary of every view, from its published files.

    Args:
        state: the pipeline's state.
        offline: the folder of the offline sources.
        now: UTC, naive.

    Raises:
        CorruptFileError: a file is not as it was published.
    """

    def read() -> dict[str, ViewSummary]:
        with duckdb.connect() as connection:
            return {view.name: _summarize(connection, state, offline, view, now) for view in VIEWS}

    return read_again_if_made_anew(state, read)


def _summarize(
    connection: duckdb.DuckDBPyConnection,
    state: PipelineState,
    offline: Path,
    view: View,
    now: datetime,
) -> ViewSummary:
    files = verified(state, "view", view.name, folder=offline / view.name)
    if not files:
        return ViewSummary(0, 0, 0, None, None, {})
    there = set(pq.read_schema(files[0].path).names)  # which may be declared otherwise by now
    keys = quoted(name for name in view.keys if name in there) or "NULL"
    features = [name for name in view.features if name in there]
    nulls = ", ".join(f'avg(("{name}" IS NULL)::INTEGER)' for name in features)
    found = connection.execute(
        f"SELECT count(*), count(DISTINCT ({keys})), max({EVENT_TIMESTAMP}), {nulls} "
        f"FROM {read_files(files)}"
    ).fetchone()
    assert found is not None  # an aggregate without groups always has one row
    rows, distinct, newest, *shares = found
    return ViewSummary(
        rows,
        distinct,
        len(files),
        newest,
        (now - newest).total_seconds(),
        dict(zip(features, shares, strict=True)),
    )


def check_published(state: PipelineState, config: BatchConfig) -> None:
    """Check that the published files are complete, unaltered and without strangers.

    Raises:
        CorruptFileError: a file is missing, altered, or not ours.
        NewerFormatError: a newer version has written one.
        UnusablePathError: a folder is not a folder, or cannot be read.
    """
    check_places(config)
    check_strangers(state, config.processed_data_path)
    verified(state, "log")
    verified(state, REJECTED)
    for view in VIEWS:
        verified(state, "view", view.name, folder=config.offline_path / view.name)
