"""Writing feature rows to Redis in Feast's layout, straight from Arrow, without importing Feast."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import redis
from redis.exceptions import NoScriptError

from pipelines.errors import UsageError
from pipelines.feast_plugins.writing.binary_arrays import joined, regrouped
from pipelines.feast_plugins.writing.encoding import (
    entity_keys,
    field,
    times,
    values,
)
from pipelines.feast_plugins.writing.newer_wins import (
    CHECK_ROWS,
    PUT_ROWS_UNLESS_OLDER,
    created_field,
)
from pipelines.feast_plugins.writing.resp import Commands, argument, arguments, exchange
from pipelines.features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP

ROWS_PER_CHUNK: Final = 8_192
ROWS_PER_SCRIPT: Final = 50  # takes a third of a millisecond, during which the server is blocked
ARGUMENTS_PER_SCRIPT: Final = 10_000
SCRIPT_LOADS: Final = 3  # per chunk; the server may lose scripts at any time


@dataclass(frozen=True)
class EncodedRows:
    """Rows of one view as they are stored: Redis keys, and by field the values of all rows.

    The first two fields are `_ts:<view>` and `_created:<view>`. No array has nulls.
    """

    keys: pa.BinaryArray
    fields: Mapping[bytes, pa.BinaryArray]

    @property
    def rows_per_call(self) -> int:
        """How many rows one call of a script takes."""
        return max(1, min(ROWS_PER_SCRIPT, ARGUMENTS_PER_SCRIPT // len(self.fields)))

    def commands(self, script: str = PUT_ROWS_UNLESS_OLDER, *options: bytes) -> Commands:
        """Calls of a script of `newer_wins`, several rows each; `options` come before the rows."""
        rows, width, each = len(self.keys), len(self.fields), self.rows_per_call
        starts = range(0, rows, each)
        bounds = np.array([*starts, rows])
        before = (*options, b"%d" % width, *self.fields)
        heads = [_head(script, min(each, rows - start), len(before), width) for start in starts]
        names = b"".join(map(argument, before))
        return Commands.of(
            joined(
                pa.array(heads, pa.binary()),
                regrouped(arguments(self.keys), bounds),
                names,
                regrouped(arguments(*self.fields.values()), bounds),
            )
        )


class OnlineWriter:
    """Writes rows as `SharedRedisOnlineStore` does: each unless the server holds a newer one.

    Newer is by (event time, created timestamp), decided and written in one atomic step per row, so
    several writers, threads and processes may write at the same time. Safe to share between
    threads as far as `client` is.

    Args:
        project: the Feast project; its name ends every key.

    Attributes:
        damaged: how many damaged rows were replaced.
    """

    def __init__(self, client: redis.Redis, project: str) -> None:
        self._client = client
        self._project = project
        self._loaded: set[str] = set()
        self.damaged = 0

    def write(self, rows: Mapping[str, pa.Table], keys: Mapping[str, Sequence[str]]) -> int:
        """Write rows of several views; returns how many of them replaced what was stored.

        Args:
            rows: by view, a table of the view's keys, `event_timestamp` and `created_timestamp`
                (timestamp[us], UTC; a null created timestamp is the event time), and its features.
            keys: by view, the columns that are its join keys.

        Raises:
            UsageError: a column is missing or of a type without an encoding, or a null where
                there must be none.
            redis.RedisError: as raised by the client.

        After any of them some rows may be written. Writing all of them again is safe: it changes
        nothing where the rows, or newer ones, are stored already.
        """
        return sum(
            self.put(
                self._encoded(
                    view, table.slice(start, ROWS_PER_CHUNK), keys.get(view, ())
                ).commands()
            )
            for view, table in rows.items()
            for start in range(0, table.num_rows, ROWS_PER_CHUNK)
        )

    def put(self, commands: Commands) -> int:
        """Run `EncodedRows.commands`, loading the script where needed; returns the rows replaced.

        Raises:
            redis.RedisError: as raised by the client.
        """
        replies = self._run(PUT_ROWS_UNLESS_OLDER, commands)
        self.damaged += sum([damaged for _, damaged in replies])
        return sum([written for written, _ in replies])

    def check(
        self, view: str, rows: pa.Table, keys: Sequence[str], *, repair: bool
    ) -> list[tuple[int, int]]:
        """Rows that are stored neither as given nor newer: index and result of `CHECK_ROWS`.

        Args:
            view: the view's name.
            rows: as for `write`; without features, only their times are compared.
            keys: the columns that are join keys.
            repair: whether to write them, whatever is stored, in the same atomic step.

        Raises:
            UsageError, redis.RedisError: as for `write`.
        """
        found = []
        for start in range(0, rows.num_rows, ROWS_PER_CHUNK):
            encoded = self._encoded(view, rows.slice(start, ROWS_PER_CHUNK), keys)
            first, each = start, encoded.rows_per_call
            for reply in self._run(
                CHECK_ROWS, encoded.commands(CHECK_ROWS, b"1" if repair else b"0")
            ):
                numbers = iter(reply)
                found += [
                    (first + row - 1, result) for row, result in zip(numbers, numbers, strict=True)
                ]
                first += each
        return found

    def _run(self, script: str, commands: Commands) -> list[Any]:
        for _ in range(SCRIPT_LOADS):
            if script not in self._loaded:
                self._client.script_load(script)
                self._loaded.add(script)
            replies = exchange(self._client, commands)
            errors = [reply for reply in replies if isinstance(reply, Exception)]
            if not errors:
                return replies
            for error in errors:
                if not isinstance(error, NoScriptError):
                    raise error
            self._loaded.discard(script)
        raise errors[0]

    def _encoded(self, view: str, table: pa.Table, keys: Sequence[str]) -> EncodedRows:
        apart = (*keys, EVENT_TIMESTAMP, CREATED_TIMESTAMP)
        missing = [name for name in apart if name not in table.column_names]
        if missing:
            raise UsageError(f"rows of {view} lack the columns {missing}: add them")
        features = [name for name in table.column_names if name not in apart]
        try:
            return EncodedRows(
                entity_keys({name: table.column(name) for name in keys}, self._project),
                time_columns(view, table.column(EVENT_TIMESTAMP), table.column(CREATED_TIMESTAMP))
                | {field(view, name): values(table.column(name)) for name in features},
            )
        except UsageError as error:
            raise UsageError(f"rows of {view}: {error}") from error


def time_columns(view: str, events: Any, created: Any) -> dict[bytes, pa.BinaryArray]:
    """The first two fields of `EncodedRows`.

    Args:
        view: the view's name.
        events: event times, timestamp[us], UTC.
        created: created timestamps, alike; null means the event time.

    Raises:
        UsageError: not columns of timestamps, or a null among the event times.
    """
    names = (f"_ts:{view}".encode(), created_field(view).encode())
    return dict(zip(names, times(events, created), strict=True))


def _head(script: str, rows: int, before: int, width: int) -> bytes:
    """All of a script call before its keys."""
    arguments = (b"EVALSHA", _sha(script), b"%d" % rows)
    number = len(arguments) + rows + before + rows * width
    return b"*%d\r\n" % number + b"".join(map(argument, arguments))


@cache
def _sha(script: str) -> bytes:
    return hashlib.sha1(script.encode()).hexdigest().encode()
