"""session_events: one row per session and moment of a clickstream event; its last 32 events."""

from __future__ import annotations

from typing import Final

import ibis
import ibis.expr.types as ir

from pipelines.features.windows import last_per_instant

KEYS: Final = ("session_id",)
LENGTH: Final = 32


def session_events(clickstream: ir.Table) -> ir.Table:
    """The sequence a session has produced so far, oldest event first.

    Args:
        clickstream: the change log of `clickstream`; a null product_id becomes "".

    Returns:
        session_id, event_timestamp and the view's features; `gaps` are seconds.
    """
    clicks = clickstream.filter(clickstream["op"] == "I")
    in_order = {"group_by": "session_id", "order_by": [clicks.event_timestamp, clicks.event_id]}
    so_far = ibis.window(preceding=None, following=0, **in_order)
    latest = ibis.window(preceding=LENGTH - 1, following=0, **in_order)
    before = clicks.event_timestamp.lag().over(ibis.window(**in_order))
    timed = clicks.mutate(
        product=clicks.product_id.fill_null(""),
        gap=ibis.coalesce(_microseconds_between(before, clicks.event_timestamp) / 1e6, 0.0),
        event_count=ibis._.count().over(so_far),
    )
    listed = timed.select(
        "session_id",
        "event_timestamp",
        "event_id",
        actions=timed.action.collect(include_null=True).over(latest),
        product_ids=timed["product"].collect(include_null=True).over(latest),
        times_on_page=timed.time_on_page.collect(include_null=True).over(latest),
        scroll_depths=timed.scroll_depth.collect(include_null=True).over(latest),
        gaps=timed.gap.collect(include_null=True).over(latest),
        event_count=timed.event_count.cast("int64"),
    )
    return last_per_instant(listed, KEYS, "event_timestamp", "event_id").drop("event_id")


def _microseconds_between(start: ir.Value, end: ir.Value) -> ir.Value:
    return end.delta(start, unit="microsecond")
