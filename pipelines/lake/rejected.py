"""Rejected changes, kept so that they can be accepted later.

A row that was rejected only because its parent is unknown waits for it: each cycle validates again
those waiting rows that refer to a key which it has read. A row whose event time lay ahead of its
commit waits until that time. After the retention a row is given up, and its line in the quarantine
says so. The keys of all rejected rows are kept as long, since an update may correct one.

They lie in `processed/rejected/<log>_<cycle>.parquet`, typed, and are published with the offsets
in one transaction: a crash neither loses nor duplicates any. Rows that an earlier version kept only
in the quarantine are imported from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import duckdb

from pipelines.change_log.parsing import typed_rows
from pipelines.lake.state import PublishedFile
from pipelines.lake.workspace import columns, count, empty, quoted, read_files, same_key
from pipelines.paths import read_lines
from pipelines.tables.declare import TIME, Log
from pipelines.tables.known import BY_NAME, LOGS

KIND: Final = "rejected"
KEPT_KEY: Final = "rejected rows are kept"
"""Key in the state's metadata: set once the quarantine of an earlier version was imported."""
FOLDER: Final = "rejected"
KEPT_COLUMNS: Final[Mapping[str, str]] = {
    "row": "VARCHAR",
    "raw_committed_at": "VARCHAR",
    "old_key": "VARCHAR",
    "reason": "VARCHAR",
    "cycle": "BIGINT",
    "waits": "BOOLEAN",
}
"""Columns kept of a rejected change beside the log's own; `cycle` rejected it."""
QUARANTINED: Final[Mapping[str, str]] = {
    "seq": "BIGINT",
    "op": "VARCHAR",
    "row": "VARCHAR",
    "committed_at": "VARCHAR",
    "reason": "VARCHAR",
    "cycle": "BIGINT",
}
"""What a line of a quarantine file holds."""
RENAMED: Final = "renamed"
"""The table of one log's key changes, rejected ones included: `seq`, the key's columns, and the old
key's, `old_<column>`."""
GIVEN_UP: Final = "; given up"
OVER: Final = "the row was deleted, or has another key"
ONLY_EARLY: Final = (
    r"\w+ = [^;]* lies in the future: it was committed at [-0-9:. ]+"
    r"(; \w+ = [^;]* lies in the future: it was committed at [-0-9:. ]+)*"
)
"""The reason of a row whose only fault is a time in the future."""


@dataclass(frozen=True)
class Rejected:
    """The rows that earlier cycles have rejected, and how long they wait."""

    now: datetime = datetime.max
    retention: timedelta = timedelta.max
    files: Mapping[str, Sequence[PublishedFile]] = field(default_factory=dict)
    """By log, the kept rows."""
    quarantine: Mapping[str, Sequence[PublishedFile]] = field(default_factory=dict)
    """By table, the quarantine files for operators."""
    taken_over: bool = False
    """Whether the rows of those files were imported."""

    @property
    def oldest(self) -> datetime:
        """The commit time before which rows are given up."""
        return datetime.min if self.retention == timedelta.max else self.now - self.retention

    def is_new_to(self, log: Log) -> bool:
        """Whether the log has only quarantine files, as an earlier version wrote them."""
        lines = self.quarantine.get(log.table, ())
        none = not self.taken_over and not self.files.get(log.name)
        return none and any(file.path.exists() for file in lines)


def attach_rejected(connection: duckdb.DuckDBPyConnection, rejected: Rejected) -> None:
    """Make `rejected_<log>` readable, for every log."""
    for log in LOGS:
        files = rejected.files.get(log.name)
        kept = quoted(KEPT_COLUMNS)
        if files:
            connection.execute(
                f"CREATE OR REPLACE VIEW rejected_{log.name} AS "
                f"SELECT {columns(log)}, {kept}, FALSE AS at_once FROM {read_files(files)}"
            )
        elif rejected.is_new_to(log):
            _take_over(connection, log, rejected.quarantine[log.table])
        else:
            none = ", ".join(f'CAST(NULL AS {t}) AS "{name}"' for name, t in KEPT_COLUMNS.items())
            connection.execute(
                f"CREATE OR REPLACE VIEW rejected_{log.name} AS "
                f"SELECT *, {none}, FALSE AS at_once FROM ({empty(log)})"
            )
        connection.execute(f"CREATE OR REPLACE TABLE passed_{log.name} (cycle BIGINT, seq BIGINT)")
        connection.execute(f"CREATE OR REPLACE TABLE given_up_{log.name} (seq BIGINT)")


