"""Tombstones: the rows of deleted keys.

A deletion is an event, at its commit time. It gives its key a row whose features are all null:
the newest one until the key changes again.

| deleted | view | features from then on |
|---|---|---|
| `inventory` row | inventory_levels | null |
| `warehouses` row | inventory_levels | `warehouse_region` null in rows from then on |
| `routes` row | route_conditions | null; no rows at deliveries until the route is there again |
| `user_sessions` row | session_events | null |
| `user_sessions` row | user_intent | of the newest session left that changed within 7 days, null \
without one; `sessions_1d` and `sessions_7d` no longer count the deleted one |
| `users` row | user_intent, user_orders | null |
| order, clickstream event, shipment | all | as they were: facts are not undone |

Later changes give rows as usual: a key that is inserted again starts from its new row, and windows
still count facts from before the deletion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import ibis
import ibis.expr.types as ir

from pipelines.features.columns import EVENT_TIMESTAMP

_GONE: Final = "gone_at"


def unless(deleted: ir.Value, value: ir.Value) -> ir.Value:
    """`value`, or null of its type where `deleted`."""
    return ibis.ifelse(deleted, ibis.null(value.type()), value)


def with_tombstones(
    rows: ir.Table,
    gone: ir.Table,
    keys: Sequence[str],
    *,
    newest: bool = False,
    alive: bool = False,
) -> ir.Table:
    """Add a row of nulls at each deletion; it replaces a row at the same event time.

    Args:
        rows: `keys`, `event_timestamp` and features.
        gone: `keys` and `event_timestamp` of the deletions.
        newest: `rows` holds the newest row of each key, and so does the result.
        alive: no row is at the time of a deletion.
    """
    features = [name for name in rows.columns if name not in (*keys, EVENT_TIMESTAMP)]
    if not newest:
        nulls = {name: ibis.null(rows[name].type()) for name in features}
        dead = gone.distinct()
        others = rows if alive else rows.anti_join(dead, [*keys, EVENT_TIMESTAMP])
        return others.union(dead.select(*keys, EVENT_TIMESTAMP, **nulls))
    last = gone.group_by(list(keys)).agg(**{_GONE: gone[EVENT_TIMESTAMP].max()})
    both = rows.outer_join(last, list(keys))
    is_dead = both[_GONE].notnull() & (
        both[EVENT_TIMESTAMP].isnull() | (both[_GONE] >= both[EVENT_TIMESTAMP])
    )
    return both.select(
        **{key: ibis.coalesce(both[key], both[f"{key}_right"]) for key in keys},
        **{EVENT_TIMESTAMP: ibis.ifelse(is_dead, both[_GONE], both[EVENT_TIMESTAMP])},
        **{name: unless(is_dead, both[name]) for name in features},
    )
