"""Live databases filled with the random log, for tests of the batch flow from end to end."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import duckdb
from random_log import DATABASES, PRIMARY_KEYS, TABLE_NAMES, Logs, _row_json, _stored, random_log

from pipelines.batch import BatchProcessor
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.lake.workspace import read_files
from pipelines.live_databases import LiveDatabases
from pipelines.settings import DataConfig

LONG_AGO = datetime(2000, 1, 1)
TABLES = {
    **{d: list(tables) for d, tables in DATABASES.items()},
    "users": ["users", "sessions", "clickstream"],
    "inventory": ["warehouses", "products", "inventory"],
}
KEYS = {**PRIMARY_KEYS, "users": ("user_id",), "products": ("product_id",)}


def complete_log(seed: int, size: int = 60) -> Logs:
    """The random log with everything that its rows refer to in front of it."""
    logs = random_log(seed, size)
    for rows in logs.values():
        for row in rows:
            row["seq"] += 100
    first = {"seq": 0, "op": "I", "committed_at": LONG_AGO}
    logs["users"] = [
        {**first, "user_id": u, "region": "north", "signed_up_at": LONG_AGO} for u in range(1, 5)
    ] + logs["users"]
    logs["products"] = [
        {**first, "product_id": p, "category": "c", "unit_price": 1.0, "weight_kg": 1.0}
        for p in ("p1", "p2", "p3")
    ]
    logs["warehouses"] = [
        {**first, "warehouse_id": w, "region": r, "latitude": 0.0, "longitude": 0.0, "capacity": 9}
        for w, r in (("w1", "north"), ("w2", "south"), ("w3", "east"))
    ]
    sessions = {row["session_id"]: row for row in logs["sessions"] + logs["clickstream"]}
    logs["sessions"] = [
        {
            **first,
            "session_id": session,
            "user_id": row["user_id"],
            "products_viewed": [],
            "actions_performed": [],
            "session_duration": 0,
            "timestamp": LONG_AGO,
            "time_on_page": None,
            "scroll_depth": None,
            "click_rate": None,
        }
        for session, row in sessions.items()
    ] + logs["sessions"]
    routes = {row["route_id"]: row for row in logs["routes"]}
    logs["routes"] = [{**row, **first, "updated_at": LONG_AGO} for row in routes.values()] + logs[
        "routes"
    ]
    logs["shipments"] = [
        {**row, "order_id": None, "shipped_at": LONG_AGO, "promised_at": row["promised_at"]}
        for row in logs["shipments"]
        if row["route_id"] in routes
    ]
    return numbered(logs)


def numbered(logs: Logs) -> Logs:
    """The same rows, those of each database numbered from 1 without holes, in their order."""
    for tables in TABLES.values():
        rows = [row for table in tables for row in logs[table]]
        for seq, row in enumerate(sorted(rows, key=lambda row: row["seq"]), start=1):
            row["seq"] = seq
    return logs


def append_changes(config: DataConfig, logs: Mapping[str, list[dict[str, Any]]]) -> None:
    """Append rows to the change logs as the triggers would; the live tables stay empty."""
    with LiveDatabases.open(config) as databases:
        databases.create()
    for database, tables in TABLES.items():
        entries = [(row["seq"], table, row) for table in tables for row in logs.get(table, [])]
        with sqlite3.connect(config.db_path / f"{database}.db") as connection:
            connection.executemany(
                "INSERT INTO change_log (seq, table_name, op, key, row, committed_at, old_key) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        seq,
                        TABLE_NAMES.get(table, table),
                        row["op"],
                        json.dumps([row[column] for column in KEYS[table]]),
                        _row_json(table, row),
                        _stored(row["committed_at"]),
                        row.get("old_key"),
                    )
                    for seq, table, row in sorted(entries, key=lambda entry: entry[0])
                ],
            )
        connection.close()


def parts_of(logs: Logs, count: int) -> list[Logs]:
    """The logs cut into `count` stretches of the change logs, in order."""
    parts: list[Logs] = [{} for _ in range(count)]
    for tables in TABLES.values():
        last = max((row["seq"] for table in tables for row in logs[table]), default=0)
        for table in tables:
            for row in logs[table]:
                seq = row["seq"] - (1 if row.get("old_key") else 0)  # both halves come together
                part = min(count - 1, (seq - 1) * count // max(last, 1))
                if row["committed_at"] == LONG_AGO:  # what others refer to comes first
                    part = 0
                parts[part].setdefault(table, []).append(row)
    return parts


def offline_rows(processor: BatchProcessor, view: str) -> list[dict[str, Any]]:
    """What the offline source says now: per key and time, the row created last."""
    files = processor.state.files("view", view)
    if not files:
        return []
    keys = ", ".join((*VIEWS_BY_NAME[view].keys, "event_timestamp"))
    return (
        duckdb.sql(
            f"SELECT * EXCLUDE (created_timestamp) FROM {read_files(files)} QUALIFY "
            f"row_number() OVER (PARTITION BY {keys} ORDER BY created_timestamp DESC) = 1 "
            f"ORDER BY {keys}"
        )
        .to_arrow_table()
        .to_pylist()
    )
