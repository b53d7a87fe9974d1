"""The last k values of a key at each of its rows' times, by blocks.

Slicing one list per key is several times cheaper than a window function that builds a list per row.
Keys may have many rows, so they are cut into blocks of k; each block also holds the block before
it, hence the last k values at each of its own rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import ibis
import ibis.expr.types as ir

from pipelines.features.compilers.prepared import AT, IS_LAST, ORDER, PLACE, SIZE

COUNT: Final = "rows_so_far"


def lists_at(rows: ir.Table, keys: Sequence[str], lists: Mapping[str, str], k: int) -> ir.Table:
    """Lists of the last k values at each time of a key's rows.

    Args:
        rows: `keys`, time, `place`, `size`, `is_last` and the values.
        keys: the entity keys.
        lists: the column of the values by the name of the list.
        k: how many are kept.

    Returns:
        keys, event_timestamp, the lists (oldest first) and `rows_so_far`.
    """
    blocks = _blocks(rows, keys, lists, k)
    every = blocks.mutate(upto=ibis.range(blocks.first, blocks.events.length() + 1).unnest())
    latest = {name: every[name][ibis.greatest(every.upto - k, 0) : every.upto] for name in lists}
    found = every.select(
        *keys,
        **{AT: every.times[every.upto - 1], IS_LAST: every.lasts[every.upto - 1]},
        **{COUNT: (every.upto + ibis.greatest(every.block - 1, 0) * k).cast("int64")},
        **latest,
    )
    return found.filter(found[IS_LAST]).drop(IS_LAST)


def newest_lists(rows: ir.Table, keys: Sequence[str], lists: Mapping[str, str], k: int) -> ir.Table:
    """As `lists_at`, only at each key's newest time, without numbering all rows.

    Args:
        rows: the keys, time, order and the values.
        keys: the entity keys.
        lists: the column of the values by the name of the list.
        k: how many are kept.
    """
    event = ibis.struct({name: rows[name] for name in (AT, ORDER, *lists.values())})
    grouped = rows.group_by(list(keys)).agg(
        events=event.collect(), **{AT: rows[AT].max(), COUNT: rows.count()}
    )
    # Structs sort by their first fields: time, then order.
    first = ibis.greatest(grouped[COUNT] - k, 0)
    in_order = grouped.mutate(events=grouped.events.sort()[first:])
    return in_order.select(
        *keys,
        AT,
        **{COUNT: in_order[COUNT].cast("int64")},
        **{n: in_order.events.map(lambda e, c=c: e[c]) for n, c in lists.items()},
    )


def without_null(values: ir.Value) -> ir.Value:
    """A list; an empty one instead of null."""
    return ibis.coalesce(values, ibis.literal([], values.type()))


def _blocks(rows: ir.Table, keys: Sequence[str], lists: Mapping[str, str], k: int) -> ir.Table:
    """Per block, lists of its rows and the previous block's; `first` is its own first row."""

    def block(place: ir.Value) -> ir.Value:
        return ((place - 1) // k).cast("int64")

    events = rows.mutate(block=block(rows[PLACE]), last_block=block(rows[SIZE]))
    followed = events.filter(events.block < events.last_block)
    known = events.union(followed.mutate(block=followed.block + 1))
    event = ibis.struct(
        {name: known[name] for name in (PLACE, AT, IS_LAST, *dict.fromkeys(lists.values()))}
    )
    grouped = known.group_by([*keys, "block"]).agg(events=event.collect())
    # Structs sort by their first field, the place, which is unique.
    in_order = grouped.mutate(events=grouped.events.sort())
    return in_order.mutate(
        first=ibis.ifelse(in_order.block == 0, 1, k + 1),
        times=in_order.events.map(lambda event: event[AT]),
        lasts=in_order.events.map(lambda event: event[IS_LAST]),
        **{n: in_order.events.map(lambda event, c=c: event[c]) for n, c in lists.items()},
    )
