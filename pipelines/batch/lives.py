"""What I and U mean: which changes begin a row's life, whatever the shop's statement was.

The life of a key begins with the first accepted row and ends with a `D`. In the processed logs of
facts (orders, clickstream events) `op` is `I` for the row that begins a life and `U` for those that
follow it, so that exactly the rows with `op = 'I'` count:

- An `I` of a key that is there (`INSERT OR REPLACE`) is a `U`.
- An `I` after a `D` is an `I`: the key was free, and what has it now is another thing.
- A `U` of a key whose insertion was rejected is an `I`: it mends the row.
- A `U` that changes the key goes on with the life of the old one.

In a table whose rows change, `I` and `U` both say how the row stands: `op` stays as it was
reported, and nobody reads the difference.

Most cycles bring nothing to decide: history is read for the keys that were inserted, and again for
those few of which something is known or that come twice.
"""

from __future__ import annotations

import duckdb

from pipelines.batch.rejected import RENAMED
from pipelines.batch.workspace import count
from pipelines.change_log.logs import Log


def normalise_operations(connection: duckdb.DuckDBPyConnection, log: Log) -> None:
    """Rewrite `op` in `typed`, the changes of one log, for the rows that are good.

    Args:
        connection: holds `typed` (with `retried`: let in later than committed), `bad_<log>`,
            `old_<log>`, `rejected_keys` (keys of which an insertion or update was rejected) and
            `renamed`.
    """
    if not log.append_only:
        return
    key = ", ".join(f'"{name}"' for name in log.key)
    connection.execute(
        "CREATE OR REPLACE TEMP VIEW good AS SELECT * FROM typed"
        + (
            f" WHERE seq NOT IN (SELECT seq FROM bad_{log.name})"
            if count(connection, f"bad_{log.name}")
            else ""
        )
    )
    if not _find_doubtful(connection, log, key):
        return
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE lives AS
        WITH every AS (
            SELECT {key}, seq, op, TRUE AS published FROM old_{log.name} SEMI JOIN doubtful
            USING ({key})
            UNION ALL SELECT {key}, seq, op, FALSE FROM good SEMI JOIN doubtful USING ({key})
        ), numbered AS (
            SELECT *, count(*) FILTER (op = 'D') OVER (PARTITION BY {key} ORDER BY seq
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS life FROM every
        )
        SELECT *, coalesce(bool_or(published AND op <> 'D') OVER of_life, FALSE) AS known,
        coalesce(op <> 'D' AND row_number() OVER (PARTITION BY {key}, life, op = 'D' ORDER BY seq)
        = 1, FALSE) AS first, bool_or(op <> 'D') OVER of_life AS there FROM numbered
        WINDOW of_life AS (PARTITION BY {key}, life)
        """
    )
    same = " AND ".join(f'l."{name}" = r."old_{name}"' for name in log.key)
    rejected = f"({key}) IN (SELECT ({key}) FROM rejected_keys)"
    old = ", ".join(f'"old_{name}"' for name in log.key)
    connection.execute(
        f"""
        UPDATE typed SET op = decided.op FROM (
            SELECT seq, CASE WHEN first AND NOT known AND NOT coalesce(r.goes_on, FALSE)
            AND (l.op = 'I' OR {rejected} OR coalesce(r.rejected, FALSE))
            THEN 'I' ELSE 'U' END AS op
            FROM lives AS l LEFT JOIN (
                SELECT r.seq, bool_or(l.there) AS goes_on,
                bool_or(({old}) IN (SELECT ({key}) FROM rejected_keys)) AS rejected
                FROM {RENAMED} AS r LEFT JOIN lives AS l
                ON {same} AND l.seq = r.seq - 1 AND l.op = 'D' GROUP BY r.seq
            ) AS r USING (seq)
            WHERE l.op <> 'D' AND NOT published
        ) AS decided WHERE typed.seq = decided.seq AND typed.op <> decided.op
        """
    )


def _find_doubtful(connection: duckdb.DuckDBPyConnection, log: Log, key: str) -> int:
    """Make `doubtful`, the keys of which `op` may mean something else; how many."""
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE inserted AS SELECT {key}, count(*) AS times, "
        f"min(seq) AS seq FROM good WHERE op = 'I' GROUP BY {key}"
    )
    old = ", ".join(f'"old_{name}"' for name in log.key)
    parts = [
        f"SELECT {key} FROM inserted WHERE times > 1",
        f"SELECT {key} FROM (SELECT {key}, seq AS other FROM good WHERE op <> 'I') "
        f"JOIN inserted USING ({key}) WHERE other < seq",
        f"SELECT {key} FROM old_{log.name} SEMI JOIN inserted USING ({key})",
    ]
    if count(connection, "ready"):
        parts.append(f"SELECT {key} FROM good WHERE retried")
    if count(connection, "rejected_keys"):
        parts.append(f"SELECT {key} FROM good SEMI JOIN rejected_keys USING ({key}) WHERE op = 'U'")
    if count(connection, RENAMED):
        parts += [
            f"SELECT {key} FROM good SEMI JOIN {RENAMED} USING (seq)",
            f"SELECT {old} FROM {RENAMED} SEMI JOIN good USING (seq)",
        ]
    connection.execute(f"CREATE OR REPLACE TEMP TABLE doubtful AS {' UNION '.join(parts)}")
    return count(connection, "doubtful")
