"""What both plans of a group share: the rows of its logs, its sums, and its features at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ibis
import ibis.expr.types as ir

from pipelines.features.compilers.operations import as_ibis
from pipelines.features.compilers.prepared import AT, DELETED, ORDER, Prepared, prepare
from pipelines.features.compilers.tombstones import unless, with_tombstones
from pipelines.features.compilers.windows import Sliding, SlidingDistinct
from pipelines.features.language.aggregations import AT_ONCE, Aggregation, RowTime
from pipelines.features.language.expressions import Typed
from pipelines.features.language.group import FeatureGroup
from pipelines.features.language.rows import Column, may_be_null
from pipelines.features.language.tree import signature

SINCE: Final = "since"
"""The event time of the state that holds at an instant."""


@dataclass(frozen=True)
class Plan:
    """A group, taken apart.

    Attributes:
        group: the group.
        prepared: the rows of each log that it needs, by signature.
        names: the column of each aggregation and lookup, by signature.
    """

    group: FeatureGroup
    prepared: Mapping[object, Prepared]
    names: Mapping[object, str]

    @classmethod
    def of(cls, group: FeatureGroup) -> Plan:
        """Take a group apart; equal parts become one."""
        aggregations = {signature(a): a for a in group.aggregations}
        names = {mark: f"a{number}" for number, mark in enumerate(aggregations)}
        names |= {signature(a): f"l{number}" for number, a in enumerate(group.lookups)}
        due = {signature(rows) for rows in group.triggers}
        prepared: dict[object, Prepared] = {}
        due.add(signature(group.entity))  # whose deletions are rows
        for rows in (*group.triggers, group.entity, *(a.rows for a in aggregations.values())):
            mark = signature(rows)
            if mark not in prepared:
                mine = [a for a in aggregations.values() if signature(a.rows) == mark]
                prepared[mark] = prepare(rows, group.keys, mine, all_rows=mark in due)
        return cls(group, prepared, names)

    @property
    def keys(self) -> list[str]:
        """The entity keys."""
        return list(self.group.keys)

    @property
    def triggers(self) -> list[Prepared]:
        """The rows at whose times feature rows are due."""
        return [self.prepared[signature(rows)] for rows in self.group.triggers]

    @property
    def entity(self) -> Prepared:
        """The changes of the entity's record."""
        return self.prepared[signature(self.group.entity)]

    @property
    def entity_is_due(self) -> bool:
        """Whether a row is due at each change of the entity's record."""
        return signature(self.group.entity) in {signature(rows) for rows in self.group.triggers}

    def by_rows(self, *operations: str) -> list[tuple[Prepared, list[Aggregation]]]:
        """The aggregations of some kinds, by the rows that they are of."""
        found: dict[object, list[Aggregation]] = {}
        for a in {signature(a): a for a in self.group.aggregations}.values():
            if a.operation in operations:
                found.setdefault(signature(a.rows), []).append(a)
        return [(self.prepared[mark], some) for mark, some in found.items()]

    def name(self, part: Typed) -> str:
        """The column of an aggregation or lookup."""
        return self.names[signature(part)]

    def is_only_trigger(self, prepared: Prepared) -> bool:
        """Whether feature rows are due at just the times of these rows."""
        return [signature(r) for r in self.group.triggers] == [signature(prepared.rows)]

    def has_all_instants(self, prepared: Prepared) -> bool:
        """Whether feature rows are due at just the times of these rows without deletions."""
        return self.is_only_trigger(prepared) and DELETED not in prepared.table.columns

    def places(self, prepared: Prepared) -> list[str]:
        """The columns of counts of all these rows so far, which lists of the last rows know."""
        counts = [a for other, some in self.by_rows("count") for a in some if other is prepared]
        return [self.name(a) for a in counts if self.is_place(a)]

    def lasts(self) -> list[tuple[Prepared, list[Aggregation], bool]]:
        """Rows whose newest record is asked for, and whether it is the entity's own.

        If a row is due at each change of the entity's record, its state is asked for anyway.
        """
        wanted = {signature(p.rows): (p, some) for p, some in self.by_rows("last")}
        entity = signature(self.group.entity)
        if self.entity_is_due:
            wanted.setdefault(entity, (self.entity, []))
        return [(*found, self.entity_is_due and mark == entity) for mark, found in wanted.items()]

    def by_width(self, some: Sequence[Aggregation]) -> list[tuple[int | None, list[Aggregation]]]:
        """Aggregations by the width of their windows; once at least."""
        if not some:
            return [(None, [])]
        widths = sorted({a.within for a in some}, key=lambda width: (width is not None, width or 0))
        return [(width, [a for a in some if a.within == width]) for width in widths]

    def is_place(self, a: Aggregation) -> bool:
        """Whether a count is that of all rows so far, which lists of the last rows know anyway."""
        if a.operation != "count" or a.where is not None or a.within is not None:
            return False
        return signature(a.rows) in {signature(p.rows) for p, _ in self.by_rows("last_k")}


