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

from pipelines.features.compilers.lists import COUNT, lists_at, without_null
from pipelines.features.compilers.lookups import looked_up
from pipelines.features.compilers.plan import (
    SINCE,
    Plan,
    amount,
    attached,
    deletions,
    finished,
    sums,
    vocabulary,
)
from pipelines.features.compilers.prepared import (
    AT,
    DELETED,
    IS_LAST,
    MEMBER,
    ORDER,
    Prepared,
)
from pipelines.features.compilers.tombstones import unless
from pipelines.features.compilers.windows import Sliding, last_per_instant, totals_at
from pipelines.features.language.aggregations import AT_ONCE, MICROSECOND, Aggregation
from pipelines.features.language.group import FeatureGroup
from pipelines.features.language.tree import signature

_WEIGHT: Final = 2**40
"""A text's score is its count, then where its last row stands among its key's."""


@dataclass(frozen=True)
class States:
    """What holds from some times on: a row per key and time, found by number if not directly.

    Attributes:
        table: keys, event_timestamp and the values.
        number: the column that counts them; None if there is one at each instant.
        last: the aggregations that look at the newest record, with their windows.
        of_entity: whether it says if the entity's record is deleted.
        lists: the columns that are lists, empty before the first row.
        counts: the columns that are counts, 0 before the first row.
    """

    table: ir.Table
    number: str | None
    last: Sequence[Aggregation] = ()
    of_entity: bool = False
    lists: Sequence[str] = ()
    counts: Sequence[str] = ()


def every_row(group: FeatureGroup) -> ir.Table:
    """Keys, event time and features at every instant at which a row is due."""
    plan = Plan.of(group)
    states = [
        *_last_states(plan),
        *_list_states(plan),
        *_previous_states(plan),
        *_word_states(plan),
    ]
    counts = [Sliding(s.table, AT, None, {s.number: ibis.literal(1)}) for s in states if s.number]
    parts = [*sums(plan), *counts]
    # States with a row at each instant are where to start from, if there are some.
    states.sort(key=lambda state: state.number is not None)
    base = states[0] if states and states[0].number is None else None
    found = _times(plan).distinct() if base is None else base.table
    if parts:
        times = None if base is None else plan.triggers[0].table
        found = totals_at(found, plan.keys, AT, parts, times)
    for table in _at_once(plan):
        found = attached(found, table, [*plan.keys, AT], fill=0)
    for state in states:
        found = _with_state(plan, found, state, is_there=state is base)
    found = _extremes(plan, _with_favourites(plan, found))
    for lookup in {signature(a): a for a in group.lookups}.values():
        found = looked_up(found, lookup, plan.name(lookup), _times(plan))
    # Lists have no rows at the times of deletions.
    return finished(plan, found, alive=base is not None and bool(base.lists))


def _times(plan: Plan) -> ir.Table:
    """The instants, some of them several times."""
    every = [prepared.table.select(*plan.keys, AT) for prepared in plan.triggers]
    return reduce(lambda one, other: one.union(other), every)


def _at_once(plan: Plan) -> list[ir.Table]:
    """Counts and sums over the rows of the very time."""
    found = []
    for prepared, some in plan.by_rows("count", "sum"):
        now = {plan.name(a): amount(prepared, a) for a in some if a.within == AT_ONCE}
        if now:
            rows = prepared.there.select(*plan.keys, AT, **now)
            sums_ = {name: rows[name].sum().cast("int64") for name in now}
            found.append(rows.group_by([*plan.keys, AT]).agg(**sums_))
    return found


def _last_states(plan: Plan) -> list[States]:
    """The newest records, and whether the entity's own is deleted."""
    found: list[States] = []
    for prepared, some, of_entity in plan.lasts():
        for place, (within, last) in enumerate(plan.by_width(some)):
            number = None if plan.is_only_trigger(prepared) else f"number_{len(found)}"
            table = _current(plan, prepared, last, within)
            says_deleted = of_entity and place == 0
            if not says_deleted:
                table = table.drop(DELETED)
            found.append(States(table, number, last, says_deleted))
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
        places = plan.places(prepared)
        for size in sorted({a.size for a in some}):
            same = [a for a in some if a.size == size]
            lists = {plan.name(a): prepared.column(a.of) for a in same}
            direct = plan.has_all_instants(prepared)
            rows = prepared.there_numbered
            rows = _without_times_of_deletions(plan, rows) if direct else rows
            table = lists_at(rows, plan.keys, lists, size)
            table = table.mutate(**dict.fromkeys(places, table[COUNT])).drop(COUNT)
            number = None if direct else f"lists_{len(found)}"
            found.append(States(table, number, lists=tuple(lists), counts=tuple(places)))
            places = []
    return found


