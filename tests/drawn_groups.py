"""Random feature groups, each with what it means: see `reference_groups`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from operator import itemgetter
from random import Random
from typing import Any, Final

from drawn_values import Drawn, called, expression, in_seconds, makeable
from reference_groups import (
    Meaning,
    Of,
    Row,
    Source,
    averaged,
    counted,
    distinct_values,
    extreme,
    favourite,
    looked_up,
    newest_value,
    newest_values,
    published,
    shared,
    since_the_previous,
    summed,
)

from pipelines.features.language import aggregations as agg
from pipelines.features.language import expressions as exp
from pipelines.features.language.expressions import resolve, walk
from pipelines.features.language.group import Feature, FeatureGroup, WhileKnown, group
from pipelines.features.language.rows import Column, Rows, changes, facts, reports, since_previous
from pipelines.tables.declare import INTEGER, MONEY, NUMBER, TEXT, TEXTS, TIME
from pipelines.tables.known import BY_NAME

_KINDS: Final = {
    INTEGER: "whole",
    NUMBER: "number",
    MONEY: "money",
    TEXT: "text",
    TIME: "time",
    TEXTS: "texts",
}
_PUBLISHED: Final = ("whole", "money", "number", "text", "flag")
_WIDTHS: Final = (
    agg.AT_ONCE,
    agg.Width(2),
    agg.SECOND,
    90 * agg.SECOND,
    agg.HOUR,
    agg.DAY,
    7 * agg.DAY,
)


@dataclass(frozen=True)
class Space:
    """What groups of one entity may be made of.

    Attributes:
        keys: the entity keys.
        entity: the log of its records.
        facts: the logs of facts about it.
        changes: of records that belong to it.
        reports: about it.
        lookups: logs whose key is among the keys.
        called: other names of the columns that hold a key, by log.
    """

    keys: tuple[str, ...]
    entity: str
    facts: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    reports: tuple[str, ...] = ()
    lookups: tuple[str, ...] = ()
    called: Mapping[str, Mapping[str, str]] | None = None

    @cached_property
    def entity_rows(self) -> Source:
        """The changes of the entity's record."""
        return self._source(changes(BY_NAME[self.entity]), f"changes(shop.{self.entity.upper()})")

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """All rows that groups may be made of; the entity's first."""
        found = [self.entity_rows]
        for name in self.facts:
            at = _FACT_AT[name]
            found.append(
                self._source(facts(BY_NAME[name], at=at), f"facts(shop.{name.upper()}, at='{at}')")
            )
        found += [
            self._source(changes(BY_NAME[name]), f"changes(shop.{name.upper()})")
            for name in self.changes
        ]
        for name in self.reports:
            text = f"reports(shop.{name.upper()}, at='delivered_at')"
            found.append(self._source(reports(BY_NAME[name], at="delivered_at"), text))
        return tuple(found)

    def looked_up(self, name: str) -> Source:
        """The rows of a log whose key is among the keys."""
        rows = changes(BY_NAME[name])
        return Source(
            rows,
            f"changes(shop.{name.upper()})",
            name,
            rows.at,
            rows.kind,
            rows.log.key,
            rows.log.key,
        )

    def _source(self, rows: Any, text: str) -> Source:
        called = (self.called or {}).get(rows.log.name, {})
        if called:
            rows = rows.by(**called)
            text += ".by(" + ", ".join(f"{k}='{v}'" for k, v in called.items()) + ")"
        columns = tuple(called.get(key, key) for key in self.keys)
        return Source(rows, text, rows.log.name, rows.at, rows.kind, rows.log.key, columns)


