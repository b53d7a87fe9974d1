"""Where a training set comes from: entity dataframes from the processed logs, features from Feast.

Every retrieval is noted, so that it can be repeated and compared later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from pipelines.errors import SynchroChainError, UnknownNameError
from pipelines.feast_plugins.repository import open_store
from pipelines.features.columns import EVENT_TIMESTAMP
from pipelines.lake.declarations import check_declared
from pipelines.lake.state import PipelineState, PublishedFile
from pipelines.lake.verification import verified
from pipelines.lake.workspace import empty, read_files
from pipelines.registry.signatures import not_applied
from pipelines.settings import BatchConfig
from pipelines.tables.known import LOGS
from pipelines.training.memory import room

if TYPE_CHECKING:
    from feast import FeatureStore


class TrainingDataError(SynchroChainError):
    """There is not enough data to train on, or it cannot be read."""


@dataclass(frozen=True)
class Retrieval:
    """One call of get_historical_features: what was asked, and what came back.

    `name` is unique within a run; `digests` are those of the columns that came back.
    """

    name: str
    service: str
    entities: pa.Table
    digests: dict[str, str]


@dataclass
class TrainingSource:
    """Reads one data directory for training; features come from Feast alone.

    Attributes:
        retrievals: what was asked of Feast so far.
        notes: what was left out or thinned out of the data set, a line each, for the report.
        memory: bytes that a data set may take; by default a share of what is free.
    """

    config: BatchConfig
    retrievals: list[Retrieval] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    memory: int = field(default_factory=room)
    _store: FeatureStore | None = None

    @property
    def store(self) -> FeatureStore:
        """Feast's store, opened at first use (seconds)."""
        if self._store is None:
            self._store = open_store(self.config)
        return self._store

    def files(self, kind: str, name: str | None = None) -> list[PublishedFile]:
        """Published files of a kind ("log" or "view").

        Raises:
            CorruptFileError: one of them is not what was published.
        """
        return verified(PipelineState(self.config.state_path), kind, name)

    @contextmanager
    def logs(self, *names: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """A DuckDB connection with the processed logs as views of these names.

        A log has a row per change: `seq`, `op` (I, U, D), `committed_at`, then the table's columns.
        """
        known = {log.name: log for log in LOGS}
        connection = duckdb.connect()
        try:
            connection.execute("SET TimeZone = 'UTC'")
            for name in names:
                if name not in known:
                    raise UnknownNameError(
                        f"there is no log {name!r}; there are: {', '.join(sorted(known))}"
                    )
                files = self.files("log", name)
                source = f"SELECT * FROM {read_files(files)}" if files else empty(known[name])
                connection.execute(f"CREATE VIEW {name} AS {source}")
            yield connection
        finally:
            connection.close()

    def historical(self, entities: pd.DataFrame, service: str, name: str = "") -> pa.Table:
        """The features of a service as of each entity row's event time, in the frame's order.

        Args:
            entities: the service's key columns and `event_timestamp` (UTC, with or without zone),
                with further columns carried through.
            service: a feature service's name.
            name: the retrieval's name in the manifest; the service's name by default.

        Returns:
            The entity rows with a column per feature.

        Raises:
            TrainingDataError: the frame is empty, or features are declared that Feast does not
                know yet.
            DeclaredAnewError: what is published was declared otherwise.
        """
        if entities.empty:
            raise TrainingDataError(
                f"no rows to train on for {service}: let the shop run for longer, "
                "e.g. `synchrochain run --days 30`"
            )
        asked_for = self.store.get_feature_service(service)
        if unknown := not_applied(asked_for):
            raise TrainingDataError(
                f"Feast does not know {', '.join(unknown)} yet: apply the declarations with "
                "`synchrochain batch --once`"
            )
        views = [projection.name for projection in asked_for.feature_view_projections]
        check_declared(PipelineState(self.config.state_path), views)
        table = retrieve(self.store, entities, service)
        name = name or service
        if any(name == known.name for known in self.retrievals):
            raise ValueError(f"two retrievals are called {name!r}")
        asked = pa.Table.from_pandas(entities, preserve_index=False)
        self.retrievals.append(Retrieval(name, service, asked, digests(table)))
        return table


def retrieve(store: FeatureStore, entities: pd.DataFrame, service: str) -> pa.Table:
    """One point-in-time retrieval, not recorded in the manifest; rows in the frame's order.

    Args:
        store: Feast's.
        entities: the service's key columns and `event_timestamp` (UTC, with or without zone).
        service: a feature service's name.
    """
    frame = entities
    stamps = frame[EVENT_TIMESTAMP]
    if stamps.dt.tz is None:
        frame = frame.assign(**{EVENT_TIMESTAMP: stamps.dt.tz_localize("UTC")})
    job: Any = store.get_historical_features(frame, features=store.get_feature_service(service))
    table: pa.Table = job.to_arrow()
    return table


def digests(table: pa.Table) -> dict[str, str]:
    """SHA-256 of each column's name, type and values; chunking does not matter."""
    return {name: _digest(name, table[name]) for name in table.column_names}


def _digest(name: str, column: pa.ChunkedArray) -> str:
    if pa.types.is_list(column.type):  # a file calls a list's values otherwise than memory does
        column = column.cast(pa.list_(column.type.value_type))
    digest = hashlib.sha256(f"{name}:{column.type};".encode())
    # Copied into one batch: slices and chunks share buffers, which would change the digest.
    whole = pa.concat_arrays([*column.chunks, pa.array([], column.type)])
    written = whole.take(pa.array(np.arange(len(whole))))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([(name, column.type)])) as writer:
        writer.write_batch(pa.record_batch([written], names=[name]))
    digest.update(sink.getvalue())
    return digest.hexdigest()
