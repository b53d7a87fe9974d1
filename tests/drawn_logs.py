"""Random logs for drawn groups: a history for each of many keys, full of ties and window edges.

All times are a few anchors minus widths of the group's windows, some a microsecond off. A fifth of
the changes arrive late; records are corrected, deleted, and there again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, Final

from drawn_groups import Space
from drawn_values import WORDS
from random_log import with_changed_keys
from reference import event_times

from pipelines.tables.declare import INTEGER, MONEY, NUMBER, TEXT, TIME, Column
from pipelines.tables.known import BY_NAME

Row = dict[str, Any]
Logs = dict[str, list[Row]]

_MICROSECOND: Final = timedelta(microseconds=1)
_LATE: Final = 0.2
_DELETED: Final = 0.2
_ROWS: Final = (0, 0, 1, 2, 3, 5, 8)
_TIMED: Final = {
    "sessions": "timestamp",
    "inventory": "updated_at",
    "routes": "updated_at",
    "clickstream": "event_timestamp",
    "orders": "order_timestamp",
    "shipments": "delivered_at",
}
"""The column with the time that a change has of itself; others have that of their commit."""


def drawn_logs(rng: Random, space: Space, count: int, widths: Sequence[int]) -> Logs:
    """The processed logs of `count` keys of a space, in the order in which they were accepted.

    Args:
        rng: where chance comes from.
        space: the entity, and the logs about it.
        count: how many keys.
        widths: of windows, in microseconds: distances between rows.
    """
    world = _World(rng, space, widths)
    wanted: list[tuple[datetime, str, Row]] = []
    for number in range(count):
        keys = world.keys_of(number)
        for source in space.sources:
            mine = dict(zip(source.columns, keys, strict=True))
            size = world.rng.choice(_ROWS)
            wanted += [(world.time(), source.log, mine) for _ in range(size)]
    for name in space.lookups:
        column = BY_NAME[name].key
        every = [dict(zip(space.keys, world.keys_of(n), strict=True)) for n in range(count)]
        if set(column) != set(space.keys):
            for value in dict.fromkeys(keys[column[0]] for keys in every):
                size = world.rng.choice(_ROWS)
                wanted += [(world.time(), name, {column[0]: value}) for _ in range(size)]
    logs: Logs = {name: [] for name in BY_NAME}
    for row in world.accepted(wanted):
        logs[row.pop("log")].append(row)
    return _processed(logs, rng.randrange(2**32))


def _processed(logs: Logs, seed: int) -> Logs:
    """With shipments that are given other keys, and the times that deletions have."""
    logs = with_changed_keys(logs, seed)
    for name, rows in logs.items():
        if name not in ("routes", "shipments"):  # these are numbered three times as far already
            logs[name] = [{**row, "seq": 3 * row["seq"]} for row in rows]
    return event_times({name: logs[name] for name in BY_NAME})


class _World:
    def __init__(self, rng: Random, space: Space, widths: Sequence[int]) -> None:
        self.rng = rng
        self.space = space
        self.widths = [timedelta(microseconds=width) for width in widths]
        start = datetime(2024, 2, 27, 12)
        self.anchors = [start + timedelta(hours=rng.randrange(0, 72)) for _ in range(3)]
        self.live: dict[str, dict[tuple[Any, ...], Row]] = {name: {} for name in BY_NAME}
        self.used: set[int] = set()

    def keys_of(self, number: int) -> tuple[Any, ...]:
        """The number-th entity key: of several columns, each value stands for several keys."""
        types = {name: column for log in BY_NAME.values() for name, column in log.types.items()}
        parts = [number // 5, number % 5] if len(self.space.keys) > 1 else [number]
        return tuple(
            part if types.get(key, INTEGER) == INTEGER else f"{key[0]}{part}"
            for key, part in zip(self.space.keys, parts, strict=True)
        )

    def time(self) -> datetime:
        """On the grid of the anchors, sometimes a microsecond off."""
        rng = self.rng
        width = rng.choice([timedelta(0), *self.widths])
        off = rng.choice([0, 0, 0, 0, 1, -1]) * _MICROSECOND
        return rng.choice(self.anchors) - rng.choice([0, 1, 1, 2]) * width + off

    def accepted(self, wanted: list[tuple[datetime, str, Row]]) -> list[Row]:
        """Changes in the order in which they were committed."""
        wanted.sort(key=lambda change: change[0])
        late = [n + self._delay(len(wanted)) for n in range(len(wanted))]
        order = sorted(range(len(wanted)), key=late.__getitem__)
        found, committed_at = [], datetime(2024, 1, 1)
        for number, (t, log, keys) in enumerate(wanted[index] for index in order):
            committed_at = max(committed_at, t)
            op, row = self._change(log, t, keys)
            change = {"seq": 2 * number + 2, "op": op, "committed_at": committed_at}
            found.append({"log": log, **change, **row})
        return found

    def _delay(self, count: int) -> float:
        return self.rng.random() * count if self.rng.random() < _LATE else 0

    def _change(self, log: str, t: datetime, keys: Row) -> tuple[str, Row]:
        """One insertion, update or deletion, applied to the tables as they stand."""
        rng, live = self.rng, self.live[log]
        row = self._row(log, t, keys)
        key = tuple(row[column] for column in BY_NAME[log].key)
        if key not in live:
            live[key] = row
            return "I", row
        if rng.random() < _DELETED:
            return "D", live.pop(key)
        if log == "shipments" and rng.random() < 0.7:  # mostly of the same key as before
            row = {**live[key], "delivered_at": row["delivered_at"]}
        live[key] = row
        return "U", row

    def _row(self, name: str, t: datetime, keys: Row) -> Row:
        log = BY_NAME[name]
        row = {column.name: self._value(column) for column in log.columns}
        row |= {k: None if self._is_nobody(log.name, k) else v for k, v in keys.items()}
        for column in log.key:
            if column not in keys:
                row[column] = self._record(name, column, keys)
        if name in _TIMED and (name != "shipments" or self.rng.random() < 0.65):
            row[_TIMED[name]] = t
        elif name == "shipments":
            row["delivered_at"] = None
        return row

    def _is_nobody(self, log: str, column: str) -> bool:
        found = next(c for c in BY_NAME[log].columns if c.name == column)
        return found.nullable and self.rng.random() < 0.1

    def _record(self, log: str, column: str, keys: Row) -> Any:
        """A record of these keys: one of theirs, or for facts mostly a new one, in no order."""
        rng, mine = self.rng, "-".join(map(str, keys.values()))
        if BY_NAME[log].types[column] == TEXT:
            return f"{mine}-{rng.choice(WORDS)}" if log != "inventory" else rng.choice(WORDS)
        old = [k[0] for k, row in self.live[log].items() if keys.items() <= row.items()]
        if old and rng.random() < (0.6 if log == "shipments" else 0.2):
            return rng.choice(old)
        while (number := rng.randrange(10 * len(self.used) + 100)) in self.used:
            pass
        self.used.add(number)
        return number

    def _value(self, column: Column) -> Any:
        rng = self.rng
        if column.nullable and rng.random() < 0.3:
            return None
        if column.allowed:
            return rng.choice(column.allowed[:3])
        values: dict[str, Any] = {
            INTEGER: lambda: rng.choice([0, 1, 2, 50, rng.randrange(300)]),
            NUMBER: lambda: rng.choice([0.0, 0.5, 12.5, rng.random() * 300]),
            MONEY: lambda: rng.choice([Decimal("0.00"), Decimal("9.99"), _cents(rng)]),
            TEXT: lambda: rng.choice(WORDS),
            TIME: self.time,
        }
        made = values.get(column.type, lambda: rng.choices(WORDS, k=rng.randrange(4)))
        return made()


def _cents(rng: Random) -> Decimal:
    return Decimal(rng.randrange(50_000)) / 100
