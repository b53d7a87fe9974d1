"""Materialized by our compute engine and by stock's local one: the same bytes in Redis.

Compared hash by hash, field by field, without our created timestamps. Maps have no order in
protobuf and sets none at all: these are compared by content. Left to chance by stock, and so not
generated: which of two rows with the same event and created timestamp is taken.

Where stock is wrong, a test of its own shows the difference:

- it reads a column of integers with nulls as doubles and loses digits beyond 2^53;
- it writes null for empty bytes if the rows that it writes at once have no others;
- it does not write a correction, that is a row with the event time of the stored one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureView
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bytes, Int64, String
from parity_answers import agree, differences, outcome, vectors
from parity_kinds import MICROSECONDS
from parity_repositories import NOW, SEEDS, Repository
from parity_requests import Request, references
from parity_sources import TIMES, named, rows, times_of, view_over
from parity_stores import Hashes, World, parity_world, quiet

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
VIEWS = ["wide", "pair", "triple"]
SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Pair:
    """One repository in two projects: one that stock materializes, one that ours does."""

    world: World
    name: str
    objects: list[Any]

    @property
    def stock(self) -> Any:
        return self.world.stock(f"{self.name}_stock", self.objects)

    @property
    def ours(self) -> Any:
        return self.world.ours(f"{self.name}_ours", self.objects)

    def materialize(self, start: datetime, end: datetime, *views: str) -> None:
        for store in (self.stock, self.ours):
            with quiet():
                store.materialize(start, end, list(views))

    def materialize_incremental(self, end: datetime, *views: str) -> None:
        for store in (self.stock, self.ours):
            with quiet():
                store.materialize_incremental(end, list(views))

    def hashes(self) -> tuple[Hashes, Hashes]:
        """What is in Redis by stock, and by ours."""
        theirs, ours = (self.world.hashes(f"{self.name}_{side}") for side in ("stock", "ours"))
        return theirs, ours

    def check(self) -> None:
        """Raise an AssertionError unless both projects hold the same."""
        theirs, ours = self.hashes()
        assert theirs
        agree(differences(self._comparable(theirs), self._comparable(ours)))

    def _comparable(self, hashes: Hashes) -> dict[bytes, dict[str, Any]]:
        fields = {
            _mmh3(f"{view.name}:{field.name}"): (f"{view.name}:{field.name}", field.dtype)
            for view in self.objects
            if isinstance(view, FeatureView)
            for field in view.features
        }
        found: dict[bytes, dict[str, Any]] = {}
        for key, values in hashes.items():
            found[key] = {}
            for field, data in values.items():
                name, dtype = fields.get(field, (repr(field), None))
                kind = "" if dtype is None else dtype.to_value_type().name
                found[key][name] = _unordered(data) if kind.endswith(_UNORDERED) else data
                if data == _EMPTY:  # see test_stock_takes_empty_bytes_for_null
                    found[key][name] = b""
        return found


_EMPTY = Value(bytes_val=b"").SerializeToString()
_UNORDERED = ("MAP", "STRUCT", "STRUCT_LIST", "_SET")


def _unordered(data: bytes) -> Any:
    message = Value.FromString(data)
    kind = message.WhichOneof("val")
    if kind is not None and kind.endswith("_set_val"):
        return sorted(map(repr, getattr(message, kind).val))
    return message.SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with parity_world() as found:
        yield found


@pytest.fixture(params=SEEDS)
def repository(world: World, request: pytest.FixtureRequest) -> Repository:
    return world.repository(request.param)


def pair_of(world: World, name: str, repository: Repository) -> Pair:
    return Pair(world, f"{name}_{repository.seed}", repository.objects)


def instants(view: FeatureView) -> list[datetime]:
    """The event times of a view's source, in order."""
    source: Any = view.batch_source
    mapping = {new: old for old, new in source.field_mapping.items()}
    column = mapping.get("event_timestamp", "event_timestamp")
    table = pq.read_table(source.path, columns=[column])
    return sorted(table[column].to_pylist())


def test_everything_at_once(world: World, repository: Repository) -> None:
    """Every type that stock can materialize, nulls, one to three keys, a mapping of names."""
    pair = pair_of(world, "all", repository)
    pair.materialize(LONG_AGO, NOW, *VIEWS)
    pair.check()
    request = Request(references(repository, *VIEWS), repository.request_keys())
    theirs, ours = (vectors(request.send(world.stock(p.project))) for p in (pair.stock, pair.ours))
    agree(differences(theirs, ours), "read by stock")


