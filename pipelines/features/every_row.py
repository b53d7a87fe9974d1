"""A group's rows at every time, as an Ibis expression: the plan of the batch flow.

It starts from the instants at which rows are due. One sort gives all counts and sums at each of
them; what is not a sum is joined by key and time. What is known of a log between its own times is
found by number: a running count of the log's states says which one holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final

import ibis
import ibis.expr.types as ir

from pipelines.features.aggregations import AT_ONCE, MICROSECOND, Aggregation
from pipelines.features.group import FeatureGroup
from pipelines.features.lists import COUNT, lists_at
from pipelines.features.lookups import looked_up
from pipelines.features.plan import SINCE, Plan, amount, attached, finished, sums, vocabulary
from pipelines.features.prepared import AT, DELETED, MEMBER, ORDER, Prepared
from pipelines.features.tombstones import unless
from pipelines.features.tree import signature
from pipelines.features.windows import Sliding, last_per_instant, totals_at

_WEIGHT: Final = 2**40
"""A text's score is its count, then how late its last row stands among its key's."""


@dataclass(frozen=True)
class States:
    """What holds from some times on: a row per key and time, found by number if not directly.

    Attributes:
        table: keys, event_timestamp and the values.
        number: the column that counts them; None if there is one at each instant.
        last: the aggregations that look at the newest record, with their windows.
        of_entity: whether it says if the entity's record is deleted.
    """

    table: ir.Table
    number: str | None
    last: Sequence[Aggregation] = ()
    of_entity: bool = False


def every_row(group: FeatureGroup) -> ir.Table:
    """Keys, event time and features at every instant at which a row is due."""
    plan = Plan.of(group)
    states = [*_last_states(plan), *_list_states(plan), *_previous_states(plan)]
    counts = [Sliding(s.table, AT, None, {s.number: ibis.literal(1)}) for s in states if s.number]
    parts = [*sums(plan), *counts]
    # States with a row at each instant are where to start from, if there are some.
    base = next((state for state in states if state.number is None), None)
    found = _instants(plan) if base is None else base.table
    if parts:
        times = None if base is None else plan.triggers[0].table
        found = totals_at(found, plan.keys, AT, parts, times)
    for table, fill in (*_at_once(plan), *_most_frequent(plan, found)):
        found = attached(found, table, [*plan.keys, AT], fill=fill)
    for state in states:
        found = _with_state(plan, found, state, is_there=state is base)
    found = _extremes(plan, found)
    for lookup in {signature(a): a for a in group.lookups}.values():
        found = looked_up(found, lookup, plan.name(lookup))
    return finished(plan, found)


def _instants(plan: Plan) -> ir.Table:
    every = [prepared.table.select(*plan.keys, AT) for prepared in plan.triggers]
    return reduce(lambda one, other: one.union(other), every).distinct()


def _at_once(plan: Plan) -> list[tuple[ir.Table, int | None]]:
    """Counts and sums over the rows of the very time."""
    found: list[tuple[ir.Table, int | None]] = []
    for prepared, some in plan.by_rows("count", "sum"):
        now = {
            plan.name(a): amount(prepared, a).sum().cast("int64")
            for a in some
            if a.within == AT_ONCE
        }
        if now:
            found.append((prepared.there.group_by([*plan.keys, AT]).agg(**now), 0))
    return found


def _last_states(plan: Plan) -> list[States]:
    """The newest records, and whether the entity's own is deleted."""
    found: list[States] = []
    for prepared, some, of_entity in plan.lasts():
        for within, last in plan.by_width(some):
            number = None if plan.is_only_trigger(prepared) else f"number_{len(found)}"
            table = _current(plan, prepared, last, within)
            if not of_entity:
                table = table.drop(DELETED)
            found.append(States(table, number, last, of_entity))
    return found


