"""The live audit: compares the live tables with the change log.

A change that no trigger has recorded is missing offline and online alike, so the consistency audit
cannot find it. Here each live table is compared with the newest accepted change of each key, from
the processed logs and the rest of the change log; both sides are typed by the same rules. First by
number of rows and digest; where those differ, row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import duckdb
import pyarrow as pa

from pipelines.change_log.parsing import CLOCK_SET_BACK, typed_rows
from pipelines.change_log.reader import SCHEMA, ChangeLogReader
from pipelines.features.views import LONGEST_WINDOW
from pipelines.lake.clock import utc_now
from pipelines.lake.rejected import QUARANTINED
from pipelines.lake.state import PipelineState
from pipelines.lake.verification import read_again_if_made_anew
from pipelines.lake.workspace import Progress, columns, count, quoted
from pipelines.live_databases import METADATA
from pipelines.monitoring.audit import AuditError
from pipelines.monitoring.offline_side import offline_side
from pipelines.paths import read_lines
from pipelines.settings import DATABASE_NAMES, BatchConfig, DataConfig
from pipelines.tables.declare import NUMBER, Log
from pipelines.tables.known import LOGS, logs_of

KEYS_SHOWN: Final = 5
SAME_NUMBER: Final = 1e-13
"""Relative tolerance: versions of SQLite log a number with 15 or 17 digits."""
DIGITS: Final = 12
"""Significant digits of a number in the digest."""


@dataclass(frozen=True)
class TableAudit:
    """One live table compared with the log.

    `rows` counts the table's rows, `logged` the keys that exist according to the log. `rejected`
    rows break a rule, or equal a change that was rejected, so the features lack them for a reason.
    `not_comparable` rows differ, but are older than the logs' retention. All others that differ are
    `missing` from the log, `gone` from the table, or `differing`; `keys` are examples.
    """

    database: str
    rows: int
    logged: int
    digest: str
    digest_logged: str
    rejected: int = 0
    not_comparable: int = 0
    missing: int = 0
    gone: int = 0
    differing: int = 0
    keys: tuple[str, ...] = ()

    @property
    def unexplained(self) -> int:
        """How many rows differ without a reason."""
        return self.missing + self.gone + self.differing


@dataclass(frozen=True)
class LiveAudit:
    """The result of a live audit by table; `upto` is each log's last change that counts."""

    tables: dict[str, TableAudit]
    upto: dict[str, int]

    @property
    def unexplained(self) -> int:
        """How many rows differ without a reason."""
        return sum(table.unexplained for table in self.tables.values())

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dicts and lists."""
        return asdict(self) | {"unexplained": self.unexplained}


@dataclass(frozen=True)
class _Ends:
    """A log's last change when its tables were read, and the last one removed from it."""

    end: int
    removed: int


def audit_live(
    data: DataConfig,
    config: BatchConfig,
    *,
    now: Callable[[], datetime] = utc_now,
    progress: Progress = lambda _step, _rows: None,
) -> LiveAudit:
    """Compare each live table with what its change log says.

    Args:
        data: the live databases.
        config: the data directory.
        now: returns the current time, UTC and naive.
        progress: callback with the step and how many more rows it has processed.

    Raises:
        AuditError: nothing was processed yet.
        LiveDatabaseError: a live database cannot be read, or is not the one that was read before.
        CorruptFileError: a published log is not as it was published.
    """
    if not config.state_path.exists():
        raise AuditError(
            f"nothing was processed in {config.data_dir} yet: run `synchrochain batch --once` first"
        )
    state = PipelineState(config.state_path)
    return read_again_if_made_anew(state, lambda: _audited(data, config, state, now(), progress))


def _audited(
    data: DataConfig,
    config: BatchConfig,
    state: PipelineState,
    now: datetime,
    progress: Progress,
) -> LiveAudit:
    ends: dict[str, _Ends] = {}

    def look(connection: duckdb.DuckDBPyConnection) -> None:
        for name in DATABASE_NAMES:
            ends[name] = _look(connection, name, data, config, now, progress)

    with offline_side(data, config, state, progress, first=look) as offline:
        kept_since = now - timedelta(days=config.retention_days)
        expired_before = kept_since - LONGEST_WINDOW
        if not state.generation:  # never rebuilt: the logs hold more than the change log
            kept_since = expired_before
        tables = {}
        for log in LOGS:
            at = ends[log.database]
            _quarantined(offline.connection, state, log, at)
            _logged(offline.connection, log, at, expired_before)
            tables[log.table] = _compare(offline.connection, log, at, kept_since)
            progress("compare", tables[log.table].rows)
    return LiveAudit(tables, {name: at.end for name, at in ends.items()})


