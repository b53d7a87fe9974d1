"""As-of lookups: a column of another record as it was at the time of a feature row."""

from __future__ import annotations

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


def looked_up(found: ir.Table, lookup: AsOf, name: str, *, newest: bool = False) -> ir.Table:
    """A table of instants with the column of the record that their keys name.

    The record's newest state at or before the time counts; before its first one, that one; null
    where it was deleted, or never there.

    Args:
        found: instants; the record's key is among their columns.
        lookup: what is looked up.
        name: the column's name.
        newest: whether the few instants are found one by one.
    """
    rows, keys = lookup.column.rows, list(lookup.column.rows.log.key)
    table = log_table(rows.log)
    states = table.select(
        *keys,
        **{AT: table[rows.at], "seq": table.seq},
        **{name: unless(is_deletion(table, rows), column_value(table, lookup.column))},
    )
    in_order = ibis.window(group_by=keys, order_by=[states[AT], states.seq])
    number = (ibis.row_number().over(in_order) + 1).cast("int64")
    numbered = states.mutate(**{_NUMBER: number})
    if newest:
        pairs = found.select(*keys, row_at=found[AT]).distinct().inner_join(numbered, keys)
        holds = (pairs[AT] <= pairs.row_at) | (pairs[_NUMBER] == 1)
        known = pairs.filter(holds)
        last = ibis.struct({"value": known[name]}).argmax(known[_NUMBER])
        at = known.group_by([*keys, "row_at"]).agg(last=last)
        at = at.select(*keys, **{AT: at.row_at, name: at["last"].value})
        return attached(found, at, [*keys, AT])
    instants = found.select(*keys, AT).distinct()
    counted = totals_at(instants, keys, AT, [Sliding(states, AT, None, {_NUMBER: ibis.literal(1)})])
    counted = counted.mutate(**{_NUMBER: ibis.greatest(counted[_NUMBER], 1)})
    at = attached(counted, numbered.drop(AT, "seq"), [*keys, _NUMBER]).drop(_NUMBER)
    return attached(found, at, [*keys, AT])
