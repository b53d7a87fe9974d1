"""Reading a live database's change log as Arrow record batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from pipelines.change_log.offsets import Offset, end_of_log
from pipelines.change_log.types import DUCKDB_TYPES
from pipelines.live_databases import (
    METADATA,
    UnknownRows,
    check_contract,
    live_database_error,
    open_existing,
    row_of,
    sqlite_path,
    transaction,
    unknown_rows,
    upgrade_change_log,
)

SCHEMA: Final = pa.schema(
    [
        ("seq", pa.int64()),
        ("table_name", pa.string()),
        ("op", pa.string()),
        ("row", pa.string()),
        ("committed_at", pa.string()),
        ("old_key", pa.string()),
    ]
)
RAW_COLUMNS: Final = ", ".join(f"{f.name} {DUCKDB_TYPES[f.type]}" for f in SCHEMA)
"""The same for DuckDB."""
TEXTS: Final = ", ".join(
    f'"{f.name}"' if f.type == pa.int64() else f'CAST("{f.name}" AS TEXT) AS "{f.name}"'
    for f in SCHEMA
)
BYTES_AT_ONCE: Final = 1 << 28
"""The most bytes of text in a record batch: the driver crashes beyond 2 GB."""
SMALL_DATABASE: Final = 1 << 30
"""A database of fewer bytes cannot fill such a batch."""
_AS_JSON: Final = 6
"""The most bytes of JSON that one byte of a live table becomes."""
_OLD_KEY: Final = SCHEMA.get_field_index("old_key")


def decoded(text: bytes) -> str:
    """Text of a live database; invalid UTF-8 becomes U+FFFD, the same for every reader."""
    return text.decode("utf-8", "replace")


def _repaired(batch: pa.RecordBatch) -> pa.RecordBatch:
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        columns = [
            pa.array([None if v is None else decoded(v) for v in c.cast(pa.binary()).to_pylist()])
            if pa.types.is_string(c.type)
            else c
            for c in batch.columns
        ]
        return pa.record_batch(columns, names=batch.schema.names)
    return batch


class ChangeLogReader:
    """Reads one live database's change log; only `upgrade` writes.

    Args:
        name: the live database's name, such as "orders".
        url: its SQLAlchemy URL.
        busy_timeout: seconds to wait for a lock.
    """

    def __init__(self, name: str, url: str, busy_timeout: float = 5.0) -> None:
        self.name = name
        self._url = url
        self._path = sqlite_path(url)
        self._busy_timeout = busy_timeout

    def check(self) -> None:
        """Check that the database exists and fulfils the contract.

        Raises:
            LiveDatabaseError: it is missing, corrupt or locked.
            ContractError: a table, column or trigger is missing.
        """
        with self._engine() as engine:
            check_contract(engine, METADATA[self.name])

    def upgrade(self) -> bool:
        """Bring a change log of an older format up to date.

        Returns:
            Whether it needed an upgrade.

        Raises:
            LiveDatabaseError: it is missing, corrupt or locked.
        """
        with self._engine() as engine:
            return upgrade_change_log(engine, METADATA[self.name])

    def unknown_rows(self) -> list[UnknownRows]:
        """Rows that the change log does not know, one entry per table.

        Raises:
            LiveDatabaseError: it is missing, corrupt or locked.
        """
        with self._engine() as engine:
            return unknown_rows(engine)

    def end(self, *readers: Offset) -> Offset:
        """The log's last change, after checking that this is the log that the readers have read.

        Raises:
            OtherHistoryError, ChangeLogGapError: see `end_of_log`.
        """
        with self._engine() as engine, transaction(engine) as connection:
            return end_of_log(connection, self._where, readers)

    def batches(
        self, after: int, upto: int, size: int, table: str | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Changes with `after < seq <= upto` in the order of `seq`.

        Args:
            after: the last change already read.
            upto: the last change to read.
            size: the most rows per batch.
            table: only changes of this one.

        Returns:
            Record batches of `SCHEMA`.
        """
        if upto <= after:
            return iter(())
        return self._by_adbc(after, upto, size, table)

    @contextmanager
    def snapshot(self, size: int) -> Iterator[Snapshot]:
        """One snapshot of the live tables and the end of their change log.

        Args:
            size: rows per record batch.

        Raises:
            LiveDatabaseError: it is missing, corrupt or locked, or lacks a table or column.
        """
        self.check()
        with self._adbc() as connection:
            yield Snapshot(connection, size)

    @property
    def _where(self) -> str:
        return str(self._path)

    @contextmanager
    def _engine(self) -> Iterator[sa.Engine]:
        engine = open_existing(self.name, self._url, self._busy_timeout)
        try:
            yield engine
        finally:
            engine.dispose()

    def _by_adbc(
        self, after: int, upto: int, size: int, table: str | None
    ) -> Iterator[pa.RecordBatch]:
        part = "FROM change_log WHERE seq > ? AND seq <= ?"
        values: tuple[object, ...] = (after, upto)
        if table is not None:
            part, values = f"{part} AND table_name = ?", (*values, table)
        with self._adbc() as connection:
            yield from _rows(
                connection,
                # The driver infers types from the first batch, where all old keys may be null.
                f"SELECT seq, table_name, op, \"row\", committed_at, coalesce(old_key, '') "
                f"AS old_key FROM (SELECT {TEXTS} {part}) ORDER BY seq",
                f'SELECT "row", old_key {part}',
                size,
                values,
                growth=1,
            )

    @contextmanager
    def _adbc(self) -> Iterator[Any]:
        """An ADBC connection, which is in a transaction from its first query on."""
        from adbc_driver_manager import Error
        from adbc_driver_sqlite import dbapi

        try:
            with closing(dbapi.connect(str(self._path))) as connection:
                with closing(connection.cursor()) as cursor:
                    cursor.execute(f"PRAGMA busy_timeout = {int(self._busy_timeout * 1000)}")
                yield connection
        except Error as error:
            raise live_database_error(self._where, str(error)) from None


