"""Historical features: ours equal to stock's DuckDB store, as a table and as a frame.

Stock returns the rows in any order: they are sorted back into the entity dataframe's before
comparing. Ours must have that order by itself. Left to chance by stock, and so not generated: which
of two rows with the same event and created timestamp counts.

Where stock is wrong, a test of its own shows the difference:

- the order of the rows;
- with an alias for one of a view's two join keys, it leaves the other one out of the join;
- it fails if a column of the frame and a feature differ in case only;
- with `filter_by_created_timestamp` it leaves out a row whose created timestamp is null;
- it looks for a relative path in the working directory;
- it joins fractions with nothing, as it does keys of other kinds, or ends in DuckDB's error.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, Final

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from parity_answers import agree, columns_of, differences, outcome
from parity_frames import FRAMES, REFUSED, REFUSED_IN_OTHER_WORDS, ROW, entity_dataframe
from parity_kinds import MICROSECONDS
from parity_repositories import NOW, SEEDS, Repository
from parity_requests import references
from parity_sources import TIMES, named, rows, times_of, view_over
from parity_stores import World, parity_world, quiet

from pipelines.errors import UsageError

VIEWS: Final = ("wide", "triple", "pair", "alone")
ALL, EACH = "all", "each"  # references to all features of all views, and to one of each

# What is asked for: a service or references, with full names or without.
ASKED: Final[dict[str, tuple[str | list[str], bool]]] = {
    "all views": (ALL, False),
    "all views, full names": (ALL, True),
    "a feature of each view": (EACH, False),
    "one feature": (["pair:label"], False),
    "some features of two views by turns": (
        ["triple:scores", "pair:ratio", "triple:number"],
        False,
    ),
    "the view without entity": (["alone:level"], False),
    "service": ("plain", False),
    "service, full names": ("plain", True),
    "service with join key aliases": ("aliased", True),
    "service with a renamed view": ("renamed", False),
    "service with a renamed view, full names": ("renamed", True),
    "on-demand": ("demanded", False),
    "on-demand, full names": ("demanded", True),
    "on-demand in pandas": (["in_pandas:total", "in_pandas:seen_by_pandas"], False),
    "on-demand in pandas, full names": (["in_pandas:total", "pair:label"], True),
    "on-demand in python": (["in_python:twice"], False),
    "on-demand, renamed": ("demanded_by_another_name", False),
    "on-demand, renamed, full names": ("demanded_by_another_name", True),
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with parity_world() as found:
        yield found


@pytest.fixture(params=SEEDS)
def repository(world: World, request: pytest.FixtureRequest) -> Repository:
    return world.repository(request.param)


def stores(world: World, repository: Repository) -> tuple[Any, Any]:
    """Stock Feast's store and ours."""
    name = f"history_{repository.seed}"
    return world.stock(name, repository.objects), world.ours(name, repository.objects)


def job(store: Any, repository: Repository, asked: str, frame: pd.DataFrame, **how: Any) -> Any:
    features: Any
    features, full = ASKED[asked]
    if features == ALL:
        features = references(repository, *VIEWS)
    elif features == EACH:
        features = [references(repository, view)[0] for view in VIEWS]
    elif isinstance(features, str):
        features = store.get_feature_service(features)
    with quiet():
        return store.get_historical_features(frame, features, full, **how)


def compare(world: World, repository: Repository, asked: str, frame: Any, **how: Any) -> None:
    """Raise an AssertionError unless both stores answer alike, in both forms."""
    stock, ours = stores(world, repository)
    before = frame.copy()
    theirs = outcome(lambda: job(stock, repository, asked, frame, **how))
    found = outcome(lambda: job(ours, repository, asked, frame, **how))
    assert theirs[0] == found[0] == "value", (theirs, found)
    expected, answer = outcome(theirs[1].to_arrow), outcome(found[1].to_arrow)
    if expected[0] == "error":
        assert answer == expected
        return
    table = _in_order(expected[1], frame)
    assert answer[0] == "value", answer
    ours_as_table, ours_as_frame = answer[1], found[1].to_df()
    agree(differences(columns_of(table), columns_of(ours_as_table)), "to_arrow")
    assert ours_as_table.column_names == table.column_names
    as_frame = table.to_pandas()  # which is how stock makes its frame
    agree(differences(_structs_alike(as_frame), _structs_alike(ours_as_frame)), "to_df")
    assert ours_as_frame.index.equals(as_frame.index)
    assert about(found[1]) == about(theirs[1])
    pd.testing.assert_frame_equal(frame, before)


