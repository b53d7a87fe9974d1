"""Check: type every change, refuse what breaks a rule, and keep the refused with the reasons."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from pipelines.batch.deletions import date_deletions, refuse_unknown_deletions
from pipelines.batch.workspace import columns, empty
from pipelines.change_log.logs import BY_NAME, Log, parents_first
from pipelines.change_log.parsing import typed_rows


@dataclass(frozen=True)
class Checked:
    """What the checks made of one log's changes."""

    accepted: int
    refused: int


def check(connection: duckdb.DuckDBPyConnection) -> dict[str, Checked]:
    """Turn `raw_<log>` into `new_<log>` (good rows) and `bad_<log>` (seq, reason), for every log.

    A row is refused for a wrong type, a value out of range, a missing key, a reference to nothing
    and a second delivery. Parents are checked before children, so a row that refers to a refused
    one is refused as well.
    """
    return {log.name: _check(connection, log) for log in parents_first()}


def quarantine_lines(connection: duckdb.DuckDBPyConnection, log: Log, cycle: int) -> list[str]:
    """The refused changes of a log, a JSON object each: the change as it was and the reason."""
    rows = connection.execute(
        f"SELECT to_json({{'table': '{log.table}', 'seq': raw.seq, 'op': op, 'row': raw.row, "
        f"'committed_at': committed_at, 'cycle': {cycle}, 'reason': bad.reason}}) "
        f"FROM raw_{log.name} AS raw JOIN bad_{log.name} AS bad USING (seq) ORDER BY raw.seq"
    ).fetchall()
    return [row[0] for row in rows]


def _check(connection: duckdb.DuckDBPyConnection, log: Log) -> Checked:
    if not _count(connection, f"raw_{log.name}"):
        connection.execute(f"CREATE OR REPLACE TABLE new_{log.name} AS {empty(log)}")
        connection.execute(f"CREATE OR REPLACE TABLE bad_{log.name} (seq BIGINT, reason VARCHAR)")
        return Checked(0, 0)
    connection.execute(f"CREATE OR REPLACE TABLE typed AS {typed_rows(log, f'raw_{log.name}')}")
    connection.execute(
        f"CREATE OR REPLACE TABLE bad_{log.name} AS "
        "SELECT seq, reason FROM typed WHERE reason IS NOT NULL"
    )
    for column, parent in log.references.items():
        _refuse_orphans(connection, log, column, BY_NAME[parent])
    if log.append_only:
        _refuse_duplicates(connection, log)
    refuse_unknown_deletions(connection, log)
    date_deletions(connection, log)
    connection.execute(f"ALTER TABLE typed RENAME TO typed_{log.name}")
    refused = _count(connection, f"bad_{log.name}")
    good = f"WHERE seq NOT IN (SELECT seq FROM bad_{log.name})" if refused else ""
    connection.execute(
        f"CREATE VIEW new_{log.name} AS SELECT {columns(log)} FROM typed_{log.name} {good}"
    )
    return Checked(_count(connection, f"typed_{log.name}") - refused, refused)


def _refuse_orphans(
    connection: duckdb.DuckDBPyConnection, log: Log, column: str, parent: Log
) -> None:
    # What this cycle brings is looked up first, then only the rest, so that history is read by a
    # small join that passes over the files and row groups without a match.
    connection.execute(
        f'CREATE OR REPLACE TEMP TABLE unknown AS SELECT "{column}" AS name FROM typed '
        f'WHERE "{column}" IS NOT NULL EXCEPT SELECT "{parent.key[0]}" FROM new_{parent.name}'
    )
    if _count(connection, "unknown"):
        connection.execute(
            f'DELETE FROM unknown WHERE name IN (SELECT old."{parent.key[0]}" '
            f"FROM old_{parent.name} AS old SEMI JOIN unknown AS u "
            f'ON old."{parent.key[0]}" = u.name)'
        )
    if not _count(connection, "unknown"):
        return
    connection.execute(
        f"INSERT INTO bad_{log.name} "
        f"SELECT seq, '{column} = ' || \"{column}\" || ' is not in {parent.table}' FROM typed "
        f"WHERE op <> 'D' AND reason IS NULL AND \"{column}\" IN (SELECT name FROM unknown) "
        f"AND seq NOT IN (SELECT seq FROM bad_{log.name})"
    )


def _refuse_duplicates(connection: duckdb.DuckDBPyConnection, log: Log) -> None:
    key = ", ".join(f'"{name}"' for name in log.key)
    shown = " || ', ' || ".join(f"'{name} = ' || \"{name}\"" for name in log.key)
    connection.execute(
        f"INSERT INTO bad_{log.name} "
        f"WITH fresh AS (SELECT seq, {key} FROM typed WHERE op = 'I' "
        f"AND seq NOT IN (SELECT seq FROM bad_{log.name})), "
        f"known AS (SELECT {key} FROM old_{log.name} SEMI JOIN fresh USING ({key}) "
        f"WHERE op = 'I'), "
        f"again AS (SELECT seq, {key}, row_number() OVER (PARTITION BY {key} ORDER BY seq) > 1 "
        f"OR ({key}) IN (SELECT ({key}) FROM known) AS twice FROM fresh) "
        f"SELECT seq, {shown} || ' was inserted before' FROM again WHERE twice"
    )


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(found[0]) if found else 0
