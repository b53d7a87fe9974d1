"""The offline side of an audit: every view computed from one snapshot of the logs.

Nothing that either flow has computed is used: the published logs and the rest of the change log
are validated and transformed again, for the sampled keys.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Final

import duckdb
import pyarrow as pa

from pipelines.change_log.reading import plan, read, readers_of
from pipelines.features.columns import EVENT_TIMESTAMP
from pipelines.features.views import Source, View
from pipelines.lake.published_snapshot import published
from pipelines.lake.state import PipelineState, PublishedFile
from pipelines.lake.verification import check_contents
from pipelines.lake.workspace import (
    STAGING,
    Progress,
    attach_history,
    columns,
    quoted,
    read_files,
    workspace,
)
from pipelines.monitoring.online_side import Contained
from pipelines.settings import BatchConfig, DataConfig
from pipelines.tables.known import BY_NAME
from pipelines.validation.check import check

_SEPARATOR: Final = "chr(31)"


class OfflineSide:
    """All logs up to `last`, the last change of each database, in a scratch workspace."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, last: Mapping[str, int]) -> None:
        self.connection = connection
        self.last = dict(last)

    def sample(self, view: View, files: list[PublishedFile], count: int) -> pa.Table:
        """Keys of the view, each once.

        Args:
            view: the view.
            files: its offline source; keys that are newer than it are included.
            count: how many keys to choose, by hash; 0 for all.
        """
        keys = quoted(view.keys)
        parts = [f"SELECT {keys} FROM {read_files(files)}"] if files else []
        parts += [
            f"SELECT {_as_keys(view, s)} FROM new_{s.log} WHERE {s.only}" for s in view.sources
        ]
        there = " AND ".join(f'"{key}" IS NOT NULL' for key in view.keys)
        query = f"SELECT {keys} FROM ({' UNION '.join(parts)}) WHERE {there}"
        if count:
            text = f"concat_ws({_SEPARATOR}, {keys})"
            query += f" ORDER BY md5({text}), {keys} LIMIT {count}"
        return self.connection.execute(query).to_arrow_table()

    def split(
        self, view: View, keys: pa.Table, contained: Mapping[str, Contained]
    ) -> tuple[pa.Table, pa.Table]:
        """Keys at rest, and keys in flux: affected by a change that may not be online yet.

        Args:
            view: the view.
            keys: its key columns.
            contained: by database, the changes that are online for certain.
        """
        by_key = quoted(view.keys)
        with self.connection.cursor() as cursor:
            cursor.register("wanted", keys)
            affected = " UNION ALL ".join(_affected(view, contained))
            cursor.execute(
                f"CREATE TEMP TABLE affected AS SELECT DISTINCT {by_key} FROM ({affected})"
            )
            at_rest, in_flux = (
                cursor.execute(
                    f"SELECT {by_key} FROM wanted {join} JOIN affected USING ({by_key})"
                ).to_arrow_table()
                for join in ("ANTI", "SEMI")
            )
            return at_rest, in_flux

    def newest(self, view: View, keys: pa.Table, oldest: datetime) -> pa.Table:
        """The newest row of each key, computed afresh, unless it is older than `oldest`.

        Args:
            view: the view.
            keys: its key columns.
            oldest: an event time, UTC and naive.

        Returns:
            The key columns, `event_timestamp` and the features.
        """
        by_key = quoted(view.keys)
        with self.connection.cursor() as cursor:
            cursor.register("wanted", keys)
            for source in view.sources:
                cursor.execute(
                    f'CREATE TEMP TABLE "{source.log}" AS {_rows_of_wanted(view, source)}'
                )
            for table in view.tables:
                cursor.execute(f'CREATE TEMP TABLE "{table}" AS {_every(table)}')
            return cursor.execute(
                f"SELECT * FROM ({view.query()}) "
                f"SEMI JOIN wanted USING ({by_key}) WHERE {EVENT_TIMESTAMP} >= ? QUALIFY "
                f"row_number() OVER (PARTITION BY {by_key} ORDER BY {EVENT_TIMESTAMP} DESC) = 1",
                [oldest],
            ).to_arrow_table()


@contextmanager
def offline_side(
    data: DataConfig,
    config: BatchConfig,
    state: PipelineState,
    progress: Progress,
    *,
    first: Callable[[duckdb.DuckDBPyConnection], None] = lambda _: None,
) -> Iterator[OfflineSide]:
    """A snapshot of the logs, in a workspace whose folder is removed afterwards.

    Args:
        data: the live databases.
        config: the data directory.
        state: the pipeline's state.
        progress: callback with the step and how many more rows it has processed.
        first: callback with the workspace before the logs are read.

    Raises:
        CorruptFileError: a published log is not as it was published; each is verified.
        LiveDatabaseError: a change log cannot be read, or does not follow on from those logs.
    """
    readers = readers_of(data)
    name = f"audit-{os.getpid()}-{uuid.uuid4().hex}"
    with workspace(config.data_dir / STAGING / name, config.memory) as connection:
        first(connection)
        known = published(state)
        spans = plan(readers, known.bound_offsets)  # later commits are not read
        files = [file for of_log in known.files.values() for file in of_log]
        check_contents(state, files, afresh=True)
        attach_history(connection, known.files)
        read(connection, readers, spans, config.batch_size, lambda rows: progress("read", rows))
        check(connection)
        yield OfflineSide(connection, {name: span.upto for name, span in spans.items()})


def _as_keys(view: View, source: Source) -> str:
    """The log's columns that hold the view's keys, under the keys' names."""
    return ", ".join(f'"{column}" AS "{key}"' for column, key in view.key_pairs(source))


def _every(log: str, condition: str = "TRUE") -> str:
    return " UNION ALL ".join(
        f"SELECT {columns(BY_NAME[log])} FROM {side}_{log} WHERE {condition}"
        for side in ("old", "new")
    )


def _rows_of_wanted(view: View, source: Source) -> str:
    """A query for the log's rows that the rows of the wanted keys depend on."""
    on = " AND ".join(f'e."{column}" = w."{key}"' for column, key in view.key_pairs(source))
    rows = f"SELECT e.* FROM ({_every(source.log)}) AS e SEMI JOIN wanted AS w ON {on}"
    if source.identity:  # a later report on the same thing may stand under another key
        rows = _every(source.log, f"{source.identity} IN (SELECT {source.identity} FROM ({rows}))")
    return rows


def _affected(view: View, contained: Mapping[str, Contained]) -> Iterator[str]:
    """Queries for the keys of a view that changes outside of `contained` bear on."""
    for source in view.sources:
        keys = _as_keys(view, source)
        since = f"({_outside(source.log, contained)}) AND ({source.only})"
        yield f"SELECT {keys} FROM ({_every(source.log, since)})"
        if source.identity:
            things = f"SELECT {source.identity} FROM ({_every(source.log, since)})"
            yield f"SELECT {keys} FROM ({_every(source.log, f'{source.identity} IN ({things})')})"
    for table in view.tables:
        changed = _every(table, _outside(table, contained))
        shared = quoted(name for name in BY_NAME[table].key if name in view.keys)
        yield f"SELECT {quoted(view.keys)} FROM wanted SEMI JOIN ({changed}) USING ({shared})"


def _outside(log: str, contained: Mapping[str, Contained]) -> str:
    known = contained[BY_NAME[log].database]
    left_out = ", ".join(map(str, sorted(known.left_out)))
    return f"seq > {known.upto}" + (f" OR seq IN ({left_out})" if left_out else "")