def _without_times_of_deletions(plan: Plan, rows: ir.Table) -> ir.Table:
    """Rows that count, but give no row of their own where their entity is deleted.

    Before there are lists, for a join might keep all of them in memory.
    """
    dead = deletions(plan).distinct().mutate(is_dead=True)
    joined = rows.left_join(dead, [*plan.keys, AT])
    last = joined[IS_LAST] & joined.is_dead.isnull()
    return joined.select(*[joined[n] for n in rows.columns if n != IS_LAST], **{IS_LAST: last})


def _previous_states(plan: Plan) -> list[States]:
    """How long ago the newest earlier row was."""
    found = []
    for prepared, (a, *_) in plan.by_rows("time_since_previous"):
        times = prepared.there.select(*plan.keys, AT).distinct()
        if plan.has_all_instants(prepared):
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
        nothing = {name: without_null(found[name]) for name in state.lists}
        nothing |= {name: found[name].fill_null(0) for name in state.counts}
        found = found.mutate(**recent, **nothing)
    if state.of_entity and not plan.is_only_trigger(plan.entity):
        ends = found[DELETED] & (found[SINCE] == found[AT])
        if plan.group.needs_entity:
            found = found.filter(found[SINCE].notnull() & (~found[DELETED] | ends))
        else:
            found = found.mutate(**{DELETED: ends})
    names = {plan.name(a) for _, some in plan.by_rows("time_since_previous") for a in some}
    since = {
        name: found[AT].delta(found[name], unit="microsecond")
        for name in names & set(state.table.columns)
    }
    return found.mutate(**since).drop(*[n for n in (SINCE,) if n in found.columns])


def _word_states(plan: Plan) -> list[States]:
    """Where the last row of each word of a vocabulary stands among its key's."""
    found: list[States] = []
    for prepared, some in plan.by_rows("most_frequent"):
        for a in {signature(a.of): a for a in some if vocabulary(a)}.values():
            rows, keys = prepared.there, plan.keys
            in_order = ibis.window(group_by=keys, order_by=[rows[AT], rows[ORDER]])
            placed = rows.mutate(place=ibis.row_number().over(in_order).cast("int64"))
            word = prepared.value(a.of, placed)
            places = {
                name: placed.place.max(where=word == one).fill_null(-1)
                for name, one in zip(_places(plan, a, some), vocabulary(a), strict=True)
            }
            last = placed.group_by([*keys, AT]).agg(**places)
            so_far = ibis.range_window(
                preceding=None, following=0, group_by=keys, order_by=last[AT]
            )
            latest = {name: last[name].max().over(so_far) for name in places}
            number = None if plan.has_all_instants(prepared) else f"words_{len(found)}"
            found.append(States(last.select(*keys, AT, **latest), number))
    return found


def _places(plan: Plan, a: Aggregation, some: Sequence[Aggregation]) -> list[str]:
    """The columns of `_word_states`; aggregations of one column share them."""
    first = next(b for b in some if signature(b.of) == signature(a.of))
    return [f"{plan.name(first)}_last_{number}" for number in range(len(vocabulary(a)))]


def _with_favourites(plan: Plan, found: ir.Table) -> ir.Table:
    """The most frequent texts; `found` has their counts, where there is a vocabulary."""
    chosen: dict[str, ir.Value] = {}
    used: list[str] = []
    for prepared, some in plan.by_rows("most_frequent"):
        for a in some:
            name, words = plan.name(a), vocabulary(a)
            if not words:
                found = attached(found, _of_any_text(plan, prepared, a, found), [*plan.keys, AT])
                continue
            counts, places = [f"{name}_{n}" for n in range(len(words))], _places(plan, a, some)
            pairs = zip(counts, places, strict=True)
            scores = [ibis._[count] * _WEIGHT + ibis._[place] for count, place in pairs]
            best = ibis.greatest(*scores)
            is_best = [(score == best, word) for score, word in zip(scores, words, strict=True)]
            chosen[name] = ibis.cases((best < _WEIGHT, ibis.null("string")), *is_best)
            used += [*counts, *places]
    return found.mutate(**chosen).drop(*dict.fromkeys(used)) if chosen else found


def _of_any_text(plan: Plan, prepared: Prepared, a: Aggregation, found: ir.Table) -> ir.Table:
    table, keys = prepared.there, plan.keys
    rows = table.select(*keys, at=table[AT], order=table[ORDER], word=prepared.value(a.of, table))
    rows = rows.filter(rows.word.notnull())
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
        values, now = {}, ibis.interval(microseconds=0)
        for a in some:
            reach = None if a.within is None else ibis.interval(microseconds=a.within - 1)
            window = ibis.range_window(
                preceding=reach, following=now, group_by=plan.keys, order_by=every[AT]
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
