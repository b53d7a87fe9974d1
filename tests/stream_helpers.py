"""A small shop whose real-time flow is driven by hand, and what it has put online."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from comparing import differences
from live_logs import KEYS, TABLES
from random_log import TABLE_NAMES, Logs, _row_json, _stored
from reference import VIEWS, compute
from stream_batch import BatchProcess
from stream_decoding import EPOCH, entity_key, instant, value

from pipelines.batch import BatchConfig
from pipelines.cache import RealtimeCache
from pipelines.change_log.seq_ranges import seqs_of
from pipelines.feast_plugins.writing.encoding import field
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.lake.state import PipelineState
from pipelines.live_databases import LiveDatabases
from pipelines.redis_server import connect, ensure_server, stop_server
from pipelines.settings import DATABASE_NAMES, DataConfig
from pipelines.streaming.flow import StreamingFlow
from pipelines.streaming.online_sink import OnlineSink, project_of
from pipelines.tables.known import BY_NAME

Row = dict[str, Any]
ForKeys = dict[tuple[Any, ...], Row]
COMMITTED = datetime(2024, 4, 1)
FOREVER = 60 * 365 * 86_400
"""An allowed lateness, in seconds, for which nothing is too old."""


class StreamWorld:
    """A data directory with a Redis of its own, and one `StreamingFlow` at a time on it."""

    def __init__(self, folder: Path, clock: Callable[[], datetime], **settings: Any) -> None:
        self.clock = clock
        self.config = DataConfig(data_dir=folder, redis_host=None, **settings)
        self.batch_config = BatchConfig(data_dir=folder, retention_days=100 * 365)
        self.state = PipelineState(self.batch_config.state_path)
        self.batch: BatchProcess | None = None
        self.seconds = 0.0
        self.endpoint = ensure_server(self.config)
        self._flow: StreamingFlow | None = None
        with LiveDatabases.open(self.config) as databases:
            databases.create()

    @property
    def flow(self) -> StreamingFlow:
        """The flow, which is started at the first look."""
        if self._flow is None:
            self._flow = StreamingFlow(
                self.config, self.batch_config, RealtimeCache(self.config), self.clock
            )
            self._flow.online = self._sink()  # one whose clock is ours
            self._flow.catch_up()
        return self._flow

    def _sink(self) -> OnlineSink:
        assert self._flow is not None
        self._flow.online.close()
        project = project_of(self.batch_config.feature_repo_path)
        return OnlineSink(self.config, project, clock=lambda: self.seconds)

    def cycle(self, *, update: bool = False) -> dict[str, int]:
        """Run a batch cycle in another process; how many rows it rejected, by log."""
        assert self.batch is not None, "give stream_world a batch process"
        report = self.batch.cycle(self.config.data_dir, self.clock(), update=update)
        assert "error" not in report, report["error"]
        rejected: dict[str, int] = report["quarantined"]
        return rejected

    def restart(self, *, save: bool) -> None:
        """End the flow, with its offsets saved or not, and start another one."""
        if save:
            self.flow.save()
        self.end()
        assert self.flow

    def end(self) -> None:
        """End the flow as a crash would."""
        if self._flow is not None:
            self._flow.close()
            self._flow.cache.cache.close()
            self._flow = None

    def run(self, name: str) -> None:
        """Let one stream take in everything, after those that it waits for."""
        while True:
            step = self.flow.step(name)
            if step.waits_for:
                for other in sorted(step.waits_for):
                    self.run(other)
                step = self.flow.step(name, final=True)
            if not step.changes:
                return

    def stream(self, logs: Mapping[str, list[Row]] | None = None) -> None:
        """Append changes and let every stream take in everything."""
        if logs is not None:
            self.append(logs)
        for name in DATABASE_NAMES:
            self.run(name)

    def append(self, logs: Mapping[str, list[Row]]) -> None:
        """Append changes, each with the `seq` that it has."""
        for database, tables in TABLES.items():
            rows = [(row["seq"], table, row) for table in tables for row in logs.get(table, [])]
            with closing(self.database(database)) as connection, connection:
                for seq, table, row in sorted(rows, key=lambda entry: entry[0]):
                    insert(connection, table, row, seq)

    def commit(self, table: str, *rows: Row) -> list[int]:
        """Append changes of one table behind what its log holds; their `seq`."""
        with closing(self.database(BY_NAME[table].database)) as connection, connection:
            return [insert(connection, table, row) for row in rows]

    def database(self, name: str) -> sqlite3.Connection:
        """A connection to a live database."""
        return sqlite3.connect(self.config.db_path / f"{name}.db")

    def counters(self, name: str) -> dict[str, Any]:
        """What a stream says of itself."""
        found: dict[str, Any] = self.flow.report()["streams"][name]
        return found

    def deferred(self) -> dict[str, list[int]]:
        """By database, the changes that the stream says it deferred to the batch flow."""
        self.flow.save(final=True)
        note = self.state.metadata("stream")
        found: dict[str, Any] = json.loads(note or "{}")["deferred"]
        return {name: list(seqs_of(ranges)) for name, ranges in found.items()}

    def redis(self) -> Any:
        """A client of the server."""
        return connect(self.endpoint)

    def kill_redis(self) -> None:
        """End the server without a word."""
        process = psutil.Process(self.endpoint.pid)
        process.kill()
        process.wait(10)

    def start_redis(self) -> None:
        """Start the server again, and let it be time to try it."""
        self.endpoint = ensure_server(self.config)
        self.try_again()

    def try_again(self) -> None:
        """Let it be time to try Redis again."""
        self.seconds += 10

    def online(self, view: str) -> ForKeys:
        """What is online of a view, by key: features, event time and created timestamp."""
        found: ForKeys = {}
        schema = VIEWS_BY_NAME[view].schema
        with self.redis() as client:
            for key in client.scan_iter(b"*synchrochain", _type="hash", count=10_000):
                fields = client.hgetall(key)
                if f"_ts:{view}".encode() not in fields:
                    continue
                names = entity_key(key)
                row: Row = dict(names)
                for name in VIEWS_BY_NAME[view].features:
                    row[name] = value(fields[field(view, name)], schema.field(name).type)
                stamp = fields[f"_created:{view}".encode()]
                row["created_timestamp"] = EPOCH + timedelta(microseconds=int(stamp[-20:]))
                row["event_timestamp"] = instant(fields[f"_ts:{view}".encode()])
                found[tuple(names[name] for name in VIEWS_BY_NAME[view].keys)] = row
        return found


def newest(view: str, logs: Logs) -> ForKeys:
    """What the reference says of each key's newest row."""
    rows = compute(view, logs)
    return {tuple(row[name] for name in VIEWS_BY_NAME[view].keys): row for row in rows}


