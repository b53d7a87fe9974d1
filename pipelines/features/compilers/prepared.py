"""A log's rows as a group's plan takes them: entity keys, time, order, and the values needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

import ibis
import ibis.expr.types as ir

from pipelines.features.columns import EVENT_TIMESTAMP
from pipelines.features.compilers.operations import as_ibis, column_value
from pipelines.features.language.aggregations import Aggregation
from pipelines.features.language.expressions import Typed
from pipelines.features.language.rows import (
    CHANGES,
    FACTS,
    REPORTS,
    Column,
    Rows,
    SincePrevious,
    may_be_null,
)
from pipelines.features.language.tree import signature
from pipelines.tables.declare import INTEGER, MONEY, MOVED, NUMBER, TEXT, TEXTS, TIME, Log

AT: Final = EVENT_TIMESTAMP
ORDER: Final = "row_order"
"""The column that orders rows of the same key and time."""
DELETED: Final = "deleted"
MEMBER: Final = "member"
PLACE: Final = "place"
"""The column with the place of a row among those of its key, from 1."""
SIZE: Final = "size"
"""The column with the number of a key's rows."""
IS_LAST: Final = "is_last"
"""The column that says if a row is the last at its time."""

_IBIS_TYPES: Final = {
    INTEGER: "int64",
    NUMBER: "float64",
    MONEY: "decimal(10, 2)",
    TEXT: "string",
    TIME: "timestamp(6)",
    TEXTS: "array<string>",
}


def log_table(log: Log) -> ir.Table:
    """An unbound Ibis table with the columns of one processed log."""
    types = {column: _IBIS_TYPES[kind] for column, kind in log.types.items()}
    return ibis.table(types, name=log.name)


@dataclass(frozen=True)
class Prepared:
    """Rows of a log for one group.

    Attributes:
        rows: what they are.
        table: entity keys, `event_timestamp`, `row_order`, `deleted` of changes, `member` (a
            struct) where the records are not the entities, and a column per value.
        columns: the column of each value, by its signature.
        numbered: `table` with `place`, `size` and `is_last`, by the sort that times since the row
            before take too. Deletions are numbered apart.
    """

    rows: Rows
    table: ir.Table
    columns: dict[object, str]
    numbered: ir.Table

    @property
    def there(self) -> ir.Table:
        """The rows without deletions."""
        return _without_deletions(self.table)

    @property
    def there_numbered(self) -> ir.Table:
        """The same, numbered."""
        return _without_deletions(self.numbered)

    @property
    def has_members(self) -> bool:
        """Whether several records belong to one entity key."""
        return MEMBER in self.table.columns

    def column(self, expression: Typed | None) -> str:
        """The name of a value's column."""
        return self.columns[signature(expression)]

    def value(self, expression: Typed | None, table: ir.Table | None = None) -> ir.Value:
        """A value's column, of `there` unless a table is given."""
        return (self.there if table is None else table)[self.column(expression)]


def prepare(
    rows: Rows, keys: Sequence[str], aggregations: Iterable[Aggregation], *, all_rows: bool
) -> Prepared:
    """The rows of one log for a group.

    Args:
        rows: what they are.
        keys: the entity keys.
        aggregations: of these rows.
        all_rows: whether more is wanted than the rows that an aggregation counts.
    """
    table = log_table(rows.log)
    if rows.kind == FACTS:
        table = table.filter(table["op"] == "I")
    elif rows.kind == REPORTS:
        table = _last_reports(table, rows)
    wanted = list(aggregations)
    conditions = [a.where for a in wanted if a.where is not None]
    for key in map(rows.column_of, keys):  # rows without a key are nobody's
        if may_be_null(Column(rows, key)):
            table = table.filter(table[key].notnull())
    if not all_rows and wanted and len(conditions) == len(wanted):
        needed = [row_value(table, rows, keys, condition) for condition in conditions]
        table = table.filter(reduce(lambda a, b: a | b, needed))
    taken = {key: table[rows.column_of(key)] for key in keys}
    taken |= {AT: table[rows.at], ORDER: table[rows.order]}
    if rows.kind == CHANGES:
        taken[DELETED] = is_deletion(table, rows)
        if {rows.column_of(key) for key in keys} != set(rows.member):
            taken[MEMBER] = ibis.struct({name: table[name] for name in rows.member})
    columns: dict[object, str] = {}
    for part in [p for a in wanted for p in (a.of, a.where) if p is not None]:
        mark = signature(part)
        if mark not in columns:
            columns[mark] = f"v{len(columns)}"
            taken[columns[mark]] = row_value(table, rows, keys, part)
    in_order = _in_order(table, rows, keys)
    at = table[rows.at]
    numbers = {
        PLACE: (ibis.row_number().over(in_order) + 1).cast("int64"),
        SIZE: table.count().over(in_order),
        IS_LAST: ibis.coalesce(at.lead().over(in_order) != at, True),
    }
    return Prepared(rows, table.select(**taken), columns, table.select(**taken, **numbers))


def _without_deletions(table: ir.Table) -> ir.Table:
    return table.filter(~table[DELETED]) if DELETED in table.columns else table


def _in_order(table: ir.Table, rows: Rows, keys: Sequence[str]) -> Any:
    """The window over a key's rows; deletions are no rows."""
    same = [table[rows.column_of(key)] for key in keys]
    if rows.kind == CHANGES:
        same.append(is_deletion(table, rows))
    return ibis.window(group_by=same, order_by=[table[rows.at], table[rows.order]])


def is_deletion(table: ir.Table, rows: Rows) -> ir.Value:
    """Whether a change of a record is its end."""
    return reduce(lambda a, b: a | b, [table["op"] == op for op in rows.deletions])


def row_value(table: ir.Table, rows: Rows, keys: Sequence[str], expression: Typed) -> ir.Value:
    """A row expression over a log's table.

    Args:
        table: of the log.
        rows: which of its rows, and their time.
        keys: the entity keys, within which rows follow one another.
        expression: the expression.
    """

    def leaf(part: Typed) -> ir.Value:
        if isinstance(part, Column):
            return column_value(table, part)
        assert isinstance(part, SincePrevious)
        at = table[rows.at]
        before = at.lag().over(_in_order(table, rows, keys))
        return at.delta(before, unit="microsecond")

    return as_ibis(expression, leaf)


def _last_reports(table: ir.Table, rows: Rows) -> ir.Table:
    """The last report on each record that has the time, before its key was free for another one.

    After a change of the key, the reports under the new key count.
    """
    ends = table["op"].isin(["D", MOVED])
    reported = table.filter(table[rows.at].notnull() | ends)
    of_record = ibis.window(group_by=list(rows.member), order_by=reported.seq)
    next_op = reported["op"].lead().over(of_record)
    return (
        reported.mutate(next_op=next_op)
        .filter(~reported["op"].isin(["D", MOVED]), next_op.isnull() | (next_op == "D"))
        .drop("next_op")
    )
