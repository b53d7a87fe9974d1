"""session_events: the sequence of events that a session has produced so far."""

from __future__ import annotations

from typing import Final

from pipelines.features.declare import (
    Feature,
    coalesce,
    count,
    group,
    in_seconds,
    last_k,
    since_previous,
)
from pipelines.features.shop_rows import CLICKS, SESSIONS

LENGTH: Final = 32

SESSION_EVENTS: Final = group(
    "session_events",
    keys=("session_id",),
    rows=CLICKS,
    entity=SESSIONS,
    about="a row per event of `clickstream`, at its `event_timestamp`",
    features=(
        Feature("actions", last_k(CLICKS.action, LENGTH), "last 32 actions, oldest first"),
        Feature(
            "product_ids",
            last_k(coalesce(CLICKS.product_id, ""), LENGTH),
            'products of those events, "" where there was none',
        ),
        Feature("times_on_page", last_k(CLICKS.time_on_page, LENGTH), "seconds"),
        Feature("scroll_depths", last_k(CLICKS.scroll_depth, LENGTH), "0–1"),
        Feature(
            "gaps",
            last_k(coalesce(in_seconds(since_previous(CLICKS)), 0.0), LENGTH),
            "seconds since the previous event, 0 for the first",
        ),
        Feature("event_count", count(CLICKS), "all events of the session so far"),
    ),
)
