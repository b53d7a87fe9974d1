"""Normalises `op`: which changes begin a row's life, whatever statement the shop ran.

The life of a key begins with the first accepted row and ends with a `D`. In the processed logs of
facts (orders, clickstream events) `op` is `I` for the row that begins a life and `U` for those that
follow it, so that exactly the rows with `op = 'I'` count:

- An `I` of a key that exists (`INSERT OR REPLACE`) is a `U`.
- An `I` after a `D` is an `I`: the key was free and now identifies another row.
- A `U` of a key whose insertion was rejected is an `I`: it corrects the row.
- A change of the key continues the life of the old key, whether that was accepted or not.

In a mutable table, `I` and `U` both give the row's state: `op` stays as reported, since nothing
reads the difference.

Most cycles have nothing to decide: history is read for the keys that were inserted, and again only
for the few that are known already or occur twice.
"""

from __future__ import annotations

import duckdb

from pipelines.lake.rejected import RENAMED
from pipelines.lake.workspace import count, quoted, same_key
from pipelines.tables.declare import Log


def normalise_operations(connection: duckdb.DuckDBPyConnection, log: Log) -> None:
    """Rewrite `op` of the good rows in `typed`, the changes of one log.

    Args:
        connection: holds `typed` (with `retried`: rejected by an earlier cycle), `bad_<log>`,
            `old_<log>`, `rejected_keys` (keys of which an insertion or update was rejected) and
            `renamed`.
        log: the log.
    """
    if not log.append_only:
        return
    key = quoted(log.key)
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
    every = " UNION ALL ".join(
        f"SELECT {key}, seq, op, {standing} FROM {rows} SEMI JOIN doubtful USING ({key})"
        for rows, standing in (
            (f"old_{log.name}", "TRUE AS published, op <> 'D' AS good"),
            ("good", "FALSE, op <> 'D'"),
            (f"({_rejected(log, key)})", "FALSE, FALSE"),
        )
    )
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE lifetimes AS
        WITH numbered AS (
            SELECT *, count(*) FILTER (op = 'D') OVER (PARTITION BY {key} ORDER BY seq
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS life FROM ({every})
        )
        SELECT *, good AND row_number() OVER (PARTITION BY {key}, life, good ORDER BY seq) = 1
        AS first, bool_or(published AND good) OVER of_life AS known,
        min(seq) FILTER (op <> 'D' AND NOT good) OVER of_life AS rejected_at FROM numbered
        WINDOW of_life AS (PARTITION BY {key}, life)
        """
    )
    same = same_key(log, "b", "l")
    connection.execute(
        f"""
        UPDATE typed SET op = decided.op FROM (
            SELECT seq, CASE WHEN first AND NOT known AND NOT coalesce(b.good, FALSE)
            AND (l.op = 'I' OR coalesce(l.rejected_at < l.seq, FALSE)
            OR coalesce(b.rejected, FALSE)) THEN 'I' ELSE 'U' END AS op
            FROM lifetimes AS l LEFT JOIN ({_earlier_lifetimes(connection, log)}) AS b
            ON {same} AND b.life = l.life
            WHERE l.good AND NOT published
        ) AS decided WHERE typed.seq = decided.seq AND typed.op <> decided.op
        """
    )


def _rejected(log: Log, key: str) -> str:
    """A query for the rows that are rejected, by this cycle or an earlier one."""
    return (
        f"SELECT {key}, seq, op FROM rejected_{log.name} WHERE seq NOT IN (SELECT seq FROM typed) "
        f"UNION ALL SELECT {key}, seq, op FROM typed SEMI JOIN bad_{log.name} USING (seq) "
        "WHERE op <> 'D'"
    )


def _earlier_lifetimes(connection: duckdb.DuckDBPyConnection, log: Log) -> str:
    """A query for lifetimes that began under an earlier key: by `life` of the later key, whether
    they had a good row, and whether they had a rejected one."""
    key = quoted(log.key)
    if not count(connection, RENAMED):
        return f"SELECT {key}, life, good, FALSE AS rejected FROM lifetimes WHERE FALSE"
    listed = ", ".join(f'l."{name}"' for name in log.key)
    before = ", ".join(f'd."{name}" AS "old_{name}"' for name in log.key)
    older = ", ".join(f'c."old_{name}"' for name in log.key)
    old = same_key(log, "d", "r", "old_")
    chained = same_key(log, "c", "b", "old_")
    begun = same_key(log, "l", "b", "old_")
    of_later = ", ".join(f'b."{name}"' for name in log.key)
    return f"""
        WITH RECURSIVE changed AS (
            SELECT {listed}, l.life, {before}, d.life AS old_life FROM {RENAMED} AS r
            JOIN lifetimes AS l USING (seq)
            JOIN lifetimes AS d ON d.seq = r.seq - 1 AND d.op = 'D' AND {old}
        ), before AS (
            FROM changed UNION SELECT {of_later}, b.life, {older}, c.old_life FROM before AS b
            JOIN changed AS c ON {chained} AND c.life = b.old_life
        )
        SELECT {of_later}, b.life, bool_or(l.good) AS good,
        bool_or(l.rejected_at IS NOT NULL) AS rejected
        FROM before AS b JOIN lifetimes AS l ON {begun} AND l.life = b.old_life GROUP BY ALL
    """


def _find_doubtful(connection: duckdb.DuckDBPyConnection, log: Log, key: str) -> int:
    """Create `doubtful`, the keys whose `op` may have to change; returns how many."""
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE inserted AS SELECT {key}, count(*) AS times, "
        f"min(seq) AS seq FROM good WHERE op = 'I' GROUP BY {key}"
    )
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
        old = ", ".join(f'r."old_{name}" AS "{name}"' for name in log.key)
        chained = same_key(log, "r", "c")
        parts.append(
            f"SELECT {key} FROM (WITH RECURSIVE chain AS ("
            f"SELECT DISTINCT {key} FROM good SEMI JOIN {RENAMED} USING ({key}) WHERE op <> 'D' "
            f"UNION SELECT {old} FROM {RENAMED} AS r JOIN chain AS c ON {chained}) FROM chain)"
        )
    connection.execute(f"CREATE OR REPLACE TEMP TABLE doubtful AS {' UNION '.join(parts)}")
    return count(connection, "doubtful")
