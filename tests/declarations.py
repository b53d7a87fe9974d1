"""Whether all plans of a drawn group give the rows of the reference, value by value.

Run it with more histories than the tests have: `.venv/bin/python tests/declarations.py --histories
50000`; with `--seed N`, others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any, Final

import duckdb
import ibis
import pyarrow as pa
from drawn_groups import DrawnGroup, drawn_group
from drawn_logs import Logs, drawn_logs
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from pipelines.features.compilers.every_row import every_row
from pipelines.features.compilers.newest_row import newest_row
from pipelines.features.compilers.state import GroupState
from pipelines.features.language.group import FeatureGroup
from pipelines.tables.declare import INTEGER, MONEY, NUMBER, TEXT, TEXTS, TIME
from pipelines.tables.known import BY_NAME

Row = Mapping[str, Any]
Key = tuple[Any, ...]
KEYS: Final = 50
"""Histories per group: they share its statements."""
_ARROW: Final = {
    INTEGER: pa.int64(),
    NUMBER: pa.float64(),
    MONEY: pa.decimal128(10, 2),
    TEXT: pa.string(),
    TIME: pa.timestamp("us"),
    TEXTS: pa.list_(pa.string()),
}


def check(drawn: DrawnGroup, logs: Logs) -> None:
    """All plans and the reference agree.

    Raises:
        AssertionError: they do not; it has the group, the key's rows, and both answers.
    """
    expected = drawn.meaning.rows(logs)
    connection = duckdb.connect()
    load(connection, {name: logs[name] for name in drawn.declared.logs})
    newest = {key: rows[-1:] for key, rows in expected.items()}
    for plan, wanted in ((every_row, expected), (newest_row, newest)):
        found = rows_by_key(drawn.declared, run(connection, plan(drawn.declared)))
        compare(f"{plan.__name__} of {drawn}", logs, found, wanted)
    check_state(drawn, logs)


def check_state(drawn: DrawnGroup, logs: Logs) -> None:
    """The rows that change by change were computed anew, half-way and at the end."""
    state, shown = GroupState(drawn.declared), dict[Key, list[Row]]()
    changes = sorted((row["seq"], name) for name, rows in logs.items() for row in rows)
    by_place = {(row["seq"], name): row for name, rows in logs.items() for row in rows}
    so_far: Logs = {name: [] for name in logs}
    for number, (seq, name) in enumerate(changes, 1):
        row = by_place[seq, name]
        so_far[name].append(row)
        for key in state.apply(name, row):
            newest = state.newest(key)
            shown[key] = [] if newest is None else [newest]
        if number in (len(changes) // 2, len(changes)):
            wanted = {key: rows[-1:] for key, rows in drawn.meaning.rows(so_far).items()}
            found = {key: rows for key, rows in shown.items() if rows}
            compare(f"state after {number} changes of {drawn}", logs, found, wanted)


def compare(
    what: str,
    logs: Logs,
    found: Mapping[Key, Sequence[Row]],
    wanted: Mapping[Key, Sequence[Row]],
) -> None:
    """Raise if two answers differ, with the first key whose rows do."""
    for key in dict.fromkeys([*wanted, *found]):
        ours, theirs = list(found.get(key, ())), list(wanted.get(key, ()))
        times = [row["event_timestamp"] for row in ours], [row["event_timestamp"] for row in theirs]
        if times[0] != times[1]:
            raise AssertionError(
                f"{what}\nrows of {key} at {times[0]}, not {times[1]}\n{_of(logs, key)}"
            )
        for mine, other in zip(ours, theirs, strict=True):
            for name in other:
                if not is_same(mine.get(name), other[name]):
                    raise AssertionError(
                        f"{what}\n{key} at {mine['event_timestamp']}: {name} is {mine.get(name)!r},"
                        f" not {other[name]!r}\n{_of(logs, key)}"
                    )


def is_same(ours: Any, theirs: Any) -> bool:
    """Equal to the last digit, and of one type."""
    return type(ours) is type(theirs) and bool(ours == theirs)


def run(connection: duckdb.DuckDBPyConnection, expression: Any) -> list[dict[str, Any]]:
    """The rows of an Ibis expression."""
    statement = str(ibis.to_sql(expression, dialect="duckdb"))
    table = connection.sql(statement).to_arrow_table().cast(expression.schema().to_pyarrow())
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def rows_by_key(group: FeatureGroup, rows: Iterable[Row]) -> dict[Key, list[Row]]:
    """Each key's rows in order of time."""
    found: dict[Key, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["event_timestamp"]):
        found.setdefault(tuple(row[key] for key in group.keys), []).append(row)
    return found


def load(connection: duckdb.DuckDBPyConnection, logs: Logs) -> None:
    """One table per log."""
    for name, rows in logs.items():
        columns = {
            column: pa.array([row[column] for row in rows], _ARROW[type_])
            for column, type_ in BY_NAME[name].types.items()
        }
        table = pa.table(columns)
        connection.register("loaded", table)
        connection.execute(f'CREATE TABLE "{name}" AS FROM loaded')
        connection.unregister("loaded")


def _of(logs: Logs, key: Key) -> str:
    """A key's rows, to look at."""
    mine = []
    for name, rows in logs.items():
        mine += [
            f"  {name} { ({k: v for k, v in row.items() if k != 'seq'}) }"
            for row in rows
            if set(key) <= {v for v in row.values() if not isinstance(v, list)}
        ]
    return "\n".join(mine)


def check_drawn(histories: int, seed_: int | None = None) -> None:
    """Check so many key histories; without a seed always the same.

    Raises:
        AssertionError: two plans differ. Features without which they would still do are left out.
    """

    @settings(
        max_examples=-(-histories // KEYS),
        deadline=None,
        derandomize=seed_ is None,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate],  # a failing group is made smaller here
    )
    @given(rng=st.randoms(use_true_random=True))
    def every_plan_agrees(rng: Random) -> None:
        drawn = drawn_group(rng)
        logs = drawn_logs(rng, drawn.space, KEYS, drawn.widths)
        try:
            check(drawn, logs)
        except AssertionError as error:
            raise _of_smallest(drawn, logs, error) from None

    (every_plan_agrees if seed_ is None else seed(seed_)(every_plan_agrees))()


def _of_smallest(drawn: DrawnGroup, logs: Logs, error: AssertionError) -> AssertionError:
    for smaller in drawn.smaller():
        try:
            check(smaller, logs)
        except AssertionError as same:
            return _of_smallest(smaller, logs, same)
    return error


def main() -> None:
    """As many histories as asked for."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--histories", type=int, default=50_000, help="of keys (50000)")
    parser.add_argument("--seed", type=int, help="other groups and logs than those of the tests")
    wanted = parser.parse_args()
    check_drawn(wanted.histories, wanted.seed)
    print(f"{wanted.histories} key histories: all plans agree with the reference")


if __name__ == "__main__":
    main()