def about(retrieval: Any) -> tuple[Any, ...]:
    """What a job says of itself; stock has the columns in any order."""
    known = retrieval.metadata
    instants = [
        pd.Timestamp(known.min_event_timestamp),
        pd.Timestamp(known.max_event_timestamp),
    ]
    return (
        sorted(known.features),
        sorted(known.keys),
        instants,
        retrieval.full_feature_names,
    )


def _in_order(table: pa.Table, frame: pd.DataFrame) -> pa.Table:
    """Stock's rows in the order of the frame."""
    place = {row: number for number, row in enumerate(frame[ROW])}
    rows = table[ROW].to_pylist()
    return table.take(sorted(range(len(rows)), key=lambda number: place[rows[number]]))


def _structs_alike(frame: pd.DataFrame) -> dict[str, Any]:
    """Columns of a frame; pandas makes doubles of a struct's integers where a chunk has nulls."""
    return {
        name: (dtype, [_with_doubles(value) if type(value) is dict else value for value in values])
        for name, (dtype, values) in columns_of(frame).items()
    }


def _with_doubles(struct: dict[str, Any]) -> dict[str, Any]:
    return {name: float(v) if isinstance(v, int) else v for name, v in struct.items()}


@pytest.mark.parametrize("asked", ["all views", "service, full names"])
def test_every_type_is_answered_alike(world: World, repository: Repository, asked: str) -> None:
    """Time to live or none, no to three keys, nulls, rows of one time."""
    compare(world, repository, asked, entity_dataframe(repository))


@pytest.mark.parametrize("asked", ASKED)
def test_what_is_asked_for_is_answered_alike(world: World, asked: str) -> None:
    """Aliases, services, on-demand views; each on the repository of another seed."""
    repository = world.repository(list(ASKED).index(asked) % len(SEEDS))
    compare(world, repository, asked, entity_dataframe(repository))


def test_a_spoilt_answer_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison of this module can fail: another value, another type, another order."""
    repository = world.repository(1)
    frame = entity_dataframe(repository)
    ours = stores(world, repository)[1]
    right = job(ours, repository, "one feature", frame).to_arrow()
    last, place = len(right.column_names) - 1, right.column_names.index(ROW)
    wrong = [
        right.set_column(last, "label", pa.nulls(len(right), pa.string())),
        right.set_column(place, ROW, right[ROW].cast(pa.float64())),
        right.take(list(range(len(right)))[::-1]),
        right.slice(1),
        right.select(right.column_names[::-1]),
    ]
    for table in wrong:
        answer = SimpleNamespace(to_arrow=lambda table=table: table, to_df=table.to_pandas)
        monkeypatch.setattr(ours, "get_historical_features", lambda *_, a=answer, **__: a)
        with pytest.raises(AssertionError):
            compare(world, repository, "one feature", frame)


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_is_understood_alike(world: World, name: str) -> None:
    """Whatever the types of its columns; each on the repository of another seed."""
    repository = world.repository(list(FRAMES).index(name) % len(SEEDS))
    frame = FRAMES[name](entity_dataframe(repository))
    compare(world, repository, "a feature of each view", frame)


@pytest.mark.parametrize(
    "key",
    [
        1.5,
        True,
        float("inf"),
        Decimal("1.5"),
        datetime(2026, 1, 1),
        b"7",
        "7",
        [7],
        {"a": 7},
        2**70,
    ],
    ids=repr,
)
def test_a_key_of_another_kind_is_refused_in_one_line(world: World, key: Any) -> None:
    """Stock joins nothing in silence, or ends in DuckDB's error."""
    repository = world.repository(0)
    frame = entity_dataframe(repository)
    frame["whole_id"] = pd.Series([key] * len(frame), index=frame.index, dtype=object)
    with pytest.raises(UsageError) as found:
        job(stores(world, repository)[1], repository, "a feature of each view", frame)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("asked", ["all views", "service with join key aliases"])
