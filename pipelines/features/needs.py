"""What a group needs of each log: how far back, which rows, and by what they are found again.

Both flows, retention and the audit read this; it follows from the declaration alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final

import ibis
import sqlglot
from sqlglot import expressions as sql

from pipelines.features.compilers.plan import Plan
from pipelines.features.compilers.prepared import log_table, row_value
from pipelines.features.language.aggregations import AT_ONCE, Aggregation
from pipelines.features.language.expressions import Call, Typed
from pipelines.features.language.group import FeatureGroup
from pipelines.features.language.rows import CHANGES, FACTS, REPORTS, Rows
from pipelines.features.language.tree import signature
from pipelines.features.language.value_types import FLAG

_ALWAYS: Final = "TRUE"
_DELETED: Final = "op = 'D'"


@dataclass(frozen=True)
class Source:
    """How one log feeds a view.

    Attributes:
        log: its name.
        keys: its columns that hold the view's entity keys, in the view's order.
        time: the column with the event time of a row.
        lookback: how many microseconds before a row its windows reach; None for the key's whole
            history.
        newest_before: the newest row of the key before the windows is needed too.
        only: SQL; rows for which it does not hold are not needed.
        identity: the column that identifies what a row reports on, where several rows may report
            on the same thing.
        begun_by: the log whose insertion of the key comes before all of the key's rows.
        member: the column of which only distinct values are counted: of a key's rows with the same
            member, only the newest matters for the newest result.
        unnoticed: SQL; rows for which it holds change no feature themselves, only the meaning of
            later rows of the same identity.
    """

    log: str
    keys: tuple[str, ...]
    time: str
    lookback: int | None = 0
    newest_before: bool = False
    only: str = _ALWAYS
    identity: str | None = None
    begun_by: str | None = None
    member: str | None = None
    unnoticed: str = "FALSE"

    @property
    def at(self) -> str:
        """The event time, quoted for SQL: a column may be called `timestamp`."""
        return f'"{self.time}"'


def sources_of(group: FeatureGroup) -> tuple[Source, ...]:
    """What a group needs of the logs whose rows are found by its keys; triggers come first."""
    plan = Plan.of(group)
    every = {mark: prepared.rows for mark, prepared in plan.prepared.items()}
    return tuple(_source(group, plan, rows) for rows in every.values())


def is_streamed(sources: Sequence[Source]) -> bool:
    """Whether the newest rows of a key follow from its recent rows.

    Where a group looks back without a limit, all of a key's history is at hand if it began lately.
    That is known of one log whose rows refer to the entity, if no other gives the group rows or
    values; of other such groups the batch flow computes all rows.
    """
    unlimited = [source for source in sources if source.lookback is None]
    others = [s for s in sources if s.lookback is not None and s.only != _DELETED]
    return not unlimited or (len(unlimited) == 1 and not others and bool(unlimited[0].begun_by))


def looked_up(group: FeatureGroup) -> tuple[str, ...]:
    """The logs of which the group looks a column up; they are read whole."""
    names = (lookup.column.rows.log.name for lookup in group.lookups)
    return tuple(dict.fromkeys(names))


def _source(group: FeatureGroup, plan: Plan, rows: Rows) -> Source:
    mark = signature(rows)
    some = [a for a in group.aggregations if signature(a.rows) == mark]
    is_due = mark in {signature(r) for r in group.triggers}
    keys = tuple(rows.column_of(key) for key in group.keys)
    lookback, newest_before = _reach(plan, rows, some)
    return Source(
        log=rows.log.name,
        keys=keys,
        time=rows.at,
        lookback=lookback,
        newest_before=newest_before,
        only=_only(rows, some, keys, is_due=is_due),
        identity=rows.member[0] if rows.kind == REPORTS else None,
        begun_by=_beginning(group, rows, keys) if lookback is None else None,
        member=_member(plan, rows, some) if is_due else None,  # else there are instants between
        unnoticed="op = 'D'" if rows.kind == REPORTS else "FALSE",
    )


def _reach(plan: Plan, rows: Rows, some: Sequence[Aggregation]) -> tuple[int | None, bool]:
    """How far back rows are needed, and whether the newest before that is."""
    direct = plan.is_only_trigger(plan.prepared[signature(rows)])
    has_members = plan.prepared[signature(rows)].has_members
    widths: list[int | None] = [0]
    newest_before = False
    for a in some:
        if a.operation == "time_since_previous" and rows.kind == FACTS:
            newest_before = True  # of others the row before may not count, being a deletion
        elif a.operation == "last" and not has_members:
            newest_before |= not direct
        elif a.within is None:
            widths.append(None)
        else:
            widths.append(0 if a.within == AT_ONCE else a.within)
    if plan.group.needs_entity and signature(rows) == signature(plan.group.entity):
        newest_before = True
    return (None if None in widths else max(w or 0 for w in widths)), newest_before


def _only(rows: Rows, some: Sequence[Aggregation], keys: Sequence[str], *, is_due: bool) -> str:
    """SQL for the rows that matter."""
    if rows.kind == REPORTS:
        return f"({rows.at} IS NOT NULL OR op IN ('D', 'M'))"
    if rows.kind == CHANGES:  # of an entity, only its deletion, if nothing else is asked
        return _ALWAYS if some or is_due else _DELETED
    conditions = [a.where for a in some if a.where is not None]
    if is_due or len(conditions) < len(some) or not conditions:
        return "op = 'I'"
    either = reduce(
        lambda a, b: Call("or", (a, b), FLAG), {signature(c): c for c in conditions}.values()
    )
    return f"op = 'I' AND ({_in_sql(rows, either, keys)})"


def _in_sql(rows: Rows, condition: Typed, keys: Sequence[str]) -> str:
    """A row's condition as SQL over the log's columns."""
    table = log_table(rows.log)
    query = str(
        ibis.to_sql(table.select(found=row_value(table, rows, keys, condition)), dialect="duckdb")
    )
    found = sqlglot.parse_one(query, dialect="duckdb").expressions[0].unalias()
    for column in found.find_all(sql.Column):
        column.set("table", None)
    return str(found.sql(dialect="duckdb"))


def _beginning(group: FeatureGroup, rows: Rows, keys: Sequence[str]) -> str | None:
    """The log whose rows are the entity's, where every row refers to one of them."""
    parent = rows.log.references.get(keys[0]) if len(keys) == 1 else None
    return parent if parent == group.entity.log.name else None


def _member(plan: Plan, rows: Rows, some: Sequence[Aggregation]) -> str | None:
    """The column by which only the newest rows matter."""
    if rows.kind != CHANGES or not plan.prepared[signature(rows)].has_members:
        return None
    (member,) = rows.member if len(rows.member) == 1 else (None,)
    counted = {getattr(a.of, "name", None) for a in some if a.operation == "count_distinct"}
    if all(a.operation in ("last", "count_distinct") for a in some) and counted <= {member}:
        return member if some else None
    return None
