"""Counting in sliding windows, exactly and in one sort.

A window is (t − width, t] in event time. An amount that enters a key's windows at `at` leaves them
at `at + width`, so its total over the window at t is the running total of all enterings and
leavings up to and including t. Amounts are whole numbers (counts, cents, microseconds): sums are
exact in any order, so the batch and the real-time flow cannot differ by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Final

import ibis
import ibis.expr.types as ir

HOUR: Final = 3_600_000_000
DAY: Final = 24 * HOUR
"""Widths of windows, in microseconds: the resolution of every time stamp of ours."""

AT: Final = "at"


def moves(
    table: ir.Table,
    keys: Sequence[str],
    at: ir.Value,
    amounts: Mapping[str, ir.Value],
    leaves: ir.Value | None = None,
) -> ir.Table:
    """The enterings of `amounts` at the time `at`, or their leavings at the time `leaves`.

    Returns:
        A table of `keys`, `at` and one int64 column per amount, negative for leavings.
    """
    sign = 1 if leaves is None else -1
    when = at if leaves is None else leaves
    columns = {name: (sign * amount).cast("int64") for name, amount in amounts.items()}
    return table.select(*keys, **{AT: when}, **columns)


def sliding(
    table: ir.Table,
    keys: Sequence[str],
    at: ir.Value,
    width: int,
    amounts: Mapping[str, ir.Value],
) -> list[ir.Table]:
    """`amounts` entering at `at` and leaving `width` microseconds later."""
    return [
        moves(table, keys, at, amounts),
        moves(table, keys, at, amounts, leaves=at + ibis.interval(microseconds=width)),
    ]


def sliding_distinct(
    table: ir.Table,
    keys: Sequence[str],
    member: str,
    at: ir.Value,
    order: str,
    widths: Mapping[str, int],
) -> list[ir.Table]:
    """Moves whose running total counts the distinct values of `member` in each window.

    An occurrence counts until the window leaves it behind or the same member occurs again,
    whichever comes first; so each member counts at most once at any time.

    Args:
        order: the column that orders occurrences of one member at the same time.
        widths: microseconds, by the name of the resulting amount.
    """
    member_rows = ibis.window(group_by=[*keys, member], order_by=[at, table[order]])
    occurrences = table.select(*keys, **{AT: at}, again=at.lead().over(member_rows))
    entered, again = occurrences[AT], occurrences.again
    one = ibis.literal(1)
    found = [moves(occurrences, keys, entered, dict.fromkeys(widths, one))]
    for name, width in widths.items():
        expires = entered + ibis.interval(microseconds=width)
        leaves = ibis.least(expires, again.fill_null(expires))
        found.append(moves(occurrences, keys, entered, {name: one}, leaves=leaves))
    return found


def totals_at(
    instants: ir.Table,
    keys: Sequence[str],
    at: str,
    parts: Sequence[ir.Table],
    moments: ir.Table | None = None,
) -> ir.Table:
    """The running totals of all `parts` at each instant.

    Args:
        instants: one row per `keys` and time; the column `at` holds the time.
        parts: tables from this module; an amount absent from a part counts as zero there.
        moments: rows, repeated or not, at all the instants' times and no others, if they are
            cheaper to come by than `instants`.

    Returns:
        `instants` with one int64 column per amount, its other columns kept.
    """
    names = sorted({name for part in parts for name in part.columns} - {*keys, AT})
    asked = "asked"
    zero = ibis.literal(0, "int64")

    def padded(part: ir.Table, is_asked: bool) -> ir.Table:
        amounts = {n: part[n] if n in part.columns else zero for n in names}
        time = part[at] if is_asked else part[AT]
        return part.select(*keys, **{AT: time}, **amounts, **{asked: ibis.literal(is_asked)})

    asked_for = instants if moments is None else moments.select(*keys, at).distinct()
    every = reduce(
        lambda left, right: left.union(right),
        [padded(asked_for, True), *(padded(part, False) for part in parts)],
    )
    up_to_now = ibis.range_window(
        preceding=None, following=0, group_by=list(keys), order_by=every[AT]
    )
    running = every.select(
        *keys, AT, asked, **{name: every[name].sum().over(up_to_now) for name in names}
    )
    found = running.filter(running[asked]).drop(asked).rename({at: AT})
    return instants.inner_join(found, [*keys, at])


def last_per_instant(table: ir.Table, keys: Sequence[str], at: str, order: str) -> ir.Table:
    """One row per `keys` and time: the one with the largest `order`."""
    same = ibis.window(group_by=[*keys, at], order_by=table[order].desc())
    return table.mutate(place=ibis.row_number().over(same)).filter(ibis._.place == 0).drop("place")


def ratio(numerator: ir.Value, denominator: ir.Value) -> ir.Value:
    """`numerator / denominator` as float64, null where the denominator is zero or null."""
    return numerator.cast("float64") / denominator.cast("float64").nullif(0.0)
