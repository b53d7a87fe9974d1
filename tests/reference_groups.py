"""What each operation of a declaration means, in plain loops over plain rows.

Written from the words of the operations, and not from any compiler: every feature looks at all
rows of its key anew. An instant asks for the rows that its key has in a log; an operation then says
which of them count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from pipelines.features.language.rows import Rows

Row = Mapping[str, Any]
Logs = Mapping[str, Sequence[Row]]
Key = tuple[Any, ...]
Of = Callable[[Any], Any]
"""A value of a row, or of an instant."""

MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, eq=False)
class Source:
    """Rows of a log, as a declaration names them.

    Attributes:
        rows: the declaration.
        text: the same as it is written.
        log: the log's name.
        at: the column of the event time.
        kind: facts, changes or reports.
        record: the columns of the record's key.
        columns: the column that holds each entity key.
    """

    rows: Rows
    text: str
    log: str
    at: str
    kind: str
    record: tuple[str, ...]
    columns: tuple[str, ...]

    def place(self, row: Row) -> tuple[datetime, Any]:
        """By time; rows of the same time by the fact's key, or as they were logged."""
        return row[self.at], row[self.record[0] if self.kind == "facts" else "seq"]

    def by_key(self, logs: Logs) -> dict[Key, list[Row]]:
        """The rows of each entity key, in order; rows without a key are nobody's."""
        every = sorted(logs.get(self.log, ()), key=lambda row: row["seq"])
        if self.kind == "facts":
            every = [row for row in every if row["op"] == "I"]
        elif self.kind == "reports":
            every = list(self._last_reports(every))
        found: dict[Key, list[Row]] = {}
        for row in sorted(every, key=self.place):
            key = tuple(row[column] for column in self.columns)
            if None not in key:
                found.setdefault(key, []).append(row)
        return found

    def _last_reports(self, every: Sequence[Row]) -> Iterator[Row]:
        """What the last state with a time said of each record, before its key was free again."""
        last: dict[Key, Row] = {}
        for row in every:
            record = tuple(row[column] for column in self.record)
            if row["op"] == "M":  # it goes on under another key, which says what is known of it
                last.pop(record, None)
            elif row["op"] == "D":
                if record in last:
                    yield last.pop(record)
            elif row[self.at] is not None:
                last[record] = row
        yield from last.values()


@dataclass(eq=False)
class History:
    """Logs, and what each key has of them."""

    logs: Logs
    _known: dict[Source, dict[Key, list[Row]]] = field(default_factory=dict)

    def of(self, source: Source) -> dict[Key, list[Row]]:
        """Rows by entity key, in order."""
        if source not in self._known:
            self._known[source] = source.by_key(self.logs)
        return self._known[source]


@dataclass(eq=False)
class Instant:
    """A key at a time.

    Attributes:
        history: of all keys.
        keys: names and values of the entity key.
        at: the time.
    """

    history: History
    keys: Mapping[str, Any]
    at: datetime

    def upto(self, source: Source) -> list[Row]:
        """The key's rows at or before the time, deletions included."""
        rows = self.history.of(source).get(tuple(self.keys.values()), [])
        return [row for row in rows if row[source.at] <= self.at]

    def window(self, source: Source, within: int | None = None) -> list[Row]:
        """The key's rows in (t − width, t], without deletions."""
        return [
            row
            for row in self.upto(source)
            if not is_deletion(source, row) and self.is_recent(row[source.at], within)
        ]

    def is_recent(self, time: datetime, within: int | None) -> bool:
        """Whether a time up to now lies in the window."""
        return within is None or (self.at - time) // MICROSECOND < within

    def records(self, source: Source) -> list[Row]:
        """The newest state of each of the key's records that is still there, in order."""
        newest: dict[Key, Row] = {}
        for row in self.upto(source):
            newest[tuple(row[column] for column in source.record)] = row
        there = [row for row in newest.values() if not is_deletion(source, row)]
        return sorted(there, key=source.place)


def is_deletion(source: Source, row: Row) -> bool:
    """Whether a state of a record says that it is gone; facts and reports stay."""
    return source.kind == "changes" and row["op"] in ("D", "M")


def counted(source: Source, where: Of | None, within: int | None) -> Of:
    """How many rows."""
    return lambda instant: len(_rows(instant, source, where, within))


def summed(source: Source, of: Of, where: Of | None, within: int | None, zero: Any) -> Of:
    """The sum of what is known; 0 without rows."""
    return lambda instant: sum(_values(instant, source, of, where, within), zero)


def averaged(source: Source, of: Of, where: Of | None, within: int | None) -> Of:
    """The mean of what is known; null if nothing is."""

    def found(instant: Instant) -> float | None:
        values = _values(instant, source, of, where, within)
        return float(sum(values)) / len(values) if values else None

    return found


def shared(source: Source, condition: Of, within: int | None) -> Of:
    """The share of the rows for which it holds; null without rows."""

    def found(instant: Instant) -> float | None:
        rows = _rows(instant, source, None, within)
        holds = [row for row in rows if condition(row) is True]
        return len(holds) / len(rows) if rows else None

    return found


