"""Validates a cycle's changes: types them, rejects rows that break a rule, normalises `op`.

A reference is valid if its parent was ever accepted, before the row or after it. A deleted parent
counts: a click that is written late, or a delivery of an archived order, did happen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from pipelines.change_log.parsing import typed_rows
from pipelines.lake.rejected import (
    ONLY_EARLY,
    RENAMED,
    Rejected,
    attach_rejected,
    end_waiting,
    given_up,
    passed,
    ready,
)
from pipelines.lake.workspace import columns, count, empty, quoted
from pipelines.tables.declare import MOVED, Log
from pipelines.tables.known import BY_NAME, LOGS, logs_of, parents_first
from pipelines.validation.deletions import date_deletions, reject_unknown_deletions
from pipelines.validation.operations import normalise_operations


@dataclass(frozen=True)
class Checked:
    """The validation result of one log's changes."""

    accepted: int = 0
    rejected: int = 0
    resolved: Sequence[tuple[int, int]] = ()
    """Rows rejected before and accepted now: the cycle that rejected each, and `seq`."""
    given_up: Sequence[tuple[int, int, str]] = ()
    """Rejected rows that stop waiting, likewise, and why."""


def check(
    connection: duckdb.DuckDBPyConnection, rejected: Rejected | None = None
) -> dict[str, Checked]:
    """Turn `raw_<log>` into `new_<log>` (good rows) and `bad_<log>` (seq, reason), for every log.

    Of `raw_<log>` only the bad rows are left, to save memory.

    A row is rejected for a wrong type, a value out of range, a missing key or an unknown parent.
    Parents are checked before children, so a row whose parent is rejected is rejected as well, and
    one whose parent is accepted now is accepted with it. `normalise_operations`
    has the rules of `op`.

    Args:
        connection: a workspace that holds `raw_<log>` and `old_<log>` for each log.
        rejected: the rows that earlier cycles rejected; waiting ones are checked again.
    """
    rejected = rejected or Rejected()
    attach_rejected(connection, rejected)
    unchecked = {log.name for log in LOGS}
    found = {}
    for log in parents_first():
        found[log.name] = _check(connection, log, rejected)
        unchecked.remove(log.name)
        if unchecked.isdisjoint(other.name for other in logs_of(log.database)):
            _drop_good(connection, log.database)
    return found


def _drop_good(connection: duckdb.DuckDBPyConnection, database: str) -> None:
    """Drop what was read of a database, but for the bad rows."""
    for log in logs_of(database):
        connection.execute(
            f"CREATE TABLE raw_bad AS FROM raw_{log.name} SEMI JOIN bad_{log.name} USING (seq)"
        )
        connection.execute(f"DROP VIEW raw_{log.name}")
        connection.execute(f"ALTER TABLE raw_bad RENAME TO raw_{log.name}")
    connection.execute(f"DROP TABLE IF EXISTS changes_{database}")


