"""A group's newest rows in Python, key by key, as changes come in. Not used by the streamer yet.

The streamer runs the SQL of `newest_row`. An engine that keeps states will take this one; until
then the property tests hold it to the same meaning.

For each key it holds the rows that its windows may still need, in order of time. A change affects
the keys that it is about; a row is computed from what its key holds.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final

from pipelines.features.compilers.evaluation import evaluate, microseconds
from pipelines.features.language.aggregations import Aggregation, AsOf, RowTime
from pipelines.features.language.expressions import Typed
from pipelines.features.language.group import FeatureGroup, WhileKnown
from pipelines.features.language.rows import CHANGES, FACTS, REPORTS, Column, Rows, SincePrevious
from pipelines.features.language.tree import signature
from pipelines.tables.declare import MOVED

Row = Mapping[str, Any]
Key = tuple[Any, ...]
_PLACE: Final = attrgetter("place")


@dataclass(frozen=True)
class Event:
    """A row of a log, as one key holds it.

    Attributes:
        place: microseconds since 1970, and the order among rows of the same time.
        time: the event time, UTC and naive.
        row: the log's columns; money in whole cents.
        deleted: whether it is a deletion.
        record: the key of the record.
    """

    place: tuple[int, Any]
    time: datetime
    row: Row
    deleted: bool
    record: Key


@dataclass
class GroupState:
    """The state of all keys of a group.

    Attributes:
        group: the group.
        events: by rows, by key, in order.
    """

    group: FeatureGroup
    events: dict[object, dict[Key, list[Event]]] = field(default_factory=dict)
    _rows: dict[object, Rows] = field(default_factory=dict)
    _looked_up: dict[object, Rows] = field(default_factory=dict)
    _records: dict[object, dict[Key, list[Event]]] = field(default_factory=dict)
    """The states of the records that are looked up, by their own keys."""
    _looking: dict[tuple[object, Key], set[Key]] = field(default_factory=dict)
    """Which keys look a record up."""
    _reported: dict[tuple[object, Key], tuple[Key, Event]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        group = self.group
        for rows in (*group.triggers, group.entity, *(a.rows for a in group.aggregations)):
            self._rows.setdefault(signature(rows), rows)
            self.events.setdefault(signature(rows), defaultdict(list))
        for rows in (lookup.column.rows for lookup in group.lookups):
            self._looked_up[signature(rows)] = rows
            self._records[signature(rows)] = defaultdict(list)

    def apply(self, log: str, row: Row) -> set[Key]:
        """Take in an accepted change of a log.

        Returns:
            The keys whose newest rows it may change.
        """
        affected: set[Key] = set()
        for mark, rows in self._rows.items():
            if rows.log.name == log:
                affected |= self._take_in(mark, rows, row)
        for mark, rows in self._looked_up.items():
            if rows.log.name == log:
                record = tuple(row[column] for column in rows.member)
                insort(self._records[mark][record], _event(rows, row), key=_PLACE)
                affected |= self._looking.get((mark, record), set())
        return affected

    def records(self, lookup: AsOf, key: Key) -> list[Event]:
        """The states of the record that a key looks up, in order."""
        rows = lookup.column.rows
        return self._records[signature(rows)].get(self._record_of(rows, key), [])

    def _record_of(self, rows: Rows, key: Key) -> Key:
        by_name = dict(zip(self.group.keys, key, strict=True))
        return tuple(by_name[column] for column in rows.member)

    def newest(self, key: Key) -> dict[str, Any] | None:
        """The newest row of a key: keys, event time and features; None if none was due."""
        times = self._due(key)
        dead = self._tombstone(key)
        if dead is not None and (not times or dead.place[0] >= times[-1].place[0]):
            return self._row(key, dead.time, dict.fromkeys(self.group.features))
        if not times:
            return None
        at = times[-1]
        return self._row(key, at.time, _Instant(self, key, at.time).features())

    def _row(self, key: Key, time: datetime, features: Mapping[str, Any]) -> dict[str, Any]:
        return {**dict(zip(self.group.keys, key, strict=True)), "event_timestamp": time, **features}

    def _tombstone(self, key: Key) -> Event | None:
        """The last deletion of the entity that decides its newest row."""
        entity = signature(self.group.entity)
        events = self.events[entity][key]
        if entity in {signature(rows) for rows in self.group.triggers}:
            return events[-1] if events and events[-1].deleted and self._is_newest(key) else None
        return next((event for event in reversed(events) if event.deleted), None)

    def _is_newest(self, key: Key) -> bool:
        """Whether nothing is due after the entity's last change."""
        due = self._due(key)
        last = self.events[signature(self.group.entity)][key][-1]
        return not due or due[-1].place[0] <= last.place[0]

    def _due(self, key: Key) -> list[Event]:
        """The events at whose times rows are due, in order."""
        found: list[Event] = []
        states = self.events[signature(self.group.entity)][key]
        for rows in self.group.rows:
            whole = rows.rows if isinstance(rows, WhileKnown) else rows
            events = self.events[signature(whole)][key]
            if isinstance(rows, WhileKnown):
                events = [event for event in events if _is_there(states, event)]
            found += events[-1:]
        return sorted(found, key=_PLACE)

    def _take_in(self, mark: object, rows: Rows, row: Row) -> set[Key]:
        key = tuple(row[rows.column_of(name)] for name in self.group.keys)
        if rows.kind == REPORTS:
            return self._report(mark, rows, key, row)
        if None in key or (rows.kind == FACTS and row["op"] != "I"):  # nobody's, or no fact
            return set()
        self._insert(mark, rows, key, row)
        return {key}

    def _report(self, mark: object, rows: Rows, key: Key, row: Row) -> set[Key]:
        record = tuple(row[column] for column in rows.member)
        before = self._reported.get((mark, record))
        if row["op"] == "D":  # the record's key may stand for another one from now on
            self._reported.pop((mark, record), None)
            return set()
        affected: set[Key] = set()
        if before is not None and (row["op"] == MOVED or row[rows.at] is not None):
            self.events[mark][before[0]].remove(before[1])
            del self._reported[mark, record]
            affected.add(before[0])
        if row["op"] != MOVED and row[rows.at] is not None and None not in key:
            self._reported[mark, record] = key, self._insert(mark, rows, key, row)
            affected.add(key)
        return affected

    def _insert(self, mark: object, rows: Rows, key: Key, row: Row) -> Event:
        event = _event(rows, row)
        insort(self.events[mark][key], event, key=_PLACE)
        for looked_up, others in self._looked_up.items():
            record = self._record_of(others, key)
            self._looking.setdefault((looked_up, record), set()).add(key)
        return event


