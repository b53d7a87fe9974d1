"""Warming the hot window from what the batch flow has published of the change logs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import duckdb

from pipelines.features.views import VIEWS, Source, View
from pipelines.lake.published_snapshot import Published
from pipelines.lake.workspace import read_files
from pipelines.streaming.hot_tables import (
    HASH,
    KEY_HASH,
    TIMES,
    back,
    feeding,
    hash_of,
    hot_values,
    logs_of_view,
    source_of,
    superseded,
)
from pipelines.streaming.hot_window import HotWindow
from pipelines.streaming.intake import CLOCKS
from pipelines.streaming.known_keys import keeps_keys
from pipelines.tables.declare import Log
from pipelines.tables.known import BY_NAME

ROWS_AT_ONCE: Final = 1_000_000


def warm(
    window: HotWindow,
    cursor: duckdb.DuckDBPyConnection,
    known: Published,
    done: Mapping[str, int],
) -> dict[str, set[int]]:
    """Fill the window from the processed logs, whose rows have passed the checks.

    Args:
        window: an empty one.
        cursor: one of its cursors.
        known: what is published.
        done: up to which `seq` the stream has written online, by database; keys with later rows
            are affected. A database that is not in it was deferred to the batch flow so far.

    Returns:
        By view, the hashes of the affected keys.
    """
    relations = {name: read_files(files) for name, files in known.files.items() if files}
    for name, relation in relations.items():
        if name in CLOCKS:
            (newest,) = cursor.execute(
                f"SELECT max(\"{TIMES[name]}\") FROM {relation} WHERE op <> 'D'"
            ).fetchone() or (None,)
            window.watermarks.see(name, newest)
    window.watermarks.advance()
    horizons = window.watermarks.horizons()
    for name, relation in relations.items():
        if keeps_keys(BY_NAME[name]):
            _warm_keys(window, cursor, BY_NAME[name], relation, horizons.get(name))
        if name in window.accepted:
            keys = cursor.execute(
                f"SELECT DISTINCT {hash_of(BY_NAME[name].key)} AS {HASH} FROM {relation} "
                "WHERE op <> 'D'"
            )
            window.accepted[name].add(keys.to_arrow_table()[HASH].to_pylist())
        if name in window.deletions:
            since = window.watermarks.of_log(name)
            window.deletions[name].add(
                cursor.execute(_deletions(BY_NAME[name], relation, since)).to_arrow_table()
            )
    for name, files in known.rejected.items():
        if files:
            key = BY_NAME[name].key[0]
            for value, waits in cursor.execute(
                f'SELECT "{key}", bool_or(waits OR old_key IS NOT NULL) FROM {read_files(files)} '
                f'GROUP BY "{key}"'
            ).fetchall():
                keys_of = window.keys[name]
                (keys_of.deferred if waits else keys_of.rejected).add(value)
    affected: dict[str, set[int]] = {}
    for view in VIEWS:
        watermark = window.watermarks.of(view)
        for log in logs_of_view(view):
            if log not in relations or not view.is_streamed:
                continue
            source = source_of(view, log)
            good = f"{relations[log]} WHERE {feeding(view, log)}"
            needed = _needed(source, good, watermark) if source else ""
            cursor.execute(
                f"INSERT INTO {view.name}.hot_{log} "
                f"SELECT {hot_values(view, log)} FROM {good} {needed} ORDER BY {HASH}"
            )  # in the order of keys, so that a key's rows are found close together
            if source and source.lookback is None:
                hashes = cursor.execute(f"SELECT DISTINCT {HASH} FROM {view.name}.hot_{log}")
                window.whole[view.name].update(row[0] for row in hashes.fetchall())
                if source.begun_by:
                    _find_older(window, cursor, view, source, good)
            offset = done.get(BY_NAME[log].database)
            if source and offset is not None:
                rows = cursor.execute(
                    f"SELECT DISTINCT {hash_of(source.keys)} FROM {good} AND seq > {offset}"
                ).fetchall()
                affected.setdefault(view.name, set()).update(row[0] for row in rows)
    return affected


def _warm_keys(
    window: HotWindow,
    cursor: duckdb.DuckDBPyConnection,
    log: Log,
    relation: str,
    horizon: datetime | None,
) -> None:
    keys, key = window.keys[log.name], f'"{log.key[0]}"'
    keys.add(cursor.execute(_keys(log, relation, horizon)).to_arrow_table())
    if horizon is None or log.keeps_newest:
        return
    at = f'"{TIMES[log.name]}"'
    value = key if log.append_only else hash_of(log.key)
    older = cursor.execute(
        f"SELECT {value} AS value FROM {relation} WHERE op <> 'D' AND {at} < TIMESTAMP '{horizon}'"
    )
    for batch in older.to_arrow_reader(ROWS_AT_ONCE):
        keys.add_forgotten(batch["value"].to_numpy())
    if log.append_only:
        gone = f"SELECT {key} FROM {relation} WHERE op = 'D'"
        rows = cursor.execute(
            f"SELECT max(seq), 'D', {key} FROM {relation} WHERE {key} IN ({gone}) GROUP BY {key} "
            "HAVING arg_max(op, seq) = 'D'"
        ).fetchall()
        if rows:
            keys.note_deletions(*zip(*rows, strict=True))
            keys.forget(horizon)


def _keys(log: Log, relation: str, horizon: datetime | None) -> str:
    key = f'"{log.key[0]}"'
    at = f'min("{TIMES[log.name]}")' if log.name in TIMES else "NULL"
    only = "WHERE op <> 'D'" if log.append_only else ""
    forgotten = f"HAVING {at} >= TIMESTAMP '{horizon}'" if horizon and not log.keeps_newest else ""
    return (
        f"SELECT hash({key}) AS h, {key} AS key, arg_min(op, seq) AS op, "
        f"CAST({at} AS TIMESTAMP) AS since "
        f"FROM {relation} {only} GROUP BY {key} {forgotten}"
    )


def _find_older(
    window: HotWindow, cursor: duckdb.DuckDBPyConnection, view: View, source: Source, good: str
) -> None:
    """Take note of keys that began within the window, but have rows from before it alone."""
    keys = window.keys[str(source.begun_by)]
    begun = set(keys.begun(window.watermarks.of(view))) - window.whole[view.name]
    if begun:
        h = hash_of(source.keys)
        found = cursor.execute(
            f"SELECT DISTINCT {h} FROM {good} AND {h} IN (SELECT unnest(CAST(? AS UBIGINT[])))",
            [list(begun)],
        )
        keys.not_begun(row[0] for row in found.fetchall())


def _deletions(log: Log, relation: str, since: datetime) -> str:
    at = f'"{log.changed_at}"'
    return (
        f"SELECT {hash_of(log.key)} AS {KEY_HASH}, seq, op, {at} FROM {relation} "
        f"WHERE op = 'D' AND {at} >= TIMESTAMP '{since}' ORDER BY seq"
    )


def _needed(source: Source, good: str, watermark: datetime) -> str:
    """The condition under which a row is needed by windows that end at the watermark or later."""
    horizon = f"TIMESTAMP '{back(watermark, source.lookback or 0)}'"
    recent = f"{source.at} >= {horizon}"
    h = hash_of(source.keys)
    if source.lookback is None:
        return f"AND {h} IN (SELECT {h} FROM {good} AND {recent})"
    if source.newest_before:
        last = f"max({source.at}) FILTER (WHERE NOT {recent}) OVER (PARTITION BY {h})"
        return f"QUALIFY {recent} OR {source.at} = {last}"
    if source.identity:
        return f"AND {source.identity} IN (SELECT {source.identity} FROM {good} AND {recent})"
    if source.member:
        chosen = f"SELECT * FROM {good} AND {recent}"
        return f"AND {recent} AND seq NOT IN ({superseded(source, chosen)})"
    return f"AND {recent}"