def test_what_was_computed_later_is_left_out_alike(
    world: World, repository: Repository, asked: str
) -> None:
    """With `filter_by_created_timestamp`: at the entity's time it was not known."""
    frame = entity_dataframe(repository)
    compare(world, repository, asked, frame, filter_by_created_timestamp=True)


@pytest.mark.parametrize(
    "features", [["nothing:label"], ["pair:nothing"], ["in_python:nothing"], ["pair"], []]
)
def test_what_is_unknown_is_refused_alike(world: World, features: list[str]) -> None:
    """Views, features, malformed references, none."""
    repository = world.repository(0)
    frame = entity_dataframe(repository)
    refuse_alike(world, repository, frame, features)


@pytest.mark.parametrize("full", [False, True])
def test_one_name_twice_is_refused_alike(world: World, full: bool) -> None:
    """Of one view, or of two without full names."""
    repository = world.repository(0)
    features = ["pair:label"] * 2
    refuse_alike(world, repository, entity_dataframe(repository), features, full)


@pytest.mark.parametrize("name", REFUSED)
def test_a_frame_is_refused_alike(world: World, name: str) -> None:
    """What Feast needs is not there."""
    repository = world.repository(0)
    frame = REFUSED[name](entity_dataframe(repository))
    refuse_alike(world, repository, frame, ["in_pandas:total"])


@pytest.mark.parametrize("name", REFUSED_IN_OTHER_WORDS)
def test_a_frame_that_does_not_fit_is_refused(world: World, name: str) -> None:
    """Ours says what is wrong; stock's words are those of Ibis."""
    repository = world.repository(0)
    frame = REFUSED_IN_OTHER_WORDS[name](entity_dataframe(repository))
    for store in stores(world, repository):
        with quiet():
            found = outcome(_frame, store, frame, ["pair:label"])
        assert found[0] == "error"


def _frame(store: Any, *arguments: Any) -> Any:
    return store.get_historical_features(*arguments).to_df()


def refuse_alike(
    world: World, repository: Repository, frame: Any, features: list[str], full: bool = False
) -> None:
    """Raise an AssertionError unless both stores raise the same type of exception."""
    with quiet():
        expected, found = (
            outcome(_frame, store, frame, features, full) for store in stores(world, repository)
        )
    assert expected[0] == "error"
    assert found == expected


# Sources made by hand


def values(
    world: World, name: str, objects: list[Any], frame: pd.DataFrame, **how: Any
) -> list[list[Any]]:
    """Feature `x` of view `v` by stock and by ours, in the frame's order."""
    found = []
    for store in (world.stock(name, objects), world.ours(name, objects)):
        with quiet():
            table = store.get_historical_features(frame, ["v:x"], **how).to_arrow()
        found.append(_in_order(table, frame)["x"].to_pylist())
    return found


def at(*instants: datetime) -> pd.DataFrame:
    """Key 0 at these times."""
    frame = pd.DataFrame({"k": [0] * len(instants), ROW: range(len(instants))})
    return frame.assign(event_timestamp=pd.to_datetime(pd.Series(instants), utc=True))


@pytest.mark.parametrize("kind", TIMES)
def test_times_of_every_type(world: World, kind: str) -> None:
    """Without a zone it is UTC; fractions are kept."""
    instants = [NOW - timedelta(hours=30), NOW - timedelta(microseconds=1), NOW - timedelta(days=9)]
    times = times_of(kind, instants)
    table = rows(pa.array([1, 2, 3]), times, k=pa.array([0, 0, 0]), event_timestamp=times)
    name = named(f"times {kind}")
    objects = view_over(world.folder / f"{name}.parquet", table)
    near = [m + d * timedelta(microseconds=1) for m in instants for d in (-1, 0, 1)]
    theirs, ours = values(world, name, objects, at(*near, NOW, NOW - timedelta(days=99)))
    assert ours == theirs
    assert set(theirs) == {1, 2, 3, None}