def joined(parts: list[Logs]) -> Logs:
    """Several stretches of the logs as one."""
    tables = {table for part in parts for table in part}
    return {table: [row for part in parts for row in part.get(table, [])] for table in tables}


def unequal(world: StreamWorld, logs: Logs, since: Mapping[str, datetime] | None = None) -> Row:
    """Where online and reference differ, by view and key: nothing, if all is well.

    Args:
        since: by view, the event time from which on the newest rows are compared.
    """
    found: Row = {}
    for view in VIEWS:
        ours, theirs = world.online(view), newest(view, logs)
        for key in ours.keys() | theirs.keys():
            row, wanted = dict(ours.get(key, {})), theirs.get(key, {})
            row.pop("created_timestamp", None)
            if since and wanted and wanted["event_timestamp"] < since[view]:
                continue
            if gap := differences(row, wanted):
                found[(view, *key)] = gap
    return found


@contextmanager
def stream_world(
    clock: Callable[[], datetime], batch: BatchProcess | None = None, **settings: Any
) -> Iterator[StreamWorld]:
    """A world in a folder with a short name, as a socket's path must be; all ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="sc-")).resolve()
    world = None
    try:
        world = StreamWorld(folder, clock, **settings)
        world.batch = batch
        yield world
    finally:
        if world is not None:
            world.end()
        stop_server(DataConfig(data_dir=folder, redis_host=None))
        shutil.rmtree(folder, ignore_errors=True)


def insert(connection: sqlite3.Connection, table: str, row: Row, seq: int | None = None) -> int:
    """Append a change of a table as the triggers would; its `seq`."""
    row = {"op": "I", "committed_at": COMMITTED, **row}
    cursor = connection.execute(
        "INSERT INTO change_log (seq, table_name, op, key, row, committed_at, old_key) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            seq,
            TABLE_NAMES.get(table, table),
            row["op"],
            json.dumps([row.get(column) for column in KEYS[table]]),
            _row_json(table, row),
            _stored(row["committed_at"]),
            row.get("old_key"),
        ),
    )
    return int(cursor.lastrowid or 0)
