"""Reading a live database's change log as Arrow record batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Final

import pyarrow as pa
import sqlalchemy as sa

from pipelines.errors import ChangeLogGapError, LiveDatabaseError
from pipelines.live_databases import (
    METADATA,
    check_contract,
    live_database_error,
    open_engine,
    sqlite_path,
    translate_errors,
)

SCHEMA: Final = pa.schema(
    [
        ("seq", pa.int64()),
        ("table_name", pa.string()),
        ("op", pa.string()),
        ("row", pa.string()),
        ("committed_at", pa.string()),
    ]
)
TEXTS: Final = ", ".join(
    f'"{f.name}"' if f.type == pa.int64() else f'CAST("{f.name}" AS TEXT) AS "{f.name}"'
    for f in SCHEMA
)


def decoded(text: bytes) -> str:
    """Text of a live database; what is no UTF-8 in it becomes U+FFFD for every reader."""
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
    """Reads one live database's change log; it never writes.

    Args:
        name: the live database's name, such as "orders".
        url: its SQLAlchemy URL. SQLite is read through ADBC, any other through SQLAlchemy.
        busy_timeout: seconds to wait for a lock.
    """

    def __init__(self, name: str, url: str, busy_timeout: float = 5.0) -> None:
        self.name = name
        self._url = url
        self._path = sqlite_path(url)
        self._busy_timeout = busy_timeout

    def check(self) -> None:
        """Make sure that the database is there and has what the pipelines need.

        Raises:
            LiveDatabaseError: it is missing, corrupt or locked.
            ContractError: a table or column is missing.
        """
        if self._path is not None and not self._path.exists():
            raise LiveDatabaseError(
                f"{self._path} does not exist: fill it with `synchrochain simulate`, "
                f"or set SYNCHROCHAIN_{self.name.upper()}_URL to your own database"
            )
        engine = open_engine(self._url, self._busy_timeout)
        try:
            check_contract(engine, METADATA[self.name])
        finally:
            engine.dispose()

    def last(self, after: int) -> int:
        """The log's last `seq`, checked against a reader that stands at `after` (0: at no change).

        Raises:
            ChangeLogGapError: the change after `after` is gone, or the log ends before `after`, so
                this is not the database that was read before.
        """
        engine = open_engine(self._url, self._busy_timeout)
        try:
            with translate_errors(self._where), engine.connect() as connection:
                last = connection.scalar(sa.text("SELECT max(seq) FROM change_log"))
                following = connection.scalar(
                    sa.text("SELECT min(seq) FROM change_log WHERE seq > :after"), {"after": after}
                )
        finally:
            engine.dispose()
        last = int(last or 0)
        if last < after:
            raise ChangeLogGapError(
                f"{self._where}: the change log ends at {last}, but was read up to {after} "
                "before: another database lies in its place. Put the old one back, or start "
                "over with `synchrochain batch --rebuild`"
            )
        # Only SQLite numbers without holes; and who starts anew takes what retention has left.
        if after and following and following > after + 1 and self._path is not None:
            raise ChangeLogGapError(
                f"{self._where}: changes {after + 1} to {following - 1} are gone from the "
                "change log before they were read: restore them from a backup, or start over "
                "with `synchrochain batch --rebuild`"
            )
        return last

    def batches(self, after: int, upto: int, size: int) -> Iterator[pa.RecordBatch]:
        """Changes with `after < seq <= upto` in the order of `seq`, at most `size` rows each.

        Returns:
            Record batches of `SCHEMA`.
        """
        if upto <= after:
            return iter(())
        return (
            self._by_adbc(after, upto, size)
            if self._path is not None
            else self._by_sqlalchemy(after, upto, size)
        )

    @property
    def _where(self) -> str:
        return str(self._path or sa.engine.make_url(self._url).render_as_string())

    def _by_adbc(self, after: int, upto: int, size: int) -> Iterator[pa.RecordBatch]:
        from adbc_driver_manager import Error
        from adbc_driver_sqlite import dbapi

        try:
            with closing(dbapi.connect(str(self._path))) as connection:
                with closing(connection.cursor()) as cursor:
                    cursor.execute(f"PRAGMA busy_timeout = {int(self._busy_timeout * 1000)}")
                with closing(connection.cursor()) as cursor:
                    cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(size)})
                    cursor.execute(
                        f"SELECT {TEXTS} FROM change_log WHERE seq > ? AND seq <= ? ORDER BY seq",
                        (after, upto),
                    )
                    for batch in cursor.fetch_record_batch():
                        yield _repaired(batch).cast(SCHEMA)
        except Error as error:
            raise live_database_error(self._where, str(error)) from None

    def _by_sqlalchemy(self, after: int, upto: int, size: int) -> Iterator[pa.RecordBatch]:
        engine = open_engine(self._url, self._busy_timeout)
        query = sa.text(
            f"SELECT {TEXTS} FROM change_log WHERE seq > :after AND seq <= :upto ORDER BY seq"
        )
        try:
            with (
                translate_errors(self._where),
                engine.connect().execution_options(yield_per=size) as connection,
            ):
                found = connection.execute(query, {"after": after, "upto": upto})
                for rows in found.partitions(size):
                    columns = zip(*rows, strict=True)
                    yield pa.record_batch(
                        [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)],
                        schema=SCHEMA,
                    )
        finally:
            engine.dispose()
