"""A module of a shop's own: tables and groups that the package knows nothing of.

Columns have names that SQL reserves, and names of ours; `visits` is a log that no group reads.
"""

from __future__ import annotations

from typing import Final

from pipelines.features.declare import (
    Feature,
    changes,
    count,
    count_distinct,
    days,
    event_time,
    group,
    in_hours,
    is_null,
    last,
)
from pipelines.features.shop_rows import ORDERS, USERS
from pipelines.tables.declare import Log, number, text, texts, time, whole

TICKETS: Final = Log(
    name="tickets",
    database="users",
    table="support_tickets",
    key=("ticket_id",),
    columns=(
        text("ticket_id", path="id"),
        whole("user_id"),
        whole("about_order", nullable=True, path="order"),
        text("state", one_of=("open", "waiting", "closed")),
        texts("topics"),
        number("urgency", at_least=0, at_most=1, nullable=True, path="details.urgency"),
        time("opened_at"),
        time("end", not_before="opened_at", nullable=True),
        time("due_at", planned=True, nullable=True),
        time("updated_at"),
    ),
    references={"user_id": "users"},
    event_time="updated_at",
    changed_at="updated_at",
)
VISITS: Final = Log(
    name="visits",
    database="supply_chain",
    key=("visit_id",),
    columns=(whole("visit_id"), text("supplier_id"), time("visited_at", path="at")),
    references={"supplier_id": "suppliers"},
    event_time="visited_at",
    append_only=True,
)
_TICKETS: Final = changes(TICKETS)

TICKET_STATE: Final = group(
    "ticket_state",
    keys=("ticket_id",),
    rows=_TICKETS,
    entity=_TICKETS,
    about="a row per change of a ticket",
    ttl=days(365),
    features=(
        Feature("state", last(_TICKETS.state), "open, waiting or closed"),
        Feature("about_order", last(_TICKETS.about_order), "the order that it is about"),
        Feature("topics", last(_TICKETS.topics), "what it is about"),
        Feature("urgency", last(_TICKETS.urgency), "0–1"),
        Feature("is_over", ~is_null(last(_TICKETS.end)), "whether it has ended"),
        Feature("age_hours", in_hours(event_time - last(_TICKETS.opened_at)), "hours"),
    ),
)
USER_LIFETIME: Final = group(
    "user_lifetime",
    keys=("user_id",),
    rows=_TICKETS,
    entity=USERS,
    about="a row per change of a user's tickets; of all history, so that it is not streamed",
    features=(Feature("orders_ever", count(ORDERS), "order lines so far"),),
)
USER_TICKETS: Final = group(
    "user_tickets",
    keys=("user_id",),
    rows=_TICKETS,
    entity=USERS,
    about="a row per change of a user's tickets",
    features=(
        Feature(
            "tickets_30d",
            count_distinct(_TICKETS.ticket_id, within=days(30)),
            "tickets that changed in 30 days",
        ),
    ),
)