def ready(log: Log, rejected: Rejected) -> str:
    """A query for the waiting rows that may pass now: log columns, `new_<parent>` being known."""
    due = [f'"{c.name}"' for c in log.columns if c.type == TIME and c.name != "promised_at"]
    early = f"greatest({', '.join(due)}) <= TIMESTAMP '{rejected.now}'" if due else "FALSE"
    fresh = [
        f'"{column}" IN (SELECT "{BY_NAME[parent].key[0]}" FROM new_{parent} WHERE op <> \'D\')'
        for column, parent in log.references.items()
    ]
    may_pass = " OR ".join(
        ["at_once", f"({early} AND reason LIKE '% lies in the future: %')", *fresh]
    )
    return (
        f"SELECT {columns(log)} FROM rejected_{log.name} WHERE waits AND ({may_pass}) "
        f"AND committed_at >= TIMESTAMP '{rejected.oldest}'"
    )


def rest(
    connection: duckdb.DuckDBPyConnection, log: Log, cycle: int, rejected: Rejected, whole: bool
) -> str:
    """A query for the rejected rows of a log to keep in a new file.

    Args:
        connection: the cycle's workspace.
        log: the log.
        cycle: the number of the cycle.
        rejected: what earlier cycles rejected.
        whole: whether the new file replaces the earlier ones; else it stands beside them.
    """
    kept = quoted(KEPT_COLUMNS)
    parts = []
    if count(connection, f"raw_{log.name}") and count(connection, f"bad_{log.name}"):
        key = " AND ".join(f'"{name}" IS NOT NULL' for name in log.key)
        parts.append(
            f"SELECT {columns(log, 't')}, raw.row, raw.committed_at AS raw_committed_at, "
            f"raw.old_key, bad.reason, {cycle} AS cycle, bad.waits FROM typed_{log.name} AS t "
            f"JOIN bad_{log.name} AS bad USING (seq) JOIN raw_{log.name} AS raw USING (seq) "
            f"WHERE NOT retried AND t.op <> 'D' AND {key}"
        )
    if whole:
        parts.append(
            f"SELECT {columns(log)}, {kept} FROM rejected_{log.name} "
            f"WHERE (committed_at IS NULL OR committed_at >= TIMESTAMP '{rejected.oldest}') "
            f"AND seq NOT IN (SELECT seq FROM passed_{log.name}) "
            f"AND seq NOT IN (SELECT seq FROM given_up_{log.name})"
        )
    return " UNION ALL ".join(parts)


def passed(connection: duckdb.DuckDBPyConnection, log: Log) -> list[tuple[int, int]]:
    """Cycle and `seq` of the rows accepted now; also stored as `passed_<log>`."""
    connection.execute(
        f"CREATE OR REPLACE TABLE passed_{log.name} AS SELECT cycle, seq FROM rejected_{log.name} "
        f"SEMI JOIN ready USING (seq) ANTI JOIN bad_{log.name} USING (seq)"
    )
    return connection.execute(f"FROM passed_{log.name}").fetchall()


def given_up(
    connection: duckdb.DuckDBPyConnection, log: Log, rejected: Rejected
) -> list[tuple[int, int, str]]:
    """Cycle and `seq` of the rows that stop waiting, and why; also stored as `given_up_<log>`.

    A deletion ends the wait of a mutable row. A fact that is deleted still happened; only its
    acceptance under another key ends the wait under the old one.

    Args:
        connection: the cycle's workspace.
        log: the log.
        rejected: what earlier cycles rejected.
    """
    same = same_key(log, "e", "r")
    connection.execute(
        f"CREATE OR REPLACE TABLE given_up_{log.name} AS SELECT cycle, seq, CASE WHEN over "
        f"THEN '{OVER}' "
        f"ELSE '{rejected.retention.days} days have passed' END AS why FROM ("
        f"SELECT *, EXISTS (FROM ended AS e WHERE {same} AND r.seq BETWEEN e.since AND e.last) "
        f"AS over FROM rejected_{log.name} AS r "
        f"WHERE waits AND seq NOT IN (SELECT seq FROM passed_{log.name})) "
        f"WHERE over OR committed_at < TIMESTAMP '{rejected.oldest}'"
    )
    return connection.execute(f"FROM given_up_{log.name}").fetchall()


