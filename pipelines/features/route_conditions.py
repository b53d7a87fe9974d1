"""route_conditions: one row per route and time of a route change or a delivery."""

from __future__ import annotations

from typing import Final

import ibis
import ibis.expr.types as ir

from pipelines.change_log.logs import MOVED
from pipelines.features.tombstones import unless
from pipelines.features.windows import (
    DAY,
    HOUR,
    Sliding,
    last_per_instant,
    ratio,
    totals_at,
)

KEYS: Final = ("route_id",)
MEDIUM_RISK: Final = 0.2
HIGH_RISK: Final = 0.5


def route_conditions(routes: ir.Table, shipments: ir.Table, *, newest: bool = False) -> ir.Table:
    """A route's published state and how late its recent deliveries were.

    Args:
        routes, shipments: the change logs of the tables of those names.
        newest: only each route's newest row.

    Returns:
        route_id, event_timestamp and the view's features. A delivery before the first known state
        of its route, or while the route is deleted, gives no row, but counts in the windows of
        later ones. All features are null where the route was deleted.
    """
    states = routes.rename(event_timestamp="updated_at")
    delivered = _deliveries(shipments)
    delay = ibis.greatest(
        delivered.event_timestamp.delta(delivered.promised_at, unit="microsecond"), 0
    )
    one = ibis.literal(1)
    instants = states.select("route_id", "event_timestamp").union(
        delivered.select("route_id", "event_timestamp"), distinct=not newest
    )
    if newest:
        instants = instants.group_by("route_id").agg(event_timestamp=instants.event_timestamp.max())
    counted = totals_at(
        instants,
        KEYS,
        "event_timestamp",
        [
            Sliding(states, "event_timestamp", None, {"version": one}),
            Sliding(
                delivered,
                "event_timestamp",
                DAY,
                {
                    "deliveries_24h": one,
                    "late_24h": (delay > 0).cast("int64"),
                    "delay_24h": delay,
                },
            ),
            Sliding(
                delivered, "event_timestamp", 7 * DAY, {"deliveries_7d": one, "delay_7d": delay}
            ),
        ],
        newest=newest,
    )
    known = _with_state(counted, states, newest=newest)
    mean_delay_24h = ratio(known.delay_24h, known.deliveries_24h) / HOUR
    mean_delay_7d = ratio(known.delay_7d, known.deliveries_7d) / HOUR
    features = {
        "delay_risk": known.delay_risk,
        "congestion": known.congestion,
        "carbon_cost": known.carbon_cost,
        "deliveries_24h": known.deliveries_24h,
        "late_rate_24h": ratio(known.late_24h, known.deliveries_24h),
        "mean_delay_hours_24h": mean_delay_24h,
        "mean_delay_hours_7d": mean_delay_7d,
        "risk_category": ibis.cases(
            (known.delay_risk < MEDIUM_RISK, "low"),
            (known.delay_risk < HIGH_RISK, "medium"),
            else_="high",
        ),
        "efficiency_score": ratio(
            known.base_hours, known.base_hours + ibis.coalesce(mean_delay_7d, 0.0)
        ),
        "carbon_per_tonne_km": ratio(known.carbon_cost, known.distance_km),
    }
    return known.select(
        "route_id",
        "event_timestamp",
        **{name: unless(known.deleted, value) for name, value in features.items()},
    )


def _with_state(counted: ir.Table, states: ir.Table, *, newest: bool) -> ir.Table:
    """Join each instant with the route's last state so far (number `version`); drop those without.

    Of a deleted route only the instant of the deletion stays, marked `deleted`.
    """
    since = states.mutate(since=states.event_timestamp, deleted=states["op"] == "D")
    if newest:
        last = last_per_instant(since, KEYS, "event_timestamp", "seq", newest=True)
        known = counted.inner_join(last.drop("event_timestamp"), KEYS)
        at = ibis.ifelse(known.deleted, known.since, known.event_timestamp)
        return known.mutate(event_timestamp=at)
    in_order = ibis.window(group_by="route_id", order_by=[since.event_timestamp, since.seq])
    numbered = since.mutate(version=(ibis.row_number().over(in_order) + 1).cast("int64"))
    known = counted.inner_join(numbered.drop("event_timestamp"), ["route_id", "version"])
    return known.filter(~known.deleted | (known.event_timestamp == known.since))


def _deliveries(shipments: ir.Table) -> ir.Table:
    """One row per delivered shipment: its last report before the id was deleted and so reusable.

    After a change of the id, the reports under the new id count.
    """
    ends = shipments["op"].isin(["D", MOVED])
    reported = shipments.filter(shipments.delivered_at.notnull() | ends)
    reports = ibis.window(group_by="shipment_id", order_by=reported.seq)
    next_op = reported["op"].lead().over(reports)
    done = reported.mutate(next_op=next_op).filter(
        ~reported["op"].isin(["D", MOVED]), next_op.isnull() | (next_op == "D")
    )
    return done.select("route_id", "promised_at", event_timestamp=done.delivered_at)
