"""Labels: the outcome of each route's next 24 hours, from the processed logs.

A shipment's delay in hours has a tail so heavy that its mean over the two to eight shipments of a
route and day is mostly noise. So the target is the **delay index**: hours past the promise in units
of the route's base hours, at most one. It needs no delivery: one base time after the promise the
index is known, whether the shipment has come or not. So a row's label becomes known at a time
that does not depend on the outcome, and shipments still under way cause no bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.models.delay.features import CONSTANTS, by_warehouse, probes_query
from pipelines.training.memory import too_large
from pipelines.training.source import TrainingDataError, TrainingSource

Floats = NDArray[np.float64]
HORIZON: Final = np.timedelta64(24, "h")
HOUR: Final = np.timedelta64(1, "h")
_SECOND: Final = np.timedelta64(1, "s")

_SHIPMENTS: Final = """
    SELECT route_id, min(shipped_at) AS shipped_at, min(promised_at) AS promised_at,
        max(delivered_at) AS delivered_at, min(carbon_kg) AS carbon_kg
    FROM (SELECT *, count(*) FILTER (op IN ('D', 'M')) OVER reports AS life,
            min(seq) FILTER (op = 'M') OVER later AS moved_at,
            min(seq) FILTER (op = 'D') OVER later AS deleted_at
        FROM shipments WINDOW reports AS (PARTITION BY shipment_id ORDER BY seq),
            later AS (reports ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)
    )  -- once its record is deleted, an id may stand for another shipment; one with another id
       -- is the same
    WHERE op NOT IN ('D', 'M') AND coalesce(moved_at > deleted_at, moved_at IS NULL)
    GROUP BY shipment_id, life, route_id
    ORDER BY shipped_at, shipment_id
"""
ROUTES: Final = """
    SELECT route_id, arg_max(origin_id, seq) AS origin_id,
        arg_max(destination_id, seq) AS destination_id, arg_max(mode, seq) AS mode,
        arg_max(distance_km, seq)::DOUBLE AS distance_km,
        arg_max(base_hours, seq)::DOUBLE AS base_hours,
        arg_max(base_cost, seq)::DOUBLE AS base_cost,
        arg_min(carbon_cost, seq)::DOUBLE AS carbon_cost, min(updated_at) AS first_known
    FROM routes GROUP BY route_id HAVING arg_max(op, seq) <> 'D' ORDER BY route_id
"""
"""The routes there are, as they are now: those that serving looks at."""
_PUBLISHED: Final = """
    SELECT route_id, updated_at, delay_risk::DOUBLE AS delay_risk, congestion::DOUBLE AS congestion
    FROM routes WHERE op <> 'D' ORDER BY updated_at, seq
"""
_CARRIED: Final = """(SELECT warehouse_id, product_id FROM inventory
    GROUP BY ALL HAVING arg_max(op, seq) <> 'D')"""
_SIZES: Final = """
    SELECT (SELECT count(*) FROM shipments), (SELECT count(*) FROM routes)