def test_of_one_event_time_the_row_created_last_counts(world: World) -> None:
    """Whatever order the file has them in; a null created timestamp comes last."""
    created = [NOW - timedelta(days=days) for days in (3, 1, 2)]
    for name, times in {"ties": [*created, created[0]], "ties_null": [*created, None]}.items():
        table = rows(
            pa.array([1, 2, 3, 4]), pa.array(times, MICROSECONDS), k=pa.array([0, 0, 0, 0])
        )
        objects = view_over(world.folder / f"{name}.parquet", table)
        assert values(world, name, objects, at(NOW)) == [[2], [2]]


# Known differences


def test_stock_returns_rows_in_another_order(world: World) -> None:
    """The first known difference."""
    orders = []
    for seed in SEEDS:
        repository = world.repository(seed)
        frame = entity_dataframe(repository)
        theirs, ours = (
            job(store, repository, "one feature", frame).to_arrow()[ROW].to_pylist()
            for store in stores(world, repository)
        )
        assert ours == frame[ROW].tolist()
        orders.append(theirs == ours)
    assert not all(orders)


def test_stock_forgets_a_key_without_alias(world: World) -> None:
    """The second: online, stock itself reads the view by both of its keys, and so does ours."""
    repository = world.repository(0)
    frame = entity_dataframe(repository).drop(columns=["label"], errors="ignore")
    stock, ours = stores(world, repository)
    unaliased = frame.drop(columns=["text_id"]).rename(columns={"target_text": "text_id"})
    right = stock.get_historical_features(unaliased, ["pair:label"]).to_arrow()
    expected = _in_order(right, frame)["label"].to_pylist()
    service = ours.get_feature_service("partly_aliased")
    theirs, found = (
        _in_order(s.get_historical_features(frame, service).to_arrow(), frame)["label"].to_pylist()
        for s in (stock, ours)
    )
    assert found == expected
    assert theirs != expected


def test_stock_confuses_names_that_differ_in_case_only(world: World) -> None:
    """The third: to DuckDB, not to Feast, a name in capitals is the same."""
    repository = world.repository(0)
    frame = entity_dataframe(repository)
    stock, ours = stores(world, repository)
    right = job(ours, repository, "all views", frame).to_arrow()
    shouting = frame.assign(LABEL="mine", TEXT_ID=1)
    with pytest.raises(KeyError):
        job(stock, repository, "all views", shouting).to_arrow()
    found = job(ours, repository, "all views", shouting).to_arrow()
    found_too = columns_of(found.drop_columns(["LABEL", "TEXT_ID"]))
    agree(differences(columns_of(right), found_too))
    assert set(found["LABEL"].to_pylist()) == {"mine"}


def test_stock_takes_a_null_created_time_for_a_later_one(world: World) -> None:
    """The fourth: Feast says that values are left out which were created after the time."""
    created = pa.array([NOW - timedelta(days=1), None], MICROSECONDS)
    events = pa.array([NOW - timedelta(hours=2), NOW - timedelta(hours=1)], MICROSECONDS)
    table = rows(pa.array([1, 2]), created, k=pa.array([0, 0]), event_timestamp=events)
    objects = view_over(world.folder / "null_created.parquet", table)
    assert values(world, "null_created", objects, at(NOW)) == [[2], [2]]
    cut_off = values(world, "null_created", objects, at(NOW), filter_by_created_timestamp=True)
    assert cut_off == [[1], [2]]


def test_stock_reads_a_relative_path_against_the_working_directory(world: World) -> None:
    """The fifth: applied against the repository, it is then looked for where the process stands."""
    objects = view_over(world.folder / "relative.parquet", rows(pa.array([1]), k=pa.array([0])))
    objects[1].batch_source.file_options.uri = "relative.parquet"
    stock, ours = (store("relative", objects) for store in (world.stock, world.ours))
    with quiet(), pytest.raises(duckdb.IOException, match=r"relative\.parquet"):
        stock.get_historical_features(at(NOW), ["v:x"]).to_arrow()
    assert ours.get_historical_features(at(NOW), ["v:x"]).to_arrow()["x"].to_pylist() == [1]
