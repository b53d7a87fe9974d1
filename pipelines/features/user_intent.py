"""user_intent: one row per user and time at which one of the user's sessions changed."""

from __future__ import annotations

from typing import Final

import ibis
import ibis.expr.types as ir

from pipelines.features.tombstones import deletions, unless, with_tombstones
from pipelines.features.windows import (
    DAY,
    Sliding,
    SlidingDistinct,
    last_per_instant,
    ratio,
    totals_at,
)

KEYS: Final = ("user_id",)
SECONDS_OF_FULL_INTEREST: Final = 300.0
_OF_SESSION: Final = (
    "time_on_page",
    "scroll_depth",
    "click_rate",
    "session_duration",
    "action_diversity",
    "products_viewed",
)


def user_intent(
    sessions: ir.Table, clickstream: ir.Table, users: ir.Table, *, newest: bool = False
) -> ir.Table:
    """A user's latest activity: the current session, and counts over the last days.

    Args:
        sessions: the change log of `user_sessions`.
        clickstream: the change log of `clickstream`.
        users: the change log of `users`, for its deletions.
        newest: only each user's newest row.

    Returns:
        user_id, event_timestamp (the session's last activity, or its deletion) and the view's
        features. After a deletion "this session" is the newest one that is there and changed within
        7 days; all features are null where the user was deleted.
    """
    # Count lists first: sorting and joining rows that contain lists is expensive.
    changes = sessions.select(
        "user_id",
        "session_id",
        "seq",
        "op",
        "time_on_page",
        "scroll_depth",
        "click_rate",
        "session_duration",
        event_timestamp=sessions.timestamp,
        action_diversity=sessions.actions_performed.unique().length().cast("int64"),
        products_viewed=sessions.products_viewed.unique().length().cast("int64"),
    )
    current = _newest_session(changes) if newest else _session_at_each_change(changes)
    clicks = clickstream.filter(clickstream["op"] == "I")
    bought = clicks.filter(clicks.action.isin(("add_to_cart", "purchase")))
    counted = totals_at(
        current,
        KEYS,
        "event_timestamp",
        [
            SlidingDistinct(
                changes,
                "session_id",
                "event_timestamp",
                "seq",
                {"sessions_1d": DAY, "sessions_7d": 7 * DAY},
            ),
            Sliding(
                bought,
                "event_timestamp",
                7 * DAY,
                {
                    "carts_7d": (bought.action == "add_to_cart").cast("int64"),
                    "purchases_7d": (bought.action == "purchase").cast("int64"),
                },
            ),
        ],
        times=changes,
        newest=newest,
    )
    rows = counted.select(
        "user_id",
        "event_timestamp",
        intent_score=counted.time_on_page / SECONDS_OF_FULL_INTEREST * counted.scroll_depth * 10.0,
        urgency_score=counted.click_rate * 20.0,
        action_diversity=counted.action_diversity,
        products_viewed=counted.products_viewed,
        session_duration=counted.session_duration.cast("int64"),
        sessions_1d=counted.sessions_1d,
        sessions_7d=counted.sessions_7d,
        carts_7d=counted.carts_7d,
        purchases_7d=counted.purchases_7d,
        conversion_rate_7d=ratio(counted.purchases_7d, counted.sessions_7d),
    )
    return with_tombstones(rows, deletions(users, KEYS, "committed_at"), KEYS, newest=newest)


def _session_at_each_change(changes: ir.Table) -> ir.Table:
    """The features of "this session", the one that changed last, per user and event time."""
    last = last_per_instant(changes, KEYS, "event_timestamp", "seq")
    left = _left_after_deletions(changes)
    known = last.left_join(left, ["user_id", "event_timestamp"])
    deleted = known["op"] == "D"
    return known.select(
        "user_id",
        "event_timestamp",
        **{n: ibis.ifelse(deleted, known.session[n], known[n]) for n in _OF_SESSION},
    )


def _left_after_deletions(changes: ir.Table) -> ir.Table:
    """Per user and time of a deletion, the remaining `session` that changed last."""
    gone = deletions(changes, KEYS, "event_timestamp").distinct()
    near = changes.semi_join(gone, "user_id")  # usually empty
    of_session = ibis.window(
        group_by=["user_id", "session_id"], order_by=[near.event_timestamp, near.seq]
    )
    # A change holds until the session's next one.
    states = near.select(
        "user_id",
        "op",
        since=near.event_timestamp,
        until=near.event_timestamp.lead().over(of_session),
        order=ibis.struct({"at": near.event_timestamp, "seq": near.seq}),
        session=ibis.struct({name: near[name] for name in _OF_SESSION}),
    )
    there = states.filter(states["op"] != "D")
    pairs = gone.inner_join(there, "user_id")
    week = ibis.interval(microseconds=7 * DAY)
    known = pairs.filter(
        pairs.since <= pairs.event_timestamp,
        pairs.since > pairs.event_timestamp - week,
        pairs.until.isnull() | (pairs.until > pairs.event_timestamp),
    )
    return known.group_by(["user_id", "event_timestamp"]).agg(
        session=known.session.argmax(known.order)
    )


def _newest_session(changes: ir.Table) -> ir.Table:
    """As `_session_at_each_change`, only at each user's newest event time."""
    order = ibis.struct({"at": changes.event_timestamp, "seq": changes.seq})
    state = ibis.struct(
        {name: changes[name] for name in ("op", "event_timestamp", "seq", *_OF_SESSION)}
    )
    states = changes.group_by(["user_id", "session_id"]).agg(state=state.argmax(order))
    ordered = states.mutate(
        at=states.state.event_timestamp,
        order=ibis.struct({"at": states.state.event_timestamp, "seq": states.state.seq}),
    )
    there = ordered.state["op"] != "D"
    last = ordered.group_by("user_id").agg(
        event_timestamp=ordered["at"].max(),
        session=ordered.state.argmax(ordered.order, where=there),
    )
    recent = last.session.event_timestamp > last.event_timestamp - ibis.interval(
        microseconds=7 * DAY
    )
    return last.select(
        "user_id",
        "event_timestamp",
        **{n: unless(~ibis.coalesce(recent, False), last.session[n]) for n in _OF_SESSION},
    )
