"""The language in which a live table and its processed log are declared.

A log row is a change of the table: `seq` and `op` (I, U, D) from the change log, `committed_at`,
then the table's columns in their types. Both flows read these declarations, so a row that one flow
rejects is rejected by the other too; the tables, their triggers and the contract with the live
databases follow from them as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipelines.errors import DeclarationError
from pipelines.settings import DATABASE_NAMES

INTEGER: Final = "BIGINT"
NUMBER: Final = "DOUBLE"
MONEY: Final = "DECIMAL(10,2)"
TEXT: Final = "VARCHAR"
TIME: Final = "TIMESTAMP"
TEXTS: Final = "VARCHAR[]"

KIND_IN_WORDS: Final[Mapping[str, str]] = {
    INTEGER: "a whole number",
    NUMBER: "a number",
    MONEY: "an amount with at most 8 digits before the point",
    TEXT: "text",
    TIME: "a time stamp",
    TEXTS: "a JSON list of texts",
}
MOVED: Final = "M"
"""`op` in a processed log: the deletion of a key whose row goes on under another key."""
CHANGE_COLUMNS: Final[Mapping[str, str]] = {"seq": INTEGER, "op": TEXT, "committed_at": TIME}
RETENTIONS: Final = ("recent", "newest", "all")

NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_PATH: Final = re.compile(r"\w+(\.\w+)?")
_OURS: Final = frozenset(
    {*CHANGE_COLUMNS, "key", "old_key", "reason", "retried", "row", "table_name"}
    | {"at", "by", "column_of", "deletions", "kind", "log", "member", "of", "order"}
)
"""Names that a column of a log cannot have: the flows' own, and those of `features.language.Rows`,
which would hide it. With a `path` it has another name in the log."""


@dataclass(frozen=True)
class Column:
    """One column of a log.

    `path` names the value in the change's JSON where it is not the column itself: "column" or
    "column.field" for a field of a JSON column. `check` is SQL over the typed columns that must
    not be false, `rule` the same in words.
    """

    name: str
    type: str
    check: str | None = None
    rule: str = ""
    nullable: bool = False
    path: str = ""
    allowed: tuple[str, ...] = ()
    """The texts that it may hold; empty where any may be."""
    not_before: str | None = None
    """Of a time: another one of the row that it must not lie before."""
    planned: bool = False
    """Of a time: it may lie in the future, as a promise or an appointment does."""

    @property
    def source(self) -> tuple[str, str | None]:
        """The live column, and the field inside it if that column holds JSON."""
        column, _, part = (self.path or self.name).partition(".")
        return column, part or None


@dataclass(frozen=True, eq=False, kw_only=True)
class Log:
    """One live table and its log: columns, keys and references to other logs.

    Attributes:
        name: the log's name, of its own among all logs.
        database: the live database, see `settings.DATABASE_NAMES`.
        table: the table's name; that of the log where it is left out.
        key: the columns of the primary key.
        columns: in the table's order.
        references: column → the log whose (single) key it must be found in.
        event_time: the column that says when a row came about or last changed, if there is one.
        append_only: a row is inserted once and is a fact: a second insert of its key is a
            duplicate. Its key is one whole number.
        retention: how long the log is kept: "recent" rows, which is `retention_days`; the "newest"
            row of each key as well, however old, as of things that others refer to; or "all",
            where features look back without a limit.
        marks_moves: a row counts by its key even after its deletion. So if its key was only
            changed, the old key's last row has the `op` `MOVED`, whatever happens to the row under
            the new key.
        changed_at: the column with the event time of a change, where a deletion is an event as
            well: the log's `event_time`, or `committed_at`. A deletion's event time is its commit
            time, but no earlier than that of the row that it removes; later changes of the key are
            no earlier than the deletion. The column holds these times, not the live row's.

    Raises:
        DeclarationError: it cannot be meant; the log and the column are named.
    """

    name: str
    database: str
    table: str = ""
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    references: Mapping[str, str] = field(default_factory=dict)
    event_time: str | None = None
    append_only: bool = False
    retention: str = "recent"
    marks_moves: bool = False
    changed_at: str | None = None

    def __post_init__(self) -> None:
        if not self.table:
            object.__setattr__(self, "table", self.name)
        _check(self)

    @property
    def keeps_newest(self) -> bool:
        """Whether retention keeps the newest row of each key, however old."""
        return self.retention == "newest"

    @property
    def expires(self) -> bool:
        """Whether retention removes old rows at all."""
        return self.retention != "all"

    @property
    def lasts(self) -> bool:
        """Whether rows outlive the retention, because others refer to them or start from them."""
        return self.retention != "recent"

    def live_column(self, name: str) -> str:
        """The column of the live table that holds a column of the log."""
        return next(column.source[0] for column in self.columns if column.name == name)

    @property
    def types(self) -> dict[str, str]:
        """DuckDB type by column, the change's own columns first."""
        return {**CHANGE_COLUMNS, **{c.name: c.type for c in self.columns}}


