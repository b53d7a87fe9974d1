"""Scripts of shoppers turned into rows of `clickstream` and `user_sessions`, stretch by stretch."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.live_databases import ACTIONS
from simulators.checkpoint import WorldState
from simulators.outbox import Outbox
from simulators.shoppers import (
    ADD,
    LONGEST_SESSION_US,
    PURCHASE,
    VIEW,
    Basket,
    DayScript,
    day_script,
)
from simulators.world import DAY_US, World

_CLICK = tuple[int, str, int, str | None, str, float, float]
_SNAPSHOT = tuple[int, str, tuple[Any, ...]]


class Feed:
    """What the users database gets: clicks in order of time, and sessions as they change.

    A session's row is written at its first event, at each cart, checkout and purchase action, and
    at its last event.

    Args:
        world: the world.
        state: what has happened in it; is changed in place.
        outbox: gets the rows.
    """

    def __init__(self, world: World, state: WorldState, outbox: Outbox) -> None:
        self._world = world
        self._state = state
        self._outbox = outbox
        self._days: dict[int, _Day] = {}
        self._clicks: list[_CLICK] = []
        self._snapshots: list[_SNAPSHOT] = []

    def script(self, day: int) -> DayScript:
        """The script of a day since the origin."""
        return self._day(day).script

    def purchase(self, day: int, basket: Basket) -> None:
        """A planned purchase came about."""
        source = self._day(day)
        self._clicks.append(source.click(basket.event))
        self._snapshots.append(source.snapshot(basket.event))

    def emit(self, since: int, until: int) -> None:
        """Send what happens in [since, until) to the outbox, purchases made in it included."""
        first = max((since - LONGEST_SESSION_US) // DAY_US, 0)
        for day in [day for day in self._days if day < first]:
            del self._days[day]
        for day in range(first, (until - 1) // DAY_US + 1):
            source = self._day(day)
            low, high = np.searchsorted(source.script.time, [since, until]).tolist()
            for event in range(low, high):
                if source.action[event] != PURCHASE:
                    self._clicks.append(source.click(event))
                    if source.changes_session[event]:
                        self._snapshots.append(source.snapshot(event))
        self._clicks.sort()
        self._snapshots.sort(key=lambda snapshot: snapshot[:2])
        number = self._state.next_event
        rows = self._outbox.rows["clickstream"]
        rows += [(n, *click[1:], click[0]) for n, click in enumerate(self._clicks, number)]
        self._state.next_event += len(self._clicks)
        self._outbox.rows["user_sessions"] += [snapshot[2] for snapshot in self._snapshots]
        self._clicks.clear()
        self._snapshots.clear()

    def _day(self, day: int) -> _Day:
        if day not in self._days:
            self._days[day] = _Day(self._world, day)
        return self._days[day]


class _Day:
    """One script as plain lists, which Python reads faster than arrays."""

    def __init__(self, world: World, day: int) -> None:
        self.script = script = day_script(world, day)
        by_session = np.lexsort((script.position, script.session))
        ids = np.array([*world.catalogue.ids, None], dtype=object)
        names = np.array(ACTIONS, dtype=object)
        self.action: list[int] = script.action.tolist()
        self._time: list[int] = script.time.tolist()
        self._session: list[int] = script.session.tolist()
        self._session_id = script.session_ids
        self._user: list[int] = (script.users + 1).tolist()
        self._product: list[str | None] = ids[script.product].tolist()
        self._name: list[str] = names[script.action].tolist()
        self._dwell: list[float] = script.time_on_page.tolist()
        self._scroll: list[float] = script.scroll_depth.tolist()
        self.changes_session: list[bool] = (
            (script.action >= ADD) | (script.position == 0) | script.is_last
        ).tolist()

        # The same events session after session, to sum up the beginning of a session.
        place = np.empty(len(by_session), dtype=np.int64)
        place[by_session] = np.arange(len(by_session))
        self._place: list[int] = place.tolist()
        counts = np.bincount(script.session, minlength=len(script.users))
        offset = np.concatenate([[0], np.cumsum(counts)])
        self._offset: list[int] = offset.tolist()
        in_order = by_session.tolist()
        self._names_by_session = [self._name[event] for event in in_order]
        viewed = script.action[by_session] == VIEW
        self._views: list[str] = ids[script.product[by_session][viewed]].tolist()
        self._views_before = [0, *np.cumsum(viewed).tolist()]
        self._dwell_before = [0.0, *np.cumsum(script.time_on_page[by_session]).tolist()]
        self._scroll_before = [0.0, *np.cumsum(script.scroll_depth[by_session]).tolist()]
        self._by_session = in_order

    def click(self, event: int) -> _CLICK:
        session = self._session[event]
        return (
            self._time[event],
            self._session_id[session],
            self._user[session],
            self._product[event],
            self._name[event],
            self._dwell[event],
            self._scroll[event],
        )

    def snapshot(self, event: int) -> _SNAPSHOT:
        """The session's row as of this event."""
        session = self._session[event]
        low, high = self._offset[session], self._place[event] + 1
        first = self._by_session[low]
        count = high - low
        views = self._views[self._views_before[low] : self._views_before[high]]
        elapsed = (self._time[event] - self._time[first]) / 1e6
        on_page = (self._dwell_before[high] - self._dwell_before[low]) / count
        scroll = (self._scroll_before[high] - self._scroll_before[low]) / count
        rate = count / (elapsed + self._dwell[first])
        session_id, time = self._session_id[session], self._time[event]
        row = (
            session_id,
            self._user[session],
            _json_list(views),
            _json_list(self._names_by_session[low:high]),
            int(elapsed),
            time,
            f'{{"time_on_page":{on_page:.3f},"scroll_depth":{scroll:.4f},"click_rate":{rate:.5f}}}',
        )
        return time, session_id, row


def _json_list(texts: list[str]) -> str:
    return '["' + '","'.join(texts) + '"]' if texts else "[]"
