"""route_conditions: how a route has been doing: its state, and what its deliveries showed."""

from __future__ import annotations

from typing import Final

from pipelines.features.declare import (
    Feature,
    WhileKnown,
    cases,
    coalesce,
    count,
    days,
    greatest,
    group,
    hours,
    in_hours,
    last,
    mean,
    ratio,
    share,
)
from pipelines.features.shop_rows import DELIVERIES, ROUTES

MEDIUM_RISK: Final = 0.2
HIGH_RISK: Final = 0.5
DAY: Final = hours(24)
delay = greatest(DELIVERIES.delivered_at - DELIVERIES.promised_at, 0)
mean_delay_7d = in_hours(mean(delay, within=days(7)))
risk = last(ROUTES.delay_risk)
base_hours = last(ROUTES.base_hours)

ROUTE_CONDITIONS: Final = group(
    "route_conditions",
    keys=("route_id",),
    rows=(ROUTES, WhileKnown(DELIVERIES)),
    entity=ROUTES,
    about=(
        "a row per change of a row of `routes`, at its `updated_at`, and per delivery on "
        "it, at its `delivered_at`, while the route is there"
    ),
    features=(
        Feature("delay_risk", risk, "0–1, as published by the carrier"),
        Feature("congestion", last(ROUTES.congestion), "0–1, as measured"),
        Feature("carbon_cost", last(ROUTES.carbon_cost), "kgCO2e per tonne"),
        Feature("deliveries_24h", count(DELIVERIES, within=DAY), "deliveries in 24 hours"),
        Feature(
            "late_rate_24h",
            share(delay > 0, within=DAY),
            "share delivered after the promise; null without deliveries",
        ),
        Feature(
            "mean_delay_hours_24h",
            in_hours(mean(delay, within=DAY)),
            "hours past the promise, at least 0; null without deliveries",
        ),
        Feature("mean_delay_hours_7d", mean_delay_7d, "the same over 7 days"),
        Feature(
            "risk_category",
            cases((risk < MEDIUM_RISK, "low"), (risk < HIGH_RISK, "medium"), otherwise="high"),
            "low < 0.2 ≤ medium < 0.5 ≤ high, on delay_risk",
        ),
        Feature(
            "efficiency_score",
            ratio(base_hours, base_hours + coalesce(mean_delay_7d, 0.0)),
            "base_hours / (base_hours + mean_delay_hours_7d)",
        ),
        Feature(
            "carbon_per_tonne_km",
            ratio(last(ROUTES.carbon_cost), last(ROUTES.distance_km)),
            "carbon_cost / distance_km",
        ),
    ),
)