"""
# Bytes, see `memory`: of a row of the shipments' log, and of the routes'.
_A_SHIPMENT, _A_CHANGE = 600, 200


@dataclass(frozen=True)
class Logs:
    """The logs that labels are computed from.

    Attributes:
        routes: reference data, one row per route, in order of route_id.
        shipments, published: in order of time.
        probes: by warehouse, the products whose stock represents all of it.
        end: the last event time in the logs.
    """

    routes: pd.DataFrame
    shipments: pd.DataFrame
    published: pd.DataFrame
    probes: dict[str, list[str]]
    end: np.datetime64

    @property
    def constants(self) -> dict[str, list[Any]]:
        """By name what is constant of the routes, see `features.CONSTANTS`."""
        return {name: self.routes[name].tolist() for name in CONSTANTS}

    @classmethod
    def read(cls, source: TrainingSource) -> Logs:
        """From the processed logs.

        Raises:
            TrainingDataError: there are no routes or no shipments, or more than memory holds.
        """
        with source.logs("shipments", "routes", "inventory") as connection:
            sizes = connection.execute(_SIZES).fetchone() or (0, 0)
            needed = sizes[0] * _A_SHIPMENT + sizes[1] * _A_CHANGE
            if needed > source.memory:
                what = f"{sizes[0]:,} changes of shipments and {sizes[1]:,} of routes"
                raise TrainingDataError(too_large(what, needed, source.memory))
            routes, shipments, published = (
                connection.execute(query).df() for query in (ROUTES, _SHIPMENTS, _PUBLISHED)
            )
            probes = probes_of(connection)
        if routes.empty or shipments.empty:
            raise TrainingDataError(
                "there are no routes or no shipments to learn delays from: "
                "fill the shop and run a batch cycle, e.g. `synchrochain run`"
            )
        end = max(shipments["shipped_at"].max(), published["updated_at"].max())
        return cls(routes, shipments, published, probes, end.to_datetime64())


def probes_of(connection: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    """By warehouse the probes among the positions of the log `inventory`."""
    return by_warehouse(connection.execute(probes_query(_CARRIED)).fetchall())


def delays(logs: Logs) -> pd.DataFrame:
    """One row per shipment.

    Returns:
        route (its number), shipped_at, known_at (when the delay index is known whatever comes),
        late (0 or 1), hours (past the promise; of one under way, so far), index, arrived (bool),
        carbon_kg.
    """
    routes = logs.routes
    number = pd.Index(routes["route_id"]).get_indexer(logs.shipments["route_id"])
    shipments, number = logs.shipments[number >= 0], number[number >= 0]
    base = routes["base_hours"].to_numpy()[number]
    promised = shipments["promised_at"].to_numpy()
    arrived = shipments["delivered_at"].notna().to_numpy()
    until = np.where(arrived, shipments["delivered_at"].to_numpy(), logs.end)
    hours = np.maximum((until - promised) / HOUR, 0.0)
    seconds = np.round(base * 3600).astype(np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):  # a route of no hours: late or not
        index = np.where(base > 0, np.minimum(hours / base, 1.0), hours > 0)
    return pd.DataFrame(
        {
            "route": number,
            "shipped_at": shipments["shipped_at"].to_numpy(),
            "known_at": promised + seconds * _SECOND,
            "late": (hours > 0).astype(np.float64),
            "hours": hours,
            "index": index,
            "arrived": arrived,
            "carbon_kg": shipments["carbon_kg"].to_numpy(dtype=np.float64),
        }
    )


def labels(
    logs: Logs, times: NDArray[np.datetime64]
) -> tuple[dict[str, Floats], NDArray[np.datetime64]]:
    """Labels after each time, for every route.

    Args:
        logs: the processed logs.
        times: (S,) in increasing order.

    Returns:
        Labels of (S * routes,) rows, in order of time: `shipments` that left in (t, t + 24 h] (0
        where not all of their delay indices are known yet), their means `late`, `index`, `hours`,
        `carbon`; `risk` and `congestion`, the means of what carriers published in that time, and
        `published`, 1 where there is such. And when each row's label was known.
    """
    size = len(logs.routes)
    sent = delays(logs)
    ready = sent["known_at"].to_numpy() <= logs.end
    waiting = _per_route(logs, times, sent, [np.asarray(~ready, dtype=np.float64)])[0]
    values = [sent[name].to_numpy() for name in ("late", "index", "hours", "carbon_kg")]
    one = np.ones(len(sent))
    count, *sums = _per_route(logs, times, sent, [one, *values])
    over = np.repeat(times + HORIZON <= logs.end, size)
    usable = over & (waiting < 0.5)
    count = np.where(usable, np.round(count), 0.0)
    changes = logs.published
    events = pd.DataFrame(
        {
            "route": pd.Index(logs.routes["route_id"]).get_indexer(changes["route_id"]),
            "shipped_at": changes["updated_at"].to_numpy(),
        }
    )
    values = [changes[name].to_numpy() for name in ("delay_risk", "congestion")]
    reports, risk, congestion = _per_route(logs, times, events, [np.ones(len(changes)), *values])
    published = np.where(over & (reports > 0.5), 1.0, 0.0)
    found = {
        name: np.where(count > 0, total / np.maximum(count, 1), 0.0)
        for name, total in zip(("late", "index", "hours", "carbon"), sums, strict=True)
    }
    found |= {
        "shipments": count,
        "risk": published * risk / np.maximum(reports, 1),
        "congestion": published * congestion / np.maximum(reports, 1),
        "published": published,
    }
    return found, _known_at(logs, times, sent)


def _per_route(
    logs: Logs, times: NDArray[np.datetime64], events: pd.DataFrame, values: list[Floats]
) -> list[Floats]:
    """Sums of values by time and route over the events in (t, t + 24 h], each (S * routes,)."""
    size = len(logs.routes)
    at, route = events["shipped_at"].to_numpy(), events["route"].to_numpy()
    # The times t with t < at <= t + 24 h are neighbours: first <= number < last.
    first = np.searchsorted(times, at - HORIZON, side="left")
    last = np.searchsorted(times, at, side="left")
    found = []
    for value in values:
        steps = np.zeros((len(times) + 1, size))
        np.add.at(steps, (first, route), value)
        np.add.at(steps, (last, route), -value)
        found.append(np.cumsum(steps, axis=0)[:-1].reshape(-1))
    return found


def _known_at(
    logs: Logs, times: NDArray[np.datetime64], sent: pd.DataFrame
) -> NDArray[np.datetime64]:
    """(S * routes,) when the last of the row's delay indices is known, at least t + 24 h."""
    size = len(logs.routes)
    known = np.repeat(times + HORIZON, size).reshape(len(times), size)
    at = sent["shipped_at"].to_numpy()
    first = np.searchsorted(times, at - HORIZON, side="left")
    last = np.searchsorted(times, at, side="left")
    route, ready = sent["route"].to_numpy(), sent["known_at"].to_numpy().astype(known.dtype)
    for step in range(int((last - first).max(initial=0))):
        there = first + step < last
        np.maximum.at(known, ((first + step)[there], route[there]), ready[there])
    return known.reshape(-1)


