"""The hot window: in memory, the recent changes that the newest feature rows depend on.

A view's rows are exact from its watermark on (see `lateness`). What its windows reach back from
there is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.change_log.reader import RAW_COLUMNS
from pipelines.features.views import VIEWS, Source, View
from pipelines.settings import DATABASE_NAMES
from pipelines.streaming.accepted_keys import AcceptedKeys, keeps_accepted
from pipelines.streaming.hot_tables import (
    HASH,
    NO_HASH,
    create_tables,
    eviction,
    feeds,
    hashed,
    hot_columns,
    insert,
    logs_of_view,
    source_of,
)
from pipelines.streaming.known_keys import KnownKeys, keeps_keys
from pipelines.streaming.lateness import Watermarks
from pipelines.streaming.recent_deletions import RecentDeletions, keeps_deletions
from pipelines.tables.declare import Log
from pipelines.tables.known import BY_NAME, LOGS


class HotWindow:
    """Tables in DuckDB, shared by the streams; each thread works on a cursor of its own.

    All tables are made here: a table made later would have every prepared statement planned anew,
    each time it runs.
    """

    def __init__(self, allowed_lateness: timedelta) -> None:
        self.watermarks = Watermarks(allowed_lateness)
        self._connection = duckdb.connect()
        # A statement over a few keys is over before a second thread has woken up.
        self._connection.execute("SET threads = 1")
        self._connection.execute("SET TimeZone = 'UTC'")
        # Statements are prepared while tables are empty or hold other values than later. By their
        # statistics this step would drop what finds nothing just then, and the plan is kept.
        self._connection.execute("SET disabled_optimizers = 'statistics_propagation'")
        self.whole: dict[str, set[int]] = {view.name: set() for view in VIEWS}
        """By view that looks back without a limit, the hashes of the keys that are kept."""
        self.accepted = {
            log.name: AcceptedKeys(self.cursor(), log) for log in LOGS if keeps_accepted(log)
        }
        self.deletions = {log.name: RecentDeletions(log) for log in LOGS if keeps_deletions(log)}
        self.keys = {log.name: KnownKeys(self.cursor(), log) for log in LOGS if keeps_keys(log)}
        for name in DATABASE_NAMES:
            self._connection.execute(f"CREATE TABLE raw_{name} ({RAW_COLUMNS})")
        for view in VIEWS:
            create_tables(self._connection, view)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection to the same tables, for one thread at a time."""
        return self._connection.cursor()

    def evict(self, cursor: duckdb.DuckDBPyConnection) -> int:
        """Forget what no window needs any more, while no stream takes anything in.

        Returns:
            The number of rows.
        """
        gone = 0
        self.watermarks.advance()
        for view in VIEWS:
            for source in view.sources:
                statement = f"{eviction(view, source, self.watermarks.of(view))} RETURNING {HASH}"
                hashes = np.asarray(cursor.execute(statement).fetchnumpy()[HASH]).tolist()
                gone += len(hashes)
                if source.lookback is None:
                    self.whole[view.name].difference_update(hashes)
                    if source.begun_by:
                        self.keys[source.begun_by].not_begun(hashes)
        for name, deletions in self.deletions.items():
            deletions.forget(self.watermarks.of_log(name))
        for name, horizon in self.watermarks.horizons().items():
            if name in self.keys and not BY_NAME[name].keeps_newest:
                self.keys[name].forget(horizon)
        return gone

    def rows(self) -> int:
        """How many rows are kept for the views."""
        with self.cursor() as cursor:
            counts = " + ".join(
                f"(SELECT count(*) FROM {view.name}.hot_{log})"
                for view in VIEWS
                for log in logs_of_view(view)
            )
            (found,) = cursor.execute(f"SELECT {counts}").fetchone() or (0,)
            return int(found)

    def close(self) -> None:
        """Let go of the memory."""
        self._connection.close()


