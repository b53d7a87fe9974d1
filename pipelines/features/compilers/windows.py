"""Exact counts and sums in sliding windows.

A window is (t − width, t] in event time. Amounts are whole numbers (counts, cents, microseconds):
sums are exact in any order, so the batch and the streaming flow cannot differ by rounding.

For every event time of a key, in one sort: an amount that enters a key's windows at `at` leaves
them at `at + width`, so its total over the window at t is the running total of all entries and
exits up to and including t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final

import ibis
import ibis.expr.types as ir

AT: Final = "at"
_NEWEST: Final = "newest_at"


@dataclass(frozen=True)
class Sliding:
    """Sums of `amounts` (whole numbers) over the rows whose time `at` lies in the window.

    `width` is in microseconds; None counts all rows up to the instant.
    """

    table: ir.Table
    at: str
    width: int | None
    amounts: Mapping[str, ir.Value]

    def moves(self, keys: Sequence[str]) -> list[ir.Table]:
        """Entries at `at`, and exits `width` microseconds later."""
        entered = self.table[self.at]
        entries = _moves(self.table, keys, entered, self.amounts)
        if self.width is None:
            return [entries]
        left = _later(entered, self.width)
        return [entries, _moves(self.table, keys, entered, self.amounts, leaves=left)]


@dataclass(frozen=True)
class SlidingDistinct:
    """How many distinct values of `member` occur within each width.

    `order` is the column that breaks ties between occurrences of one member at the same time;
    `widths` maps the name of each resulting count to microseconds. A deleted member (`op` D) does
    not count until it occurs again.
    """

    table: ir.Table
    member: str
    at: str
    order: str
    widths: Mapping[str, int | None]

    def moves(self, keys: Sequence[str]) -> list[ir.Table]:
        """An occurrence counts until the window leaves it behind or the same member occurs again
        or is deleted, whichever comes first; so each member counts at most once at any time."""
        at = self.table[self.at]
        member_rows = ibis.window(
            group_by=[*keys, self.member], order_by=[at, self.table[self.order]]
        )
        rows = self.table.select(*keys, "op", **{AT: at}, again=at.lead().over(member_rows))
        occurrences = rows.filter(rows["op"] != "D").drop("op")
        entered, again = occurrences[AT], occurrences.again
        one = ibis.literal(1)
        found = [_moves(occurrences, keys, entered, dict.fromkeys(self.widths, one))]
        for name, width in self.widths.items():
            if width is None:
                ended = occurrences.filter(again.notnull())
                found.append(_moves(ended, keys, ended[AT], {name: one}, leaves=ended.again))
                continue
            expires = _later(entered, width)
            leaves = ibis.least(expires, again.fill_null(expires))
            found.append(_moves(occurrences, keys, entered, {name: one}, leaves=leaves))
        return found

    def at_newest(self, instants: ir.Table, keys: Sequence[str]) -> ir.Table:
        """The counts at one instant per key."""
        rows = self.table.select(*keys, self.member, self.order, "op", **{AT: self.table[self.at]})
        known = _up_to(rows, instants, keys)
        order = ibis.struct({AT: known[AT], self.order: known[self.order]})
        last = known.group_by([*keys, self.member]).agg(
            **{AT: known[AT].max(), _NEWEST: known[_NEWEST].max(), "op": known["op"].argmax(order)}
        )
        one = ibis.literal(1)
        there = last["op"] != "D"
        counts = {}
        for name, width in self.widths.items():
            counted = there
            if width is not None:
                counted = there & (last[AT] > _later(last[_NEWEST], -width))
            counts[name] = ibis.ifelse(counted, one, 0).sum().cast("int64")
        return last.group_by(list(keys)).agg(**counts)


def totals_at(
    instants: ir.Table,
    keys: Sequence[str],
    at: str,
    parts: Sequence[Sliding | SlidingDistinct],
    times: ir.Table | None = None,
) -> ir.Table:
    """The totals of all `parts` at each instant.

    Args:
        instants: one row per `keys` and time.
        keys: the columns of the entity key.
        at: the column of `instants` that holds the event time.
        parts: what to count or sum.
        times: rows with the same keys and times as `instants`, duplicates allowed, if they are
            cheaper to compute.

    Returns:
        `instants` with one int64 column per amount, its other columns kept.
    """
    asked_for = instants if times is None else times
    moves = [table for part in parts for table in part.moves(keys)]
    return instants.inner_join(
        _running_totals(asked_for.select(*keys, at).distinct(), keys, at, moves), [*keys, at]
    )


def distinct_at_newest(
    instants: ir.Table, keys: Sequence[str], at: str, parts: Sequence[SlidingDistinct]
) -> ir.Table:
    """The counts of distinct values at one instant per key, without a sort.

    Args:
        instants: one row per `keys`.
        keys: the columns of the entity key.
        at: the column of `instants` that holds the event time.
        parts: what to count.
    """
    newest = instants.select(*keys, **{_NEWEST: instants[at]})
    found = instants
    for part in parts:
        counts = part.at_newest(newest, keys)
        names = [name for name in counts.columns if name not in keys]
        joined = found.left_join(counts, list(keys))
        found = joined.select(*found.columns, **{n: joined[n].fill_null(0) for n in names})
    return found


def last_per_instant(table: ir.Table, keys: Sequence[str], at: str, order: str) -> ir.Table:
    """One row per `keys` and time: the one with the largest `order`.

    Args:
        table: rows with `keys`, `at` and `order`.
        keys: the columns of the entity key.
        at: the column that holds the event time.
        order: the column that breaks ties.
    """
    same = ibis.window(group_by=[*keys, at], order_by=table[order].desc())
    return table.mutate(place=ibis.row_number().over(same)).filter(ibis._.place == 0).drop("place")


def _later(time: ir.Value, microseconds: int) -> ir.Value:
    return time + ibis.interval(microseconds=microseconds)


def _moves(
    table: ir.Table,
    keys: Sequence[str],
    at: ir.Value,
    amounts: Mapping[str, ir.Value],
    leaves: ir.Value | None = None,
) -> ir.Table:
    """The entries of `amounts` at the time `at`, or their exits at the time `leaves`.

    Returns:
        A table of `keys`, `at` and one int64 column per amount, negative for exits.
    """
    sign = 1 if leaves is None else -1
    when = at if leaves is None else leaves
    columns = {name: (sign * amount).cast("int64") for name, amount in amounts.items()}
    return table.select(*keys, **{AT: when}, **columns)


def _running_totals(
    asked_for: ir.Table, keys: Sequence[str], at: str, moves: Sequence[ir.Table]
) -> ir.Table:
    """`keys`, `at` and the running totals of all moves at each of the (distinct) times.

    An amount absent from one of `moves` counts as zero there.
    """
    names = sorted({name for part in moves for name in part.columns} - {*keys, AT})
    asked = "asked"
    zero = ibis.literal(0, "int64")

    def padded(part: ir.Table, is_asked: bool) -> ir.Table:
        amounts = {n: part[n] if n in part.columns else zero for n in names}
        time = part[at] if is_asked else part[AT]
        return part.select(*keys, **{AT: time}, **amounts, **{asked: ibis.literal(is_asked)})

    every = reduce(
        lambda left, right: left.union(right),
        [padded(asked_for, True), *(padded(part, False) for part in moves)],
    )
    up_to_now = ibis.range_window(
        preceding=None, following=0, group_by=list(keys), order_by=every[AT]
    )
    running = every.select(
        *keys, AT, asked, **{name: every[name].sum().over(up_to_now) for name in names}
    )
    return running.filter(running[asked]).drop(asked).rename({at: AT})


def _up_to(rows: ir.Table, instants: ir.Table, keys: Sequence[str]) -> ir.Table:
    """Rows no later than their key's instant (`newest_at`)."""
    known = rows.inner_join(instants, list(keys))
    return known.filter(known[AT] <= known[_NEWEST])
