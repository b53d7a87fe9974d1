"""Each key's newest row alone, as an Ibis expression: the plan for a few keys, without sorts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import and_
from typing import Final

import ibis
import ibis.expr.types as ir

from pipelines.features.compilers.lists import COUNT, newest_lists, without_null
from pipelines.features.compilers.lookups import looked_up_newest
from pipelines.features.compilers.plan import SINCE, Plan, attached, distinct_counts, finished
from pipelines.features.compilers.prepared import AT, DELETED, MEMBER, ORDER, Prepared
from pipelines.features.compilers.tombstones import unless
from pipelines.features.compilers.windows import distinct_at_newest
from pipelines.features.language.aggregations import Aggregation
from pipelines.features.language.group import FeatureGroup
from pipelines.features.language.tree import signature

_ROW_AT: Final = "row_at"


def newest_row(group: FeatureGroup) -> ir.Table:
    """Keys, event time and features at the newest instant at which a row of each key is due."""
    plan = Plan.of(group)
    found = _start(plan)
    if not group.needs_entity:  # else the instants are not final yet
        found = _with_lookups(plan, found)
    for prepared, some in plan.by_rows("count", "sum", "min", "max", "time_since_previous"):
        wanted = [a for a in some if plan.name(a) not in found.columns]
        if wanted:
            found = _aggregated(plan, found, prepared, wanted)
    found = distinct_at_newest(found, plan.keys, AT, distinct_counts(plan))
    for prepared, some in plan.by_rows("most_frequent"):
        for a in some:
            found = attached(found, _most_frequent(plan, found, prepared, a), plan.keys)
    for prepared, some in plan.by_rows("last_k"):
        if plan.name(some[0]) not in found.columns:
            rows = _known(plan, found, prepared.there)
            lists = _lists(plan, prepared, some, rows).drop(AT, *plan.places(prepared))
            found = attached(found, lists, plan.keys)
            names = [plan.name(a) for a in some]
            found = found.mutate(**{name: without_null(found[name]) for name in names})
    # What the instants started from comes first: it is there already.
    lasts = sorted(plan.lasts(), key=lambda last: not plan.is_only_trigger(last[0]))
    for prepared, some, of_entity in lasts:
        found = _with_last(plan, found, prepared, some, of_entity=of_entity)
    if group.needs_entity:
        found = _with_lookups(plan, found)
    return finished(plan, found, newest=True)


def _with_lookups(plan: Plan, found: ir.Table) -> ir.Table:
    for lookup in {signature(a): a for a in plan.group.lookups}.values():
        found = looked_up_newest(found, lookup, plan.name(lookup), plan.keys)
    return found


def _start(plan: Plan) -> ir.Table:
    """The instants, with what is known of them without a further look at the rows."""
    for prepared, some, _ in plan.lasts():
        if plan.is_only_trigger(prepared):
            width, same = plan.by_width(some)[0]
            return _newest_record(plan, prepared, prepared.table, same, width)
    for prepared, some in plan.by_rows("last_k"):
        if plan.has_all_instants(prepared):
            return _lists(plan, prepared, some, prepared.there)
    every = reduce(lambda a, b: a.union(b), [p.table.select(*plan.keys, AT) for p in plan.triggers])
    return every.group_by(plan.keys).agg(**{AT: every[AT].max()})


def _known(plan: Plan, found: ir.Table, rows: ir.Table) -> ir.Table:
    """Rows no later than their key's instant, which is their `row_at`."""
    instants = found.select(*plan.keys, **{_ROW_AT: found[AT]})
    known = rows.inner_join(instants, plan.keys)
    return known.filter(known[AT] <= known[_ROW_AT])


def _within(known: ir.Table, width: int) -> ir.Value:
    return known[AT] > known[_ROW_AT] - ibis.interval(microseconds=width)


def _aggregated(
    plan: Plan, found: ir.Table, prepared: Prepared, some: Sequence[Aggregation]
) -> ir.Table:
    """Counts, sums, extremes and the newest earlier time, in one pass over the rows."""
    known = _known(plan, found, prepared.there)
    widths = [a.within for a in some]
    if None not in widths:
        known = known.filter(_within(known, max(width or 0 for width in widths)))
    values: dict[str, ir.Value] = {}
    for a in some:
        conditions = [] if a.within is None else [_within(known, a.within)]
        if a.where is not None:
            conditions.append(ibis.coalesce(prepared.value(a.where, known), False))
        counts = reduce(and_, conditions) if conditions else None
        if a.operation == "time_since_previous":
            values[plan.name(a)] = known[AT].max(where=known[AT] < known[_ROW_AT])
        elif a.operation == "count":
            values[plan.name(a)] = known.count(where=counts)
        else:
            made = getattr(prepared.value(a.of, known), a.operation)  # sum, min or max
            values[plan.name(a)] = made(where=counts)
    found = attached(found, known.group_by(plan.keys).agg(**values), plan.keys)
    final: dict[str, ir.Value] = {}
    for a in some:
        value = found[plan.name(a)]
        if a.operation in ("count", "sum"):
            final[plan.name(a)] = value.fill_null(0).cast("int64")
        elif a.operation == "time_since_previous":
            final[plan.name(a)] = found[AT].delta(value, unit="microsecond")
    return found.mutate(**final) if final else found