def tails(logs: Logs, until: np.datetime64) -> dict[str, float]:
    """By mode, mean hours past the promise per unit of delay index and base hour.

    The index stops at one, the hours do not. A log-normal is fitted to the delays, in base hours,
    of the late shipments that left before `until`; one under way counts as longer than so far
    (Tobit). The factor is E[x] / E[min(x, 1)].
    """
    sent = delays(logs)
    base_hours = logs.routes["base_hours"].to_numpy()
    late = (sent["late"].to_numpy() > 0) & (sent["shipped_at"].to_numpy() < until)
    late &= base_hours[sent["route"].to_numpy()] > 0
    route = sent["route"].to_numpy()[late]
    base = base_hours[route]
    size = np.log(np.maximum(sent["hours"].to_numpy()[late] / base, 1e-3))
    arrived = sent["arrived"].to_numpy()[late]
    mode = logs.routes["mode"].to_numpy()[route]
    found = {"": _tail(size, arrived)}
    for name in sorted(set(mode.tolist())):
        of_mode = mode == name
        enough = int((of_mode & arrived).sum()) >= 30
        found[name] = _tail(size[of_mode], arrived[of_mode]) if enough else found[""]
    return found


def _tail(size: Floats, arrived: NDArray[np.bool_]) -> float:
    """E[x] / E[min(x, 1)] of a log-normal x from its logarithms, right-censored if not arrived."""
    from scipy.optimize import minimize
    from scipy.stats import norm

    if int(arrived.sum()) < 2:
        return 1.0

    def misfit(parameters: Floats) -> float:
        middle, log_sd = parameters
        z = (size - middle) / np.exp(log_sd)
        return -float((norm.logpdf(z[arrived]) - log_sd).sum() + norm.logsf(z[~arrived]).sum())

    start = np.array([size[arrived].mean(), np.log(size[arrived].std() + 0.1)])
    middle, log_sd = minimize(misfit, start, method="Nelder-Mead").x
    sd = float(np.exp(min(log_sd, 0.7)))
    mean = float(np.exp(middle + sd**2 / 2))
    capped = mean * norm.cdf((-middle - sd**2) / sd) + norm.sf(-middle / sd)
    return float(mean / capped)
