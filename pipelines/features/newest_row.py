"""Each key's newest row alone, as an Ibis expression: the plan for a few keys, without sorts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Final

import ibis
import ibis.expr.types as ir

from pipelines.features.aggregations import AT_ONCE, Aggregation
from pipelines.features.group import FeatureGroup
from pipelines.features.lists import COUNT, newest_lists
from pipelines.features.lookups import looked_up
from pipelines.features.plan import SINCE, Plan, amount, attached, finished, sums
from pipelines.features.prepared import AT, DELETED, MEMBER, ORDER, Prepared
from pipelines.features.tombstones import unless
from pipelines.features.tree import signature
from pipelines.features.windows import totals_at

_ROW_AT: Final = "row_at"


def newest_row(group: FeatureGroup) -> ir.Table:
    """Keys, event time and features at the newest instant at which a row of each key is due."""
    plan = Plan.of(group)
    found = totals_at(_instants(plan), plan.keys, AT, sums(plan, vocabularies=False), newest=True)
    for table, fill in (*_at_once(plan, found), *_lists(plan, found), *_previous(plan, found)):
        found = attached(found, table, plan.keys, fill=fill)
    for table in (*_most_frequent(plan, found), *_extremes(plan, found)):
        found = attached(found, table, plan.keys)
    found = _last(plan, found)
    for lookup in {signature(a): a for a in group.lookups}.values():
        found = looked_up(found, lookup, plan.name(lookup), newest=True)
    return finished(plan, found, newest=True)


def _instants(plan: Plan) -> ir.Table:
    every = reduce(lambda a, b: a.union(b), [p.table.select(*plan.keys, AT) for p in plan.triggers])
    return every.group_by(plan.keys).agg(**{AT: every[AT].max()})


def _known(plan: Plan, found: ir.Table, rows: ir.Table) -> ir.Table:
    """Rows no later than their key's instant, which is their `row_at`."""
    instants = found.select(*plan.keys, **{_ROW_AT: found[AT]})
    known = rows.inner_join(instants, plan.keys)
    return known.filter(known[AT] <= known[_ROW_AT])


def _within(known: ir.Table, width: int | None) -> ir.Value:
    if width is None:
        return ibis.literal(True)
    return known[AT] > known[_ROW_AT] - ibis.interval(microseconds=width)


def _at_once(plan: Plan, found: ir.Table) -> list[tuple[ir.Table, int | None]]:
    made: list[tuple[ir.Table, int | None]] = []
    for prepared, some in plan.by_rows("count", "sum"):
        now = {plan.name(a): amount(prepared, a) for a in some if a.within == AT_ONCE}
        if now:
            known = _known(plan, found, prepared.there.select(*plan.keys, AT, **now))
            same = known.filter(known[AT] == known[_ROW_AT]).group_by(plan.keys)
            made.append((same.agg(**{n: ibis._[n].sum().cast("int64") for n in now}), 0))
    return made


def _lists(plan: Plan, found: ir.Table) -> list[tuple[ir.Table, int | None]]:
    made: list[tuple[ir.Table, int | None]] = []
    for prepared, some in plan.by_rows("last_k"):
        rows = prepared.there
        if not plan.is_only_trigger(prepared):
            rows = _known(plan, found, rows)
        for size in sorted({a.size for a in some}):
            lists = {plan.name(a): prepared.column(a.of) for a in some if a.size == size}
            table = newest_lists(rows, plan.keys, lists, size)
            if not made:
                table = table.mutate(**{n: table[COUNT] for n in plan.places(prepared)})
            made.append((table.drop(COUNT, AT), None))
    return made


def _previous(plan: Plan, found: ir.Table) -> list[tuple[ir.Table, int | None]]:
    made: list[tuple[ir.Table, int | None]] = []
    for prepared, (a, *_) in plan.by_rows("time_since_previous"):
        known = _known(plan, found, prepared.there.select(*plan.keys, AT))
        earlier = known.filter(known[AT] < known[_ROW_AT])
        last = earlier.group_by(plan.keys).agg(at=earlier[AT].max(), now=earlier[_ROW_AT].max())
        since = last.now.delta(last["at"], unit="microsecond")
        made.append((last.select(*plan.keys, **{plan.name(a): since}), None))
    return made


def _most_frequent(plan: Plan, found: ir.Table) -> list[ir.Table]:
    made = []
    for prepared, some in plan.by_rows("most_frequent"):
        for a in some:
            rows = prepared.there
            known = _known(
                plan, found, rows.select(*plan.keys, AT, ORDER, word=prepared.value(a.of, rows))
            )
            inside = known.filter(_within(known, a.within), known.word.notnull())
            place = ibis.struct({"at": inside[AT], "order": inside[ORDER]})
            counted = inside.group_by([*plan.keys, "word"]).agg(
                count=inside.count(), place=place.max()
            )
            score = ibis.struct({"count": counted["count"], "place": counted.place})
            made.append(counted.group_by(plan.keys).agg(**{plan.name(a): counted.word.argmax(score)}))
    return made


def _extremes(plan: Plan, found: ir.Table) -> list[ir.Table]:
    made = []
    for prepared, some in plan.by_rows("min", "max"):
        known = _known(plan, found, prepared.there)
        values = {}
        for a in some:
            counts = _within(known, a.within)
            if a.where is not None:
                counts &= prepared.value(a.where, known)
            column = prepared.value(a.of, known)
            extreme = column.min if a.operation == "min" else column.max
            values[plan.name(a)] = extreme(where=counts)
        made.append(known.group_by(plan.keys).agg(**values))
    return made


def _last(plan: Plan, found: ir.Table) -> ir.Table:
    """The newest records' values, and whether the entity's own is deleted."""
    for prepared, some, of_entity in plan.lasts():
        known = _known(plan, found, prepared.table)
        for within, same in plan.by_width(some, prepared):
            states = _newest_record(plan, prepared, known, same, within)
            found = attached(found, states if of_entity else states.drop(DELETED), plan.keys)
            if of_entity and plan.group.needs_entity:
                found = found.filter(found[SINCE].notnull())
                at = ibis.ifelse(found[DELETED], found[SINCE], found[AT])
                found = found.mutate(**{AT: at})
            found = found.drop(SINCE)
    return found


def _newest_record(
    plan: Plan,
    prepared: Prepared,
    known: ir.Table,
    some: Sequence[Aggregation],
    within: int | None,
) -> ir.Table:
    """Per key: the values of the newest record there, since when, and if it is deleted."""
    values = {plan.name(a): prepared.column(a.of) for a in some}
    gone = known[DELETED] if DELETED in known.columns else ibis.literal(False)
    order = ibis.struct({"at": known[AT], "order": known[ORDER]})
    state = ibis.struct(
        {SINCE: known[AT], _ROW_AT: known[_ROW_AT], DELETED: gone, "order": order}
        | {name: known[c] for name, c in values.items()}
    )
    members = [*plan.keys, MEMBER] if prepared.has_members else plan.keys
    records = known.group_by(members).agg(state=state.argmax(order))
    if prepared.has_members:
        there = ~records.state[DELETED]
        records = records.group_by(plan.keys).agg(
            state=records.state.argmax(records.state["order"], where=there)
        )
    state = records.state
    lost = state[DELETED]
    if within is not None:
        recent = state[SINCE] > state[_ROW_AT] - ibis.interval(microseconds=within)
        lost = lost | ~recent
    lost = ibis.coalesce(lost, True)
    return records.select(
        *plan.keys,
        **{SINCE: state[SINCE], DELETED: ibis.coalesce(state[DELETED], False)},
        **{name: unless(lost, state[name]) for name in values},
    )

