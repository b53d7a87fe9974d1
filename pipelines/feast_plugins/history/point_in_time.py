"""Point-in-time joins in DuckDB: SQL that finds, for each entity row, the rows known at its time.

Two main statements. The first joins nothing but keys and times, one ASOF join per view, and keeps
the places of the rows found; the last fetches the features from there. So the sorts behind the ASOF
joins carry no features, which is faster and needs less memory than one statement with all columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from pipelines.feast_plugins.parquet_source import Rows, identifier

ENTITY_ROWS: Final = "entity_rows"  # a row of it is numbered by its rowid
ONLY_NULLS: Final = '"NULL"'  # the type of a column that has nothing else
_MATCHED: Final = "matched_rows"
_MICROSECOND: Final = timedelta(microseconds=1)
_ZONED: Final = "TIMESTAMP WITH TIME ZONE"
_NAIVE: Final = frozenset({"TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "DATE"})
# Event time * _STRIDE + created timestamp: a number that sorts by both, in microseconds.
_STRIDE: Final = 2**63
_NO_CREATED: Final = -(2**62)  # before every created timestamp


@dataclass(frozen=True)
class ViewHistory:
    """What one feature view contributes.

    Attributes:
        rows: the source.
        types: DuckDB's type of each column of the source.
        keys: the column of `ENTITY_ROWS` and the column of the source that must be equal.
        event, created: columns of the source; `created` may be missing.
        features: the source's column by the name in the answer, in the answer's order.
        ttl: how long a row is valid, both ends included; None: for ever.
    """

    rows: Rows
    types: Mapping[str, str]
    keys: Sequence[tuple[str, str]]
    event: str
    created: str | None
    features: Mapping[str, str]
    ttl: timedelta | None


def microseconds(expression: str, kind: str) -> str:
    """Microseconds since 1970 in UTC of a time of any type; one without a zone is in UTC."""
    if kind == _ZONED:
        return f"epoch_us({expression})"
    return f"epoch_us({expression}::{'TIMESTAMP' if kind in _NAIVE else 'TIMESTAMPTZ'})"


def entity_rows(source: str, kinds: Sequence[str], event: int) -> str:
    """The table of entity rows: columns c0, c1, … in their order, and the event time
    `t` in microseconds.

    Args:
        source: what to write behind FROM, with as many columns as `kinds`.
        kinds: DuckDB's types of the columns.
        event: the index of the event time column.
    """
    columns = [f"c{i}" for i in range(len(kinds))]
    names = ", ".join(columns)
    # Text that is null compares with a key of any type.
    stored = (
        f"{column}::VARCHAR AS {column}" if kind == ONLY_NULLS else column
        for column, kind in zip(columns, kinds, strict=True)
    )
    time = microseconds(f"c{event}", kinds[event])
    return (
        f"CREATE TEMP TABLE {ENTITY_ROWS} AS "
        f"SELECT {', '.join(stored)}, {time} AS t FROM {source} AS given({names})"
    )


def match(views: Sequence[ViewHistory], span: tuple[int, int] | None, cut_off: bool) -> str:
    """The table of the places where each view's row for each entity row lies.

    Args:
        views: in the order of the answer.
        span: the first and last event time of the entity rows in microseconds; None without any.
        cut_off: whether a row counts only from its created timestamp on. Then, of the rows known at
            a time, the one with the newest (event time, created timestamp) is taken.
    """
    chosen, joins = [f"{ENTITY_ROWS}.rowid AS entity"], []
    for i, view in enumerate(views):
        known = cut_off and view.created is not None
        valid = f"{ENTITY_ROWS}.t IS NOT NULL"  # an ASOF join takes null for the latest time
        if view.ttl:
            valid = f"{ENTITY_ROWS}.t - v{i}.at <= {view.ttl // _MICROSECOND}"
        found = f"CASE WHEN {valid} THEN v{i}.place END"
        chosen += [f"{found} AS p{i}", f"v{i}.at AS a{i}"]
        on = [f"{ENTITY_ROWS}.{column} = v{i}.k{j}" for j, (column, _) in enumerate(view.keys)]
        on.append(f"{ENTITY_ROWS}.t >= v{i}.{'known' if known else 'at'}")
        joins.append(f"ASOF LEFT JOIN ({_right(view, span, known)}) v{i} ON {' AND '.join(on)}")
    return (
        f"CREATE TEMP TABLE {_MATCHED} AS "
        f"SELECT {', '.join(chosen)} FROM {ENTITY_ROWS} {' '.join(joins)}"
    )


def ties(i: int, view: ViewHistory) -> tuple[str, str] | None:
    """For a view whose rows may share an event time: a check for ties, and their resolution.

    An ASOF join takes any of them. Finding them among the matched rows is much cheaper than keeping
    one row of each event time beforehand.

    Args:
        i: the view's index among those that were matched without a cut-off.
        view: the view.

    Returns:
        A query for one boolean, and a statement that puts the newest created row in its place;
        None for a view without created timestamps.
    """
    if view.created is None:
        return None
    at = microseconds(f"s.{identifier(view.event)}", view.types[view.event])
    created = microseconds(f"s.{identifier(view.created)}", view.types[view.created])
    on = [f"s.{identifier(kept)} = e.{column}" for column, kept in view.keys]
    matched = (
        f"{view.rows.sql} s JOIN ({_MATCHED} m JOIN {ENTITY_ROWS} e ON m.entity = e.rowid) "
        f"ON {' AND '.join([*on, f'{at} = m.a{i}'])} WHERE m.p{i} IS NOT NULL"
    )
    newest = f"arg_max({view.rows.place('s')}, coalesce({created}, {_NO_CREATED}))"
    return (
        f"SELECT (SELECT count(*) FROM {matched}) > (SELECT count(p{i}) FROM {_MATCHED})",
        f"UPDATE {_MATCHED} SET p{i} = newest.place FROM (SELECT m.entity, {newest} AS place "
        f"FROM {matched} GROUP BY m.entity) newest WHERE {_MATCHED}.entity = newest.entity",
    )


def answer(columns: Sequence[str], views: Sequence[ViewHistory]) -> str:
    """The entity rows in their order, each with its features.

    Args:
        columns: names of the entity dataframe's columns.
        views: as they were matched.
    """
    chosen = [f"{ENTITY_ROWS}.c{i} AS {identifier(name)}" for i, name in enumerate(columns)]
    found = f"{_MATCHED} JOIN {ENTITY_ROWS} ON {_MATCHED}.entity = {ENTITY_ROWS}.rowid"
    for i, view in enumerate(views):
        for name, column in view.features.items():
            value = f"v{i}.{identifier(column)}"
            if column in (view.event, view.created) and view.types[column] != _ZONED:
                value = f"{value}::{'TIMESTAMP::' * (view.types[column] in _NAIVE)}TIMESTAMPTZ"
            chosen.append(f"{value} AS {identifier(name)}")
        place = view.rows.place(f"v{i}")
        found = f"{view.rows.sql} v{i} RIGHT JOIN ({found}) ON {place} = {_MATCHED}.p{i}"
    return f"SELECT {', '.join(chosen)} FROM {found} ORDER BY {_MATCHED}.entity"


def _right(view: ViewHistory, span: tuple[int, int] | None, known: bool) -> str:
    """Keys, times and places of the rows that any entity row could match."""
    at = microseconds(f"s.{identifier(view.event)}", view.types[view.event])
    keys = [f"k{j}" for j in range(len(view.keys))]
    chosen = [f"s.{identifier(k)} AS {n}" for n, (_, k) in zip(keys, view.keys, strict=True)]
    chosen += [f"{at} AS at", f"{view.rows.place('s')} AS place"]
    if known and view.created is not None:
        created = microseconds(f"s.{identifier(view.created)}", view.types[view.created])
        chosen.append(f"{created} AS created")
    source = f"{view.rows.sql} s"
    if keys:
        on = " AND ".join(f"s.{identifier(k)} = e.{c}" for c, k in view.keys)
        source += f" SEMI JOIN {ENTITY_ROWS} e ON {on}"
    query = f"SELECT {', '.join(chosen)} FROM {source} WHERE {_within(view, span)}"
    if not known:
        return query
    # Drop rows that a newer row, known no later, supersedes: what is left grows newer in the
    # order in which it became known.
    by = f"PARTITION BY {', '.join(keys)} " if keys else ""
    packed = f'"at"::HUGEINT * {_STRIDE} + coalesce(created, {_NO_CREATED})'
    newest = f"max({packed}) OVER ({by}ORDER BY known RANGE UNBOUNDED PRECEDING)"
    return (
        'SELECT *, greatest("at", created) AS known '  # which passes over a null
        f"FROM ({query}) QUALIFY {packed} = {newest}"
    )


def _within(view: ViewHistory, span: tuple[int, int] | None) -> str:
    """Rows between the oldest that can be valid and the last event time (skips row groups)."""
    if span is None:
        return "FALSE"
    column, kind = f"s.{identifier(view.event)}", view.types[view.event]
    bounds = [("<=", span[1])]
    if view.ttl and (oldest := span[0] - view.ttl // _MICROSECOND) > -_STRIDE // 2:
        bounds.append((">=", oldest))
    if kind not in (_ZONED, "TIMESTAMP"):
        column = microseconds(column, kind)
        return " AND ".join(f"{column} {sign} {us}" for sign, us in bounds)
    zone = "::TIMESTAMPTZ" if kind == _ZONED else ""
    return " AND ".join(f"{column} {sign} make_timestamp({us}){zone}" for sign, us in bounds)