def whole(
    name: str,
    *,
    at_least: int | None = None,
    at_most: int | None = None,
    nullable: bool = False,
    path: str = "",
) -> Column:
    """A whole number of 64 bits.

    Args:
        name: the column's.
        at_least: the least value that is accepted.
        at_most: the greatest one.
        nullable: whether it may be null.
        path: see `Column`.
    """
    return _bounded(name, INTEGER, (at_least, at_most), nullable, path)


def number(
    name: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    nullable: bool = False,
    path: str = "",
) -> Column:
    """A number: floating point, neither infinite nor NaN.

    Args:
        name: the column's.
        at_least: the least value that is accepted.
        at_most: the greatest one.
        nullable: whether it may be null.
        path: see `Column`.
    """
    return _bounded(name, NUMBER, (at_least, at_most), nullable, path)


def money(
    name: str, *, at_least: int | None = None, nullable: bool = False, path: str = ""
) -> Column:
    """An amount in whole cents, of at most 8 digits before the point.

    Args:
        name: the column's.
        at_least: the least amount that is accepted.
        nullable: whether it may be null.
        path: see `Column`.
    """
    return _bounded(name, MONEY, (at_least, None), nullable, path)


def text(
    name: str, *, one_of: Sequence[str] = (), nullable: bool = False, path: str = ""
) -> Column:
    """A text.

    Args:
        name: the column's.
        one_of: the texts that are accepted; empty for any.
        nullable: whether it may be null.
        path: see `Column`.
    """
    if isinstance(one_of, str):
        raise DeclarationError(f"{name}: one_of is a list of texts, not {one_of!r}")
    if not one_of:
        return Column(name, TEXT, nullable=nullable, path=path)
    listed = ", ".join("'" + value.replace("'", "''") + "'" for value in one_of)
    rule = "must be one of " + ", ".join(one_of)
    return Column(name, TEXT, f'"{name}" IN ({listed})', rule, nullable, path, tuple(one_of))


def texts(name: str, *, nullable: bool = False, path: str = "") -> Column:
    """A JSON list of texts.

    Args:
        name: the column's.
        nullable: whether it may be null.
        path: see `Column`.
    """
    return Column(name, TEXTS, nullable=nullable, path=path)


def time(
    name: str,
    *,
    not_before: str | None = None,
    planned: bool = False,
    nullable: bool = False,
    path: str = "",
) -> Column:
    """A time stamp, UTC unless it carries an offset.

    Args:
        name: the column's.
        not_before: another time of the row that it must not lie before.
        planned: it may lie in the future, as a promise or an appointment does.
        nullable: whether it may be null.
        path: see `Column`.
    """
    if not_before is None:
        return Column(name, TIME, nullable=nullable, path=path, planned=planned)
    rule = f"must not be before {not_before}"
    check = f'"{name}" >= "{not_before}"'
    return Column(name, TIME, check, rule, nullable, path, (), not_before, planned)


