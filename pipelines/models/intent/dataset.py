"""Prefixes of sessions with what happened after them.

Labels come from the log alone, features from Feast alone: what lies after a prefix's end cannot
reach its input by this code. `leaks` checks that it does not through the features either.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.features.columns import EVENT_TIMESTAMP
from pipelines.models.intent.features import INTENT_COLUMNS, LIST_FEATURES
from pipelines.models.intent.leaks import check_for_leaks
from pipelines.models.intent.outputs import SOON_S
from pipelines.registry.columns import as_column
from pipelines.training.memory import too_large
from pipelines.training.source import TrainingDataError, TrainingSource
from pipelines.training.task import Dataset, Split, take

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SERVICE: Final = "intent_transformer_v1"
FIXED_PREFIXES: Final = (3, 5, 10)
"""Prefix lengths, in events, at which models are compared."""
SESSION_ENDS_AFTER: Final = timedelta(minutes=30)
"""Inactivity that ends a session. Until then the session gives no rows, with a purchase or without:
if buyers were taken at once, the newest rows would be buyers only."""
HOLD_OUT_TIME: Final = 0.3
HOLD_OUT_USERS: Final = 0.4
VALIDATION_USERS: Final = 0.12
_LEAST_PURCHASES: Final = 10
_LEAST_SESSIONS: Final = 1000  # to which memory may thin a data set out
# Bytes, see `memory`: of an event of the log; of a row with its lists, aggregates and windows.
_AN_EVENT, _A_ROW = 500, 15_000

_EVENTS: Final = """
SELECT session_id, user_id, action, event_timestamp,
       ln(greatest(time_on_page, 0.5)) AS log_dwell, coalesce(scroll_depth, 0.5) AS scroll
FROM clickstream WHERE op = 'I' AND md5_number_lower(session_id) % {one_in} = 0
ORDER BY session_id, event_timestamp, event_id
"""
_DELETED: Final = """
SELECT session_id, min(committed_at) AS at FROM sessions WHERE op = 'D' GROUP BY session_id
"""


@dataclass(frozen=True)
class Events:
    """Every event of the log, session after session, in order of time.

    All arrays are (events,), except `ids`, `first`, `size` and `known`: (sessions,).
    """

    ids: NDArray[Any]
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
    known: NDArray[np.datetime64]  # when the session had ended, so that its outcome was known

    @property
    def usable(self) -> Bools:
        """(events,) whether a prefix may end here: last at its event time, before any purchase."""
        after = np.append(self.session[1:] != self.session[:-1], True)
        moves_on = np.append(self.time[1:] != self.time[:-1], True)
        before = np.isnat(self.bought_at) | (self.time < self.bought_at)
        found: Bools = (after | moves_on) & before
        return found


def read_events(source: TrainingSource) -> Events:
    """All inserted events, or those of a sample of sessions where memory is short."""
    with source.logs("clickstream") as connection:
        row = connection.execute("SELECT count(*) FROM clickstream WHERE op = 'I'").fetchone()
        count = row[0] if row else 0
        one_in = max(1, -(-count * _AN_EVENT // max(source.memory // 2, 1)))
        if one_in > 1:
            source.notes.append(
                f"{count:,} events would take more memory than there is: one of {one_in:,} "
                "sessions is read"
            )
        frame = connection.execute(_EVENTS.format(one_in=one_in)).df()
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
    codes, ids = pd.factorize(frame.session_id.to_numpy(dtype=object))
    session = codes.astype(np.int64)
    size = np.bincount(session)
    first = np.concatenate([[0], np.cumsum(size)[:-1]])
    action = frame.action.to_numpy(dtype=object)
    time = frame.event_timestamp.to_numpy().astype("datetime64[us]")
    bought = np.full(len(size), np.datetime64("NaT", "us"))
    purchases = np.flatnonzero(action == "purchase")[::-1]  # the first one is written last
    bought[session[purchases]] = time[purchases]
    silence = np.timedelta64(SESSION_ENDS_AFTER)
    ended = np.asarray(time[first + size - 1] + silence, dtype="datetime64[us]")
    return Events(
        ids=ids,
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
        known=ended,
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

    A row whose features are null is left out: its session was deleted.

    Args:
        source: where log and features come from.
        since: only sessions whose outcome became known after this time (UTC, naive), and of
            them only the fixed prefixes.
        most_sessions: the most sessions, evenly over time, so that every part of a split gets some.

    Raises:
        TrainingDataError: there are too few sessions or purchases, or too many for the memory.
        LeakError: a row contains data from after its event time.
    """
    events = read_events(source)
    now = events.time.max()
    taken = events.known <= now
    if since is not None:
        taken &= events.known > np.datetime64(since, "us")
    places = is_sampled(events.place) if since is None else np.isin(events.place, FIXED_PREFIXES)
    wanted = events.usable & places & (events.time < _deleted_at(source, events))
    taken = thinned(events.known, taken, _most_that_fit(source, events, taken, wanted))
    taken = thinned(events.known, taken, most_sessions)
    at = np.flatnonzero(wanted & taken[events.session])
    _check_enough(events, at, since)
    entities = pd.DataFrame(
        {
            "session_id": events.ids[events.session[at]],
            "user_id": events.user[at],
            EVENT_TIMESTAMP: events.time[at],
        }
    )
    name = "intent" if since is None else f"intent since {since.isoformat()}"
    columns = columns_at(source, entities, name)
    there = np.all([pd.notna(columns[name]) for name in ("event_count", *LIST_FEATURES)], axis=0)
    if not there.all():
        source.notes.append(f"{int((~there).sum()):,} rows left out: their session is deleted")
        columns, at = take(columns, there), at[there]
        _check_enough(events, at, since)
    left = (events.bought_at[at] - events.time[at]) / np.timedelta64(1, "s")
    data = Dataset(
        columns=columns,
        labels={
            "purchase": ~np.isnat(events.bought_at[at]),
            "soon": np.nan_to_num(left, nan=np.inf) <= SOON_S,
        },
        timestamps=events.time[at],
        groups=events.user[at],
        extra={"events": events, "at": at, "since": since, "until": now},
    )
    check_for_leaks(data)
    return data