def test_one_wrong_bit_is_noticed(world: World) -> None:
    """The comparison of this module can fail."""
    pair = pair_of(world, "spoilt", world.repository(1))
    pair.materialize(LONG_AGO, NOW, "pair")
    pair.check()
    key = next(world.client.scan_iter(f"*{pair.ours.project}"))
    for field, kept in world.client.hgetall(key).items():
        if not field.startswith(b"_created:"):
            world.client.hset(key, field, bytes([*kept[:-1], kept[-1] ^ 1]) if kept else b"x")
            with pytest.raises(AssertionError, match="expected"):
                pair.check()
            world.client.hset(key, field, kept)
    pair.check()


def test_ranges_and_their_repetition(world: World, repository: Repository) -> None:
    """Both ends of a range belong to it; an older range does not undo a newer one."""
    pair = pair_of(world, "ranges", repository)
    for view in VIEWS:
        times = instants(repository.views[view])
        cuts = [times[0], times[len(times) // 3], times[len(times) // 2], times[-1]]
        for start, end in [(1, 2), (0, 1), (2, 3), (0, 3), (1, 2)]:
            pair.materialize(cuts[start], cuts[end], view)
            pair.check()
        pair.materialize(times[-1] + SECOND, NOW + SECOND, view)  # empty
    pair.check()


def test_increments(world: World, repository: Repository) -> None:
    """From where the last run ended; the registry notes the same intervals."""
    pair = pair_of(world, "increments", repository)
    for view in VIEWS:
        times = instants(repository.views[view])
        pair.materialize(times[0], times[len(times) // 4], view)
        for end in (times[len(times) // 2], times[-2], NOW):
            pair.materialize_incremental(end, view)
            pair.check()
        theirs, ours = (s.get_feature_view(view) for s in (pair.stock, pair.ours))
        assert ours.materialization_intervals == theirs.materialization_intervals
        assert len(ours.materialization_intervals) == 4
        assert ours.most_recent_end_time == NOW


# Sources made by hand


def made(world: World, name: str, table: pa.Table, dtype: Any = Int64, **source: Any) -> Pair:
    """Two projects on a view `v` with key `k` and feature `x` over a table."""
    return Pair(world, name, view_over(world.folder / f"{name}.parquet", table, dtype, **source))


@pytest.mark.parametrize("kind", TIMES)
def test_times_of_every_type(world: World, kind: str) -> None:
    """Without a zone it is UTC; fractions are kept."""
    exact = [NOW - timedelta(hours=30), NOW - timedelta(microseconds=1), NOW - timedelta(days=9)]
    times = times_of(kind, exact)
    table = rows(pa.array([1, 2, 3]), created=times, event_timestamp=times)
    pair = made(world, named(f"times {kind}"), table)
    pair.materialize(LONG_AGO, NOW, "v")
    pair.check()
    pair.materialize(exact[0], exact[0], "v")
    pair.check()


def test_equal_event_times_are_reported_apart_by_created_times(world: World) -> None:
    """Whatever order the file has them in; equal rows are one."""
    count = 60
    keys = pa.array([n % 7 for n in range(count)], pa.int64())
    created = [NOW + timedelta(seconds=n * 37 % count) for n in range(count)]
    table = rows(pa.array(range(count)), created=pa.array(created, MICROSECONDS), k=keys)
    table = pa.concat_tables([table, table.slice(0, 10), table])
    pair = made(world, "ties", table)
    pair.materialize(LONG_AGO, NOW, "v")
    pair.check()


def test_a_null_created_time_gives_way(world: World) -> None:
    """To a known one with the same event time."""
    created = pa.array([None, NOW - timedelta(days=9), NOW, None, None], MICROSECONDS)
    keys = pa.array([0, 0, 1, 1, 2], pa.int64())
    table = rows(pa.array([1, 2, 3, 4, 5]), created=created, k=keys)
    pair = made(world, "null_created", table)
    pair.materialize(LONG_AGO, NOW, "v")
    pair.check()


def test_a_column_of_nulls(world: World) -> None:
    """Of nulls only, of a type and of none."""
    for name, values in {"typed": pa.nulls(3, pa.int64()), "untyped": pa.nulls(3)}.items():
        pair = made(world, f"nulls_{name}", rows(values))
        pair.materialize(LONG_AGO, NOW, "v")
        pair.check()


def test_a_source_of_several_files(world: World) -> None:
    """A pattern; the newest row of a key may be in any file."""
    folder = world.folder / "files"
    folder.mkdir()
    for number in range(3):
        keys = pa.array([number, number + 1], pa.int64())
        times = pa.array([NOW - number * SECOND, NOW - SECOND * (9 - number)], MICROSECONDS)
        table = rows(pa.array([number, 10 + number]), k=keys, event_timestamp=times)
        pq.write_table(table, folder / f"part_{number}.parquet")
    pair = made(world, "files", rows(pa.array([0])), path=str(folder / "*.parquet"))
    pair.materialize(LONG_AGO, NOW, "v")
    pair.check()
    assert len(pair.hashes()[0]) == 4


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (pa.array([[1, None]], pa.list_(pa.int64())), Array(Int64)),
        (pa.array(["one"]), Int64),
        (pa.array([["a"]], pa.list_(pa.string())), Array(Int64)),
        (pa.array([b"a"]), Array(String)),
    ],
)
def test_what_cannot_be_converted_is_an_error(
    world: World, values: pa.Array, dtype: Any, request: pytest.FixtureRequest
) -> None:
    """In both; what it is called is each one's own matter, and neither writes anything."""
    name = f"wrong_{request.node.callspec.indices['values']}"
    pair = made(world, name, rows(values), dtype)
    for store in (pair.stock, pair.ours):
        with quiet(), pytest.raises(Exception):  # noqa: B017, PT011 - stock's are of all sorts
            store.materialize(LONG_AGO, NOW, ["v"])
    assert pair.hashes() == ({}, {})


def test_a_missing_column_is_an_error(world: World) -> None:
    """In both: declared, and not in the file."""
    pair = made(world, "missing", rows(pa.array([1])).drop_columns(["x"]))
    for store in (pair.stock, pair.ours):
        with quiet(), pytest.raises(Exception):  # noqa: B017, PT011
            store.materialize(LONG_AGO, NOW, ["v"])


def test_a_range_that_ends_before_it_starts(world: World) -> None:
    """Refused with the same exception."""
    pair = made(world, "backwards", rows(pa.array([1])))
    results = [
        outcome(store.materialize, NOW, LONG_AGO, ["v"]) for store in (pair.stock, pair.ours)
    ]
    assert results == [("error", ValueError)] * 2


def test_a_view_without_entities_is_refused(world: World) -> None:
    """By both: Feast 0.67 materializes none, though it serves those that are pushed."""
    pair = pair_of(world, "alone", world.repository(0))
    for store in (pair.stock, pair.ours):
        with quiet(), pytest.raises(ValueError, match="__dummy_id"):
            store.materialize(LONG_AGO, NOW, ["alone"])


# Known differences


def value(world: World, pair: Pair, store: Any, key: int) -> Any:
    """A value as stock reads it."""
    reader = world.stock(store.project)
    return reader.get_online_features(["v:x"], [{"k": key}]).to_dict()["x"][0]


def test_stock_loses_digits_beside_nulls(world: World) -> None:
    """The first known difference."""
    exact = 2**53 + 1
    pair = made(world, "digits", rows(pa.array([exact, None, -exact], pa.int64())))
    pair.materialize(LONG_AGO, NOW, "v")
    assert [value(world, pair, pair.stock, key) for key in range(3)] == [2**53, None, -(2**53)]
    assert [value(world, pair, pair.ours, key) for key in range(3)] == [exact, None, -exact]


def test_stock_takes_empty_bytes_for_null(world: World) -> None:
    """The second: unless another row of the batch has bytes that are not empty."""
    for name, other, theirs in [("empty", b"", None), ("filled", b"a", b"")]:
        pair = made(world, name, rows(pa.array([b"", other], pa.binary())), Bytes)
        pair.materialize(LONG_AGO, NOW, "v")
        assert value(world, pair, pair.stock, 0) == theirs
        assert value(world, pair, pair.ours, 0) == b""


def test_stock_does_not_write_a_correction(world: World) -> None:
    """The third: the source holds a newer row with the same event time, created later."""
    first = rows(pa.array([1]), created=pa.array([NOW], MICROSECONDS))
    pair = made(world, "correction", first)
    pair.materialize(LONG_AGO, NOW, "v")
    pair.check()
    second = rows(pa.array([2]), created=pa.array([NOW + SECOND], MICROSECONDS))
    pq.write_table(second, Path(pair.objects[1].batch_source.path))
    pair.materialize(LONG_AGO, NOW, "v")
    assert value(world, pair, pair.stock, 0) == 1
    assert value(world, pair, pair.ours, 0) == 2