def _bounded(
    name: str, type_: str, bounds: tuple[float | None, float | None], nullable: bool, path: str
) -> Column:
    least, most = bounds
    if least is not None and most is not None and least > most:
        raise DeclarationError(f"{name}: at_least {least} is above at_most {most}")
    if least is None and most is None:
        return Column(name, type_, nullable=nullable, path=path)
    if least is not None and most is not None:
        check, rule = f'"{name}" BETWEEN {least} AND {most}', f"must lie in {least}–{most}"
    elif most is not None:
        check, rule = f'"{name}" <= {most}', f"must be at most {most}"
    else:
        rule = "must not be negative" if least == 0 else f"must be at least {least}"
        check = f'"{name}" >= {least}'
    return Column(name, type_, check, rule, nullable, path)


def _check_columns(log: Log, types: Mapping[str, str], refuse: Callable[[str], None]) -> None:
    """Columns that others depend on are there, and have values."""
    for column in log.columns:
        if column.not_before is not None and types.get(column.not_before) != TIME:
            refuse(f"{column.name} must not lie before {column.not_before}, which is no time of it")
        needed = column.name in log.key or (
            column.name == log.event_time and (log.append_only or log.changed_at == log.event_time)
        )
        if needed and column.nullable:
            refuse(f"{column.name} is nullable: keys and the times of changes have values")


def _check(log: Log) -> None:
    def refuse(what: str) -> None:
        raise DeclarationError(f"log {log.name}: {what}")

    lists: dict[str, object] = {"key": log.key, "columns": log.columns}
    for what, given in lists.items():
        if isinstance(given, str) or not isinstance(given, tuple | list):
            refuse(f"its {what} is {given!r}: it must be a list, such as ('return_id',)")
    parents: list[object] = [*log.references.values()]
    if not all(isinstance(parent, str) for parent in parents):
        refuse('references name logs: {"user_id": "users"}')
    names = [column.name for column in log.columns]
    types = {column.name: column.type for column in log.columns}
    for name in (log.name, log.table, *names):
        if not NAME.fullmatch(name):
            refuse(f"{name!r} is no name: it must be of a–z, 0–9 and _, and begin with a letter")
        if name in _OURS:
            refuse(f'{name} is a name that the flows use: take another one, with path="{name}"')
    if log.table.startswith(("change_log", "sqlite_")) or log.name.startswith("sqlite_"):
        refuse("a table of this name is the change log's or SQLite's own")
    for name in names:
        if names.count(name) > 1:
            refuse(f"it has two columns {name}")
    paths = [column.path or column.name for column in log.columns]
    for path in paths:
        if not _PATH.fullmatch(path):
            refuse(f'{path!r} is no path: it is "column", or "column.field" of a JSON column')
        if paths.count(path) > 1:
            refuse(f"two columns are read from {path}")
    _check_columns(log, types, refuse)
    if log.database not in DATABASE_NAMES:
        refuse(f"there is no database {log.database}: there are {', '.join(DATABASE_NAMES)}")
    if log.retention not in RETENTIONS:
        refuse(f"retention {log.retention!r} is none of {', '.join(RETENTIONS)}")
    if not log.key or len(set(log.key)) < len(log.key):
        refuse("it needs a key, and each of its columns once")
    for name in (*log.key, *log.references):
        if name not in types:
            refuse(f"it has no column {name}: it has {', '.join(names)}")
        if types[name] not in (INTEGER, TEXT):
            refuse(f"{name} is {KIND_IN_WORDS[types[name]]}: keys are whole numbers or texts")
    if log.append_only and [types[name] for name in log.key] != [INTEGER]:
        refuse("the key of an append-only log is one whole number")
    if log.append_only and log.event_time is None:
        refuse("an append-only log needs the event_time of its rows")
    fields = {column.name for column in log.columns if column.source[1]}
    for inner in {*log.key, *log.references, log.event_time} & fields:
        refuse(f"{inner} is a field inside a JSON column: keys and event times are columns")
    if log.event_time and types.get(log.event_time) != TIME:
        refuse(f"its event_time {log.event_time} is no time stamp of its own")
    if log.append_only and (log.changed_at or log.marks_moves):
        refuse("the rows of an append-only log do not change: leave out changed_at and marks_moves")
    if log.changed_at not in (None, "committed_at", log.event_time):
        refuse(f"changed_at {log.changed_at} is neither committed_at nor its event_time")