def extreme(
    pick: Callable[..., Any], source: Source, of: Of, where: Of | None, within: int | None
) -> Of:
    """The smallest or largest value that is known; null if none is."""
    return lambda instant: pick(_values(instant, source, of, where, within), default=None)


def distinct_values(source: Source, column: str, within: int | None) -> Of:
    """How many values; of changes, of records that are still there and changed in the window."""

    def found(instant: Instant) -> int:
        if source.kind == "changes":
            rows = [
                row for row in instant.records(source) if instant.is_recent(row[source.at], within)
            ]
        else:
            rows = instant.window(source, within)
        return len({row[column] for row in rows} - {None})

    return found


def favourite(source: Source, column: str, within: int | None) -> Of:
    """The most frequent text; of equally frequent ones the one that came last."""

    def found(instant: Instant) -> Any:
        words = _values(instant, source, lambda row: row[column], None, within)
        latest = list(dict.fromkeys(reversed(words)))
        return max(latest, key=words.count, default=None)

    return found


def newest_value(source: Source, of: Of, within: int | None) -> Of:
    """Of the newest row; of changes, of the newest record that is still there."""

    def found(instant: Instant) -> Any:
        is_changes = source.kind == "changes"
        rows = instant.records(source) if is_changes else instant.upto(source)
        if not rows or not instant.is_recent(rows[-1][source.at], within):
            return None
        return of(rows[-1])

    return found


def newest_values(source: Source, of: Callable[[Row, Row | None], Any], size: int) -> Of:
    """A list over the newest rows, oldest first; each also knows the row before it."""

    def found(instant: Instant) -> list[Any]:
        rows = instant.window(source)
        befores = [None, *rows]
        values = [of(row, before) for row, before in zip(rows, befores, strict=False)]
        return values[-size:]

    return found


def since_the_previous(source: Source) -> Of:
    """Microseconds since the newest earlier row; null for the first."""

    def found(instant: Instant) -> int | None:
        times = [row[source.at] for row in instant.window(source) if row[source.at] < instant.at]
        return (instant.at - max(times)) // MICROSECOND if times else None

    return found


def looked_up(source: Source, key: Sequence[str], column: str) -> Of:
    """What a record's column held: its newest state, before its first one that; null if deleted."""

    def found(instant: Instant) -> Any:
        rows = instant.history.of(source).get(tuple(instant.keys[name] for name in key), [])
        known = [row for row in rows if row[source.at] <= instant.at] or rows[:1]
        return known[-1][column] if known and not is_deletion(source, known[-1]) else None

    return found


@dataclass(frozen=True, eq=False)
class Meaning:
    """What a declared group says, for the reference.

    Attributes:
        keys: the entity keys.
        triggers: rows at whose times a feature row is due.
        while_known: those that count only while the entity's record is there.
        entity: the changes of that record.
        features: by name, as they are published.
    """

    keys: tuple[str, ...]
    triggers: Sequence[Source]
    while_known: Sequence[Source]
    entity: Source
    features: Mapping[str, Of]

    def rows(self, logs: Logs) -> dict[Key, list[dict[str, Any]]]:
        """Every row of each key, in order of time."""
        history = History(logs)
        every = [*self.triggers, *self.while_known, self.entity]
        keys = dict.fromkeys(key for source in every for key in history.of(source))
        found = {key: list(self._rows_of(history, key)) for key in keys}
        return {key: rows for key, rows in found.items() if rows}

    def _rows_of(self, history: History, key: Key) -> Iterator[dict[str, Any]]:
        keys = dict(zip(self.keys, key, strict=True))
        states = history.of(self.entity).get(key, [])
        ended = {row[self.entity.at] for row in states if is_deletion(self.entity, row)}
        due = {row[s.at] for s in self.triggers for row in history.of(s).get(key, ())}
        due |= {
            row[source.at]
            for source in self.while_known
            for row in history.of(source).get(key, ())
            if Instant(history, keys, row[source.at]).records(self.entity)
        }
        for at in sorted(due | ended):
            instant = Instant(history, keys, at)
            is_over = at in ended
            if self.entity in self.triggers:  # it may be there again by a later change of that time
                is_over = is_over and not instant.records(self.entity)
            values = {name: None if is_over else of(instant) for name, of in self.features.items()}
            yield {**keys, "event_timestamp": at, **values}


def _rows(instant: Instant, source: Source, where: Of | None, within: int | None) -> list[Row]:
    rows = instant.window(source, within)
    return rows if where is None else [row for row in rows if where(row) is True]


def _values(
    instant: Instant, source: Source, of: Of, where: Of | None, within: int | None
) -> list[Any]:
    found = [of(row) for row in _rows(instant, source, where, within)]
    return [value for value in found if value is not None]


def published(value: Any) -> Any:
    """Money as a float."""
    return float(value) if isinstance(value, Decimal) else value
