"""SQL that types the JSON of change-log rows and gives the reason why a row is rejected."""

from __future__ import annotations

import json
from functools import cache
from typing import Final

from pipelines.change_log.time_stamps import time_stamp_sql
from pipelines.live_databases import BLOBS, LONG, LONGEST
from pipelines.tables.declare import INTEGER, KIND_IN_WORDS, NUMBER, TEXT, TEXTS, TIME, Column, Log

CLOCK_TOLERANCE: Final = "5 minutes"
"""How far an event time may lie ahead of its commit, since clocks differ."""
CLOCK_SET_BACK: Final = "1 day"
"""How far a deleted row's own time may lie ahead of the deletion's commit and still count: the
clock may have been set back since. Beyond that it is ignored, as the row may have been rejected."""
FIRST_TIME: Final = "1970-01-01"
LAST_TIME: Final = "2262-01-01"
"""Timestamps outside are rejected: Parquet, pandas or protobuf cannot hold them."""
UNEXPLAINED: Final = "it breaks a rule"
_JSON_SPACE: Final = "' ' || chr(9) || chr(10) || chr(13)"


@cache
def typed_rows(log: Log, relation: str, *, explained: bool = True) -> str:
    """A query that types the change-log rows of one table.

    Args:
        log: the table's log.
        relation: the relation of the rows: seq, op, row (JSON), committed_at.
        explained: whether to say which rules a row breaks, or only that it breaks one, which
            takes half the time where rows are few. Without, timestamps are recognised only in the
            form that the triggers write, so a row that breaks a rule must be typed again with
            explanations, and may then turn out to be good.

    Returns:
        DuckDB SQL that yields seq, op, committed_at, the log's columns, and `reason`: null for a
        good row, else every rule that the row breaks, in words; `UNEXPLAINED` without words. A
        deletion needs its key only; its event time is its commit time, or the row's own if that is
        later.
    """
    live_columns = sorted({column.source[0] for column in log.columns})
    nested = sorted({column.source[0] for column in log.columns if column.source[1]})
    opened = "".join(
        f", {_json_as(f'texts.{name}', _shape(log, name))} AS {name}_fields" for name in nested
    )
    typed = ",\n            ".join(_typed(column, explained) for column in log.columns)
    typed += "".join(f", texts.{name} AS raw_{name}, {name}_fields" for name in nested)
    names = ", ".join(_named(log, column) for column in log.columns)
    rules = [_shape_rules(name) for name in nested]
    rules += [_rules(column, key=column.name in log.key) for column in log.columns]
    broken = "\n            OR ".join(condition for part in rules for condition, _ in part)
    reasons = ",\n            ".join(_first_broken(part) for part in rules)
    committed_at = time_stamp_sql("nested.committed_at", own_form=not explained)
    undated = "'committed_at = ' || coalesce(raw_committed_at, 'null') || ' is not a time stamp'"
    undated = undated if explained else f"'{UNEXPLAINED}'"
    undecided = " OR ".join(
        f'(raw_{c.name} IS NOT NULL AND "{c.name}" IS NULL)' for c in log.columns if c.type == TIME
    )
    deleted = _missing_key(log)
    if not explained:
        broken_deletion = f"{deleted} IS NOT NULL" + (f" OR {undecided}" if undecided else "")
        deleted = f"CASE WHEN {broken_deletion} THEN '{UNEXPLAINED}' END"
    words = f"concat_ws('; ', {reasons})" if explained else f"'{UNEXPLAINED}'"
    whole = _json_as('"row"', dict.fromkeys([*live_columns, BLOBS, LONG], "VARCHAR"))
    return f"""
        WITH opened AS (
            SELECT seq, op, committed_at, {whole} AS texts FROM {relation}
        ), nested AS (
            SELECT *{opened} FROM opened
        ), typed AS (
            SELECT seq, op, committed_at AS raw_committed_at,
            {committed_at} AS committed_at,
            texts IS NULL AS malformed, texts."{BLOBS}" AS blobs, texts."{LONG}" AS long,
            {typed}
            FROM nested
        )
        SELECT seq, op, committed_at, {names},
        CASE WHEN malformed THEN 'the row is not a JSON object'
        WHEN op IS NULL OR op NOT IN ('I', 'U', 'D')
        THEN 'op ' || coalesce(op, 'null') || ' is not I, U or D'
        WHEN committed_at IS NULL OR {_outside("committed_at")}
        THEN {undated}
        WHEN op = 'D' THEN {deleted}
        WHEN blobs IS NOT NULL OR long IS NOT NULL
        THEN {_unrecorded(log) if explained else words}
        WHEN {broken}
        THEN {words} -- for the broken rows alone
        END AS reason
        FROM typed
    """


def _unrecorded(log: Log) -> str:
    """SQL that says which columns hold a value that the trigger could not record."""
    kinds = {column.source[0]: KIND_IN_WORDS[TEXT] for column in log.columns}
    kinds |= {c.name: KIND_IN_WORDS[c.type] for c in log.columns if not c.source[1]}
    said = ", ".join(
        f"CASE WHEN contains(' ' || blobs, ' {name} ') THEN '{name} holds a BLOB, not {kind}' END, "
        f"CASE WHEN contains(' ' || long, ' {name} ') THEN "
        f"'{name} holds more than {LONGEST:,} bytes' END"
        for name, kind in kinds.items()
    )
    return f"concat_ws('; ', {said})"


