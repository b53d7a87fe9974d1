"""Writing feature rows to Redis in Feast's layout, straight from Arrow, without importing Feast."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, repeat
from typing import Any, Final

import pyarrow as pa
import redis
from redis.exceptions import NoScriptError

from pipelines.errors import UsageError
from pipelines.feast_plugins.encoding import (
    created_times,
    entity_keys,
    event_times,
    field,
    values,
)
from pipelines.feast_plugins.newer_wins import PUT_UNLESS_OLDER, created_field

Command = tuple[bytes | str, ...]

ROWS_PER_ROUND_TRIP: Final = 1_000
SCRIPT_LOADS: Final = 3  # each after the server has lost the script during one and the same chunk

_EVENT: Final = "event_timestamp"
_CREATED: Final = "created_timestamp"
_SHA: Final = hashlib.sha1(PUT_UNLESS_OLDER.encode()).hexdigest()


class OnlineWriter:
    """Writes rows as `SharedRedisOnlineStore` does: each unless the server holds a newer one.

    Newer is by (event time, created time), decided and written in one atomic step per row, so
    several writers, threads and processes may write at the same time. Safe to share between
    threads as far as `client` is.

    Args:
        project: the Feast project; its name ends every key.
    """

    def __init__(self, client: redis.Redis, project: str) -> None:
        self._client = client
        self._project = project
        self._loaded = False

    def write(self, rows: Mapping[str, pa.Table], keys: Mapping[str, Sequence[str]]) -> int:
        """Write rows of several views; how many of them replaced what was stored.

        Args:
            rows: by view, a table of the view's keys, `event_timestamp` and `created_timestamp`
                (timestamp[us], UTC; a null created time is the event time), and its features.
            keys: by view, the columns that are its join keys.

        Raises:
            UsageError: a column is missing or of a type without an encoding, or a null where
                there must be none.
            redis.RedisError: as it comes.

        After any of them some rows may be written. Writing all of them again is safe: it changes
        nothing where the rows, or newer ones, are stored already.
        """
        commands = (
            command
            for view, table in rows.items()
            for start in range(0, table.num_rows, ROWS_PER_ROUND_TRIP)
            for command in self._commands(
                view, table.slice(start, ROWS_PER_ROUND_TRIP), keys.get(view, ())
            )
        )
        replaced = 0
        while chunk := list(islice(commands, ROWS_PER_ROUND_TRIP)):
            replaced += self._put(chunk)
        return replaced

    def _commands(self, view: str, table: pa.Table, keys: Sequence[str]) -> Iterator[Command]:
        missing = [name for name in (*keys, _EVENT, _CREATED) if name not in table.column_names]
        if missing:
            raise UsageError(f"rows of {view} lack the columns {missing}: add them")

        def encoded(encode: Callable[..., list[bytes]], *arguments: Any) -> list[bytes]:
            try:
                return encode(*arguments)
            except UsageError as error:
                raise UsageError(f"rows of {view}: {error}") from error

        events, created = table.column(_EVENT), table.column(_CREATED)
        arguments: list[Any] = [
            repeat(b"EVALSHA"),
            repeat(_SHA),
            repeat(b"1"),
            encoded(entity_keys, {name: table.column(name) for name in keys}, self._project),
            repeat(f"_ts:{view}"),
            encoded(event_times, events),
            repeat(created_field(view)),
            encoded(created_times, created, events),
        ]
        for name in table.column_names:
            if name not in (*keys, _EVENT, _CREATED):
                arguments += (repeat(field(view, name)), encoded(values, table.column(name)))
        return zip(*arguments)  # noqa: B905 - endless ones among them

    def _put(self, chunk: Sequence[Command]) -> int:
        """Send the rows in one round trip; again when the server did not know the script."""
        for _ in range(SCRIPT_LOADS):
            if not self._loaded:
                self._client.script_load(PUT_UNLESS_OLDER)
                self._loaded = True
            with self._client.pipeline(transaction=False) as pipe:
                add: Callable[..., Any] = pipe.execute_command
                for command in chunk:
                    add(*command)
                replies = pipe.execute(raise_on_error=False)
            errors = [reply for reply in replies if isinstance(reply, Exception)]
            if not errors:
                return sum(replies)
            for error in errors:
                if not isinstance(error, NoScriptError):
                    raise error
            self._loaded = False
        raise errors[0]
