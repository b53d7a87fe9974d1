"""The rows of a log that features are made of: facts, changes of records, and last reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pipelines.errors import DeclarationError
from pipelines.features.columns import COMMITTED_AT
from pipelines.features.language.expressions import Call, Expression, Literal, Typed, Unresolved
from pipelines.features.language.value_types import OF_COLUMN, SPAN, Type
from pipelines.tables.declare import MOVED, Log

FACTS: Final = "facts"
CHANGES: Final = "changes"
REPORTS: Final = "reports"


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one log, in the order of their time and then of `order`.

    Attributes:
        log: the log.
        at: the column that holds a row's event time.
        kind: facts (what was inserted; deleting a record does not undo it), changes (every state of
            a record, its deletion included), or reports (the last state of each record that has
            the time, whatever became of the record since).
        of: entity key → the column that holds it, where the names differ.
    """

    log: Log
    at: str
    kind: str
    of: Mapping[str, str] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and self._mark == other._mark

    def __hash__(self) -> int:
        return hash(self._mark)

    @property
    def _mark(self) -> tuple[object, ...]:
        return self.log.name, self.at, self.kind, *sorted(self.of.items())

    def __getattr__(self, name: str) -> Expression:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Expression:
        """A column, by a name that may also be one of ours."""
        return Unresolved(_column, (self, name))

    @property
    def order(self) -> str:
        """The column that orders rows of the same time: facts by their key, others as logged."""
        return self.log.key[0] if self.kind == FACTS else "seq"

    @property
    def deletions(self) -> tuple[str, ...]:
        """The `op` of a record's end; of a key's, where its row goes on under another key."""
        if self.kind != CHANGES:
            return ()
        return ("D", MOVED) if self.log.marks_moves else ("D",)

    @property
    def member(self) -> tuple[str, ...]:
        """The columns that tell the records apart."""
        return self.log.key

    def column_of(self, key: str) -> str:
        """The column that holds an entity key.

        Raises:
            DeclarationError: there is none.
        """
        column = self.of.get(key, key)
        if column not in self.log.types:
            allowed = ", ".join(c.name for c in self.log.columns)
            raise DeclarationError(
                f"{self.log.name} has no column {column} for the key {key}: name one of its columns"
                f" with by({key}=…): {allowed}"
            )
        return column

    def by(self, **columns: str) -> Rows:
        """The same rows, found by other columns: `orders.by(user_id="customer_id")`."""
        return Rows(self.log, self.at, self.kind, {**self.of, **columns})


@dataclass(frozen=True, eq=False)
class Column(Typed):
    """A column of a log's row."""

    rows: Rows
    name: str

    @property
    def type(self) -> Type:  # type: ignore[override]  # it follows from the log
        """The column's type."""
        return OF_COLUMN[self.rows.log.types[self.name]]


@dataclass(frozen=True, eq=False)
class SincePrevious(Typed):
    """Time since the row before it of the same entity key; null for the first."""

    rows: Rows
    type: Type = SPAN


def facts(log: Log, at: str | None = None) -> Rows:
    """What was inserted into a log of facts.

    Args:
        log: an append-only one.
        at: the column with the event time; the log's `event_time` when this is left out.

    Raises:
        DeclarationError: there is no such column, or the log's rows are not facts.
    """
    _check_log(log)
    if not log.append_only:
        raise DeclarationError(f"{log.name} is no append-only log: use changes() of it")
    return _rows(log, at or str(log.event_time), FACTS)


def changes(log: Log, at: str | None = None) -> Rows:
    """Every state of a log's records, deletions included.

    Args:
        log: the log.
        at: the column with the event time, which deletions must have too: `committed_at`, or the
            log's own (`changed_at`), which is taken when this is left out.

    Raises:
        DeclarationError: there is no such column, or deletions have no time there.
    """
    _check_log(log)
    timed = list(dict.fromkeys([log.changed_at or COMMITTED_AT, COMMITTED_AT]))
    at = at or timed[0]
    if at in log.types and at not in timed:
        raise DeclarationError(
            f"deletions from {log.name} have no time in {at}: changes() are at {' or '.join(timed)}"
        )
    return _rows(log, at, CHANGES)


def reports(log: Log, at: str) -> Rows:
    """The last state of each record that has the time `at`, for example when it was delivered.

    Args:
        log: one that marks moves.
        at: the column with the event time; a record is reported once it is there.

    Raises:
        DeclarationError: there is no such column, or the log does not mark moves.
    """
    _check_log(log)
    if not log.marks_moves:
        raise DeclarationError(
            f"{log.name} does not say which records have other keys now, as reports() must know:"
            " declare it with marks_moves=True"
        )
    return _rows(log, at, REPORTS)


def since_previous(rows: Rows) -> SincePrevious:
    """Time since the row before it of the same entity key, for lists of last rows."""
    return SincePrevious(rows)


def may_be_null(value: Expression | None) -> bool:
    """Whether a value of a row can be null, as far as its columns tell."""
    if isinstance(value, Literal):
        return False
    if isinstance(value, Column):
        nullable = {column.name for column in value.rows.log.columns if column.nullable}
        return value.name in nullable and value.name != value.rows.at
    if not isinstance(value, Call):
        return True
    if value.operation == "is_null":
        return False
    if value.operation == "cases":
        return any(map(may_be_null, (*value.arguments[1:-1:2], value.arguments[-1])))
    if value.operation in ("coalesce", "greatest", "least"):  # nulls do not count
        return all(map(may_be_null, value.arguments))
    return value.operation == "ratio" or any(map(may_be_null, value.arguments))


def _check_log(log: object) -> None:
    if not isinstance(log, Log):
        raise DeclarationError(
            f"{log!r} is no declared log: take one of pipelines.tables.shop, such as ORDERS, or one"
            " of your own"
        )


def _rows(log: Log, at: str, kind: str) -> Rows:
    found = Rows(log, at, kind)
    if _column(found, at).type.kind != "time":
        raise DeclarationError(f"{log.name}.{at} is no time stamp, which a row's time must be")
    return found


def _column(rows: Rows, name: str) -> Column:
    if name not in rows.log.types:
        allowed = ", ".join(column.name for column in rows.log.columns)
        raise DeclarationError(f"{rows.log.name} has no column {name}: it has {allowed}")
    return Column(rows, name)
