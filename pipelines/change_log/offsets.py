"""A reader's offset in a change log, bound to that log and no other.

Numbers alone do not identify a log: a database restored from an older copy counts on from there. So
an offset is kept with the identity of the log and the nonce of its row. A log that has another row
at that number has another history, however long it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.errors import ChangeLogGapError, OtherHistoryError


@dataclass(frozen=True)
class Offset:
    """The last change that a reader has processed; 0: none.

    `identity` is the log's, `nonce` the row's. Both are None for an offset of an older format,
    `nonce` also where the row is one of format 1: such an offset cannot be verified.
    """

    seq: int
    identity: str | None = None
    nonce: str | None = None


def end_of_log(connection: sqlite3.Connection, where: str, readers: Sequence[Offset]) -> Offset:
    """The log's last change, after checking that this is the log that the readers have read.

    Args:
        connection: in a transaction, so that all queries see one snapshot.
        where: the database, for messages.
        readers: every reader's offset.

    Raises:
        OtherHistoryError: the log does not have what a reader has read.
        ChangeLogGapError: the change after a reader's offset is missing.
    """
    last, last_nonce, identity, removed, removed_nonce = _ends(connection)
    for reader in readers:
        if reader.seq == 0:
            continue
        if last < reader.seq:
            raise _other(where, f"ends at {last}, but was read up to {reader.seq} before")
        if None not in (reader.identity, identity) and reader.identity != identity:
            raise _other(where, "is another one than was read before")
        found = _nonce(connection, reader.seq) if identity else (None,)
        # Retention may remove rows at any time, up to the reader's offset.
        if found is None and removed == reader.seq:
            found = (removed_nonce,)
        _check_no_hole(connection, where, reader.seq, last)
        known = reader.nonce is None or (found is not None and found[0] == reader.nonce)
        if not known:
            raise _other(where, f"has another change {reader.seq} than was read before")
    return Offset(last, identity, last_nonce)


def verify_row(where: str, seq: int, expected: str | None, found: str | None) -> None:
    """Check that a row is the one that was read before.

    Args:
        where: the database, for messages.
        seq: the row's number.
        expected: the nonce that was read before; None if it is not known.
        found: the nonce of the row now.

    Raises:
        OtherHistoryError: the nonces differ.
    """
    if expected is not None and expected != found:
        raise _other(where, f"has another change {seq} than was read before")


def _ends(connection: sqlite3.Connection) -> tuple[int, str | None, str | None, int, str | None]:
    """The last row's `seq` and nonce, the log's identity, the last removed row's `seq` and
    nonce."""
    (made,) = connection.execute(
        "SELECT count(*) FROM sqlite_master WHERE lower(name) = 'change_log_info'"
    ).fetchone()
    if not made:  # format 1: numbers are all there is
        (last,) = connection.execute("SELECT max(seq) FROM change_log").fetchone()
        return int(last or 0), None, None, 0, None
    identity, removed, removed_nonce = connection.execute(
        "SELECT identity, removed_seq, removed_nonce FROM change_log_info"
    ).fetchone() or (None, 0, None)
    last, nonce = connection.execute(
        "SELECT seq, nonce FROM change_log ORDER BY seq DESC LIMIT 1"
    ).fetchone() or (0, None)
    if removed > last:  # everything was removed
        last, nonce = removed, removed_nonce
    return last, nonce, identity, removed, removed_nonce


def _nonce(connection: sqlite3.Connection, seq: int) -> tuple[str | None] | None:
    found: tuple[str | None] | None = connection.execute(
        "SELECT nonce FROM change_log WHERE seq = ?", (seq,)
    ).fetchone()
    return found


def _check_no_hole(connection: sqlite3.Connection, where: str, after: int, last: int) -> None:
    """Raise if rows after `after` are missing: `seq` has no holes."""
    (following,) = connection.execute(
        "SELECT min(seq) FROM change_log WHERE seq > ?", (after,)
    ).fetchone()
    following = following or last + 1
    if following > after + 1:
        raise ChangeLogGapError(
            f"{where}: changes {after + 1} to {following - 1} are gone from the change log before "
            "they were read: restore them from a backup, or start over with "
            "`synchrochain batch --rebuild`"
        )


def _other(where: str, what: str) -> OtherHistoryError:
    return OtherHistoryError(
        f"{where}: the change log {what}: another database lies in its place, or an older copy. "
        "Put the old one back, or start over with `synchrochain batch --rebuild`"
    )
