"""The newest row of each key in a range of event time, as a query that DuckDB can spill.

Among `arg_max` over a struct, `arg_max` of the row number with a join back, and a window, the
window was fastest (one row per key) or nearly so (five), it alone streams its result, and it alone
ran in a memory far smaller than its data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from pipelines.errors import UsageError
from pipelines.feast_plugins.parquet_source import identifier, literal
from pipelines.stopping import interruptible

_ZONED = "TIMESTAMP WITH TIME ZONE"
_TIMESTAMPS = frozenset({_ZONED, "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"})


@dataclass(frozen=True)
class NewestRows:
    """Selects the newest row of each key between two event times, both included.

    Of rows of one key the one with the latest event time is the newest, among equals the one with
    the latest created timestamp; a null comes last.

    Attributes:
        source: a SQL relation, for a FROM clause.
        columns: the name in the result by the column in the source.
        keys, event, created: columns in the source; `created` may be missing.
        start, end: with a time zone, or without one in UTC.
    """

    source: str
    columns: Mapping[str, str]
    keys: Sequence[str]
    event: str
    created: str | None
    start: datetime
    end: datetime

    def types(self, connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """DuckDB's type of each of the columns.

        Raises:
            UsageError: the source lacks columns.
            duckdb.Error: the source cannot be read.
        """
        rows = _run(connection, f"DESCRIBE SELECT * FROM {self.source}").fetchall()
        found = {str(name).lower(): str(kind) for name, kind, *_ in rows}  # as DuckDB compares
        missing = [name for name in self.columns if name.lower() not in found]
        if missing:
            raise UsageError(
                f"the source lacks the columns {missing}: it has {[r[0] for r in rows]}"
            )
        return {name: found[name.lower()] for name in self.columns}

    def times_are_timestamps(self, types: Mapping[str, str]) -> bool:
        """Whether the time columns are timestamps, not for instance text."""
        return all(types[name] in _TIMESTAMPS for name in (self.event, self.created) if name)

    def batches(
        self, connection: duckdb.DuckDBPyConnection, types: Mapping[str, str], rows: int
    ) -> Iterator[pa.RecordBatch]:
        """The result in batches; each is computed when it is asked for.

        Args:
            connection: any DuckDB connection that can read the source.
            types: as from `types`.
            rows: the most rows per batch.
        """
        columns = ", ".join(
            f"{identifier(column)} AS {identifier(name)}" for column, name in self.columns.items()
        )
        newest = [self.event, *([self.created] if self.created else [])]
        order = ", ".join(f"{identifier(name)} DESC NULLS LAST" for name in newest)
        query = (
            f"SELECT {columns} FROM {self.source} WHERE {self._condition(types)} "
            f"QUALIFY row_number() OVER (PARTITION BY {self._key()} ORDER BY {order}) = 1"
        )
        yield from _run(connection, query).to_arrow_reader(rows)

    def approximate_keys(
        self, connection: duckdb.DuckDBPyConnection, types: Mapping[str, str]
    ) -> int:
        """How many rows the result has, to within a few percent; reads two columns only."""
        key = f"({self._key()})" if len(self.keys) > 1 else self._key()
        query = (
            f"SELECT approx_count_distinct({key}) FROM {self.source} WHERE {self._condition(types)}"
        )
        found = _run(connection, query).fetchone()
        return int(found[0]) if found else 0

    def _key(self) -> str:
        return ", ".join(map(identifier, self.keys))

    def _condition(self, types: Mapping[str, str]) -> str:
        zoned = types[self.event] == _ZONED  # without a cast DuckDB can skip row groups
        event = identifier(self.event) if zoned else f"CAST({identifier(self.event)} AS TIMESTAMP)"
        kind = "TIMESTAMPTZ" if zoned else "TIMESTAMP"
        return (
            f"{event} >= {kind} {_time(self.start, zoned)} "
            f"AND {event} <= {kind} {_time(self.end, zoned)}"
        )


def _run(connection: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyConnection:
    with interruptible():
        return connection.execute(query)


def _time(time: datetime, zoned: bool) -> str:
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    text = aware.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")
    return literal(text + "+00" if zoned else text)