def columns_at(source: TrainingSource, entities: pd.DataFrame, name: str = "") -> dict[str, Any]:
    """The model's input for sessions before their purchase.

    Args:
        source: of the features.
        entities: session_id, user_id and event_timestamp (UTC).
        name: of the retrieval in the manifest.
    """
    table = source.historical(entities, SERVICE, name)
    return {column: as_column(column, table[column]) for column in INTENT_COLUMNS}


def thinned(known: NDArray[np.datetime64], taken: Bools, most: int | None) -> Bools:
    """At most `most` of the sessions taken, evenly over the times at which they were known.

    Args:
        known: (sessions,) when each outcome was known.
        taken: (sessions,) which to choose from.
        most: None for all.
    """
    if most is None or taken.sum() <= most:
        return taken
    chosen = np.flatnonzero(taken)
    chosen = chosen[np.argsort(known[chosen], kind="stable")]
    found = np.zeros_like(taken)
    found[chosen[np.linspace(0, len(chosen) - 1, most).round().astype(np.int64)]] = True
    return found


def _most_that_fit(
    source: TrainingSource, events: Events, taken: Bools, wanted: Bools
) -> int | None:
    """Sessions for which there is memory; None if that is all of them.

    Raises:
        TrainingDataError: too few.
    """
    rows, sessions = int((wanted & taken[events.session]).sum()), int(taken.sum())
    needed, free = rows * _A_ROW, source.memory - len(events.session) * _AN_EVENT
    if needed <= free:
        return None
    most = max(0, free) * sessions // needed
    if most < min(sessions, _LEAST_SESSIONS):
        what = f"{rows:,} prefixes of {sessions:,} sessions"
        raise TrainingDataError(too_large(what, needed, source.memory))
    source.notes.append(
        f"{rows:,} prefixes of {sessions:,} sessions would take more memory than there is: "
        f"{most:,} sessions are taken, evenly over time"
    )
    return most


