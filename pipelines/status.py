"""How everything stands, as one JSON-like document."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipelines.batch import BatchProcessor
from pipelines.batch.batch_processor import READER
from pipelines.change_log.reader import ChangeLogReader
from pipelines.errors import SynchroChainError
from pipelines.live_databases import sqlite_path
from pipelines.settings import DATABASE_NAMES


def collect_status(processor: BatchProcessor) -> dict[str, Any]:
    """Databases with positions and lag, offline views, online store, last cycles.

    A part that cannot be read holds `error`, one line, instead of its figures; the others stand.
    """
    return {
        "data_dir": str(processor.config.data_dir),
        "databases": {name: _database(processor, name) for name in DATABASE_NAMES},
        "offline_views": _or_error(
            lambda: {name: asdict(view) for name, view in processor.get_feature_summary().items()}
        ),
        "waiting_for_online_store": sorted(processor.state.waiting_views()),
        "quarantined": _quarantined(processor),
        "online_store": _or_error(lambda: _online_store(processor)),
        "last_cycles": [asdict(cycle) for cycle in processor.state.last_cycles(5)],
    }


def _database(processor: BatchProcessor, name: str) -> dict[str, Any]:
    url = processor.data.database_url(name)
    position = processor.state.positions(READER).get(name, 0)
    path = sqlite_path(url)
    if path is not None and not path.exists():
        return {"where": str(path), "error": "does not exist yet"}

    def read() -> dict[str, Any]:
        last = ChangeLogReader(name, url, processor.data.busy_timeout).last(position)
        return {"changes": last, "position": position, "lag": last - position}

    where = {"where": str(path) if path else name}
    return where | _or_error(read)


def _quarantined(processor: BatchProcessor) -> dict[str, int]:
    rows: dict[str, int] = {}
    for file in processor.state.files("quarantine"):
        rows[file.name] = rows.get(file.name, 0) + file.rows
    return rows


def _online_store(processor: BatchProcessor) -> dict[str, Any]:
    from pipelines.redis import connect, find_server, translate_redis_errors

    endpoint = find_server(processor.data)
    if endpoint is None:
        return {"engine": None, "keys": None}
    with translate_redis_errors(endpoint), connect(endpoint) as client:
        memory: Any = client.info("memory")
        keys: Any = client.dbsize()
    return {
        "engine": endpoint.engine,
        "version": endpoint.version,
        "where": f"{endpoint.host}:{endpoint.port}",
        "pid": endpoint.pid,
        "keys": keys,
        "memory_bytes": memory.get("used_memory"),
    }


def _or_error(read: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read()
    except SynchroChainError as error:
        return {"error": str(error)}
    return found
