"""Deletions among a cycle's changes: which are valid, and their event times."""

from __future__ import annotations

import duckdb

from pipelines.change_log.time_stamps import time_stamp_sql
from pipelines.lake.workspace import count, quoted, same_key
from pipelines.tables.declare import Log


def reject_unknown_deletions(connection: duckdb.DuckDBPyConnection, log: Log) -> None:
    """Reject deletions in `typed` of keys that were never accepted.

    In a log with retention, a row older than all that is kept may have expired: its deletion stays.
    """
    if log.changed_at is None or not _find_deletions(connection, log):
        return
    key = quoted(log.key)
    good = f"seq NOT IN (SELECT seq FROM bad_{log.name})"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE accepted AS SELECT {key}, min(seq) AS since FROM ("
        f"SELECT {key}, 0 AS seq FROM old_{log.name} SEMI JOIN gone USING ({key}) "
        f"WHERE op <> 'D' UNION ALL SELECT {key}, seq FROM typed SEMI JOIN gone USING ({key}) "
        f"WHERE op <> 'D' AND {good}) GROUP BY {key}"
    )
    connection.execute(
        f"DELETE FROM gone USING accepted WHERE ({same_key(log, 'gone', 'accepted')}) "
        "AND accepted.since < gone.seq"
    )
    if not log.keeps_newest and count(connection, "gone") > 0:
        own, _ = next(c for c in log.columns if c.name == log.changed_at).source
        connection.execute(
            f"DELETE FROM gone WHERE seq IN (SELECT seq FROM (SELECT seq, json_extract_string("
            f"\"row\", '$.{own}') AS own FROM raw_{log.name} SEMI JOIN gone USING (seq)) "
            f'WHERE {time_stamp_sql("own")} < (SELECT min("{log.changed_at}") '
            f"FROM old_{log.name}))"
        )
    shown = " || ', ' || ".join(f"'{name} = ' || \"{name}\"" for name in log.key)
    connection.execute(
        f"INSERT INTO bad_{log.name} (seq, reason) SELECT seq, {shown} || ' was never accepted: "
        "there is nothing to delete' FROM gone"
    )


def date_deletions(connection: duckdb.DuckDBPyConnection, log: Log) -> None:
    """Give changes in `typed` that follow the deletion of their key its time, if it is later.

    A restored row may have an older time of its own, but it did not exist before the deletion.
    """
    at = f'"{log.changed_at}"'
    if log.changed_at in (None, "committed_at"):
        return
    key = quoted(log.key)
    _find_deletions(connection, log)
    (earliest,) = connection.execute(f"SELECT min({at}) FROM typed").fetchone() or (None,)
    if earliest is not None:  # a constant bound lets DuckDB skip files
        connection.execute(
            f"INSERT INTO gone SELECT {key}, 0, {at} FROM old_{log.name} "
            f"WHERE op = 'D' AND {at} > TIMESTAMP '{earliest}'"
        )
    if count(connection, "gone") > 0:
        connection.execute(
            f"UPDATE typed SET {at} = later.t FROM ("
            f"SELECT t.seq, max(gone.t) AS t FROM typed AS t JOIN gone USING ({key}) "
            f"WHERE gone.seq < t.seq AND gone.t > t.{at} GROUP BY t.seq) AS later "
            "WHERE typed.seq = later.seq"
        )


def _find_deletions(connection: duckdb.DuckDBPyConnection, log: Log) -> bool:
    """Create `gone`, the valid deletions in `typed`; returns whether there are any."""
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE gone AS SELECT {quoted(log.key)}, seq, "
        f'"{log.changed_at}" AS t '
        f"FROM typed WHERE op = 'D' AND seq NOT IN (SELECT seq FROM bad_{log.name})"
    )
    return count(connection, "gone") > 0
