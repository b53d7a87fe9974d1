"""As-of lookups: a column of another record as it was at the time of a feature row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import ibis
import ibis.expr.types as ir

from pipelines.features.compilers.operations import column_value
from pipelines.features.compilers.plan import attached
from pipelines.features.compilers.prepared import AT, is_deletion, log_table
from pipelines.features.compilers.tombstones import unless
from pipelines.features.compilers.windows import Sliding, totals_at
from pipelines.features.language.aggregations import AsOf

_NUMBER: Final = "number"
_ROW_AT: Final = "row_at"
_SEQ: Final = "seq"


def looked_up(found: ir.Table, lookup: AsOf, name: str, times: ir.Table) -> ir.Table:
    """A table of instants with the column of the record that their keys name.

    The record's newest state at or before the time counts; before its first one, that one; null
    where it was deleted, or never there.

    Args:
        found: instants; the record's key is among their columns.
        lookup: what is looked up.
        name: the column's name.
        times: rows with at least the keys and times of the instants, cheap to compute.
    """
    states, keys = _states(lookup, name)
    in_order = ibis.window(group_by=keys, order_by=[states[AT], states[_SEQ]])
    number = (ibis.row_number().over(in_order) + 1).cast("int64")
    numbered = states.mutate(**{_NUMBER: number})
    instants = times.select(*keys, AT).distinct()
    counted = totals_at(instants, keys, AT, [Sliding(states, AT, None, {_NUMBER: ibis.literal(1)})])
    counted = counted.mutate(**{_NUMBER: ibis.greatest(counted[_NUMBER], 1)})
    at = attached(counted, numbered.drop(AT, _SEQ), [*keys, _NUMBER]).drop(_NUMBER)
    return attached(found, at, [*keys, AT])


def looked_up_newest(
    found: ir.Table, lookup: AsOf, name: str, entity_keys: Sequence[str]
) -> ir.Table:
    """As `looked_up`, for one instant per entity key, without a sort.

    Args:
        found: the rows, one per entity key.
        lookup: what is looked up.
        name: the column that it gets.
        entity_keys: the keys of the rows.
    """
    states, keys = _states(lookup, name)
    instants = found.select(*dict.fromkeys([*entity_keys, *keys]), **{_ROW_AT: found[AT]})
    pairs = instants.inner_join(states, keys)
    order = ibis.struct({AT: pairs[AT], _SEQ: pairs[_SEQ]})
    state = ibis.struct({name: pairs[name]})
    held = pairs.group_by(list(entity_keys)).agg(
        last=state.argmax(order, where=pairs[AT] <= pairs[_ROW_AT]), first=state.argmin(order)
    )
    holds = ibis.coalesce(held["last"], held["first"])
    return attached(found, held.select(*entity_keys, **{name: holds[name]}), entity_keys)


def _states(lookup: AsOf, name: str) -> tuple[ir.Table, list[str]]:
    """The record's states with their times, and its key."""
    rows, keys = lookup.column.rows, list(lookup.column.rows.log.key)
    table = log_table(rows.log)
    value = unless(is_deletion(table, rows), column_value(table, lookup.column))
    return table.select(*keys, **{AT: table[rows.at], _SEQ: table.seq, name: value}), keys
