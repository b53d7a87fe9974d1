"""How everything stands, as one JSON-like document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from pipelines.batch import BatchProcessor
from pipelines.batch.batch_processor import READER
from pipelines.batch.update import CHECKED
from pipelines.change_log.positions import Position
from pipelines.change_log.reader import ChangeLogReader
from pipelines.change_log.seq_ranges import seqs_of
from pipelines.errors import (
    ChangeLogGapError,
    LiveDatabaseBusyError,
    OlderLogError,
    SynchroChainError,
    TriggersError,
)
from pipelines.feast_plugins.registry_file import unsealed
from pipelines.lake.process_lock import held_by
from pipelines.live_databases import sqlite_path
from pipelines.places import check_file
from pipelines.settings import DATABASE_NAMES

STREAM: Final = "stream"
"""The name of the streamer's note, of its positions and of its lock."""


def collect_status(processor: BatchProcessor) -> dict[str, Any]:
    """Databases with positions and lag, streamer, offline views, online store, last cycles.

    A part that cannot be read holds `error`, one line, instead of its figures; the others stand.
    A database that batch cycles refuse until somebody mends it holds `changes_missing` too: whether
    changes may be missing for good.
    """
    return {
        "data_dir": str(processor.config.data_dir),
        "databases": {name: _database(processor, name) for name in DATABASE_NAMES},
        "streamer": _or_error(lambda: _streamer(processor)),
        "offline_views": _or_error(lambda: _views(processor)),
        "registry": _or_error(lambda: _registry(processor)),
        "waiting_for_online_store": sorted(processor.state.waiting_views()),
        "quarantined": _quarantined(processor),
        "online_store": _or_error(lambda: _online_store(processor)),
        "last_cycles": [asdict(cycle) for cycle in processor.state.last_cycles(5)],
    }


def _database(processor: BatchProcessor, name: str) -> dict[str, Any]:
    url = processor.data.database_url(name)
    position = processor.state.bound_positions(READER).get(name, Position(0))
    streamed = processor.state.bound_positions(STREAM).get(name)
    path = sqlite_path(url)
    if not path.exists() and not path.is_symlink():
        if position.seq:
            error = f"{path} is gone, though {position.seq:,} changes of it were read: restore it"
            return {"where": str(path), "error": error, "changes_missing": True}
        return {"where": str(path), "error": "does not exist yet"}

    def read() -> dict[str, Any]:
        reader = ChangeLogReader(name, url, processor.data.busy_timeout)
        reader.check()
        last = reader.end(position).seq
        return {
            "changes": last,
            "position": position.seq,
            "lag": last - position.seq,
            "stream_position": streamed.seq if streamed else None,
            "stream_lag": last - streamed.seq if streamed else None,
            "unknown_rows": {found.table: str(found) for found in reader.unknown_rows()},
        }

    try:
        return {"where": str(path)} | read()
    except (OlderLogError, LiveDatabaseBusyError) as error:  # the next cycle copes with it
        return {"where": str(path), "error": str(error)}
    except (TriggersError, ChangeLogGapError) as error:
        return {"where": str(path), "error": str(error), "changes_missing": True}
    except SynchroChainError as error:
        return {"where": str(path), "error": str(error), "changes_missing": False}


def _views(processor: BatchProcessor) -> dict[str, Any]:
    processor.check_published()
    return {name: asdict(view) for name, view in processor.get_feature_summary().items()}


def first_alarm(status: Mapping[str, Any]) -> str | None:
    """One line on the first database that is not what cycles need, on a published file that is not
    what was published, or on a damaged registry; None if there is nothing of the kind."""
    for found in status["databases"].values():
        if "changes_missing" in found:
            return str(found["error"])
    for part in ("offline_views", "registry"):
        if "error" in status[part]:
            return str(status[part]["error"])
    return None


def _registry(processor: BatchProcessor) -> dict[str, Any]:
    path = processor.config.registry_path
    check_file(path)
    if path.exists():
        unsealed(path, path.read_bytes())
    return {"where": str(path)}


def _streamer(processor: BatchProcessor) -> dict[str, Any]:
    """What the streamer noted last, and `state`: running, starting, stopped or never ran.

    `left` is how many changes it leaves to the batch flow and knows no outcome of, by database.
    """
    holder = held_by(processor.config.data_dir / f"{STREAM}.lock")
    try:
        noted: dict[str, Any] = json.loads(processor.state.note(STREAM) or "{}")
        left = {name: sum(1 for _ in seqs_of(r)) for name, r in noted.pop("left", {}).items()}
    except (ValueError, AttributeError, TypeError):
        return {"error": "its note in the pipeline's state cannot be read: start it again"}
    if holder is not None:
        state = "running" if holder == noted.get("pid") else "starting"
    else:
        state = "stopped" if noted else "never ran"
    return {"state": state, **noted, "pid": holder, "left": left}


def _quarantined(processor: BatchProcessor) -> dict[str, int]:
    rows: dict[str, int] = {}
    for file in processor.state.files("quarantine"):
        rows[file.name] = rows.get(file.name, 0) + file.rows
    return rows


def _online_store(processor: BatchProcessor) -> dict[str, Any]:
    from pipelines.redis_server import connect, find_server, translate_redis_errors
    from pipelines.redis_server.facts import server_facts

    endpoint = find_server(processor.data)
    if endpoint is None:
        return {"engine": None, "keys": None}
    with translate_redis_errors(endpoint), connect(endpoint) as client:
        memory: Any = client.info("memory")
        keys: Any = client.dbsize()
        facts = server_facts(client, endpoint.db)
    return {
        "engine": endpoint.engine,
        "version": endpoint.version,
        "where": f"{endpoint.host}:{endpoint.port}",
        "pid": endpoint.pid,
        "keys": keys,
        "memory_bytes": memory.get("used_memory"),
        "evicts": facts.evicts,
        "last_check": processor.state.document(CHECKED) or {},
    }


def _or_error(read: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read()
    except SynchroChainError as error:
        return {"error": str(error)}
    return found
