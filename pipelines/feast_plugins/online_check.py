"""Compares the online store with the published offline sources, and repairs it.

Each view's newest published row of each key within its time to live should be online, or a newer
one that a streamer has written. Each check compares the times of up to a hundred thousand keys of a
view, in turn, and all values of some hundred. So lost, evicted and damaged rows are restored, and
Redis' keys are never scanned. The thorough comparison is
`synchrochain audit`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from typing import Any, Final

import duckdb
import pyarrow as pa
import redis

from pipelines.errors import CorruptFileError
from pipelines.feast_plugins.writing.newer_wins import DAMAGED, DIFFERENT, MISSING, OLDER
from pipelines.feast_plugins.writing.online_writer import OnlineWriter
from pipelines.features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from pipelines.features.views import VIEWS, View
from pipelines.lake.state import PipelineState, PublishedFile
from pipelines.lake.verification import verified
from pipelines.paths import read_parquet
from pipelines.redis_server import RedisEndpoint
from pipelines.redis_server.server_info import server_facts, stop_eviction

logger = logging.getLogger(__name__)

KEYS_AT_ONCE: Final = 100_000
VALUES_AT_ONCE: Final = 500
ROWS_PER_READ: Final = 8_192
_WORDS: Final = {
    MISSING: "missing",
    DAMAGED: "damaged",
    OLDER: "older",
    DIFFERENT: "different",
}


def check_server(
    client: redis.Redis,
    endpoint: RedisEndpoint,
    check: OnlineCheck,
    now: datetime,
    before: Mapping[str, Any],
    *,
    whole: bool = False,
) -> dict[str, Any]:
    """Check the server and the rows; all of them if some may have been lost.

    Args:
        client: connected to the server.
        endpoint: the server.
        check: compares the rows.
        now: UTC, naive.
        before: the result of the previous check, or empty.
        whole: compare all rows.

    Returns:
        Plain values: `at`, `turn`, `server`, `signs` of a loss and a `warning` in words (or none),
        and `views` with what was found.

    Raises:
        redis.RedisError, CorruptFileError: as for `OnlineCheck.run`.
    """
    facts = server_facts(client, endpoint.db)
    signs = facts.losses_since(before.get("server", {}))
    warning = stop_eviction(client, endpoint, facts)
    for said in [warning] if warning else []:
        logger.warning("%s", said)
    if signs:
        logger.warning("%s: %s; all rows are compared", endpoint.description, ", ".join(signs))
    turn = int(before.get("turn", 0)) + 1
    views = check.run(now, turn, whole=bool(whole or signs or warning))
    if any(found.wrong for found in views.values()):
        facts = server_facts(client, endpoint.db)
    return {
        "at": now.isoformat(sep=" ", timespec="seconds"),
        "turn": turn,
        "server": facts.as_dict(),
        "signs": signs,
        "warning": warning,
        "views": {name: found.as_dict() for name, found in views.items()},
    }


@dataclass
class Found:
    """The result of one check of one view: how many keys and values were compared, and how many
    rows were wrong and repaired, by kind."""

    keys: int = 0
    values: int = 0
    wrong: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """The same, of kinds only those that were found."""
        return {"keys": self.keys, "values": self.values, **self.wrong}


class OnlineCheck:
    """Compares and repairs, view by view.

    Args:
        client: connected to the server.
        project: the Feast project.
        state: the pipeline's state.
        ttls: seconds by view; None for a view without a time to live.
        stopped: called between parts of the work; true to stop.
    """

    def __init__(
        self,
        client: redis.Redis,
        project: str,
        state: PipelineState,
        ttls: Mapping[str, float | None],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._writer = OnlineWriter(client, project)
        self._state = state
        self._ttls = ttls
        self._stopped = stopped

    def run(self, now: datetime, turn: int, *, whole: bool = False) -> dict[str, Found]:
        """Check each view without a pending materialization.

        Args:
            now: UTC, naive; times to live count from it.
            turn: an increasing number, which decides which part of the keys is checked.
            whole: check all keys.

        Raises:
            redis.RedisError: as raised by the client; rows found so far are repaired.
            CorruptFileError: a published file is missing, altered or cannot be read.
        """
        files = {view.name: verified(self._state, "view", view.name) for view in VIEWS}
        waiting = (
            self._state.pending_materializations()
        )  # only now: what is published by then waits
        found = {}
        with duckdb.connect() as connection:
            connection.execute("SET threads = 1")
            connection.execute("SET TimeZone = 'UTC'")
            for view in VIEWS:
                if view.name in waiting or view.name not in self._ttls or self._stopped():
                    continue
                ttl = self._ttls[view.name]
                since = now - timedelta(seconds=ttl) if ttl else datetime.min
                recent = [f for f in files[view.name] if f.max_time is None or f.max_time >= since]
                if not recent:
                    continue
                try:
                    part = _Part(connection, view, recent, since)
                    found[view.name] = self._look(part, turn, whole)
                except duckdb.Error as error:
                    line = str(error).partition("\n")[0]
                    raise CorruptFileError(
                        f"the published files of {view.name} cannot be read: {line}"
                    ) from error
        return found

    def _look(self, part: _Part, turn: int, whole: bool) -> Found:
        view, found = part.view, Found()
        keys = part.count()
        parts = 1 if whole else ceil(keys / KEYS_AT_ONCE) or 1
        for marks in part.marks(turn % parts, parts):
            if self._stopped():
                return found
            found.keys += marks.num_rows
            wrong = self._writer.check(view.name, marks, view.keys, repair=False)
            if wrong:
                rows = part.rows_of(marks.take([row for row, _ in wrong]).select(list(view.keys)))
                self._mend(view, rows, found)
        parts = ceil(keys / VALUES_AT_ONCE) or 1
        rows = part.rows_in(turn % parts, parts)
        found.values = rows.num_rows
        self._mend(view, rows, found)
        if found.wrong:
            said = ", ".join(f"{number} {kind}" for kind, number in found.wrong.items())
            logger.warning("rows of %s online were not as published: %s; mended", view.name, said)
        return found

    def _mend(self, view: View, rows: pa.Table, found: Found) -> None:
        results = self._writer.check(view.name, rows, view.keys, repair=True)
        found.wrong.update(_WORDS[result] for _, result in results)


class _Part:
    """The newest published rows of a view within its time to live."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        view: View,
        files: Sequence[PublishedFile],
        since: datetime,
    ) -> None:
        self.view = view
        self._connection = connection
        self._keys = ", ".join(f'"{name}"' for name in view.keys)
        self._source = (
            f"(SELECT * FROM {read_parquet([file.path for file in files])} "
            f"WHERE {EVENT_TIMESTAMP} >= TIMESTAMP '{since.isoformat(sep=' ')}')"
        )

    def count(self) -> int:
        """How many keys there are, to within a few percent."""
        query = f"SELECT approx_count_distinct(hash({self._keys})) FROM {self._source}"
        found = self._connection.execute(query).fetchone()
        return int(found[0]) if found else 0

    def marks(self, part: int, parts: int) -> Iterator[pa.Table]:
        """Keys and times of a part of the keys."""
        newest = f"max(ROW({EVENT_TIMESTAMP}, {CREATED_TIMESTAMP}))"
        reader = self._connection.execute(
            f"SELECT {self._keys}, t[1] AS {EVENT_TIMESTAMP}, t[2] AS {CREATED_TIMESTAMP} FROM "
            f"(SELECT {self._keys}, {newest} AS t FROM {self._source} "
            f"WHERE hash({self._keys}) % {parts} = {part} GROUP BY ALL)"
        ).to_arrow_reader(ROWS_PER_READ)
        # Read all first (40 bytes a key): the connection is needed again for the wrong rows.
        for batch in list(reader):
            yield pa.Table.from_batches([batch])

    def rows_in(self, part: int, parts: int) -> pa.Table:
        """Whole rows of a part of the keys."""
        return self._newest(f"hash({self._keys}) % {parts} = {part}")

    def rows_of(self, keys: pa.Table) -> pa.Table:
        """Whole rows of these keys."""
        self._connection.register("wanted", keys)
        try:
            return self._newest(f"({self._keys}) IN (SELECT ({self._keys}) FROM wanted)")
        finally:
            self._connection.unregister("wanted")

    def _newest(self, condition: str) -> pa.Table:
        names = ", ".join(f'"{name}"' for name in self.view.schema.names)
        order = f"{EVENT_TIMESTAMP} DESC, {CREATED_TIMESTAMP} DESC"
        found = self._connection.execute(
            f"SELECT {names} FROM {self._source} WHERE {condition} "
            f"QUALIFY row_number() OVER (PARTITION BY {self._keys} ORDER BY {order}) = 1"
        ).to_arrow_table()
        return found.cast(self.view.schema)