def _named(log: Log, column: Column) -> str:
    """SQL for the column in the result; a deletion's event time is replaced."""
    name = f'"{column.name}"'
    if column.name != log.changed_at:
        return name
    # greatest() ignores nulls.
    own = f"CASE WHEN {name} <= committed_at + INTERVAL '{CLOCK_SET_BACK}' THEN {name} END"
    return f"CASE WHEN op = 'D' THEN greatest(committed_at, {own}) ELSE {name} END AS {name}"


def _missing_key(log: Log) -> str:
    """SQL for why a deletion is rejected: a view's key is missing; null if none is."""
    needed = dict.fromkeys((*log.key, *(log.references if log.changed_at else ())))
    cases = " ".join(f"WHEN \"{name}\" IS NULL THEN '{name} is missing'" for name in needed)
    return f"CASE {cases} END"


def _shape(log: Log, column: str) -> dict[str, str]:
    return {
        field: "VARCHAR"
        for name, field in (c.source for c in log.columns)
        if name == column
        if field
    }


def _json_as(value: str, shape: object) -> str:
    # json_transform raises on malformed JSON, which must reject the row and not fail the batch;
    # of JSON that is no object it makes an object of nulls.
    found = f"json_transform({value}, '{json.dumps(shape)}')"
    if isinstance(shape, dict):  # TRY parses once; it takes no names of the same SELECT
        begins = f"starts_with({value}, '{{') OR starts_with(ltrim({value}, {_JSON_SPACE}), '{{')"
        return f"CASE WHEN {begins} THEN TRY({found}) END"
    return f"CASE WHEN json_valid({value}) THEN {found} END"


def _shape_rules(column: str) -> list[tuple[str, str]]:
    raw = f"raw_{column}"
    return [
        (f"{raw} IS NULL", f"'{column} is missing'"),
        (
            f"{column}_fields IS NULL",
            f"'{column} = ' || left({raw}, 60) || ' is not a JSON object'",
        ),
    ]


def _first_broken(rules: list[tuple[str, str]]) -> str:
    cases = " ".join(f"WHEN {condition} THEN {words}" for condition, words in rules)
    return f"CASE {cases} END"


def _outside(column: str) -> str:
    return f"{column} NOT BETWEEN TIMESTAMP '{FIRST_TIME}' AND TIMESTAMP '{LAST_TIME}'"


def _typed(column: Column, explained: bool) -> str:
    live, field = column.source
    text = f"{live}_fields.{field}" if field else f"texts.{live}"
    raw = f"raw_{column.name}"
    if column.type == TEXTS:
        value = _json_as(raw, ["VARCHAR"])
    elif column.type == INTEGER:  # a cast alone would round 2.7 to 3
        number = f"TRY_CAST({raw} AS DOUBLE)"
        whole = f"CASE WHEN {number} = floor({number}) THEN TRY_CAST({raw} AS BIGINT) END"
        plain = f"TRY_CAST({raw} AS BIGINT)"
        value = f"CASE WHEN contains({raw}, '.') THEN {whole} ELSE {plain} END"
    elif column.type == NUMBER:
        value = f"CASE WHEN isfinite(TRY_CAST({raw} AS DOUBLE)) THEN TRY_CAST({raw} AS DOUBLE) END"
    elif column.type == TIME:
        value = time_stamp_sql(raw, own_form=not explained)
    else:
        value = f"TRY_CAST({raw} AS {column.type})"
    return f'{text} AS {raw}, {value} AS "{column.name}"'


def _rules(column: Column, key: bool) -> list[tuple[str, str]]:
    """Conditions under which the column breaks a rule, and SQL that says so in words."""
    name, raw = f'"{column.name}"', f"raw_{column.name}"
    shown = f"'{column.name} = ' || left({raw}, 60) || ' "
    kind = f"{shown}is not {KIND_IN_WORDS[column.type]}'"
    rules = [(f"{raw} IS NOT NULL AND {name} IS NULL", kind)]
    if not column.nullable:
        rules.insert(0, (f"{raw} IS NULL", f"'{column.name} is missing'"))
    if column.type == TEXTS:
        rules.append((f"len({name}) > list_count({name})", kind))
    if column.type == TIME:
        rules.append((_outside(name), f"{shown}lies outside of 1970–2261'"))
    if key and column.type == TEXT:  # read as U+FFFD, several keys would become one
        rules.append((f"contains({name}, chr(65533))", f"{shown}is not UTF-8'"))
    if column.check:
        rules.append((f"NOT ({column.check})", f"{shown}{column.rule}'"))
    if column.type == TIME and not column.planned:
        rules.append(
            (
                f"{name} > committed_at + INTERVAL '{CLOCK_TOLERANCE}'",
                f"{shown}lies in the future: it was committed at ' || committed_at",
            )
        )
    return rules
