"""Transform: the tables that a cycle publishes, from its validated changes.

Of the feature rows only those that the changes affect are computed anew. A change at time t of a
key, be it a deletion, affects that key's rows from t on. They are computed from the new rows and as
much history of just those keys as the windows reach back. A change of what a view looks up affects
the rows from its commit time on; it makes no rows of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from pipelines.batch.quarantine import KIND as QUARANTINE
from pipelines.batch.quarantine import brought_up_to_date, quarantine_lines
from pipelines.change_log.reading import Span
from pipelines.change_log.types import ARROW_TYPES
from pipelines.features.columns import COMMITTED_AT, CREATED_TIMESTAMP, EVENT_TIMESTAMP
from pipelines.features.views import VIEWS, VIEWS_BY_NAME, Source, View
from pipelines.lake.publishing import Lines, Table
from pipelines.lake.rejected import FOLDER, KEPT_COLUMNS, KIND, Rejected, rest
from pipelines.lake.workspace import Progress, columns, count, quoted
from pipelines.settings import BatchConfig
from pipelines.tables.declare import Log
from pipelines.tables.known import BY_NAME, LOGS
from pipelines.validation.check import Checked

ROWS_PER_BATCH: Final = 65_536


@dataclass(frozen=True)
class Validated:
    """The validated changes of a cycle; the workspace holds them as `new_<log>`."""

    cycle: int
    created: datetime
    """The `created_timestamp` of the feature rows, UTC and naive."""
    spans: Mapping[str, Span]
    """By database."""
    checked: Mapping[str, Checked]
    """By log."""
    rejected: Rejected
    """What earlier cycles have rejected."""
    redeclared: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """By view whose declaration has changed, its published files: all of it is computed anew."""
    unread: Mapping[str, int] = field(default_factory=dict)
    """By log of which earlier changes are read as well, the last one that was read before."""


def transform(
    connection: duckdb.DuckDBPyConnection,
    config: BatchConfig,
    valid: Validated,
    progress: Progress,
    seconds: MutableMapping[str, float],
) -> list[Table | Lines]:
    """What the cycle publishes: feature rows, processed logs, rejected rows.

    The rows are computed when they are staged; none depends on another.

    Args:
        connection: a workspace that holds `new_<log>`, `old_<log>` and `bad_<log>` for each log.
        config: where files are published.
        valid: the validated changes.
        progress: callback with the step and how many more feature rows it has computed.
        seconds: how long each view with rows took is entered when it is done.
    """
    contents: list[Table | Lines] = []
    for view in VIEWS:
        whole = view.name in valid.redeclared
        rows = affected_rows(connection, view, valid.created, whole=whole)
        rows = _timed(_counted(rows, progress), view.name, seconds)
        file_name = f"{view.name}_{valid.cycle:08d}.parquet"
        replaced = valid.redeclared.get(view.name, ())
        contents.append(table_of(config, "view", view.name, file_name, rows, replaced))
    for log in LOGS:
        found = valid.checked[log.name]
        if found.accepted or found.resolved:
            query = f"SELECT {columns(log)} FROM new_{log.name}"
            file_name = _log_file_name(log, valid)
            rows = rows_of(connection, query)
            contents.append(table_of(config, "log", log.name, file_name, rows))
        if found.rejected:
            target = config.quarantine_path / log.table / f"{valid.cycle:08d}.jsonl"
            lines = quarantine_lines(connection, log, valid.cycle)
            contents.append(Lines(target, QUARANTINE, log.table, lines))
        if found.resolved or found.given_up:
            files = valid.rejected.quarantine.get(log.table, ())
            contents += brought_up_to_date(files, found, valid.cycle)
        contents += _kept_rejected(connection, config, valid, log)
    return contents


def table_of(
    config: BatchConfig,
    kind: str,
    name: str,
    file_name: str,
    batches: Iterable[pa.RecordBatch],
    replaces: Sequence[Path] = (),
) -> Table:
    """A table for a file of one kind, with the folder and schema of its kind.

    Args:
        config: where files are published.
        kind: "view", "log" or "rejected", see `state.KINDS`.
        name: the view or log.
        file_name: under which it is published.
        batches: its rows.
        replaces: published files that it supersedes.
    """
    if kind == "view":
        target, schema = config.offline_path / name / file_name, VIEWS_BY_NAME[name].schema
        return Table(target, kind, name, schema, EVENT_TIMESTAMP, batches, replaces)
    types, folder = dict(BY_NAME[name].types), config.processed_data_path
    if kind == KIND:
        types, folder = types | dict(KEPT_COLUMNS), folder / FOLDER
    schema = pa.schema([(column, ARROW_TYPES[found]) for column, found in types.items()])
    return Table(folder / file_name, kind, name, schema, "committed_at", batches, replaces)


def rows_of(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    """The rows of a query, which begins when the first are asked for."""
    with connection.cursor() as cursor:
        yield from cursor.execute(query).to_arrow_reader(ROWS_PER_BATCH)


def _counted(rows: Iterator[pa.RecordBatch], progress: Progress) -> Iterator[pa.RecordBatch]:
    for batch in rows:
        progress("transform", batch.num_rows)
        yield batch


def _timed(
    rows: Iterator[pa.RecordBatch], view: str, seconds: MutableMapping[str, float]
) -> Iterator[pa.RecordBatch]:
    started, found = time.perf_counter(), 0
    for batch in rows:
        found += batch.num_rows
        yield batch
    if found:
        seconds[view] = round(time.perf_counter() - started, 3)


def _log_file_name(log: Log, valid: Validated) -> str:
    span = valid.spans[log.database]
    earlier = [seq for _, seq in valid.checked[log.name].resolved]
    if log.name in valid.unread:
        earlier.append(valid.unread[log.name] + 1)
    if earlier:  # they lie before the span, which may be empty and come again
        return f"{log.name}_{min(earlier):012d}-{span.upto:012d}_{valid.cycle:08d}.parquet"
    return f"{log.name}_{span.after + 1:012d}-{span.upto:012d}.parquet"


def _kept_rejected(
    connection: duckdb.DuckDBPyConnection, config: BatchConfig, valid: Validated, log: Log
) -> Iterator[Table]:
    """The rejected rows that may be accepted later, if there is anything to write of them."""
    found, files = valid.checked[log.name], valid.rejected.files.get(log.name, ())
    whole = bool(found.resolved or found.given_up) or valid.rejected.is_new_to(log)
    whole = whole or len(files) >= config.merge_files
    query = rest(connection, log, valid.cycle, valid.rejected, whole)
    if query:
        file_name = f"{log.name}_{valid.cycle:08d}.parquet"
        replaces = [file.path for file in files] if whole else ()
        rows = rows_of(connection, query)
        yield table_of(config, KIND, log.name, file_name, rows, replaces)


def affected_rows(
    connection: duckdb.DuckDBPyConnection, view: View, created: datetime, *, whole: bool = False
) -> Iterator[pa.RecordBatch]:
    """The rows of a view that are new or changed; none if nothing it depends on has changed.

    Args:
        connection: a workspace that holds `new_<log>` and `old_<log>` for each log.
        view: the view.
        created: the `created_timestamp` of the rows, UTC and naive.
        whole: all rows of all of the history.
    """
    with connection.cursor() as cursor:  # has temporary tables of its own
        earliest = None if whole else _find_affected(cursor, view)
        if earliest is None and not whole:
            return
        needed = [_gather(cursor, view, source, earliest) for source in view.sources]
        for name in view.tables:
            cursor.execute(
                f'CREATE OR REPLACE TEMP TABLE "{name}" AS SELECT * FROM old_{name} '
                f"UNION ALL BY NAME SELECT * FROM new_{name}"
            )
        keys = ", ".join(view.keys)
        features = quoted(name for name in view.schema.names if name != CREATED_TIMESTAMP)
        # Without history every row is a new one.
        affected = ""
        if any(needed) and not whole:
            affected = f"JOIN affected USING ({keys}) WHERE {EVENT_TIMESTAMP} >= since"
        found = cursor.execute(
            f"SELECT {features}, CAST(? AS TIMESTAMP) AS {CREATED_TIMESTAMP} "
            f"FROM ({view.query()}) {affected}",
            [created],
        )
        yield from found.to_arrow_reader(ROWS_PER_BATCH)


def _find_affected(connection: duckdb.DuckDBPyConnection, view: View) -> datetime | None:
    """Make `affected`: each key with changes and the earliest time of one; the earliest of all."""
    parts = []
    for source in view.sources:
        keys = ", ".join(f"{column} AS {key}" for column, key in view.key_pairs(source))
        fresh = f"new_{source.log} WHERE ({source.only}) AND NOT ({source.unnoticed})"
        parts.append(f"SELECT {keys}, {source.at} AS t FROM {fresh}")
        if source.identity:  # an earlier report on what is not closed may have stood elsewhere
            parts.append(
                f"SELECT {keys}, {source.at} AS t FROM old_{source.log} WHERE {source.only} "
                f"AND {source.identity} IN (SELECT {source.identity} FROM {fresh}) QUALIFY seq > "
                f"coalesce(max(seq) FILTER ({source.unnoticed}) OVER (PARTITION BY "
                f"{source.identity}), 0)"
            )
    parts += [_looked_up_later(view, table) for table in view.tables]
    keys = ", ".join(view.keys)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE affected AS SELECT {keys}, min(t) AS since "
        f"FROM ({' UNION ALL '.join(parts)}) GROUP BY {keys}"
    )
    found = connection.execute("SELECT min(since) FROM affected").fetchone()
    return found[0] if found else None


def _looked_up_later(view: View, table: str) -> str:
    """A query for the keys that have rows at or after a change of what they look up.

    Usually there are none: a change is committed before the rows that it bears on.
    """
    rows = view.sources[0]  # at its times the view has rows
    keys = ", ".join(f"{column} AS {key}" for column, key in view.key_pairs(rows))
    shared = quoted(BY_NAME[table].key)
    since = f"SELECT {shared}, min({COMMITTED_AT}) AS since FROM new_{table} GROUP BY {shared}"
    every = f"SELECT * FROM old_{rows.log} UNION ALL BY NAME SELECT * FROM new_{rows.log}"
    return (
        f"SELECT {keys}, min({rows.at}) AS t FROM (SELECT * FROM ({every}) WHERE {rows.only}) "
        f"JOIN ({since}) USING ({shared}) WHERE {rows.at} >= since GROUP BY {quoted(rows.keys)}"
    )


def _gather(
    connection: duckdb.DuckDBPyConnection, view: View, source: Source, earliest: datetime | None
) -> int:
    """Make the relation `<log>`: all rows that the affected keys' new rows depend on.

    Every new row is needed as it is. Of the old ones, those of affected keys within the windows,
    or all where there is no earliest time.

    Returns:
        How many old rows are needed.
    """
    log = BY_NAME[source.log]
    new = f"SELECT {columns(log)} FROM new_{log.name} WHERE {source.only}"
    if earliest is None:
        old = f"SELECT {columns(log)} FROM old_{log.name} WHERE {source.only}"
        connection.execute(f'CREATE OR REPLACE TEMP VIEW "{log.name}" AS {new} UNION ALL {old}')
        return 0
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE needed_{log.name} AS {_history(view, source, earliest, new)}"
    )
    connection.execute(
        f'CREATE OR REPLACE TEMP VIEW "{log.name}" AS {new} UNION ALL FROM needed_{log.name}'
    )
    return count(connection, f"needed_{log.name}")


def _history(view: View, source: Source, earliest: datetime, new: str) -> str:
    log = BY_NAME[source.log]
    on = " AND ".join(f"t.{key} = e.{column}" for column, key in view.key_pairs(source))
    wanted = ", ".join(f'e."{name}"' for name in log.types)
    old = f"SELECT {columns(log)} FROM old_{log.name} WHERE {source.only}"
    if source.lookback is not None and not source.newest_before and not source.identity:
        # A constant bound lets whole files and row groups be passed over.
        old += f" AND {source.at} >= TIMESTAMP '{earliest}' - to_microseconds({source.lookback})"
    of_keys = f"SELECT {wanted}, t.since FROM ({old}) AS e JOIN affected AS t ON {on}"
    found = _bounded(source, of_keys)
    if not source.identity:
        return f"SELECT {columns(log)} FROM ({found})"
    # With every report on the same thing, even one under another key.
    same = (
        f"SELECT {source.identity} FROM ({found}) UNION ALL SELECT {source.identity} FROM ({new})"
    )
    return f"{old} AND {source.identity} IN ({same})"


def _bounded(source: Source, of_keys: str) -> str:
    if source.lookback is None:
        return of_keys
    horizon = f"since - to_microseconds({source.lookback})"
    if not source.newest_before:
        return f"SELECT * FROM ({of_keys}) WHERE {source.at} >= {horizon}"
    keys = ", ".join(source.keys)
    before = f"max({source.at}) FILTER (WHERE {source.at} <= {horizon})"
    return (
        f"SELECT *, {before} OVER (PARTITION BY {keys}) AS newest_before FROM ({of_keys}) "
        f"QUALIFY {source.at} >= {horizon} OR {source.at} = newest_before"
    )