def _deleted_at(source: TrainingSource, events: Events) -> NDArray[np.datetime64]:
    """(events,) when the event's session was deleted, far ahead if it was not."""
    with source.logs("sessions") as connection:
        deleted = connection.execute(_DELETED).df()
    never = np.datetime64("9999-01-01", "us")
    times = deleted["at"].to_numpy().astype("datetime64[us]")
    number = pd.Index(deleted.session_id).get_indexer(pd.Index(events.ids))
    found = np.full(len(events.ids), never)
    found[number >= 0] = times[number[number >= 0]]
    return found[events.session]


def _check_enough(events: Events, at: Ints, since: datetime | None) -> None:
    if since is not None and not len(at):
        raise TrainingDataError(f"no session of 3 events or more has ended since {since}")
    bought = len(np.unique(events.session[at][~np.isnat(events.bought_at[at])]))
    if since is None and bought < _LEAST_PURCHASES:
        raise TrainingDataError(
            f"{bought} sessions with a purchase are too few to learn from, {_LEAST_PURCHASES} are "
            "needed: let the shop run for longer, e.g. `synchrochain run --days 30`"
        )


def split(data: Dataset, seed: int) -> Split:
    """By time and by user: the hold-out is the last 30 % of the sessions and 40 % of the users.

    A training row's outcome was known before the hold-out begins. A data set made with `since` is
    hold-out as a whole. A part may be empty; `check_split` says so.
    """
    rows = len(data)
    if data.extra["since"] is not None:
        none = np.zeros(rows, dtype=bool)
        return Split(none, ~none, none)
    events: Events = data.extra["events"]
    session = events.session[data.extra["at"]]
    ends = np.sort(events.known[np.unique(session)])
    cut = ends[int(len(ends) * (1 - HOLD_OUT_TIME))]
    early, late = events.known[session] < cut, data.timestamps >= cut
    luck = shares(data.groups, seed)
    tested, watched = luck < HOLD_OUT_USERS, luck >= 1 - VALIDATION_USERS
    found = Split(early & ~tested & ~watched, tested & late, early & watched)
    if all(part.any() for part in vars(found).values()):
        return found
    return _split_of_few(data.groups, luck, early, late)


def _split_of_few(users: Ints, luck: NDArray[np.float64], early: Bools, late: Bools) -> Split:
    """The same shares of the users there are, at least one for each part: luck missed one."""

    def by_luck(rows: Bools) -> Ints:
        names, first = np.unique(users[rows], return_index=True)
        return names[np.argsort(luck[rows][first], kind="stable")]

    held = by_luck(late)
    held = held[: max(1, round(len(held) * HOLD_OUT_USERS))]
    seen = by_luck(early & ~np.isin(users, held))
    watched = seen[len(seen) - max(1, round(len(seen) * VALIDATION_USERS)) :]
    tested, checked = np.isin(users, held), np.isin(users, watched)
    return Split(early & ~tested & ~checked, tested & late, early & checked)


def check_split(data: Dataset, seed: int) -> Split:
    """The split, unless there is nothing to learn from or to judge by.

    Raises:
        TrainingDataError: a part is empty.
    """
    parts = split(data, seed)
    if parts.train.sum() < 2 or not parts.validation.any() or not parts.hold_out.any():
        events: Events = data.extra["events"]
        sessions = len(np.unique(events.session[data.extra["at"]]))
        span = data.timestamps.max() - data.timestamps.min()
        hours = span / np.timedelta64(1, "h")
        raise TrainingDataError(
            f"{sessions:,} sessions of {len(np.unique(data.groups)):,} users within {hours:.1f} "
            "hours cannot be split by time and by user into training, validation and hold-out: "
            "let the shop run for longer, e.g. `synchrochain run --days 30`"
        )
    return parts


def shares(users: Ints, seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) per user, alike in every data set (splitmix64, Steele et al. 2014)."""
    start = (seed + 1) * 0x9E3779B97F4A7C15 % 2**64
    state = users.astype(np.uint64) + np.uint64(start)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((state ^ (state >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2**53
