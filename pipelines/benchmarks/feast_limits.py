"""What the machine allows: raw HSETs, plain redis-py, one DuckDB statement by hand."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import pandas as pd
import pyarrow as pa

from pipelines.benchmarks.feast_space import Space
from pipelines.benchmarks.feast_world import KEY, View, Views
from pipelines.benchmarks.feast_writer import RANDOM
from pipelines.errors import SynchroChainError
from pipelines.redis_server import find_programs

KEYSPACE: Final = 1_000_000_000
PROGRAMS: Final = {"redis": "redis-benchmark", "valkey": "valkey-benchmark"}
PIPELINES: Final = ((1, 50), (1, 100), (10, 50), (10, 100), (50, 16))
"""Connections and commands in flight on each: the fastest of them is the limit."""


def benchmark_program(space: Space) -> str | None:
    """Redis's or Valkey's own benchmark: on the PATH, or beside the server; None without one."""
    beside = [str(p.path.parent) for p in find_programs() if p.path is not None]
    wanted = PROGRAMS[space.endpoint.engine]
    for name in (wanted, *PROGRAMS.values()):
        for folder in (None, *beside):
            if found := shutil.which(name, path=folder):
                return found
    return None


def hash_shape(space: Space, fields: int) -> list[str]:
    """Arguments of an HSET like the rows that are stored: as long a key, fields and values.

    Taken from a stored hash of the median size among some that have `fields` fields.
    """
    client: Any = space.client
    stored = []
    for key in client.scan_iter(count=200):
        row = client.hgetall(key)
        if len(row) == fields:
            stored.append((sum(map(len, row.values())), key, row))
        if len(stored) == 201:
            break
    if not stored:
        raise SynchroChainError(f"nothing with {fields} fields is stored to take the shape of")
    _, key, row = sorted(stored, key=lambda found: found[0])[len(stored) // 2]
    arguments = [RANDOM.rjust(len(key), "k")]
    for number, (name, value) in enumerate(row.items()):
        arguments += (f"{number:0{len(name)}}"[-len(name) :], "v" * len(value))
    return arguments


def hset_rows_per_s(
    program: str, space: Space, arguments: Sequence[str], rows: int, pipeline: tuple[int, int]
) -> float:
    """Rows a second that Redis's own benchmark writes to new keys, over the same socket.

    Args:
        program: path of `redis-benchmark`.
        space: where Redis is.
        arguments: key, fields and values of one HSET.
        rows: how many to write.
        pipeline: clients, and commands in flight of each.
    """
    clients, depth = pipeline
    endpoint = space.endpoint
    address = ["-h", endpoint.host, "-p", str(endpoint.port)]
    if endpoint.unix_socket is not None:
        address = ["-s", str(endpoint.unix_socket)]
    options = {"-c": clients, "-P": depth, "-n": rows, "-r": KEYSPACE, "-a": endpoint.password}
    command = [program, *address, "--csv"]
    for name, value in options.items():
        command += (name, str(value))
    ran = subprocess.run([*command, "HSET", *arguments], capture_output=True, text=True)
    lines = [line for line in csv.reader(ran.stdout.splitlines()) if line[:1] and "HSET" in line[0]]
    if ran.returncode or not lines:
        complaint = (ran.stderr or ran.stdout).strip().splitlines()[-1:] or ["it said nothing"]
        raise SynchroChainError(f"{Path(program).name} failed: {complaint[0]}")
    return float(lines[-1][1])


def hash_keys(project: str, users: Sequence[int]) -> list[bytes]:
    """The users' keys, made by Feast's own code."""
    from feast.infra.online_stores.helpers import _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    parts = (EntityKey(join_keys=[KEY], entity_values=[Value(int64_val=user)]) for user in users)
    return [_redis_key(project, part, entity_key_serialization_version=3) for part in parts]


def hash_fields(view: View) -> list[bytes]:
    """The fields of a view, its event time last, made by Feast's own code."""
    from feast.infra.online_stores.helpers import _mmh3

    return [*(_mmh3(f"{view.name}:{name}") for name in view.features), f"_ts:{view.name}".encode()]


def hmget_of(client: Any, keys: Sequence[bytes], fields: Sequence[bytes]) -> Callable[[], Any]:
    """Reading these fields of these keys by redis-py alone, nothing decoded.

    Args:
        client: of redis-py.
        keys: Redis keys.
        fields: of each hash.
    """
    if len(keys) == 1:
        key = keys[0]
        return lambda: [client.hmget(key, fields)]

    def pipelined() -> Any:
        with client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hmget(key, fields)
            return pipe.execute()

    return pipelined


def asof_join(views: Views, frame: pd.DataFrame) -> Callable[[], pa.Table]:
    """The history of the frame's rows in one statement, as one would write it by hand.

    The frame is an Arrow table from the start, the rows come in any order, and ties of event time
    are not looked at: there are none.
    """
    # Of an Arrow table DuckDB does not know the rows, and below 64 it would join by a nested loop.
    settings: dict[str, Any] = {"asof_loop_join_threshold": 0}
    entities = pa.Table.from_pandas(frame, preserve_index=False)
    columns, joins = ["e.*"], []
    for view in views.views:
        names = [f"{view.name}.{name}" for name in view.features]
        if view.ttl is not None:
            seconds = round(view.ttl.total_seconds())
            fresh = f"{view.name}.event_timestamp >= e.event_timestamp - INTERVAL {seconds} SECOND"
            names = [f"CASE WHEN {fresh} THEN {n} END AS {n.split('.')[1]}" for n in names]
        columns += names
        joins.append(
            f"ASOF LEFT JOIN read_parquet('{views.path(view)}') {view.name} "
            f"ON e.{KEY} = {view.name}.{KEY} "
            f"AND e.event_timestamp >= {view.name}.event_timestamp"
        )
    statement = f"SELECT {', '.join(columns)} FROM entities e {' '.join(joins)}"

    def run() -> pa.Table:
        with duckdb.connect(config=settings) as connection:
            connection.register("entities", entities)
            return connection.execute(statement).to_arrow_table()

    return run