def sums(plan: Plan) -> list[Sliding | SlidingDistinct]:
    """The counts and sums in windows."""
    parts: list[Sliding | SlidingDistinct] = []
    for prepared, some in plan.by_rows("count", "sum"):
        by_width: dict[int | None, dict[str, ir.Value]] = {}
        for a in some:
            if a.within != AT_ONCE and not plan.is_place(a):
                amounts = by_width.setdefault(a.within, {})
                amounts[plan.name(a)] = amount(prepared, a)
        parts += [Sliding(prepared.there, AT, w, amounts) for w, amounts in by_width.items()]
    for prepared, some in plan.by_rows("most_frequent"):
        for a in some:
            amounts = {
                f"{plan.name(a)}_{number}": (prepared.value(a.of) == word).cast("int64")
                for number, word in enumerate(vocabulary(a))
            }
            if amounts:
                parts.append(Sliding(prepared.there, AT, a.within, amounts))
    return parts + distinct_counts(plan)


def distinct_counts(plan: Plan) -> list[SlidingDistinct]:
    """The counts of distinct values in windows."""
    parts: list[SlidingDistinct] = []
    for prepared, some in plan.by_rows("count_distinct"):
        table = prepared.table
        deleted = table[DELETED] if DELETED in table.columns else ibis.literal(False)
        table = table.mutate(op=ibis.ifelse(deleted, "D", "I"))
        for of in {signature(a.of): a.of for a in some}.values():
            member = prepared.column(of)
            widths = {plan.name(a): a.within for a in some if prepared.column(a.of) == member}
            known = table.filter(table[member].notnull()) if may_be_null(of) else table
            parts.append(SlidingDistinct(known, member, AT, ORDER, widths))
    return parts


def amount(prepared: Prepared, a: Aggregation) -> ir.Value:
    """What a row adds to a count or sum."""
    one: ir.Value = ibis.literal(1)
    if a.operation == "sum":
        one = ibis.coalesce(prepared.value(a.of), 0)
    if a.where is None:
        return one
    return ibis.ifelse(ibis.coalesce(prepared.value(a.where), False), one, 0)


def vocabulary(a: Aggregation) -> Sequence[str]:
    """The texts that a column may hold; empty if any."""
    assert isinstance(a.of, Column)
    return next(c.allowed for c in a.rows.log.columns if c.name == a.of.name)


def attached(found: ir.Table, other: ir.Table, on: Sequence[str], *, fill: Any = None) -> ir.Table:
    """A table with the further columns of another one.

    Args:
        found: the table; it keeps all its rows.
        other: at most one row for each.
        on: the columns that they share.
        fill: instead of null.
    """
    joined = found.left_join(other, list(on))
    more = {n: joined[n] for n in other.columns if n not in on}
    if fill is not None:
        more = {name: value.fill_null(fill) for name, value in more.items()}
    return joined.select(*[joined[n] for n in found.columns], **more)


def deletions(plan: Plan) -> ir.Table:
    """The keys and times at which entities were deleted."""
    entity = plan.entity.table
    return entity.filter(entity[DELETED]).select(*plan.keys, AT)


def finished(plan: Plan, found: ir.Table, *, newest: bool = False, alive: bool = False) -> ir.Table:
    """The features of a group, and the tombstones of deleted entities.

    Args:
        plan: of the group.
        found: instants with a column per aggregation and lookup.
        newest: one instant per key.
        alive: none is at the time of a deletion.
    """

    def leaf(part: Typed) -> ir.Value:
        return found[AT] if isinstance(part, RowTime) else found[plan.name(part)]

    values = {
        name: _published(feature.value, as_ibis(feature.value, leaf))
        for name, feature in plan.group.features.items()
    }
    if plan.entity_is_due:
        gone = found[DELETED]
        values = {name: unless(gone, value) for name, value in values.items()}
        return found.select(*plan.keys, AT, **values)
    rows = found.select(*plan.keys, AT, **values)
    return with_tombstones(rows, deletions(plan), plan.keys, newest=newest, alive=alive)


def _published(feature: Typed, value: ir.Value) -> ir.Value:
    """A feature as it is published: money as a float."""
    if feature.type.kind == "whole":
        scale = feature.type.scale
        return value / 10.0**scale if scale else value.cast("int64")
    return value