def _check(connection: duckdb.DuckDBPyConnection, log: Log, rejected: Rejected) -> Checked:
    connection.execute(
        f"CREATE OR REPLACE TABLE bad_{log.name} (seq BIGINT, reason VARCHAR, "
        "waits BOOLEAN DEFAULT FALSE)"
    )
    waiting = bool(rejected.files.get(log.name)) or rejected.is_new_to(log)
    connection.execute(
        f"CREATE OR REPLACE TABLE ready AS {ready(log, rejected) if waiting else empty(log)}"
    )
    retried = count(connection, "ready")
    if not retried and not count(connection, f"raw_{log.name}"):
        connection.execute(f"CREATE OR REPLACE VIEW new_{log.name} AS {empty(log)}")
        end_waiting(connection, log)
        return Checked(given_up=given_up(connection, log, rejected) if waiting else ())
    connection.execute(
        f"CREATE OR REPLACE TABLE typed AS SELECT *, FALSE AS retried "
        f"FROM ({typed_rows(log, f'raw_{log.name}')})"
    )
    connection.execute(f"INSERT INTO typed SELECT {columns(log)}, NULL, TRUE FROM ready")
    connection.execute(
        f"INSERT INTO bad_{log.name} SELECT seq, reason, regexp_full_match(reason, '{ONLY_EARLY}') "
        "FROM typed WHERE reason IS NOT NULL"
    )
    for column, parent in log.references.items():
        _reject_orphans(connection, log, column, BY_NAME[parent])
    reject_unknown_deletions(connection, log)
    _attach_keys(connection, log)
    if waiting or count(connection, f"bad_{log.name}"):
        end_waiting(connection, log)
    resolved = passed(connection, log) if retried else []
    ended = given_up(connection, log, rejected) if waiting else []
    normalise_operations(connection, log)
    if log.marks_moves and count(connection, RENAMED):
        connection.execute(
            f"UPDATE typed SET op = '{MOVED}' WHERE op = 'D' AND reason IS NULL "
            f"AND seq IN (SELECT seq - 1 FROM {RENAMED})"
        )
    date_deletions(connection, log)
    connection.execute(f"ALTER TABLE typed RENAME TO typed_{log.name}")
    bad = count(connection, f"bad_{log.name}")
    good = f"WHERE seq NOT IN (SELECT seq FROM bad_{log.name})" if bad else ""
    connection.execute(
        f"CREATE OR REPLACE VIEW new_{log.name} AS "
        f"SELECT {columns(log)} FROM typed_{log.name} {good}"
    )
    accepted = count(connection, f"typed_{log.name}") - bad
    again = retried - len(resolved)
    return Checked(accepted - len(resolved), bad - again, resolved, ended)


def _reject_orphans(
    connection: duckdb.DuckDBPyConnection, log: Log, column: str, parent: Log
) -> None:
    # First look in this cycle's rows, so that history is read by a small join, which skips files
    # and row groups without a match.
    key = f'"{parent.key[0]}"'
    connection.execute(
        f'CREATE OR REPLACE TEMP TABLE unknown AS SELECT "{column}" AS name FROM typed '
        f'WHERE "{column}" IS NOT NULL '
        f"EXCEPT SELECT {key} FROM new_{parent.name} WHERE op <> 'D'"
    )
    if count(connection, "unknown"):
        connection.execute(
            f"DELETE FROM unknown WHERE name IN (SELECT old.{key} "
            f"FROM old_{parent.name} AS old SEMI JOIN unknown AS u ON old.{key} = u.name)"
        )
    if not count(connection, "unknown"):
        return
    connection.execute(
        f"INSERT INTO bad_{log.name} "
        f"SELECT seq, '{column} = ' || \"{column}\" || ' is not in {parent.table}', TRUE "
        f"FROM typed WHERE op <> 'D' AND reason IS NULL "
        f'AND "{column}" IN (SELECT name FROM unknown) '
        f"AND seq NOT IN (SELECT seq FROM bad_{log.name})"
    )


def _attach_keys(connection: duckdb.DuckDBPyConnection, log: Log) -> None:
    """Create `rejected_keys`, keys with a rejected row, and `renamed`, changes of a key."""
    key = quoted(log.key)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE rejected_keys AS SELECT {key} FROM rejected_{log.name} "
        f"UNION SELECT {key} FROM typed SEMI JOIN bad_{log.name} USING (seq) WHERE op <> 'D'"
    )
    old = ", ".join(
        f"TRY_CAST(json_extract_string(old_key, '$[{place}]') AS {log.types[name]}) "
        f'AS "old_{name}"'
        for place, name in enumerate(log.key)
    )
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {RENAMED} AS SELECT seq, {key}, {old} FROM ("
        f"SELECT seq, {key}, old_key FROM (SELECT seq, old_key FROM raw_{log.name} "
        f"WHERE old_key IS NOT NULL) JOIN typed USING (seq) UNION "
        f"SELECT seq, {key}, old_key FROM rejected_{log.name} WHERE old_key IS NOT NULL"
        ") WHERE json_valid(old_key)"
    )