def _most_frequent(plan: Plan, found: ir.Table, prepared: Prepared, a: Aggregation) -> ir.Table:
    rows = prepared.there
    words = rows.select(*plan.keys, AT, ORDER, word=prepared.value(a.of, rows))
    known = _known(plan, found, words.filter(words.word.notnull()))
    if a.within is not None:
        known = known.filter(_within(known, a.within))
    place = ibis.struct({"at": known[AT], "order": known[ORDER]})
    counted = known.group_by([*plan.keys, "word"]).agg(count=known.count(), place=place.max())
    score = ibis.struct({"count": counted["count"], "place": counted.place})
    return counted.group_by(plan.keys).agg(**{plan.name(a): counted.word.argmax(score)})


def _lists(plan: Plan, prepared: Prepared, some: Sequence[Aggregation], rows: ir.Table) -> ir.Table:
    """Lists of the last rows, and the count of all."""
    made: ir.Table | None = None
    for size in sorted({a.size for a in some}):
        lists = {plan.name(a): prepared.column(a.of) for a in some if a.size == size}
        table = newest_lists(rows, plan.keys, lists, size)
        if made is None:
            made = table.mutate(**dict.fromkeys(plan.places(prepared), table[COUNT])).drop(COUNT)
        else:
            made = attached(made, table.drop(AT, COUNT), plan.keys)
    assert made is not None
    return made


def _with_last(
    plan: Plan,
    found: ir.Table,
    prepared: Prepared,
    some: Sequence[Aggregation],
    *,
    of_entity: bool,
) -> ir.Table:
    """The newest records' values, and whether the entity's own is deleted."""
    for place, (width, same) in enumerate(plan.by_width(some)):
        says_deleted = of_entity and place == 0
        if not (SINCE in found.columns and plan.is_only_trigger(prepared)):
            known = _known(plan, found, prepared.table)
            records = _newest_record(plan, prepared, known, same, width).drop(AT)
            found = attached(found, records if says_deleted else records.drop(DELETED), plan.keys)
        elif not says_deleted:
            found = found.drop(DELETED)
        found = (_with_end(plan, found) if says_deleted else found).drop(SINCE)
    return found


def _with_end(plan: Plan, found: ir.Table) -> ir.Table:
    """Whether a row is that of its entity's deletion."""
    if not plan.group.needs_entity:
        return found.mutate(**{DELETED: found[DELETED] & (found[SINCE] == found[AT])})
    known = found.filter(found[SINCE].notnull())  # no row is due from the deletion on
    return known.mutate(**{AT: ibis.ifelse(known[DELETED], known[SINCE], known[AT])})


def _newest_record(
    plan: Plan,
    prepared: Prepared,
    rows: ir.Table,
    some: Sequence[Aggregation],
    width: int | None,
) -> ir.Table:
    """Per key: the newest time, and the newest record's values, since when, whether deleted."""
    values = {plan.name(a): prepared.column(a.of) for a in some}
    gone = rows[DELETED] if DELETED in rows.columns else ibis.literal(False)
    order = ibis.struct({"at": rows[AT], "order": rows[ORDER]})
    state = ibis.struct(
        {SINCE: rows[AT], DELETED: gone, "order": order}
        | {name: rows[column] for name, column in values.items()}
    )
    now = rows[_ROW_AT] if _ROW_AT in rows.columns else rows[AT]
    members = [*plan.keys, MEMBER] if prepared.has_members else plan.keys
    records = rows.group_by(members).agg(state=state.argmax(order), now=now.max())
    if prepared.has_members:
        records = records.group_by(plan.keys).agg(
            now=records.now.max(),
            state=records.state.argmax(records.state["order"], where=~records.state[DELETED]),
        )
    state = records.state
    lost = ibis.coalesce(state[DELETED], True)
    if width is not None:
        recent = state[SINCE] > records.now - ibis.interval(microseconds=width)
        lost = lost | ~ibis.coalesce(recent, False)
    return records.select(
        *plan.keys,
        **{AT: records.now, SINCE: state[SINCE]},
        **{DELETED: ibis.coalesce(state[DELETED], False)},
        **{name: unless(lost, state[name]) for name in values},
    )