def _look(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    data: DataConfig,
    config: BatchConfig,
    now: datetime,
    progress: Progress,
) -> _Ends:
    """Read one snapshot of a database's live tables into `live_<log>`, typed."""
    reader = ChangeLogReader(name, data.database_url(name), data.busy_timeout)
    with reader.snapshot(config.batch_size) as snapshot:
        for log in logs_of(name):
            table = METADATA[name].tables[log.table]
            batches = snapshot.rows(table, f"{now:%Y-%m-%d %H:%M:%S.%f}")
            connection.register("rows", pa.RecordBatchReader.from_batches(SCHEMA, batches))
            connection.execute("CREATE OR REPLACE TEMP TABLE found AS SELECT * FROM rows")
            connection.unregister("rows")
            connection.execute(
                f"CREATE TABLE live_{log.name} AS SELECT * FROM ({typed_rows(log, 'found')})"
            )
            progress("read live", count(connection, f"live_{log.name}"))
        connection.execute("DROP TABLE IF EXISTS found")
        return _Ends(snapshot.end, snapshot.removed)


def _quarantined(
    connection: duckdb.DuckDBPyConnection, state: PipelineState, log: Log, at: _Ends
) -> None:
    """Create `newest_rejected_<log>`: per key the newest rejected change, quarantined or fresh."""
    kept = "(SELECT NULL::BIGINT AS seq, '' AS op, '' AS \"row\", '' AS committed_at WHERE FALSE)"
    # Operators may edit or remove these files.
    paths = [f.path for f in state.files("quarantine", log.table) if f.path.exists()]
    if paths:
        kept = read_lines(paths, QUARANTINED)
    fresh = f"(SELECT * FROM raw_{log.name} SEMI JOIN bad_{log.name} USING (seq))"
    connection.execute(
        f"CREATE TABLE newest_rejected_{log.name} AS SELECT * FROM (FROM ({typed_rows(log, kept)}) "
        f"UNION ALL BY NAME FROM ({typed_rows(log, fresh)})) WHERE seq <= {at.end} "
        f"QUALIFY row_number() OVER (PARTITION BY {quoted(log.key)} ORDER BY seq DESC) = 1"
    )


def _logged(
    connection: duckdb.DuckDBPyConnection, log: Log, at: _Ends, expired_before: datetime
) -> None:
    """Create `logged`: each row as the log has it, with the row's own event time.

    In the log, a row after a deletion of its key has the deletion's time, if later (see
    `date_deletions`). The deletion may have expired.
    """
    keys = quoted(log.key)
    every = " UNION ALL ".join(f"SELECT {columns(log)} FROM {s}_{log.name}" for s in ("old", "new"))
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE logged AS SELECT * FROM (SELECT * FROM ({every}) "
        f"WHERE seq <= {at.end} QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY seq DESC) "
        "= 1) WHERE op NOT IN ('D', 'M')"
    )
    if log.changed_at in (None, "committed_at"):
        return
    time = f'"{log.changed_at}"'
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE later AS SELECT logged.seq, live.{time} AS own FROM logged "
        f"JOIN live_{log.name} AS live USING ({keys}) WHERE live.{time} < logged.{time}"
    )
    gone = f"SELECT {keys}, seq, {time} FROM ({every}) WHERE op = 'D'"
    connection.execute(
        f"UPDATE logged SET {time} = later.own FROM later WHERE later.seq = logged.seq AND "
        f"(logged.{time} < TIMESTAMP '{expired_before}' + INTERVAL '{CLOCK_SET_BACK}' "
        f"OR logged.seq IN (SELECT logged.seq FROM logged JOIN ({gone}) AS gone USING ({keys}) "
        f"WHERE gone.seq < logged.seq AND gone.{time} = logged.{time}))"
    )


