"""Deletions that a version processed which wrote no tombstones for them.

Each is logged once more, with the time at which it was committed, so that both flows make of it
what they make of every deletion. A key that is there again needs none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Final

import duckdb

from pipelines.features.columns import EVENT_TIMESTAMP
from pipelines.features.views import VIEWS
from pipelines.lake.state import PipelineState
from pipelines.lake.state_migrations import DELETIONS_UNCHECKED
from pipelines.lake.workspace import columns, quoted, read_files
from pipelines.live_databases import open_existing, transaction
from pipelines.settings import DataConfig
from pipelines.tables.declare import TEXTS, TIME, Column, Log
from pipelines.tables.known import LOGS

logger = logging.getLogger(__name__)

_FORM: Final = "%Y-%m-%d %H:%M:%S.%f"


def log_older_deletions_again(
    connection: duckdb.DuckDBPyConnection,
    data: DataConfig,
    state: PipelineState,
    done: Mapping[str, int],
) -> int:
    """Append to the change logs the deletions that views lack, if an earlier version wrote them.

    To be called with files that were verified and change logs that were brought up to date; done
    twice before they are processed, it appends nothing the second time.

    Args:
        connection: a workspace.
        data: the live databases.
        state: the pipeline's state.
        done: up to which `seq` the batch flow has processed each change log.

    Returns:
        How many deletions were appended.

    Raises:
        LiveDatabaseError: a change log cannot be written.
    """
    if state.metadata(DELETIONS_UNCHECKED) is None:
        return 0
    appended = 0
    for log in LOGS:
        lacking = _lacking(connection, state, log)
        if not lacking:
            continue
        engine = open_existing(log.database, data.database_url(log.database), data.busy_timeout)
        try:
            with transaction(engine, writes=True) as live:
                cursor = live.executemany(
                    "INSERT INTO change_log (table_name, op, key, row, committed_at) "
                    "SELECT ?1, 'D', ?2, ?3, ?4 WHERE NOT EXISTS (SELECT 1 FROM change_log "
                    "WHERE seq > ?5 AND table_name = ?1 AND key = ?2)",
                    [(log.table, *row, done.get(log.database, 0)) for row in lacking],
                )
                appended += cursor.rowcount
        finally:
            engine.dispose()
    if appended:
        logger.info("%d deletions of before the upgrade are logged again", appended)
    return appended


def _lacking(
    connection: duckdb.DuckDBPyConnection, state: PipelineState, log: Log
) -> list[tuple[str, str, str]]:
    """Key, row and commit time of deletions after which a view has rows of before them alone."""
    files = state.files("log", log.name)
    if log.changed_at is None or not files:
        return []
    key = quoted(log.key)
    last = (
        f"SELECT {columns(log)} FROM {read_files(files)} QUALIFY "
        f"row_number() OVER (PARTITION BY {key} ORDER BY seq DESC) = 1"
    )
    parts = list(_served_on(state, log))
    if not parts:
        return []
    row = ", ".join(f"'{c.name}': {_as_logged(c)}" for c in log.columns if _is_plain(c))
    return connection.execute(
        f"WITH gone AS (SELECT * FROM ({last}) WHERE op = 'D') "
        f"SELECT json_array({key})::VARCHAR, to_json({{{row}}})::VARCHAR, "
        f"strftime(committed_at, '{_FORM}') FROM gone SEMI JOIN ({' UNION '.join(parts)}) "
        f"USING (seq) ORDER BY seq"
    ).fetchall()


def _served_on(state: PipelineState, log: Log) -> Iterator[str]:
    """Queries for the `seq` of those of `gone` that a view knows nothing of."""
    for view in VIEWS:
        files = state.files("view", view.name)
        for source in view.sources:
            if source.log != log.name or not files:
                continue
            pairs = view.key_pairs(source)
            same = " AND ".join(f'gone."{column}" = newest."{name}"' for column, name in pairs)
            keys = quoted(view.keys)
            yield (
                f"SELECT gone.seq FROM gone JOIN (SELECT {keys}, max({EVENT_TIMESTAMP}) AS at "
                f"FROM {read_files(files)} GROUP BY {keys}) AS newest "
                f"ON {same} WHERE newest.at < gone.committed_at"
            )


def _is_plain(column: Column) -> bool:
    """Whether a column's live value can be known from the log; a deletion needs no others."""
    return column.source == (column.name, None) and column.type != TEXTS


def _as_logged(column: Column) -> str:
    return f"strftime(\"{column.name}\", '{_FORM}')" if column.type == TIME else f'"{column.name}"'