def _current(
    plan: Plan, prepared: Prepared, some: Sequence[Aggregation], within: int | None
) -> ir.Table:
    """Per key and time of a change: the newest record's values, since when, whether deleted."""
    values = {plan.name(a): prepared.column(a.of) for a in some}
    newest = last_per_instant(prepared.table, plan.keys, AT, ORDER)
    gone = newest[DELETED] if DELETED in newest.columns else ibis.literal(False)
    if not prepared.has_members:
        kept = {name: newest[c] for name, c in values.items()}
        if DELETED in newest.columns:
            kept = {name: unless(gone, value) for name, value in kept.items()}
        return newest.select(*plan.keys, AT, **{SINCE: newest[AT], DELETED: gone}, **kept)
    left = _left_after_deletions(plan, prepared, values, within)
    known = newest.left_join(left, [*plan.keys, AT])
    gone = known[DELETED]
    return known.select(
        *[known[n] for n in (*plan.keys, AT)],
        **{SINCE: ibis.ifelse(gone, known.left[SINCE], known[AT]), DELETED: gone},
        **{name: ibis.ifelse(gone, known.left[name], known[c]) for name, c in values.items()},
    )


def _left_after_deletions(
    plan: Plan, prepared: Prepared, values: Mapping[str, str], within: int | None
) -> ir.Table:
    """Per key and time of a deletion, the remaining record that changed last."""
    table, keys = prepared.table, plan.keys
    gone = table.filter(table[DELETED]).select(*keys, AT).distinct()
    near = table.semi_join(gone, keys)  # usually empty
    of_record = ibis.window(group_by=[*keys, near[MEMBER]], order_by=[near[AT], near[ORDER]])
    # A state holds until the record's next one.
    states = near.select(
        *keys,
        DELETED,
        since=near[AT],
        until=near[AT].lead().over(of_record),
        order=ibis.struct({"at": near[AT], "seq": near[ORDER]}),
        record=ibis.struct({SINCE: near[AT]} | {name: near[c] for name, c in values.items()}),
    )
    pairs = gone.inner_join(states.filter(~states[DELETED]).drop(DELETED), keys)
    known = pairs.filter(pairs.since <= pairs[AT], pairs.until.isnull() | (pairs.until > pairs[AT]))
    if within is not None:
        known = known.filter(known.since > known[AT] - ibis.interval(microseconds=within))
    return known.group_by([*keys, AT]).agg(left=known.record.argmax(known.order))


def _list_states(plan: Plan) -> list[States]:
    """Lists of the last rows, and the count of all so far."""
    found: list[States] = []
    for prepared, some in plan.by_rows("last_k"):
        for size in sorted({a.size for a in some}):
            same = [a for a in some if a.size == size]
            lists = {plan.name(a): prepared.column(a.of) for a in same}
            table = lists_at(prepared.there, plan.keys, lists, size)
            places = [] if found else plan.places(prepared)
            table = table.mutate(**dict.fromkeys(places, table[COUNT])).drop(COUNT)
            direct = plan.is_only_trigger(prepared)
            found.append(States(table, None if direct else f"lists_{len(found)}"))
    return found


def _previous_states(plan: Plan) -> list[States]:
    """How long ago the newest earlier row was."""
    found = []
    for prepared, (a, *_) in plan.by_rows("time_since_previous"):
        times = prepared.there.select(*plan.keys, AT).distinct()
        if plan.is_only_trigger(prepared):
            in_order = ibis.window(group_by=plan.keys, order_by=times[AT])
            before = times[AT].lag().over(in_order)
            found.append(States(times.mutate(**{plan.name(a): before}), None))
        else:  # a time is an earlier one from a microsecond later on
            later = times[AT] + ibis.interval(microseconds=MICROSECOND)
            table = times.select(*plan.keys, **{AT: later, plan.name(a): times[AT]})
            found.append(States(table, f"previous_{len(found)}"))
    return found


def _with_state(plan: Plan, found: ir.Table, state: States, *, is_there: bool) -> ir.Table:
    if is_there:
        pass
    elif state.number is None:
        found = attached(found, state.table, [*plan.keys, AT])
    else:
        in_order = ibis.window(group_by=plan.keys, order_by=state.table[AT])
        number = (ibis.row_number().over(in_order) + 1).cast("int64")
        numbered = state.table.mutate(**{state.number: number}).drop(AT)
        found = attached(found, numbered, [*plan.keys, state.number]).drop(state.number)
        recent = {
            plan.name(a): unless(
                ~(found[SINCE] > found[AT] - ibis.interval(microseconds=a.within)),
                found[plan.name(a)],
            )
            for a in state.last
            if a.within is not None
        }
        found = found.mutate(**recent)
    if state.of_entity and plan.group.needs_entity:
        known = found[SINCE].notnull() & (~found[DELETED] | (found[SINCE] == found[AT]))
        found = found.filter(known)
    names = {plan.name(a) for _, some in plan.by_rows("time_since_previous") for a in some}
    since = {
        name: found[AT].delta(found[name], unit="microsecond")
        for name in names & set(state.table.columns)
    }
    return found.mutate(**since).drop(*[n for n in (SINCE,) if n in found.columns])


