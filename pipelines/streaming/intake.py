"""Intake: typing and checking the changes of one database by the rules of the batch flow.

A change is good; or rejected, with a reason, for it breaks a rule; or deferred to the batch flow,
which sees all of history, for what is needed to decide it lies outside the hot window. Rejected
changes are quarantined by the batch flow, so that each is kept once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import repeat
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.change_log.parsing import UNEXPLAINED, typed_rows
from pipelines.features.columns import COMMITTED_AT
from pipelines.features.views import VIEWS
from pipelines.lake.state import PublishedFile
from pipelines.lake.workspace import read_files
from pipelines.streaming.hot_tables import (
    KEY_HASH,
    NO_HASH,
    TIMES,
    as_kept,
    feeding,
    feeds,
    hash_of,
    hashed,
    insert,
    logs_of_view,
    source_of,
)
from pipelines.streaming.hot_window import HotWindow
from pipelines.streaming.known_keys import PARENTS, keeps_keys
from pipelines.streaming.lateness import before, late_changes
from pipelines.streaming.operations import UNDECIDED, Decided, Operations
from pipelines.tables.declare import MOVED, Log
from pipelines.tables.known import BY_NAME, logs_of, parents_first

CLOCKS: Final = frozenset(log for log, time in TIMES.items() if time != COMMITTED_AT)
"""Logs whose event times say how far the shop's own clock has come."""


@dataclass
class ValidationResult:
    """What became of one log's changes in a micro-batch."""

    good: pa.Table | None = None
    """The good ones: the log's columns as the hot window keeps them, and what it needs beside."""
    newest: datetime | None = None
    """The latest event time among the good ones."""
    late: list[int] = field(default_factory=list)
    """`seq` of the good ones that are older than what is exact here."""
    rejected: list[tuple[int, str]] = field(default_factory=list)
    """`seq` and reason."""
    deferred: list[tuple[int, str]] = field(default_factory=list)
    """`seq` and what is missing."""
    missing: set[str] = field(default_factory=set)
    """Logs in which something that was referred to is not to be found."""
    decided: Decided | None = None
    """Of facts: what the operations mean, to be committed."""


