"""Transform: the tables that a cycle publishes, from its validated changes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from pipelines.batch.affected import affected_rows
from pipelines.batch.quarantine import KIND as QUARANTINE
from pipelines.batch.quarantine import brought_up_to_date, quarantine_lines
from pipelines.change_log.reading import Span
from pipelines.change_log.types import ARROW_TYPES
from pipelines.features.columns import EVENT_TIMESTAMP
from pipelines.features.views import VIEWS, VIEWS_BY_NAME
from pipelines.lake.publishing import Lines, Table
from pipelines.lake.rejected import FOLDER, KEPT_COLUMNS, KIND, Rejected, rest
from pipelines.lake.workspace import ROWS_PER_BATCH, Progress, columns
from pipelines.settings import BatchConfig
from pipelines.tables.declare import Log
from pipelines.tables.known import BY_NAME, LOGS
from pipelines.validation.check import Checked

BYTES_PER_ROW: Final = 4_000
"""Of the memory of a cycle, for each row of the logs from which a view is computed at once: lists
of 32 take nearly 1,000 of them in DuckDB, which has less than half of it, and two views are
computed at a time."""


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
        at_once = config.memory // BYTES_PER_ROW
        affected = affected_rows(connection, view, valid.created, rows_at_once=at_once, whole=whole)
        rows = _timed(_counted(affected, progress), view.name, seconds)
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