def _compare(
    connection: duckdb.DuckDBPyConnection, log: Log, at: _Ends, kept_since: datetime
) -> TableAudit:
    good = f"(SELECT * FROM live_{log.name} WHERE reason IS NULL)"
    rows = count(connection, f"live_{log.name}")
    bad = rows - count(connection, good)
    logged = count(connection, "logged")
    digest, digest_logged = (_digest(connection, log, source) for source in (good, "logged"))
    if bad == 0 and (rows, digest) == (logged, digest_logged):
        return TableAudit(log.database, rows, logged, digest, digest_logged)
    differences = _differences(log, at, kept_since)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE differences AS {differences}")
    counts = dict(
        connection.execute("SELECT kind, count(*) FROM differences GROUP BY kind").fetchall()
    )
    shown = connection.execute(
        f"SELECT {_shown(log)} FROM differences WHERE kind IN ('missing', 'gone', 'differing') "
        f"ORDER BY ALL LIMIT {KEYS_SHOWN}"
    ).fetchall()
    return TableAudit(
        log.database,
        rows,
        logged,
        digest,
        digest_logged,
        counts.get("rejected", 0),
        counts.get("not comparable", 0),
        counts.get("missing", 0),
        counts.get("gone", 0),
        counts.get("differing", 0),
        tuple(key for (key,) in shown),
    )


def _differences(log: Log, at: _Ends, kept_since: datetime) -> str:
    """A query for the keys on which table and log differ, and why."""
    on = " AND ".join(f'live."{key}" IS NOT DISTINCT FROM logged."{key}"' for key in log.key)
    same, rejected = (
        " AND ".join(_same(side, column.name, column.type) for column in log.columns)
        for side in ("logged", "rejected")
    )
    rejected = f"CASE WHEN rejected.op = 'D' THEN live.op IS NULL ELSE {rejected} END"
    either = ", ".join(f'coalesce(live."{key}", logged."{key}") AS "{key}"' for key in log.key)
    time = log.event_time
    recent = f"live.\"{time}\" >= TIMESTAMP '{kept_since}'" if time else "FALSE"
    # Retention and trimming keep the newest row of these logs.
    whole = at.removed == 0 or log.lasts
    comparable = "TRUE" if whole else f"coalesce(logged.seq > {at.removed} OR {recent}, FALSE)"
    return f"""
        SELECT {either},
        CASE WHEN live.reason IS NOT NULL THEN 'rejected'
        WHEN rejected.seq > coalesce(logged.seq, 0) AND {rejected} THEN 'rejected'
        WHEN NOT ({comparable}) THEN 'not comparable'
        WHEN logged.seq IS NULL THEN 'missing'
        WHEN live.op IS NULL THEN 'gone'
        ELSE 'differing' END AS kind
        FROM live_{log.name} AS live FULL JOIN logged ON {on}
        LEFT JOIN newest_rejected_{log.name} AS rejected
        ON {
        " AND ".join(
            f'rejected."{key}" = coalesce(live."{key}", logged."{key}")' for key in log.key
        )
    }
        WHERE NOT coalesce({same} AND live.op IS NOT NULL AND logged.seq IS NOT NULL, FALSE)
        OR live.reason IS NOT NULL
    """


def _same(side: str, name: str, kind: str) -> str:
    equal = f'live."{name}" IS NOT DISTINCT FROM {side}."{name}"'
    if kind != NUMBER:
        return equal
    near = f'abs(live."{name}" - {side}."{name}") <= {SAME_NUMBER} * abs(live."{name}")'
    return f"({equal} OR coalesce({near}, FALSE))"


def _digest(connection: duckdb.DuckDBPyConnection, log: Log, relation: str) -> str:
    """A digest of the rows, independent of their order."""
    values = ", ".join(
        f"format('{{:.{DIGITS}g}}', \"{c.name}\")" if c.type == NUMBER else f'"{c.name}"'
        for c in log.columns
    )
    found = connection.execute(
        f"SELECT bit_xor(hash({values})), sum(hash({values}) % 4294967296) FROM {relation}"
    ).fetchone()
    xor, total = found or (0, 0)
    return f"{xor or 0:016x}{int(total or 0):016x}"


def _shown(log: Log) -> str:
    return " || ' ' || ".join(f"'{key}=' || coalesce(\"{key}\"::VARCHAR, '')" for key in log.key)