class Snapshot:
    """A consistent snapshot of a live database.

    Args:
        connection: ADBC's, in a transaction.
        size: rows per record batch.
    """

    def __init__(self, connection: Any, size: int) -> None:
        self._connection = connection
        self._size = size
        with closing(connection.cursor()) as cursor:
            # The first query begins the transaction, so all later ones see the same snapshot.
            cursor.execute(
                "SELECT (SELECT coalesce(max(seq), 0) FROM change_log), "
                "(SELECT removed_seq FROM change_log_info)"
            )
            found = cursor.fetchone()
        self.end, self.removed = max(found), found[1]
        """The last change of the log, and the last one that was removed from it."""

    def rows(self, table: sa.Table, now: str) -> Iterator[pa.RecordBatch]:
        """The rows of a table as its triggers would record them at `now`: batches of `SCHEMA`."""
        row = row_of(table, f'"{table.name}"')
        return _rows(
            self._connection,
            f"SELECT 0 AS seq, '{table.name}' AS table_name, 'I' AS op, {row} AS \"row\", "
            f"'{now}' AS committed_at, '' AS old_key FROM \"{table.name}\"",
            f'SELECT {row} AS "row", NULL AS old_key FROM "{table.name}"',
            self._size,
            growth=_AS_JSON,
        )


def _rows(
    connection: Any,
    query: str,
    texts: str,
    size: int,
    values: tuple[object, ...] = (),
    *,
    growth: int,
) -> Iterator[pa.RecordBatch]:
    """The answers to a query whose long texts come from the relation `texts`: row and old_key.

    `growth` is how many bytes of text a byte of the database becomes at most.
    """
    if growth * _bytes(connection) > SMALL_DATABASE:
        size = max(1, min(size, BYTES_AT_ONCE // max(1, _longest(connection, texts, values))))
    with closing(connection.cursor()) as cursor:
        cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(size)})
        cursor.execute(query, values)
        for batch in cursor.fetch_record_batch():
            changes = _repaired(batch).cast(SCHEMA)
            old = changes["old_key"]
            old = pc.if_else(pc.equal(old, ""), pa.scalar(None, pa.string()), old)
            yield changes.set_column(_OLD_KEY, SCHEMA.field(_OLD_KEY), old)


def _bytes(connection: Any) -> int:
    with closing(connection.cursor()) as cursor:
        cursor.execute("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
        (found,) = cursor.fetchone()
    return int(found)


def _longest(connection: Any, texts: str, values: tuple[object, ...]) -> int:
    """Bytes of the longest row, which SQLite knows without reading it."""
    with closing(connection.cursor()) as cursor:
        cursor.execute(
            f'SELECT max(octet_length("row") + coalesce(octet_length(old_key), 0)) FROM ({texts})',
            values,
        )
        (longest,) = cursor.fetchone()
    return int(longest or 0)
