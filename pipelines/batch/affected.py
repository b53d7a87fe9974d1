"""Feature rows that a cycle's changes affect: they alone are computed anew.

A change at time t of a key, be it a deletion, affects that key's rows from t on. They are computed
from the new rows and as much history of just those keys as the windows reach back. A change of what
a view looks up affects the rows from its commit time on; it makes no rows of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import duckdb
import pyarrow as pa

from pipelines.features.columns import COMMITTED_AT, CREATED_TIMESTAMP, EVENT_TIMESTAMP
from pipelines.features.views import Source, View
from pipelines.lake.workspace import ROWS_PER_BATCH, columns, count, quoted
from pipelines.tables.known import BY_NAME


def affected_rows(
    connection: duckdb.DuckDBPyConnection,
    view: View,
    created: datetime,
    *,
    rows_at_once: int,
    whole: bool = False,
) -> Iterator[pa.RecordBatch]:
    """The rows of a view that are new or changed; none if nothing it depends on has changed.

    Rows of one key depend on no other key's, so that many are computed part by part.

    Args:
        connection: a workspace that holds `new_<log>` and `old_<log>` for each log.
        view: the view.
        created: the `created_timestamp` of the rows, UTC and naive.
        rows_at_once: how many rows of logs a part has, about.
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
        rows = sum(count(cursor, _gathered(source)) for source in view.sources)
        parts = max(1, -(-rows // rows_at_once))
        for part in range(parts):
            for source in view.sources:
                cursor.execute(
                    f'CREATE OR REPLACE TEMP VIEW "{source.log}" AS '
                    f"SELECT * FROM {_gathered(source)} {_of_part(source, parts, part)}"
                )
            found = cursor.execute(
                f"SELECT {features}, CAST(? AS TIMESTAMP) AS {CREATED_TIMESTAMP} "
                f"FROM (FROM ({view.query()}) {_in_part(view.keys, parts, part)}) {affected}",
                [created],
            )
            yield from found.to_arrow_reader(ROWS_PER_BATCH)


def _gathered(source: Source) -> str:
    return f"gathered_{source.log}"


def _of_part(source: Source, parts: int, part: int) -> str:
    """A condition for the rows of a log that belong to a part of a view's keys."""
    mine = _in_part(source.keys, parts, part)
    if not source.identity or not mine:
        return mine
    # With every report on the same thing, even one under another key.
    return f"WHERE {source.identity} IN (SELECT {source.identity} FROM {_gathered(source)} {mine})"


def _in_part(keys: Sequence[str], parts: int, part: int) -> str:
    return f"WHERE hash({quoted(keys)}) % {parts} = {part}" if parts > 1 else ""


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
    """A query for the keys that have rows at or after a change of what they look up, or at any time
    where it is the first row that is looked up: rows before that one take it too.

    Usually there are none: a change is committed before the rows that it bears on.
    """
    shared = quoted(BY_NAME[table].key)
    same = " AND ".join(f'old."{key}" = new."{key}"' for key in BY_NAME[table].key)
    since = (
        f"SELECT {shared}, CASE WHEN EXISTS (FROM old_{table} AS old WHERE {same}) "
        f"THEN min(new.{COMMITTED_AT}) ELSE '-infinity'::TIMESTAMP END AS since "
        f"FROM new_{table} AS new GROUP BY {shared}"
    )
    parts = []
    for rows in view.sources[: len(view.group.triggers)]:  # at their times the view has rows
        keys = ", ".join(f"{column} AS {key}" for column, key in view.key_pairs(rows))
        every = f"SELECT * FROM old_{rows.log} UNION ALL BY NAME SELECT * FROM new_{rows.log}"
        parts.append(
            f"SELECT {keys}, {rows.at} AS t FROM (SELECT * FROM ({every}) WHERE {rows.only})"
        )
    return (
        f"SELECT {', '.join(view.keys)}, min(t) AS t FROM ({' UNION ALL '.join(parts)}) "
        f"JOIN ({since}) USING ({shared}) WHERE t >= since GROUP BY {', '.join(view.keys)}"
    )


def _gather(
    connection: duckdb.DuckDBPyConnection, view: View, source: Source, earliest: datetime | None
) -> int:
    """Make the relation `gathered_<log>`: all rows that the affected keys' new rows depend on.

    Every new row is needed as it is. Of the old ones, those of affected keys within the windows,
    or all where there is no earliest time.

    Returns:
        How many old rows are needed.
    """
    log = BY_NAME[source.log]
    new = f"SELECT {columns(log)} FROM new_{log.name} WHERE {source.only}"
    if earliest is None:
        old = f"SELECT {columns(log)} FROM old_{log.name} WHERE {source.only}"
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW {_gathered(source)} AS {new} UNION ALL {old}"
        )
        return 0
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE needed_{log.name} AS {_history(view, source, earliest, new)}"
    )
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW {_gathered(source)} AS {new} UNION ALL FROM needed_{log.name}"
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
    before = f"max({source.at}) FILTER (WHERE {source.at} < {horizon})"
    return (
        f"SELECT *, {before} OVER (PARTITION BY {keys}) AS newest_before FROM ({of_keys}) "
        f"QUALIFY {source.at} >= {horizon} OR {source.at} = newest_before"
    )
