"""user_intent: one row per user and moment at which one of the user's sessions changed."""

from __future__ import annotations

from typing import Final

import ibis.expr.types as ir

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


def user_intent(sessions: ir.Table, clickstream: ir.Table, *, newest: bool = False) -> ir.Table:
    """What a user's latest activity says about the user's intent.

    Args:
        sessions: the change log of `user_sessions`.
        clickstream: the change log of `clickstream`.
        newest: each user's newest row alone.

    Returns:
        user_id, event_timestamp (the session's last activity) and the view's features.
    """
    there = sessions.filter(sessions["op"] != "D")
    # The lists are counted first, for sorting and joining rows that carry them is dear.
    changes = there.select(
        "user_id",
        "session_id",
        "seq",
        "time_on_page",
        "scroll_depth",
        "click_rate",
        "session_duration",
        event_timestamp=there.timestamp,
        action_diversity=there.actions_performed.unique().length().cast("int64"),
        products_viewed=there.products_viewed.unique().length().cast("int64"),
    )
    current = last_per_instant(changes, KEYS, "event_timestamp", "seq", newest=newest)
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
        moments=changes,
        newest=newest,
    )
    return counted.select(
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