class WindowWriter:
    """Moves the good changes of a micro-batch into the hot window.

    Args:
        window: shared by all streams.
        cursor: the stream's own.
        logs: those of the stream's database.
    """

    def __init__(
        self, window: HotWindow, cursor: duckdb.DuckDBPyConnection, logs: Iterable[Log]
    ) -> None:
        self._window = window
        self._cursor = cursor
        self._views = {log.name: [v for v in VIEWS if log.name in logs_of_view(v)] for log in logs}

    def absorb(
        self, good: Mapping[str, pa.Table], watermarks: Mapping[str, datetime]
    ) -> tuple[dict[str, set[int]], list[int]]:
        """Keep rows, in a transaction of the caller's.

        Args:
            good: by log, rows with the columns that `Intake` yields.
            watermarks: by view, the event time from which on its rows are exact.

        Returns:
            By view, the hashes of the keys that are affected; and the `seq` of changes
            deferred to the batch flow, since the history of their key is not in the window.
        """
        affected: dict[str, set[int]] = {}
        cold: list[int] = []
        for log, rows in good.items():
            for view in self._views.get(log, ()):
                source = source_of(view, log)
                mine = rows.filter(rows[feeds(view)])
                if mine.num_rows == 0:
                    continue
                if not view.is_streamed:
                    cold += mine["seq"].to_pylist()
                    continue
                if source and source.begun_by:
                    mine, others = self._split(view, source, mine, watermarks[view.name])
                    cold += others
                if source is None:
                    beside, changed = self._beside(view, log, mine)
                    affected.setdefault(view.name, set()).update(beside)
                    cold += changed  # for the keys that are not in the window
                names = [hashed(view) if source else NO_HASH, *hot_columns(view, log)]
                if source:
                    hashes = affected.setdefault(view.name, set())
                    hashes.update(mine[hashed(view)].to_pylist())
                    if source.identity:
                        hashes.update(self._reported_elsewhere(view, source, mine))
                insert(self._cursor, f"{view.name}.hot_{log}", mine.select(names))
        return {view: hashes for view, hashes in affected.items() if hashes}, cold

    def _beside(self, view: View, log: str, rows: pa.Table) -> tuple[set[int], list[int]]:
        """Keys of the view that changed rows of a table stand beside, and the rows' `seq`."""
        column = BY_NAME[log].key[0]
        there = self._cursor.execute(
            f"SELECT DISTINCT {column} FROM {view.name}.hot_{log} WHERE {column} IN "
            "(SELECT unnest(?))",
            [rows[column].to_pylist()],
        ).fetchall()
        # At the times of these the view has rows; one may be there before what it looks up.
        parts = []
        for source in view.sources[: len(view.group.triggers)]:
            own = next(name for name, key in view.key_pairs(source) if key == column)
            parts.append(
                f"SELECT {HASH}, {own} FROM {view.name}.hot_{source.log} "
                f"WHERE {own} IN (SELECT unnest($1))"
            )
        asked = [rows[column].to_pylist()]
        found = self._cursor.execute(" UNION ".join(parts), asked).fetchall()
        names = {*(row[0] for row in there), *(row[1] for row in found)}
        known = pa.array(names, rows[column].type)
        changed = rows.filter(
            pc.or_(pc.not_equal(rows["op"], "I"), pc.is_in(rows[column], known))
        )  # what is inserted again has been deleted
        return {row[0] for row in found}, changed["seq"].to_pylist()

    def _split(
        self, view: View, source: Source, rows: pa.Table, watermark: datetime
    ) -> tuple[pa.Table, list[int]]:
        """Rows of keys whose whole history is in the window, and the `seq` of the rest."""
        whole = self._window.whole[view.name]
        begun = self._window.keys[str(source.begun_by)].began_since
        asked = set(rows[hashed(view)].to_pylist())
        fresh = asked - whole
        known = {h for h in fresh if begun(h, watermark)}
        whole |= known
        if fresh == known:
            return rows, []
        is_whole = pc.is_in(rows[hashed(view)], pa.array(list(asked & whole), pa.uint64()))
        return rows.filter(is_whole), rows.filter(pc.invert(is_whole))["seq"].to_pylist()

    def _reported_elsewhere(self, view: View, source: Source, rows: pa.Table) -> set[int]:
        """Keys under which an earlier report of the same things stands."""
        found = self._cursor.execute(
            f"SELECT DISTINCT {HASH} FROM {view.name}.hot_{source.log} "
            f"WHERE {source.identity} IN (SELECT unnest(?))",
            [rows[source.identity].to_pylist()],
        ).fetchall()
        return {row[0] for row in found}