class Intake:
    """Checks the changes of one database on a cursor of the hot window.

    Statements that only read are planned once, others each time they run; so typing reads, and
    what is good is inserted afterwards. References are looked up in Python: for a few keys a join
    in DuckDB costs many times as much as a set.
    """

    def __init__(self, window: HotWindow, database: str) -> None:
        self._keys = window.keys
        self._accepted = window.accepted
        self._deletions = window.deletions
        self._at_hand: dict[str, set[Any]] = {}
        self.logs = tuple(log for log in parents_first() if log in logs_of(database))
        self._operations = {
            log.name: Operations(window.keys[log.name]) for log in self.logs if log.append_only
        }
        self._renames: dict[int, str] = {}
        self._raw = f"raw_{database}"
        self._cursor = window.cursor()
        for log in self.logs:
            mine = f"(SELECT * FROM {self._raw} WHERE table_name = '{log.table}')"
            for statement, explained in (("typed", False), ("explained", True)):
                typed = _yielded(log, typed_rows(log, mine, explained=explained), "reason")
                self._cursor.execute(f"PREPARE {statement}_{log.name} AS {typed}")

    def check(
        self,
        changes: pa.Table,
        horizons: Mapping[str, datetime],
        watermarks: Mapping[str, datetime],
    ) -> dict[str, ValidationResult]:
        """The results on the changes, for each log that has some.

        Args:
            changes: a table of the change log's schema; what no log stands for is passed over.
            horizons: by append-only log, the event time before which facts are forgotten.
            watermarks: by view, the event time before which a row's features are not exact here.
        """
        self._at_hand.clear()
        self._cursor.execute(f"DELETE FROM {self._raw}")
        insert(self._cursor, self._raw, changes)
        self._renames = {}
        if changes["old_key"].null_count < changes.num_rows:
            renamed = changes.filter(pc.is_valid(changes["old_key"]))
            pairs = zip(renamed["seq"].to_pylist(), renamed["old_key"].to_pylist(), strict=True)
            self._renames = dict(pairs)
        names = set(changes["table_name"].to_pylist())
        found = {}
        for log in self.logs:
            if log.table in names:
                rows = self._cursor.execute(f"EXECUTE typed_{log.name}").to_arrow_table()
                if pc.any(pc.equal(rows["reason"], UNEXPLAINED)).as_py():
                    rows = self._cursor.execute(f"EXECUTE explained_{log.name}").to_arrow_table()
                found[log.name] = self._validate(log, rows, horizons, watermarks)
        return found

    def accept(
        self, log: Log, files: Sequence[PublishedFile], seqs: Sequence[int]
    ) -> ValidationResult:
        """Those changes that the batch flow has published.

        Args:
            log: the log.
            files: its processed log.
            seqs: the changes that are looked for.
        """
        if not files:
            return ValidationResult()
        chosen = f"(SELECT * FROM {read_files(files)} WHERE seq IN (SELECT unnest(?)))"
        query = _yielded(log, chosen, "NULL AS reason")
        rows = self._cursor.execute(query, [list(seqs)]).to_arrow_table()
        here = self._in_the_window(log, seqs)
        if here:
            rows = rows.filter(pc.invert(pc.is_in(rows["seq"], pa.array(here, pa.int64()))))
        if log.append_only:
            self._note_later_deletions(log, files, rows)
        return ValidationResult(rows, _newest(log, rows))

    def _note_later_deletions(
        self, log: Log, files: Sequence[PublishedFile], rows: pa.Table
    ) -> None:
        """Note the later deletions of facts that are accepted: they may be forgotten by now."""
        keys, key = self._keys[log.name], f'"{log.key[0]}"'
        unknown = keys.unknown(rows[log.key[0]].to_pylist())
        if unknown:
            gone = self._cursor.execute(
                f"SELECT max(seq), 'D', {key} FROM {read_files(files)} WHERE {key} IN "
                f"(SELECT unnest(?)) GROUP BY {key} HAVING arg_max(op, seq) = 'D'",
                [list(unknown)],
            ).fetchall()
            if gone:
                keys.note_deletions(*zip(*gone, strict=True))

    def _in_the_window(self, log: Log, seqs: Sequence[int]) -> list[int]:
        """Those of the changes that were taken in already: their parent was known here sooner."""
        tables = [f"{view.name}.hot_{log.name}" for view in VIEWS if log.name in logs_of_view(view)]
        if not tables:
            return []
        every = " UNION ".join(
            f"SELECT seq FROM {table} WHERE seq IN (SELECT unnest($1))" for table in tables
        )
        return [row[0] for row in self._cursor.execute(every, [list(seqs)]).fetchall()]

    def commit(self, results: Mapping[str, ValidationResult]) -> None:
        """The micro-batch was taken in: remember which facts are there."""
        for log, found in results.items():
            if found.decided is not None:
                self._operations[log].commit(found.decided)

    def remember(self, log: str, rows: pa.Table) -> None:
        """Keep the keys of good changes, once these are in the window."""
        kept = BY_NAME[log]
        if log in self._deletions:
            self._deletions[log].add(rows)
        if log in self._accepted:
            self._accepted[log].add(rows.filter(pc.equal(rows["op"], "I"))[KEY_HASH].to_pylist())
        if not keeps_keys(kept):
            return
        if kept.append_only:
            self._remember_facts(log, rows)
            return
        since = rows[TIMES[log]] if log in TIMES else pa.nulls(len(rows), pa.timestamp("us"))
        columns = [rows[KEY_HASH], rows[kept.key[0]], rows["op"], since]
        self._keys[log].add(pa.table(columns, names=["h", "key", "op", "since"]))

    def _remember_facts(self, log: str, rows: pa.Table) -> None:
        keys, key = self._keys[log], BY_NAME[log].key[0]
        there = rows.filter(pc.not_equal(rows["op"], "D"))
        columns = [there[KEY_HASH], there[key], there["op"], there[TIMES[log]]]
        keys.add(pa.table(columns, names=["h", "key", "op", "since"]))
        if keys.has_deletions or there.num_rows < rows.num_rows:
            ordered = rows.sort_by("seq")
            keys.note_deletions(*(ordered[name].to_pylist() for name in ("seq", "op", key)))

    def close(self) -> None:
        """Close the cursor."""
        self._cursor.close()

    def _validate(
        self,
        log: Log,
        rows: pa.Table,
        horizons: Mapping[str, datetime],
        watermarks: Mapping[str, datetime],
    ) -> ValidationResult:
        results = ValidationResult()
        bad: set[int] = set()

        def put(where: list[tuple[int, str]], mask: Any, reasons: Iterable[str]) -> None:
            for seq, reason in zip(rows.filter(mask)["seq"].to_pylist(), reasons, strict=False):
                if seq not in bad:
                    bad.add(seq)
                    where.append((seq, reason))

        rejected = pc.is_valid(rows["reason"])
        put(results.rejected, rejected, rows["reason"].drop_null().to_pylist())
        there = pc.and_not(pc.not_equal(rows["op"], "D"), rejected)
        for column, parent in log.references.items():
            unknown = self._unknown(parent, rows[column].unique().to_pylist())
            if unknown:
                orphans = pc.and_(there, pc.is_in(rows[column], pa.array(list(unknown))))
                values = rows.filter(orphans)[column].to_pylist()
                table = BY_NAME[parent].table
                put(
                    results.deferred,
                    orphans,
                    [f"{column} = {value} is not known in {table}" for value in values],
                )
                if values:
                    results.missing.add(parent)
        if log.append_only:
            rows = self._operate(log, rows, there, horizons[log.name], results, put)
        if log.changed_at:
            unknown = self._deletions_of_unknown(log, rows, bad)
            put(
                results.deferred,
                unknown,
                repeat("it is not known whether what it deletes was there"),
            )
            if log.name in self._deletions:
                rows = self._deletions[log.name].date(rows)
                if log.name in self._accepted or not log.keeps_newest:  # it may yet be one
                    self._deletions[log.name].add(rows.filter(unknown))
        if bad:
            rows = rows.filter(pc.invert(pc.is_in(rows["seq"], pa.array(list(bad), pa.int64()))))
        if log.marks_moves and self._renames:
            rows = self._mark_moves(rows)
        results.good = rows
        results.newest = _newest(log, rows)
        results.late = late_changes(log, rows, watermarks)
        # A child in the same micro-batch may refer to it; it is kept when the caller commits.
        if log.name in PARENTS:
            self._at_hand[log.name] = set(rows[log.key[0]].to_pylist())
        return results

    def _operate(
        self,
        log: Log,
        rows: pa.Table,
        there: Any,
        horizon: datetime,
        results: ValidationResult,
        put: Any,
    ) -> pa.Table:
        """The rows of a log of facts with `op` as it is meant."""
        inserted = pc.and_(there, pc.equal(rows["op"], "I"))
        old = before(log, rows, horizon)
        put(results.deferred, pc.and_(inserted, old), repeat("it is older than the hot window"))
        decided = results.decided = self._operations[log.name].decide(
            rows,
            {seq for seq, _ in results.rejected},
            {seq for seq, _ in results.deferred},
            self._renames,
            set(rows.filter(old)["seq"].to_pylist()),
        )
        undecided = pc.is_in(rows["seq"], pa.array(decided.deferred, pa.int64()))
        put(results.deferred, undecided, repeat(UNDECIDED))
        if not decided.operations:
            return rows
        seqs, ops = rows["seq"].to_pylist(), rows["op"].to_pylist()
        meant = [decided.operations.get(seq, op) for seq, op in zip(seqs, ops, strict=True)]
        rows = rows.set_column(rows.schema.get_field_index("op"), "op", pa.array(meant))
        views = [view for view in VIEWS if log.name in logs_of_view(view)]
        if not views:
            return rows
        fed = ", ".join(f"{feeding(view, log.name)} AS {feeds(view)}" for view in views)
        self._cursor.register("meant", rows)
        rows = self._cursor.execute(f"SELECT * REPLACE ({fed}) FROM meant").to_arrow_table()
        self._cursor.unregister("meant")
        return rows

    def _mark_moves(self, rows: pa.Table) -> pa.Table:
        """Deletions that are half of a changed key, called so: both are in the same micro-batch."""
        before = pa.array([seq - 1 for seq in self._renames], pa.int64())
        moved = pc.and_(pc.equal(rows["op"], "D"), pc.is_in(rows["seq"], before))
        ops = pc.if_else(moved, MOVED, rows["op"])
        return rows.set_column(rows.column_names.index("op"), "op", ops)

    def _deletions_of_unknown(self, log: Log, rows: pa.Table, bad: set[int]) -> pa.Array:
        """A mask of the deletions of keys that are not known to have been accepted."""
        unknown: set[int] = set()
        deletes = pc.equal(rows["op"], "D")
        if pc.any(deletes).as_py():
            gone = rows.filter(deletes)
            if log.name in self._accepted:
                unknown = self._accepted[log.name].unknown(gone[KEY_HASH].to_pylist())
            else:
                names = self._unknown(log.name, gone[log.key[0]].unique().to_pylist())
                named = pc.is_in(gone[log.key[0]], pa.array(list(names), rows[log.key[0]].type))
                unknown = set(gone.filter(named)[KEY_HASH].to_pylist())
        seqs = []
        if unknown:
            listed = rows.sort_by("seq").select([KEY_HASH, "seq", "op"])
            for h, seq, op in zip(*(c.to_pylist() for c in listed.columns), strict=True):
                if op != "D" and seq not in bad:
                    unknown.discard(h)
                elif h in unknown:
                    seqs.append(seq)
        return pc.is_in(rows["seq"], pa.array(seqs, pa.int64()))

    def _unknown(self, log: str, values: Sequence[Any]) -> set[Any]:
        return self._keys[log].unknown(set(values) - self._at_hand.get(log, set()))


def _yielded(log: Log, relation: str, reason: str) -> str:
    """SQL for a log's columns as they are kept, hashes, and which views a row matters to."""
    columns = [as_kept(log.name, name) for name in log.types]
    columns += [f"{hash_of(log.key)} AS {KEY_HASH}", f"CAST(0 AS UBIGINT) AS {NO_HASH}"]
    for view in VIEWS:
        source = source_of(view, log.name)
        if source:
            columns.append(f"{hash_of(source.keys)} AS {hashed(view)}")
        if log.name in logs_of_view(view):
            columns.append(f"{feeding(view, log.name)} AS {feeds(view)}")
    return f"SELECT {', '.join(columns)}, {reason} FROM ({relation})"


def _newest(log: Log, rows: pa.Table) -> datetime | None:
    if log.name not in CLOCKS:
        return None
    there = rows.filter(pc.not_equal(rows["op"], "D"))  # deletions go by the database's clock
    found: datetime | None = pc.max(there[TIMES[log.name]]).as_py()
    return found