def end_waiting(connection: duckdb.DuckDBPyConnection, log: Log) -> None:
    """Make `ended`, the keys that stop waiting; rows rejected just now under them do not wait."""
    connection.execute(f"CREATE OR REPLACE TEMP TABLE ended AS {_ended(connection, log)}")
    if count(connection, "ended"):
        connection.execute(
            f"UPDATE bad_{log.name} SET waits = FALSE, reason = reason || '{GIVEN_UP}: {OVER}' "
            "WHERE waits AND seq IN (SELECT seq FROM typed AS r SEMI JOIN ended AS e "
            f"ON {same_key(log, 'e', 'r')} AND r.seq BETWEEN e.since AND e.last WHERE NOT retried)"
        )


def _ended(connection: duckdb.DuckDBPyConnection, log: Log) -> str:
    """A query for keys and the ranges of `seq` in which their rows stop waiting."""
    key = quoted(log.key)
    gone = f"SELECT {key}, seq AS last, 0 AS since FROM typed WHERE op = 'D'"
    if not count(connection, f"raw_{log.name}"):
        return f"SELECT {key}, seq AS last, 0 AS since FROM rejected_{log.name} WHERE FALSE"
    if not log.append_only:
        return gone
    if not count(connection, RENAMED):
        return f"{gone} AND FALSE"
    # Only the rows since the key's last deletion, which went on under another key: a fact deleted
    # before still happened. A rejected change of the key leads back to the row's earlier key.
    old = ", ".join(f'"old_{name}"' for name in log.key)
    of_old = ", ".join(f'e."old_{name}" AS "{name}"' for name in log.key)
    names = f"(SELECT {key} FROM {RENAMED} UNION SELECT {old} FROM {RENAMED})"
    gone = " UNION ALL ".join(
        f"SELECT {key}, seq FROM {relation} SEMI JOIN {names} USING ({key}) WHERE op = 'D'"
        for relation in (f"old_{log.name}", "typed")
    )
    return f"""
        WITH RECURSIVE gone AS ({gone}), stretch AS (
            SELECT r.*, min(d.seq) AS until FROM {RENAMED} AS r LEFT JOIN gone AS d
            ON {same_key(log, "d", "r")} AND d.seq > r.seq GROUP BY ALL
        ), gone_on AS (
            SELECT DISTINCT {old}, s.seq AS last FROM stretch AS s JOIN typed AS t
            ON {same_key(log, "t", "s")} AND t.seq >= s.seq AND t.seq < coalesce(until, t.seq + 1)
            WHERE t.op <> 'D' AND t.seq NOT IN (SELECT seq FROM bad_{log.name})
            UNION SELECT s.* EXCLUDE ({key}, seq, until), s.seq AS last FROM gone_on AS g
            JOIN stretch AS s ON {same_key(log, "s", "g", "old_")} AND s.until = g.last - 1
        )
        SELECT {of_old}, e.last, coalesce(max(d.seq), 0) AS since FROM gone_on AS e
        LEFT JOIN gone AS d ON {same_key(log, "d", "e", "old_")} AND d.seq < e.last - 1 GROUP BY ALL
    """


def _take_over(
    connection: duckdb.DuckDBPyConnection, log: Log, quarantine: Iterable[PublishedFile]
) -> None:
    lines = read_lines([file.path for file in quarantine if file.path.exists()], QUARANTINED)
    connection.execute(f"CREATE OR REPLACE TABLE lines_{log.name} AS FROM {lines}")
    typed = typed_rows(log, f"lines_{log.name}")
    connection.execute(
        f"CREATE OR REPLACE TABLE rejected_{log.name} AS "
        f"SELECT {columns(log, 't')}, lines.row, lines.committed_at AS raw_committed_at, "
        f"CAST(NULL AS VARCHAR) AS old_key, lines.reason, lines.cycle, "
        f"t.reason IS NULL AND lines.reason NOT LIKE '%{GIVEN_UP}%' AS waits, "
        f"TRUE AS at_once FROM ({typed}) AS t JOIN lines_{log.name} AS lines USING (seq) "
        "WHERE t.op <> 'D'"
    )
