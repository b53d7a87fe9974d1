"""session_events: one row per session and event time; the last 32 events up to then."""

from __future__ import annotations

from typing import Final

import ibis
import ibis.expr.types as ir

from pipelines.features.tombstones import deletions, with_tombstones

KEYS: Final = ("session_id",)
LENGTH: Final = 32
_LISTS: Final = {
    "actions": "action",
    "product_ids": "product",
    "times_on_page": "time_on_page",
    "scroll_depths": "scroll_depth",
    "gaps": "gap",
}
"""The event's column, by the feature that lists it."""


def session_events(clickstream: ir.Table, sessions: ir.Table, *, newest: bool = False) -> ir.Table:
    """The last events of each session, oldest first.

    Slicing one list per session is several times cheaper than a window function that builds a
    list per row. Sessions may be long, so they are cut into blocks of 32 events; each block also
    holds the block before it, hence the last 32 events of each of its own.

    Args:
        clickstream: the change log of `clickstream`; a null product_id becomes "".
        sessions: the change log of `user_sessions`, for its deletions.
        newest: only each session's newest row.

    Returns:
        session_id, event_timestamp and the view's features; `gaps` are seconds. All features are
        null where the session was deleted.
    """
    inserted = clickstream.filter(clickstream["op"] == "I")
    rows = _newest(inserted) if newest else _every(inserted)
    return with_tombstones(rows, deletions(sessions, KEYS, "timestamp"), KEYS, newest=newest)


def _every(inserted: ir.Table) -> ir.Table:
    """The last events of each session at each of its events' times."""
    blocks = _blocks(_numbered(inserted))
    rows = blocks.mutate(upto=ibis.range(blocks.first, blocks.events.length() + 1).unnest())
    latest = {name: rows[name][ibis.greatest(rows.upto - LENGTH, 0) : rows.upto] for name in _LISTS}
    found = rows.select(
        "session_id",
        event_timestamp=rows.times[rows.upto - 1],
        is_last=rows.lasts[rows.upto - 1],
        event_count=(rows.upto + ibis.greatest(rows.block - 1, 0) * LENGTH).cast("int64"),
        **latest,
    )
    return found.filter(found.is_last).select(
        "session_id", "event_timestamp", *_LISTS, "event_count"
    )


def _newest(clicks: ir.Table) -> ir.Table:
    """The last events of each session, without numbering all of them."""
    event = ibis.struct(
        {
            "event_timestamp": clicks.event_timestamp,
            "event_id": clicks.event_id,
            "action": clicks.action,
            "product": clicks.product_id.fill_null(""),
            "time_on_page": clicks.time_on_page,
            "scroll_depth": clicks.scroll_depth,
        }
    )
    sessions = clicks.group_by("session_id").agg(events=event.collect(), event_count=clicks.count())
    # Structs sort by their first fields: time, then id. One event more, for the first gap.
    count = sessions.event_count
    sorted_ = sessions.mutate(events=sessions.events.sort()[ibis.greatest(count - LENGTH - 1, 0) :])
    first = ibis.ifelse(count > LENGTH, 1, 0)
    last = sorted_.events[first:]
    times = sorted_.events.map(lambda event: event.event_timestamp)
    before = ibis.ifelse(count > LENGTH, times, ibis.array([times[0]]).concat(times))
    gaps = (
        before.zip(times[first:])
        .filter(lambda pair: pair.f2.notnull())
        .map(lambda pair: pair.f2.delta(pair.f1, unit="microsecond") / 1e6)
    )
    plain = {n: c for n, c in _LISTS.items() if n != "gaps"}
    lists = {n: last.map(lambda event, column=c: event[column]) for n, c in plain.items()}
    return sorted_.select(
        "session_id",
        event_timestamp=times[-1],
        **lists,
        gaps=gaps,
        event_count=count.cast("int64"),
    )


def _numbered(clicks: ir.Table) -> ir.Table:
    """Each event with its `place` in the session, from 1; `is_last`: the last at its event time."""
    in_order = ibis.window(
        group_by="session_id", order_by=[clicks.event_timestamp, clicks.event_id]
    )
    before = clicks.event_timestamp.lag().over(in_order)
    after = clicks.event_timestamp.lead().over(in_order)
    numbered = clicks.select(
        "session_id",
        "event_timestamp",
        "action",
        "time_on_page",
        "scroll_depth",
        product=clicks.product_id.fill_null(""),
        gap=ibis.coalesce(
            clicks.event_timestamp.delta(before, unit="microsecond") / 1e6,
            0.0,
        ),
        is_last=ibis.coalesce(after != clicks.event_timestamp, True),
        place=(ibis.row_number().over(in_order) + 1).cast("int64"),
        size=ibis._.count().over(in_order),
    )
    return numbered.mutate(block=_block(numbered.place), last_block=_block(numbered["size"]))


def _block(place: ir.Value) -> ir.Value:
    return ((place - 1) // LENGTH).cast("int64")


def _blocks(events: ir.Table) -> ir.Table:
    """Per block, lists of its events and the previous block's; `first` is its own first event."""
    followed = events.filter(events.block < events.last_block)
    known = events.union(followed.mutate(block=followed.block + 1))
    event = ibis.struct(
        {name: known[name] for name in ("place", "event_timestamp", "is_last", *_LISTS.values())}
    )
    grouped = known.group_by("session_id", "block").agg(events=event.collect())
    # Structs sort by their first field, the place, which is unique.
    in_order = grouped.mutate(events=grouped.events.sort())
    return in_order.mutate(
        first=ibis.ifelse(in_order.block == 0, 1, LENGTH + 1),
        times=in_order.events.map(lambda event: event.event_timestamp),
        lasts=in_order.events.map(lambda event: event.is_last),
        **{
            name: in_order.events.map(lambda event, column=column: event[column])
            for name, column in _LISTS.items()
        },
    )
