"""Prefixes of sessions with what happened after them.

Labels come from the log alone, features from Feast alone: what lies after a prefix's moment cannot
reach its input by this code. `leaks` checks that it does not reach it by the features either.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.models.intent_sequences import LIST_FEATURES, USER_FEATURES
from pipelines.models.intent_transformer import SOON_S
from pipelines.training.intent.leaks import check_for_leaks
from pipelines.training.source import EVENT_TIMESTAMP, TrainingDataError, TrainingSource
from pipelines.training.task import Dataset

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SERVICE: Final = "intent_transformer_v1"
FIXED_PREFIXES: Final = (3, 5, 10)
"""Lengths at which models are compared (FACTS.md)."""
SESSION_ENDS_AFTER: Final = timedelta(minutes=30)
"""Silence that ends a session; before it passed, no purchase is not yet known."""
HOLD_OUT_TIME: Final = 0.3
HOLD_OUT_USERS: Final = 0.4
VALIDATION_USERS: Final = 0.12
_LEAST_PURCHASES: Final = 10

_EVENTS: Final = """
SELECT session_id, user_id, action, event_timestamp,
       ln(greatest(time_on_page, 0.5)) AS log_dwell, coalesce(scroll_depth, 0.5) AS scroll
FROM clickstream WHERE op = 'I'
ORDER BY session_id, event_timestamp, event_id
"""


@dataclass(frozen=True)
class Events:
    """Every event of the log, session after session, in order of time.

    All arrays are (events,), except `first`, `size` and `known`: (sessions,).
    """

    session: Ints
    user: Ints
    action: NDArray[Any]
    time: NDArray[np.datetime64]
    log_dwell: NDArray[np.float64]
    scroll: NDArray[np.float64]
    place: Ints  # within the session, from 1
    bought_at: NDArray[np.datetime64]  # the session's first purchase, NaT if none
    first: Ints  # index of the session's first event
    size: Ints
    known: NDArray[np.datetime64]  # when the session's outcome was known

    @property
    def usable(self) -> Bools:
        """(events,) whether a prefix may end here: last of its moment, before any purchase."""
        after = np.append(self.session[1:] != self.session[:-1], True)
        moves_on = np.append(self.time[1:] != self.time[:-1], True)
        before = np.isnat(self.bought_at) | (self.time < self.bought_at)
        found: Bools = (after | moves_on) & before
        return found


def read_events(source: TrainingSource) -> Events:
    """All events as they were inserted."""
    with source.logs("clickstream") as connection:
        frame = connection.execute(_EVENTS).df()
    return events_of(frame)


def events_of(frame: pd.DataFrame) -> Events:
    """From rows in order of session, time and id.

    Raises:
        TrainingDataError: there are none.
    """
    if frame.empty:
        raise TrainingDataError(
            "the clickstream log is empty: let the shop run, e.g. `synchrochain run --days 30`"
        )
    session = pd.factorize(frame.session_id)[0].astype(np.int64)
    size = np.bincount(session)
    first = np.concatenate([[0], np.cumsum(size)[:-1]])
    action = frame.action.to_numpy(dtype=object)
    time = frame.event_timestamp.to_numpy().astype("datetime64[us]")
    bought = np.full(len(size), np.datetime64("NaT", "us"))
    purchases = np.flatnonzero(action == "purchase")[::-1]  # the first one is written last
    bought[session[purchases]] = time[purchases]
    ended = time[first + size - 1] + np.timedelta64(SESSION_ENDS_AFTER)
    return Events(
        session=session,
        user=frame.user_id.to_numpy(dtype=np.int64),
        action=action,
        time=time,
        log_dwell=frame.log_dwell.to_numpy(dtype=np.float64),
        scroll=frame.scroll.to_numpy(dtype=np.float64),
        place=np.arange(len(session)) - first[session] + 1,
        bought_at=bought[session],
        first=first,
        size=size,
        known=np.where(np.isnat(bought), ended, bought),
    )


def is_sampled(place: Ints) -> Bools:
    """Which prefix lengths become rows: nearly all short ones, fewer of the long."""
    found: Bools = (
        (place <= 10)
        | ((place <= 20) & (place % 2 == 0))
        | ((place <= 64) & (place % 4 == 0))
        | (place % 16 == 0)
    )
    return found


def make_dataset(
    source: TrainingSource, *, since: datetime | None = None, most_sessions: int | None = None
) -> Dataset:
    """Rows at sampled prefixes of finished sessions.

    Args:
        source: where log and features come from.
        since: only sessions whose outcome became known after this moment (UTC, naive), and of
            them only the fixed prefixes.
        most_sessions: take the latest so many.

    Raises:
        TrainingDataError: there are too few sessions or purchases.
        LeakError: a row knows what came after its moment.
    """
    events = read_events(source)
    now = events.time.max()
    taken = events.known <= now
    if since is not None:
        taken &= events.known > np.datetime64(since, "us")
    if most_sessions is not None and taken.sum() > most_sessions:
        taken &= events.known >= np.sort(events.known[taken])[-most_sessions]
    places = is_sampled(events.place) if since is None else np.isin(events.place, FIXED_PREFIXES)
    at = np.flatnonzero(events.usable & places & taken[events.session])
    ids = _session_ids(source)[events.session[at]]
    entities = pd.DataFrame(
        {"session_id": ids, "user_id": events.user[at], EVENT_TIMESTAMP: events.time[at]}
    )
    buys = ~np.isnat(events.bought_at[at])
    if since is None and len(np.unique(events.session[at][buys])) < _LEAST_PURCHASES:
        raise TrainingDataError(
            f"fewer than {_LEAST_PURCHASES} sessions with a purchase to learn from: let the shop "
            "run for longer, e.g. `synchrochain run --days 30`"
        )
    if not len(at):
        raise TrainingDataError(f"no session of 3 events or more has ended since {since}")
    name = "intent" if since is None else f"intent since {since.isoformat()}"
    table = source.historical(entities, SERVICE, name)
    columns: dict[str, Any] = {}
    frame = table.select([*LIST_FEATURES, "event_count", *USER_FEATURES]).to_pandas()
    for feature in LIST_FEATURES:
        columns[feature] = frame[feature].to_numpy()
    for feature in ("event_count", *USER_FEATURES):
        columns[feature] = frame[feature].to_numpy(dtype=np.float64)
    left = (events.bought_at[at] - events.time[at]) / np.timedelta64(1, "s")
    data = Dataset(
        columns=columns,
        labels={
            "purchase": buys,
            "soon": np.nan_to_num(left, nan=np.inf) <= SOON_S,
        },
        moments=events.time[at],
        groups=events.user[at],
        extra={"events": events, "at": at, "since": since},
    )
    check_for_leaks(data)
    return data


def _session_ids(source: TrainingSource) -> NDArray[Any]:
    """(sessions,) in the order in which `Events` numbers them."""
    with source.logs("clickstream") as connection:
        rows = connection.execute(
            "SELECT DISTINCT session_id FROM clickstream WHERE op = 'I' ORDER BY session_id"
        ).fetchnumpy()
    return np.asarray(rows["session_id"], dtype=object)


@dataclass(frozen=True)
class Split:
    """(rows,) masks; hold-out users are in neither of the others, and later in time."""

    train: Bools
    validation: Bools
    hold_out: Bools


def split(data: Dataset, seed: int) -> Split:
    """By time and by user: the hold-out is the last 30 % of time and 40 % of the users.

    A training row's outcome was known before the hold-out begins. A data set made with `since` is
    hold-out as a whole.
    """
    rows = len(data)
    if data.extra["since"] is not None:
        none = np.zeros(rows, dtype=bool)
        return Split(none, none, ~none)
    events: Events = data.extra["events"]
    start, end = events.time.min(), events.time.max()
    cut = start + (end - start) * (1 - HOLD_OUT_TIME)
    known = events.known[events.session[data.extra["at"]]] < cut
    luck = shares(data.groups, seed)
    tested = luck < HOLD_OUT_USERS
    watched = luck >= 1 - VALIDATION_USERS
    return Split(known & ~tested & ~watched, known & watched, tested & (data.moments >= cut))


def shares(users: Ints, seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) per user, alike in every data set (splitmix64, Steele et al. 2014)."""
    start = (seed + 1) * 0x9E3779B97F4A7C15 % 2**64
    state = users.astype(np.uint64) + np.uint64(start)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((state ^ (state >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2**53
