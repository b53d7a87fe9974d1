"""The table of offsets in data/pipeline_state.db: how far each reader has read each change log."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

from pipelines.change_log.offsets import Offset
from pipelines.lake.state_file import StateFile, read_metadata

BATCH_READER: Final = "batch"
STREAM_READER: Final = "stream"
SEEN_READER: Final = "stream seen"
"""The streamer's read offsets, ahead of its written ones."""
GENERATION: Final = "generation"


class ReaderOffsets(StateFile):
    """Reads and moves offsets."""

    def offsets(self, reader: str) -> dict[str, int]:
        """The last `seq` that `reader` has processed, by database; absent means none."""
        rows = self._query("SELECT database, seq FROM offsets WHERE reader = ?", reader)
        return {row["database"]: row["seq"] for row in rows}

    def bound_offsets(self, reader: str) -> dict[str, Offset]:
        """As `offsets`, each with the identity of its change log and row."""
        rows = self._query("SELECT * FROM offsets WHERE reader = ?", reader)
        return {r["database"]: Offset(r["seq"], r["identity"], r["nonce"]) for r in rows}

    def streamed_offsets(self) -> dict[str, Offset]:
        """The last change of each log that the streamer has read, as far as is known."""
        written, seen = self.bound_offsets(STREAM_READER), self.bound_offsets(SEEN_READER)
        beyond = {n: at for n, at in seen.items() if n not in written or at.seq > written[n].seq}
        return written | beyond

    def set_offsets(
        self,
        reader: str,
        offsets: Mapping[str, Offset],
        expected: Mapping[str, str | None] | None = None,
    ) -> bool:
        """Move the offsets (by database) of a reader that publishes no files.

        Args:
            reader: the reader.
            offsets: its new offset by database.
            expected: entries of the metadata as the reader knows them (None: there is none). After
                a rebuild, or new declarations, its offsets are outdated and are not stored.

        Returns:
            Whether they were stored.
        """
        with self._transaction() as connection:
            for name, value in (expected or {}).items():
                if read_metadata(connection, name) != value:
                    return False
            move_offsets(connection, reader, offsets)
            return True

    @property
    def generation(self) -> str:
        """An id that changes with every rebuild."""
        return self.metadata(GENERATION) or ""

    def kept_offsets(self, database: str) -> list[int]:
        """Every reader's offset in a database: those changes identify its log."""
        rows = self._query("SELECT seq FROM offsets WHERE database = ?", database)
        return [row["seq"] for row in rows]

    def slowest_offset(self, database: str) -> int:
        """The `seq` up to which all readers are done; retention may remove changes up to it.

        The streamer does not count: it warms from the processed logs, where the batch flow keeps
        what it has read. So a streamer that was stopped for good holds nothing up.
        """
        rows = self._query(
            "SELECT min(seq) AS seq FROM offsets WHERE database = ? AND reader NOT IN (?, ?)",
            database,
            STREAM_READER,
            SEEN_READER,
        )
        return int(rows[0]["seq"] or 0)


def move_offsets(
    connection: sqlite3.Connection, reader: str, offsets: Mapping[str, Offset]
) -> None:
    """Move a reader's offsets within a transaction.

    Args:
        connection: to the state, in the transaction.
        reader: the reader.
        offsets: its new offsets, by database.
    """
    connection.executemany(
        "INSERT INTO offsets (reader, database, seq, identity, nonce) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET seq = excluded.seq, identity = excluded.identity, "
        "nonce = excluded.nonce",
        [(reader, name, at.seq, at.identity, at.nonce) for name, at in offsets.items()],
    )
