"""Transform: recompute the feature rows that the new changes touch, and no others.

A change at time t of a key, be it a deletion, touches that key's rows from t on. They are computed
from the new rows and as much history of just those keys as the windows reach back. A change in a
table without times touches the newest row of each key that it bears on: that one is served, and
older rows keep what was known of the table when they were computed.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import duckdb
import pyarrow as pa

from pipelines.change_log.logs import BY_NAME
from pipelines.features import FeatureEngineer
from pipelines.features.views import CREATED_TIMESTAMP, EVENT_TIMESTAMP, Source, View
from pipelines.lake.workspace import columns

ROWS_PER_BATCH: Final = 65_536


def transform(
    connection: duckdb.DuckDBPyConnection, view: View, created: datetime
) -> pa.RecordBatchReader | None:
    """The rows of a view that are new or changed, as a stream of record batches.

    Args:
        connection: a workspace that holds `new_<log>` and `old_<log>` for each log.
        created: the `created_timestamp` of the rows, UTC and naive.

    Returns:
        A reader of the view's schema; None if nothing the view depends on has changed.
    """
    earliest = _find_touched(connection, view)
    if earliest is None:
        return None
    needed = [_gather(connection, view, source, earliest) for source in view.sources]
    for name in view.tables:
        connection.execute(
            f'CREATE OR REPLACE TEMP TABLE "{name}" AS SELECT * FROM old_{name} '
            f"UNION ALL BY NAME SELECT * FROM new_{name}"
        )
    keys = ", ".join(view.keys)
    features = ", ".join(f'"{n}"' for n in view.schema.names if n != CREATED_TIMESTAMP)
    # Without history every row is a new one.
    affected = (
        f"JOIN affected USING ({keys}) WHERE {EVENT_TIMESTAMP} >= since" if any(needed) else ""
    )
    found = connection.execute(
        f"SELECT {features}, CAST(? AS TIMESTAMP) AS {CREATED_TIMESTAMP} "
        f"FROM ({FeatureEngineer(connection).query(view.name)}) {affected}",
        [created],
    )
    return found.to_arrow_reader(ROWS_PER_BATCH)


def _find_touched(connection: duckdb.DuckDBPyConnection, view: View) -> datetime | None:
    """Make `affected`: each key with changes and the earliest time of one; the earliest of all."""
    parts = []
    for source in view.sources:
        keys = ", ".join(f"{column} AS {key}" for column, key in _key_pairs(view, source))
        fresh = f"new_{source.log} WHERE ({source.only}) AND NOT ({source.unnoticed})"
        parts.append(f"SELECT {keys}, {source.at} AS t FROM {fresh}")
        if source.identity:  # an earlier report on what is not closed may have stood elsewhere
            parts.append(
                f"SELECT {keys}, {source.at} AS t FROM old_{source.log} WHERE {source.only} "
                f"AND {source.identity} IN (SELECT {source.identity} FROM {fresh}) QUALIFY seq > "
                f"coalesce(max(seq) FILTER ({source.unnoticed}) OVER (PARTITION BY "
                f"{source.identity}), 0)"
            )
    parts += [_newest_beside(view, table) for table in view.tables]
    keys = ", ".join(view.keys)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE affected AS SELECT {keys}, min(t) AS since "
        f"FROM ({' UNION ALL '.join(parts)}) GROUP BY {keys}"
    )
    found = connection.execute("SELECT min(since) FROM affected").fetchone()
    return found[0] if found else None


def _newest_beside(view: View, table: str) -> str:
    """A query for the keys that a table's changes bear on, each with the time of its newest row."""
    rows = view.sources[0]  # at its times the view has rows
    keys = ", ".join(f"{column} AS {key}" for column, key in _key_pairs(view, rows))
    shared = ", ".join(BY_NAME[table].key)
    every = f"SELECT * FROM old_{rows.log} UNION ALL BY NAME SELECT * FROM new_{rows.log}"
    return (
        f"SELECT {keys}, max({rows.at}) AS t FROM ({every}) WHERE ({rows.only}) "
        f"AND ({shared}) IN (SELECT ({shared}) FROM new_{table}) GROUP BY {', '.join(rows.keys)}"
    )


def _gather(
    connection: duckdb.DuckDBPyConnection, view: View, source: Source, earliest: datetime
) -> int:
    """Make the relation `<log>`: all rows that the affected keys' new rows depend on.

    Every new row is needed as it is. Of the old ones, those of affected keys within the windows.

    Returns:
        How many old rows are needed.
    """
    log = BY_NAME[source.log]
    new = f"SELECT {columns(log)} FROM new_{log.name} WHERE {source.only}"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE needed_{log.name} AS {_history(view, source, earliest, new)}"
    )
    connection.execute(
        f'CREATE OR REPLACE TEMP VIEW "{log.name}" AS {new} UNION ALL FROM needed_{log.name}'
    )
    found = connection.execute(f"SELECT count(*) FROM needed_{log.name}").fetchone()
    return int(found[0]) if found else 0


def _history(view: View, source: Source, earliest: datetime, new: str) -> str:
    log = BY_NAME[source.log]
    on = " AND ".join(f"t.{key} = e.{column}" for column, key in _key_pairs(view, source))
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


def _key_pairs(view: View, source: Source) -> list[tuple[str, str]]:
    return list(zip(source.keys, view.keys, strict=True))