_FACT_AT: Final = {"clickstream": "event_timestamp", "orders": "order_timestamp"}
SPACES: Final = (
    Space(("user_id",), "users", ("clickstream", "orders"), ("sessions", "orders"), (), ("users",)),
    Space(
        ("customer_id",),
        "users",
        ("orders",),
        ("sessions",),
        called={name: {"customer_id": "user_id"} for name in ("users", "orders", "sessions")},
    ),
    Space(("session_id",), "sessions", ("clickstream",), lookups=("sessions",)),
    Space(
        ("product_id", "warehouse_id"),
        "inventory",
        ("orders",),
        reports=("shipments",),
        lookups=("warehouses", "products", "inventory"),
    ),
    Space(("route_id",), "routes", (), ("shipments",), ("shipments",), ("routes",)),
    Space(
        ("product_id",),
        "products",
        ("clickstream", "orders"),
        ("inventory",),
        ("shipments",),
        ("products",),
    ),
    Space(
        ("warehouse_id",),
        "warehouses",
        ("orders",),
        ("inventory",),
        ("shipments",),
        ("warehouses",),
    ),
)


@dataclass(frozen=True)
class DrawnGroup:
    """A group, as it is declared and as it is meant.

    Attributes:
        space: what it was made of.
        triggers: rows at whose times a feature row is due.
        while_known: those that count only while the entity's record is there.
        widths: of its windows, in microseconds.
        features: by name.
    """

    space: Space
    triggers: Sequence[Source]
    while_known: Sequence[Source]
    widths: Sequence[int]
    features: Mapping[str, Drawn]

    @cached_property
    def declared(self) -> FeatureGroup:
        """The group."""
        due: list[Rows | WhileKnown] = [source.rows for source in self.triggers]
        due += [WhileKnown(source.rows) for source in self.while_known]
        return group(
            "drawn",
            keys=self.space.keys,
            rows=due,
            entity=self.space.entity_rows.rows,
            features=[Feature(name, part.written, "") for name, part in self.features.items()],
        )

    @cached_property
    def meaning(self) -> Meaning:
        """What it means."""
        of = {name: _published(part.of) for name, part in self.features.items()}
        entity = self.space.entity_rows
        return Meaning(self.space.keys, self.triggers, self.while_known, entity, of)

    def smaller(self) -> Iterator[DrawnGroup]:
        """The same without one of its features."""
        for name in self.features if len(self.features) > 1 else ():
            rest = {other: part for other, part in self.features.items() if other != name}
            yield replace(self, features=rest)

    def __str__(self) -> str:
        due = [source.text for source in self.triggers]
        due += [f"WhileKnown({source.text})" for source in self.while_known]
        head = f"group of {', '.join(self.space.keys)} over {' + '.join(due)}:"
        return "\n".join([head, *(f"    {n} = {part.text}" for n, part in self.features.items())])


def drawn_group(rng: Random) -> DrawnGroup:
    """A group of a few features over several logs."""
    space = rng.choice(SPACES)
    entity, *others = space.sources
    triggers, while_known = _triggers(rng, entity, others)
    widths = rng.sample(_WIDTHS, rng.randint(1, 3))
    taken = _some(rng, [entity, *others], 3)
    taken += [source for source in (*triggers, *while_known) if source not in taken]
    parts = [_aggregation(rng, rng.choice(taken), widths) for _ in range(rng.choice([1, 3, 5, 7]))]
    looked_in = [name for name in space.lookups if rng.randint(0, 2) == 0]
    parts += [_looked_up(rng, space.looked_up(name)) for name in looked_in]
    parts = [part if part.kind != "span" else in_seconds(part) for part in parts]
    leaves = [*parts, Drawn(agg.RowTime(), lambda instant: instant.at, "time", "time")]
    features = [part for part in parts if part.kind != "time"]
    for _ in range(rng.randint(0 if features else 1, 2)):
        kinds = [kind for kind in makeable(leaves) if kind in _PUBLISHED]
        features.append(expression(rng, leaves, rng.choice(kinds), _depth(rng)))
    named = {f"f{number}": part for number, part in enumerate(features)}
    return DrawnGroup(space, triggers, while_known, widths, named)


def _some(rng: Random, values: Sequence[Source], most: int) -> list[Source]:
    return rng.sample(values, min(len(values), rng.randint(1, most)))


def _triggers(
    rng: Random, entity: Source, others: Sequence[Source]
) -> tuple[list[Source], list[Source]]:
    """When rows are due, and which of these only while the entity's record is there."""
    way = rng.choice(["one", "entity", "some", "while known"])
    if way == "entity":
        return [entity], []
    some = _some(rng, others, 2)
    if way == "one":
        return some[:1], []
    if way == "while known":
        return [entity], some
    return ([entity] if rng.random() < 0.5 else []) + some, []


