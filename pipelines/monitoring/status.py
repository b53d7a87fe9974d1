"""The status of the platform, as one JSON-like document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pipelines.change_log.offsets import Offset
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
from pipelines.feast_plugins.repository import CHECKED
from pipelines.file_kinds import check_file
from pipelines.lake.clock import utc_now
from pipelines.lake.declarations import declared_otherwise
from pipelines.lake.process_lock import STREAM_LOCK, held_by
from pipelines.lake.state import BATCH_READER, STREAM_READER, STREAM_STATUS, PipelineState
from pipelines.lake.summary import check_published, summarize
from pipelines.live_databases import sqlite_path
from pipelines.printable import counted, was
from pipelines.settings import DATABASE_NAMES, BatchConfig, DataConfig


def collect_status(config: BatchConfig, data: DataConfig) -> dict[str, Any]:
    """Databases with offsets and lag, streamer, offline views, views that are declared otherwise
    than is published, online store, last cycles.

    A part that cannot be read holds `error`, one line, instead of its figures. A database that
    batch cycles refuse until it is repaired also holds `changes_missing`: whether changes may be
    lost.
    """
    state = PipelineState(config.state_path)
    return {
        "data_dir": str(config.data_dir),
        "databases": {name: _database(state, data, name) for name in DATABASE_NAMES},
        "streamer": _or_error(lambda: _streamer(state, config)),
        "offline_views": _or_error(lambda: _views(state, config, utc_now())),
        "registry": _or_error(lambda: _registry(config)),
        "declared_otherwise": declared_otherwise(state),
        "pending_materializations": sorted(state.pending_materializations()),
        "quarantined": _quarantined(state),
        "online_store": _or_error(lambda: _online_store(state, data)),
        "last_cycles": [asdict(cycle) for cycle in state.last_cycles(5)],
    }


def _database(state: PipelineState, data: DataConfig, name: str) -> dict[str, Any]:
    url = data.database_url(name)
    offset = state.bound_offsets(BATCH_READER).get(name, Offset(0))
    streamed = state.bound_offsets(STREAM_READER).get(name)
    path = sqlite_path(url)
    if not path.exists() and not path.is_symlink():
        if offset.seq:
            changes = f"{counted(offset.seq, 'change')} of it {was(offset.seq)}"
            error = f"{path} is gone, though {changes} read: restore it"
            return {"where": str(path), "error": error, "changes_missing": True}
        return {"where": str(path), "error": "does not exist yet"}

    def read() -> dict[str, Any]:
        reader = ChangeLogReader(name, url, data.busy_timeout)
        reader.check()
        last = reader.end(offset).seq
        return {
            "changes": last,
            "offset": offset.seq,
            "lag": last - offset.seq,
            "stream_offset": streamed.seq if streamed else None,
            "stream_lag": last - streamed.seq if streamed else None,
            "unknown_rows": {found.table: str(found) for found in reader.unknown_rows()},
        }

    try:
        return {"where": str(path)} | read()
    except (OlderLogError, LiveDatabaseBusyError) as error:  # the next cycle handles it
        return {"where": str(path), "error": str(error)}
    except (TriggersError, ChangeLogGapError) as error:
        return {"where": str(path), "error": str(error), "changes_missing": True}
    except SynchroChainError as error:
        return {"where": str(path), "error": str(error), "changes_missing": False}


def _views(state: PipelineState, config: BatchConfig, now: datetime) -> dict[str, Any]:
    check_published(state, config)
    found = summarize(state, config.offline_path, now)
    return {name: asdict(view) for name, view in found.items()}


def first_alarm(status: Mapping[str, Any]) -> str | None:
    """One line on the first database that cycles refuse, damaged published file, or damaged
    registry; None if there is none."""
    for found in status["databases"].values():
        if "changes_missing" in found:
            return str(found["error"])
    for part in ("offline_views", "registry"):
        if "error" in status[part]:
            return str(status[part]["error"])
    return None


def _registry(config: BatchConfig) -> dict[str, Any]:
    path = config.registry_path
    check_file(path)
    if path.exists():
        unsealed(path, path.read_bytes())
    return {"where": str(path)}


def _streamer(state: PipelineState, config: BatchConfig) -> dict[str, Any]:
    """The streamer's last report, and `state`: running, starting, stopped or never ran.

    `deferred` counts, by database, the changes deferred to the batch flow that are still open.
    """
    holder = held_by(config.data_dir / STREAM_LOCK)
    try:
        noted: dict[str, Any] = json.loads(state.metadata(STREAM_STATUS) or "{}")
        deferred = {
            name: sum(1 for _ in seqs_of(r)) for name, r in noted.pop("deferred", {}).items()
        }
    except (ValueError, AttributeError, TypeError):
        return {"error": "its report in the pipeline's state cannot be read: start it again"}
    if holder is not None:
        stage = "running" if holder == noted.get("pid") else "starting"
    else:
        stage = "stopped" if noted else "never ran"
    return {"state": stage, **noted, "pid": holder, "deferred": deferred}


def _quarantined(state: PipelineState) -> dict[str, int]:
    rows: dict[str, int] = {}
    for file in state.files("quarantine"):
        rows[file.name] = rows.get(file.name, 0) + file.rows
    return rows


def _online_store(state: PipelineState, data: DataConfig) -> dict[str, Any]:
    from pipelines.redis_server import connect, find_server, translate_redis_errors
    from pipelines.redis_server.server_info import server_facts

    endpoint = find_server(data)
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
        "last_check": state.document(CHECKED) or {},
    }


def _or_error(read: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read()
    except SynchroChainError as error:
        return {"error": str(error)}
    return found