def _most_frequent(plan: Plan, found: ir.Table) -> list[tuple[ir.Table, None]]:
    """The most frequent texts; `found` has their counts, where there is a vocabulary."""
    made: list[tuple[ir.Table, None]] = []
    for prepared, some in plan.by_rows("most_frequent"):
        for a in some:
            words = vocabulary(a)
            of = _of_vocabulary if words else _of_any_text
            made.append((of(plan, prepared, a, found), None))
    return made


def _of_vocabulary(plan: Plan, prepared: Prepared, a: Aggregation, found: ir.Table) -> ir.Table:
    table, keys, name = prepared.there, plan.keys, plan.name(a)
    in_order = ibis.window(group_by=keys, order_by=[table[AT], table[ORDER]])
    placed = table.mutate(place=ibis.row_number().over(in_order).cast("int64"))
    value, words = prepared.value(a.of, placed), vocabulary(a)
    last = placed.group_by([*keys, AT]).agg(
        **{
            f"last_{n}": placed.place.max(where=value == word).fill_null(-1)
            for n, word in enumerate(words)
        }
    )
    so_far = ibis.range_window(preceding=None, following=0, group_by=keys, order_by=last[AT])
    running = last.select(
        *keys, AT, **{f"last_{n}": last[f"last_{n}"].max().over(so_far) for n in range(len(words))}
    )
    known = attached(found, running, [*keys, AT])
    scores = [known[f"{name}_{n}"] * _WEIGHT + known[f"last_{n}"] for n in range(len(words))]
    best = ibis.greatest(*scores)
    chosen = ibis.cases(*((score == best, word) for score, word in zip(scores, words, strict=True)))
    return known.select(*keys, AT, **{name: chosen})


def _of_any_text(plan: Plan, prepared: Prepared, a: Aggregation, found: ir.Table) -> ir.Table:
    table, keys = prepared.there, plan.keys
    rows = table.select(*keys, at=table[AT], order=table[ORDER], word=prepared.value(a.of, table))
    pairs = found.select(*keys, AT).inner_join(rows, keys)
    inside = pairs.filter(pairs["at"] <= pairs[AT])
    if a.within is not None:
        inside = inside.filter(inside["at"] > inside[AT] - ibis.interval(microseconds=a.within))
    counted = inside.group_by([*keys, AT, "word"]).agg(
        score=inside.count(),
        last=ibis.struct({"at": inside["at"], "order": inside.order}).max(),
    )
    score = ibis.struct({"count": counted.score, "last": counted["last"]})
    return counted.group_by([*keys, AT]).agg(**{plan.name(a): counted.word.argmax(score)})


def _extremes(plan: Plan, found: ir.Table) -> ir.Table:
    """The smallest and largest values in windows."""
    for prepared, some in plan.by_rows("min", "max"):
        rows = prepared.there
        columns = {plan.name(a): _counted_value(prepared, a) for a in some}
        nothing = {name: ibis.null(value.type()) for name, value in columns.items()}
        every = rows.select(*plan.keys, AT, **columns, asked=ibis.literal(False)).union(
            found.select(*plan.keys, AT, **nothing, asked=ibis.literal(True))
        )
        values = {}
        for a in some:
            reach = None if a.within is None else ibis.interval(microseconds=a.within - 1)
            window = ibis.range_window(
                preceding=reach, following=0, group_by=plan.keys, order_by=every[AT]
            )
            column = every[plan.name(a)]
            extreme = column.min() if a.operation == "min" else column.max()
            values[plan.name(a)] = extreme.over(window)
        at = every.select(*plan.keys, AT, "asked", **values)
        found = attached(found, at.filter(at.asked).drop("asked"), [*plan.keys, AT])
    return found


def _counted_value(prepared: Prepared, a: Aggregation) -> ir.Value:
    value = prepared.value(a.of)
    if a.where is None:
        return value
    return unless(~ibis.coalesce(prepared.value(a.where), False), value)