def _columns(source: Source) -> list[Drawn]:
    """The columns of a log's rows."""
    found = []
    for name, type_ in BY_NAME[source.log].types.items():
        if name in ("seq", "op"):
            continue
        found.append(
            Drawn(source.rows[name], itemgetter(name), _KINDS[type_], f"{source.log}.{name}")
        )
    return found


def _row_value(rng: Random, source: Source, kinds: Sequence[str]) -> Drawn:
    """A value of a row that is made of at least one column."""
    columns = _columns(source)
    kind = rng.choice([kind for kind in makeable(columns) if kind in kinds])
    found = expression(rng, columns, kind, _depth(rng))
    parts = () if found.is_constant else walk(resolve(found.written))
    return found if any(isinstance(part, Column) for part in parts) else _plain(columns, kind)


def _depth(rng: Random) -> int:
    depth: int = rng.choice([0, 0, 1, 1, 2])
    return depth


def _plain(columns: Sequence[Drawn], kind: str) -> Drawn:
    """The simplest value of a kind, where one that was drawn is a constant."""
    same = [column for column in columns if column.kind == kind]
    if same:
        return same[0]
    time = next(column for column in columns if column.kind == "time")
    if kind == "flag":
        return called(kind, "is_null", exp.is_null(time.written), lambda t: t is None, time)
    hour = called("whole", "hour_of_day", exp.hour_of_day(time.written), lambda t: t.hour, time)
    if kind == "whole":
        return hour
    assert kind == "number", kind
    return Drawn(hour.written / 2, lambda row: hour.of(row) / 2, kind, f"({hour} / 2)")


def _where(rng: Random, source: Source) -> Drawn | None:
    if rng.random() < 0.5:
        return None
    return _row_value(rng, source, ["flag"])


def _within(rng: Random, widths: Sequence[int]) -> int | None:
    width: int | None = rng.choice([None, *widths])
    return width


def _aggregation(rng: Random, source: Source, widths: Sequence[int]) -> Drawn:
    ways: list[_Way] = [_counted, _amount, _shared, _extreme, _newest, _listed, _since, _favourite]
    if source.kind == "changes":  # deletions make these hard
        ways += [_newest, _newest]
    if _distinct_column(source):
        ways.append(_distinct)
    found: Drawn = rng.choice(ways)(rng, source, widths)
    return found


def _counted(rng: Random, source: Source, widths: Sequence[int]) -> Drawn:
    where, within = _where(rng, source), _within(rng, widths)
    written = agg.count(source.rows, where=_written(where), within=within)
    of = counted(source, _of(where), within)
    return Drawn(written, of, "whole", f"count({source.log}{_options(where, within)})")


def _amount(rng: Random, source: Source, widths: Sequence[int]) -> Drawn:
    """A sum or a mean."""
    value = _row_value(rng, source, ["whole", "money", "span"])
    where, within = _where(rng, source), _within(rng, widths)
    name = rng.choice(["total", "mean"])
    written = getattr(agg, name)(value.written, where=_written(where), within=within)
    if name == "total":
        zero = Decimal(0) if value.kind == "money" else 0
        of, kind = summed(source, value.of, _of(where), within, zero), value.kind
    else:
        of, kind = averaged(source, value.of, _of(where), within), "number"
    return Drawn(written, of, kind, f"{name}({value}{_options(where, within)})")


def _shared(rng: Random, source: Source, widths: Sequence[int]) -> Drawn:
    condition, within = _row_value(rng, source, ["flag"]), _within(rng, widths)
    written = agg.share(condition.written, within=within)
    of = shared(source, condition.of, within)
    return Drawn(written, of, "number", f"share({condition}{_options(None, within)})")


