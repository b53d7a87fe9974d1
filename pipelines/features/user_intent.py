"""user_intent: what a user's latest activity says about the intent to buy."""

from __future__ import annotations

from typing import Final

from pipelines.features.declare import (
    Feature,
    count,
    count_distinct,
    days,
    distinct,
    group,
    last,
    ratio,
)
from pipelines.features.shop_rows import CLICKS, SESSIONS, USERS

WEEK: Final = days(7)
SECONDS_OF_FULL_INTEREST: Final = 300.0
interest = SESSIONS.time_on_page / SECONDS_OF_FULL_INTEREST * SESSIONS.scroll_depth * 10.0
sessions_7d = count_distinct(SESSIONS.session_id, within=WEEK)
purchases_7d = count(CLICKS, where=CLICKS.action == "purchase", within=WEEK)

USER_INTENT: Final = group(
    "user_intent",
    keys=("user_id",),
    rows=SESSIONS,
    entity=USERS,
    about=(
        'a row per change of a row of `user_sessions`, at its `timestamp`; "the latest '
        'session" is the newest one that is still there and changed within 7 days'
    ),
    features=(
        Feature(
            "intent_score",
            last(interest, within=WEEK),
            "(time_on_page / 300) × scroll_depth × 10, of the latest session",
        ),
        Feature("urgency_score", last(SESSIONS.click_rate * 20.0, within=WEEK), "click_rate × 20"),
        Feature(
            "action_diversity",
            last(distinct(SESSIONS.actions_performed), within=WEEK),
            "distinct actions performed",
        ),
        Feature(
            "products_viewed",
            last(distinct(SESSIONS.products_viewed), within=WEEK),
            "distinct products viewed",
        ),
        Feature("session_duration", last(SESSIONS.session_duration, within=WEEK), "seconds"),
        Feature(
            "sessions_1d",
            count_distinct(SESSIONS.session_id, within=days(1)),
            "sessions active in the last day",
        ),
        Feature("sessions_7d", sessions_7d, "sessions active in the last 7 days"),
        Feature(
            "carts_7d",
            count(CLICKS, where=CLICKS.action == "add_to_cart", within=WEEK),
            "add_to_cart events in 7 days",
        ),
        Feature("purchases_7d", purchases_7d, "purchase events in 7 days"),
        Feature(
            "conversion_rate_7d", ratio(purchases_7d, sessions_7d), "purchases_7d / sessions_7d"
        ),
    ),
)
