"""Deletions among a cycle's changes: which of them are events, and what happens after them."""

from __future__ import annotations

import duckdb

from pipelines.change_log.logs import Log


def date_deletions(connection: duckdb.DuckDBPyConnection, log: Log) -> None:
    """Correct `typed`, the new changes of a log, where rows of it were deleted.

    The deletion of a row that was never accepted is dropped: there is nothing to undo. A change
    that follows the deletion of its key in the log happened at that time or later, whatever its
    own time says, as when a row is put back as it was.
    """
    if log.changed_at is None:
        return
    key = ", ".join(f'"{name}"' for name in log.key)
    at = f'"{log.changed_at}"'
    good = f"seq NOT IN (SELECT seq FROM bad_{log.name})"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE gone AS SELECT {key}, seq, {at} AS t FROM typed "
        f"WHERE op = 'D' AND {good}"
    )
    if _any(connection, "gone"):
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE accepted AS SELECT {key}, min(seq) AS since FROM ("
            f"SELECT {key}, 0 AS seq FROM old_{log.name} SEMI JOIN gone USING ({key}) "
            f"WHERE op <> 'D' UNION ALL SELECT {key}, seq FROM typed SEMI JOIN gone USING ({key}) "
            f"WHERE op <> 'D' AND {good}) GROUP BY {key}"
        )
        unknown = (
            f"SELECT gone.seq FROM gone LEFT JOIN accepted USING ({key}) "
            "WHERE since IS NULL OR since > gone.seq"
        )
        connection.execute(f"DELETE FROM typed WHERE seq IN ({unknown})")
        connection.execute("DELETE FROM gone WHERE seq NOT IN (SELECT seq FROM typed)")
    if log.changed_at == "committed_at":
        return
    (earliest,) = connection.execute(f"SELECT min({at}) FROM typed").fetchone() or (None,)
    if earliest is not None:  # a constant bound lets whole files be passed over
        connection.execute(
            f"INSERT INTO gone SELECT {key}, 0, {at} FROM old_{log.name} "
            f"WHERE op = 'D' AND {at} > TIMESTAMP '{earliest}'"
        )
    if _any(connection, "gone"):
        connection.execute(
            f"UPDATE typed SET {at} = later.t FROM ("
            f"SELECT t.seq, max(gone.t) AS t FROM typed AS t JOIN gone USING ({key}) "
            f"WHERE gone.seq < t.seq AND gone.t > t.{at} GROUP BY t.seq) AS later "
            "WHERE typed.seq = later.seq"
        )


def _any(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return bool(found and found[0])