def _extreme(rng: Random, source: Source, widths: Sequence[int]) -> Drawn:
    kinds = ["whole", "money", "number", "text", "span", "time"]
    value = rng.choice(_columns(source))
    if value.kind not in kinds or rng.random() < 0.5:
        value = _row_value(rng, source, kinds)
    where, within = _where(rng, source), _within(rng, widths)
    name = rng.choice(["smallest", "largest"])
    written = getattr(agg, name)(value.written, where=_written(where), within=within)
    of = extreme(min if name == "smallest" else max, source, value.of, _of(where), within)
    return Drawn(written, of, value.kind, f"{name}({value}{_options(where, within)})")


def _newest(rng: Random, source: Source, widths: Sequence[int]) -> Drawn:
    value = rng.choice(_columns(source))
    if rng.random() < 0.5:
        value = _row_value(rng, source, ["whole", "money", "number", "text", "flag", "span"])
    within = _within(rng, widths)
    written = agg.last(value.written, within=within)
    of = newest_value(source, value.of, within)
    return Drawn(written, of, value.kind, f"last({value}{_options(None, within)})")


def _listed(rng: Random, source: Source, widths: Sequence[int]) -> Drawn:
    size = rng.choice([1, 2, 3, 5])
    kind = rng.choice(["text", "number", "gap"])
    if kind == "gap":
        gaps = agg.in_seconds(since_previous(source.rows))
        text, kind = f"in_seconds(since_previous({source.log}))", "number"

        def of(row: Row, before: Row | None) -> Any:
            if before is None:
                return 0.0
            return (row[source.at] - before[source.at]).total_seconds()

        written = agg.last_k(exp.coalesce(gaps, 0.0), size)
    else:
        value = _row_value(rng, source, [kind])
        instead: Any = "" if kind == "text" else 0.0
        given = exp.coalesce(value.written, instead)
        written, text = agg.last_k(given, size), f"coalesce({value.text}, {instead!r})"

        def of(row: Row, before: Row | None) -> Any:
            found = value.of(row)
            return instead if found is None else found

    found = newest_values(source, of, size)
    return Drawn(written, found, f"{kind}s", f"last_k({text}, {size})")


def _since(rng: Random, source: Source, widths: Sequence[int]) -> Drawn:
    written = agg.time_since_previous(source.rows)
    return Drawn(written, since_the_previous(source), "span", f"time_since_previous({source.log})")


def _favourite(rng: Random, source: Source, widths: Sequence[int]) -> Drawn:
    column = rng.choice([c for c in _columns(source) if c.kind == "text"])
    name, within = column.text.rpartition(".")[2], _within(rng, widths)
    written = agg.most_frequent(column.written, within=within)
    of = favourite(source, name, within)
    return Drawn(written, of, "text", f"most_frequent({column}{_options(None, within)})")


def _distinct_column(source: Source) -> str | None:
    """Which column's distinct values are counted: of changes, what tells a key's records apart."""
    left = [column for column in source.record if column not in source.columns]
    if source.kind == "changes":
        return left[0] if len(left) == 1 else source.record[0] if not left else None
    return "product_id"


def _distinct(rng: Random, source: Source, widths: Sequence[int]) -> Drawn:
    name, within = _distinct_column(source), _within(rng, widths)
    if source.kind != "changes":
        columns = [c for c in _columns(source) if c.kind != "texts"]
        name = rng.choice(columns).text.rpartition(".")[2]
    assert name is not None
    written = agg.count_distinct(source.rows[name], within=within)
    of = distinct_values(source, name, within)
    return Drawn(
        written, of, "whole", f"count_distinct({source.log}.{name}{_options(None, within)})"
    )


def _looked_up(rng: Random, source: Source) -> Drawn:
    column = rng.choice(_columns(source))
    name = column.text.rpartition(".")[2]
    of = looked_up(source, source.record, name)
    return Drawn(agg.as_of(column.written), of, column.kind, f"as_of({column})")


_Way = Callable[[Random, Source, Sequence[int]], Drawn]


def _written(where: Drawn | None) -> Any:
    return None if where is None else where.written


def _of(where: Drawn | None) -> Of | None:
    return None if where is None else where.of


def _options(where: Drawn | None, within: int | None) -> str:
    found = "" if where is None else f", where={where}"
    return found if within is None else f"{found}, within={within}"


def _published(of: Of) -> Of:
    return lambda instant: published(of(instant))
