"""The file data/pipeline_state.db: connections, transactions and its table of metadata."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.errors import DamagedStateError, PipelineStateError
from pipelines.file_kinds import check_folder, check_sqlite_file
from pipelines.lake.state_migrations import is_current, upgrade
from pipelines.lake.state_rescue import ANEW, state_error
from pipelines.lake.state_values import as_document


class StateFile:
    """Opens the file for one transaction at a time, and holds named values, the metadata.

    A file of an older format is upgraded when it is opened.

    Raises:
        PipelineStateError: the file cannot be read or written.
        DamagedStateError: its content is invalid.
        NewerFormatError: it was written by a newer version.
        UnusablePathError: it is not a file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._uri = path.absolute().as_uri()
        check_folder(path.parent)
        check_sqlite_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._connected("rwc") as connection:
            upgrade(connection, path)

    @property
    def path(self) -> Path:
        """The state file."""
        return self._path

    def metadata(self, name: str) -> str | None:
        """An entry of the metadata; None if there is none."""
        with self._transaction() as connection:
            return read_metadata(connection, name)

    def document(self, name: str) -> dict[str, Any] | None:
        """A JSON object from the metadata; None if there is none or it cannot be read."""
        return as_document(self.metadata(name))

    def set_metadata(self, name: str, value: str) -> None:
        """Set an entry of the metadata."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO metadata VALUES (?, ?) "
                "ON CONFLICT DO UPDATE SET value = excluded.value",
                (name, value),
            )

    def raise_metadata(self, name: str, value: str) -> str:
        """Raise an entry of the metadata to the greater value, as text; returns that."""
        with self._transaction() as connection:
            (kept,) = connection.execute(
                "INSERT INTO metadata VALUES (?, ?) "
                "ON CONFLICT DO UPDATE SET value = max(value, excluded.value) RETURNING value",
                (name, value),
            ).fetchone()
            return str(kept)

    def forget_metadata(self, name: str) -> None:
        """Drop an entry of the metadata."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM metadata WHERE name = ?", (name,))

    def _query(self, statement: str, *values: object) -> list[sqlite3.Row]:
        with self._transaction() as connection:
            return connection.execute(statement, values).fetchall()

    @contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise DamagedStateError(
                f"{self._path} is damaged ({error}): restore it from a backup, or {ANEW}"
            ) from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connected("rw") as connection:  # do not create an empty one if it was removed
            if not is_current(connection, self._path):
                raise PipelineStateError(
                    f"{self._path} was replaced or removed while this process used it: start the "
                    "process again"
                )
            with connection:
                yield connection

    @contextmanager
    def _connected(self, mode: str) -> Iterator[sqlite3.Connection]:
        connection = None
        try:
            connection = sqlite3.connect(f"{self._uri}?mode={mode}", timeout=5.0, uri=True)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            yield connection
        except sqlite3.Error as error:
            raise state_error(self._path, error) from None
        finally:
            if connection is not None:
                connection.close()


def read_metadata(connection: sqlite3.Connection, name: str) -> str | None:
    """An entry of the metadata, within a transaction; None if there is none."""
    found = connection.execute("SELECT value FROM metadata WHERE name = ?", (name,)).fetchone()
    return str(found[0]) if found else None