def _event(rows: Rows, row: Row) -> Event:
    time = row[rows.at]
    exact = {n: int(v * 100) if isinstance(v, Decimal) else v for n, v in row.items()}
    record = tuple(row[column] for column in rows.member)
    place = microseconds(time), row[rows.order]
    return Event(place, time, exact, row["op"] in rows.deletions, record)


def _is_there(states: list[Event], event: Event) -> bool:
    """Whether a record is there, by its states, at the time of another event."""
    upto = bisect_right(states, event.place[0], key=lambda state: state.place[0])
    return upto > 0 and not states[upto - 1].deleted


class _Instant:
    """A key at a time: computes its features, each part once."""

    def __init__(self, state: GroupState, key: Key, time: datetime) -> None:
        self._state = state
        self._key = key
        self._time = time
        self._at = microseconds(time)
        self._known: dict[object, Any] = {}

    def features(self) -> dict[str, Any]:
        """All features, as they are published."""
        found = {}
        for name, feature in self._state.group.features.items():
            value = evaluate(feature.value, self._leaf)
            scale = feature.value.type.scale
            found[name] = value / 10.0**scale if scale and value is not None else value
        return found

    def _leaf(self, part: Typed) -> Any:
        if isinstance(part, RowTime):
            return self._time
        mark = signature(part)
        if mark not in self._known:
            if isinstance(part, AsOf):
                self._known[mark] = self._looked_up(part)
            else:
                assert isinstance(part, Aggregation)
                self._known[mark] = self._aggregate(part)
        return self._known[mark]

    def _looked_up(self, lookup: AsOf) -> Any:
        events = self._state.records(lookup, self._key)
        if not events:
            return None
        upto = bisect_right(events, self._at, key=lambda event: event.place[0])
        holds = events[max(upto, 1) - 1]
        return None if holds.deleted else holds.row[lookup.column.name]

    def _aggregate(self, a: Aggregation) -> Any:
        events = self._state.events[signature(a.rows)][self._key]
        upto = bisect_right(events, self._at, key=lambda event: event.place[0])
        if a.operation == "last":
            return self._last(events[:upto], a)
        if a.operation == "count_distinct":
            return self._distinct(events[:upto], a)
        there = [event for event in events[:upto] if not event.deleted]
        if a.operation == "time_since_previous":
            earlier = [event for event in there if event.place[0] < self._at]
            return self._at - earlier[-1].place[0] if earlier else None
        if a.operation == "last_k":
            return self._list(there, a)
        if a.within is not None:
            there = [event for event in there if event.place[0] > self._at - a.within]
        if a.where is not None:
            where = a.where
            there = [event for event in there if evaluate(where, event_leaf(event))]
        if a.operation == "count":
            return len(there)
        assert a.of is not None
        of = a.of
        pairs = [(evaluate(of, event_leaf(event)), event) for event in there]
        values = [value for value, _ in pairs if value is not None]
        if a.operation == "sum":
            return sum(values)
        if a.operation == "min":
            return min(values, default=None)
        if a.operation == "max":
            return max(values, default=None)
        return self._most_frequent(pairs)

    def _most_frequent(self, pairs: list[tuple[Any, Event]]) -> Any:
        counts: dict[Any, int] = defaultdict(int)
        last: dict[Any, tuple[int, Any]] = {}
        for value, event in pairs:
            if value is not None:
                counts[value] += 1
                last[value] = event.place
        return max(counts, key=lambda value: (counts[value], last[value]), default=None)

    def _last(self, events: list[Event], a: Aggregation) -> Any:
        newest: dict[Key, Event] = {}
        has_members = a.rows.kind == CHANGES and {
            a.rows.column_of(key) for key in self._state.group.keys
        } != set(a.rows.member)
        for event in events:
            newest[event.record if has_members else ()] = event
        there = [event for event in newest.values() if not event.deleted]
        if not there:
            return None
        holds = max(there, key=_PLACE)
        if a.within is not None and holds.place[0] <= self._at - a.within:
            return None
        assert a.of is not None
        return evaluate(a.of, event_leaf(holds))

    def _distinct(self, events: list[Event], a: Aggregation) -> int:
        assert isinstance(a.of, Column)
        last: dict[Any, Event] = {}
        for event in events:
            if event.row[a.of.name] is not None:
                last[event.row[a.of.name]] = event
        return sum(
            not event.deleted and (a.within is None or event.place[0] > self._at - a.within)
            for event in last.values()
        )

    def _list(self, events: list[Event], a: Aggregation) -> list[Any]:
        assert a.of is not None
        first = max(0, len(events) - a.size)
        found = []
        for number in range(first, len(events)):
            before = events[number - 1] if number else None
            found.append(evaluate(a.of, event_leaf(events[number], before)))
        return found


def event_leaf(event: Event, before: Event | None = None) -> Any:
    """The values of a row expression's leaves for one row, and the row before it."""

    def leaf(part: Typed) -> Any:
        if isinstance(part, SincePrevious):
            return None if before is None else event.place[0] - before.place[0]
        assert isinstance(part, Column)
        return event.row[part.name]

    return leaf
