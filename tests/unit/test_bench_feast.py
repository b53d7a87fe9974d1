"""What is made of the Feast benchmarks' timings; how fast anything is, is not tested here."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from pipelines.benchmarks import bench_feast, feast_online
from pipelines.benchmarks.feast_figures import (
    TARGETS,
    compared,
    in_turns,
    paired_ratio,
    quantiles_ms,
    ratio,
    rounded,
)
from pipelines.benchmarks.feast_history import check_same_rows
from pipelines.benchmarks.feast_limits import (
    asof_join,
    benchmark_program,
    hash_shape,
    hset_rows_per_s,
)
from pipelines.benchmarks.feast_materialize import agreement, compare
from pipelines.benchmarks.feast_plot import PANELS, check_plotting, plot
from pipelines.benchmarks.feast_space import Space, private_space
from pipelines.benchmarks.feast_world import View, entity_dataframe, write_views
from pipelines.benchmarks.feast_writer import RANDOM, HsetBlocks, written_rows_per_s
from pipelines.cli import bench
from pipelines.errors import SynchroChainError, UsageError
from pipelines.lake.clock import aware_now
from pipelines.redis_server.process import is_gone

PNG = b"\x89PNG\r\n\x1a\n"


def figures() -> dict[str, Any]:
    """A result as `bench_feast.measure` returns it, with figures made up."""
    online = {"stock_p50_ms": 20.0, "ours_p50_ms": 2.0, "limit_p50_ms": 1.6}
    online |= {name.replace("p50", "p99"): 3 * value for name, value in online.items()}
    found: dict[str, Any] = {
        "materialize": {
            "keys": 50_000,
            "features": 9,
            "stock_rows_per_s": 4_000,
            "ours_rows_per_s": 60_000,
            "limit_rows_per_s": 150_000,
            "ratio_to_stock": 15.0,
            "ratio_to_limit": 0.4,
            "growth": 11.5,
            "stock_setting": {},
            "limit_setting": "our own writer",
            "agreement": "they agree",
        },
        "online_1": {**online, "ratio_to_stock": 10.0, "ratio_to_limit": 1.25},
        "online_100": {**online, "ratio_to_stock": 10.0, "ratio_to_limit": 1.25},
        "online_growth": {"from_10_to_100": 8.0, "from_100_to_1000": 9.9},
        "history": {
            "rows": 100_000,
            "views": 3,
            "view_rows": 500_000,
            "stock_s": 3.0,
            "ours_s": 0.5,
            "limit_s": 0.5,
            "ratio_to_stock": 6.0,
            "ratio_to_limit": 1.0,
            "growth": 8.0,
        },
        "machine": {"feast": "0.67.0", "server": "redis 7", "duckdb": "1.5", "cores": 2},
    }
    for name in ("online_1", "online_100"):
        found[name] |= {"features": 27, "stock_setting": "read view by view"}
    return found | {"targets": compared(found)}


def test_ratios_keep_three_figures_and_nothing_measured_stays_null() -> None:
    """A part without a limit gives null, not an error and not a zero."""
    assert ratio(61_234, 3_800) == 16.1
    assert ratio(0.04567, 0.1) == 0.457
    assert ratio(None, 3.0) is None
    assert ratio(3.0, None) is None
    assert rounded(12_345.6) == 12_346
    assert rounded(0.0) == 0.0


def test_a_ratio_is_taken_within_each_repeat() -> None:
    """A machine that becomes slow half-way changes the times, not their ratio."""
    assert paired_ratio([2.0, 2.2, 9.0], [1.0, 1.1, 4.5]) == 2.0
    assert paired_ratio([9.0, 2.0, 2.0], [4.5, 1.0, 4.0]) == 2.0
    assert paired_ratio([], [1.0]) is None


def test_quantiles_are_milliseconds() -> None:
    """Of a hundred and one requests the middle one, and nearly the slowest."""
    assert quantiles_ms([n / 1000 for n in range(101)]) == (50.0, 99.0)


def test_each_repeat_begins_with_another_side() -> None:
    """All sides once per repeat, rotated, so that none always follows the same one."""
    order = [name for name, _ in in_turns({"stock": 1, "ours": 2, "limit": 3}, 3)]
    assert order[0:3] == ["stock", "ours", "limit"]
    assert order[3:6] == ["ours", "limit", "stock"]
    assert order[6:9] == ["limit", "stock", "ours"]


def test_targets_stand_beside_the_figures() -> None:
    """More is better for some, less for others; a part left out has no line."""
    verdicts = {target["figure"]: target["result"] for target in compared(figures())}
    assert verdicts == {
        "materialize.ratio_to_stock": "✓ reached",
        "materialize.ratio_to_limit": "✓ reached",
        "materialize.growth": "✗ missed",
        "online_1.ratio_to_limit": "✓ aim reached",
        "online_100.ratio_to_stock": "✓ reached",
        "online_100.ratio_to_limit": "✓ reached",
        "online_growth.from_10_to_100": "✓ reached",
        "online_growth.from_100_to_1000": "✓ reached",
        "history.ratio_to_stock": "✓ aim reached",
        "history.ratio_to_limit": "✓ aim reached",
        "history.growth": "✓ reached",
    }
    assert len(verdicts) == len(TARGETS)
    assert [t["figure"] for t in compared({"history": {"growth": None}})][-1] == "history.growth"
    assert {t["result"] for t in compared({"history": {}})} == {"not measured"}


def test_a_wrong_answer_stops_the_benchmark() -> None:
    """Another value, another type, another column, or nothing at all to compare with."""
    stock = {"user_id": [1, 2], "a": [1.0, None]}
    compare({"user_id": [1, 2], "a": [1.0, None]}, stock, "ours")
    for wrong in ([1.5, None], [1.0, 2.0], [1, None]):
        with pytest.raises(SynchroChainError, match="ours differs from stock: a of row"):
            compare({"user_id": [1, 2], "a": wrong}, stock, "ours")
    with pytest.raises(SynchroChainError, match="'a'"):
        compare({"user_id": [1, 2]}, stock, "ours")
    empty = {"user_id": [1], "a": [None]}
    with pytest.raises(SynchroChainError, match="found nothing to compare with"):
        compare(empty, empty, "ours")


def test_histories_are_compared_row_by_row_in_any_order() -> None:
    """The order of the rows is no difference, a value is."""
    one = pa.table({"row": [0, 1], "a": [1.0, None]})
    check_same_rows(one, one.take([1, 0]), "stock")
    with pytest.raises(SynchroChainError, match="from stock in column a"):
        check_same_rows(one, pa.table({"row": [0, 1], "a": [1.0, 2.0]}), "stock")
    with pytest.raises(SynchroChainError, match="columns"):
        check_same_rows(one, one.rename_columns(["row", "b"]), "stock")


def test_generated_files_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    """Nine features, a few nulls, microseconds in UTC, one row a key where there are as many."""
    view = View("clicks", 2000, 2000)
    tables = [
        pq.read_table(write_views(tmp_path / name, [view]).path(view)) for name in ("one", "two")
    ]
    first, second = (table.drop(["event_timestamp", "created_timestamp"]) for table in tables)
    assert first.equals(second)
    assert len(view.features) == 9
    assert first.column_names == ["user_id", *view.features]
    assert sorted(first["user_id"].to_pylist()) == list(range(2000))
    assert tables[0].schema.field("event_timestamp").type == pa.timestamp("us", tz="UTC")
    nulls = {name: first[name].null_count for name in view.features}
    assert sum(1 for count in nulls.values() if count) == 2
    assert 0 < max(nulls.values()) < 200


def test_the_statement_by_hand_gives_the_newest_value_that_has_not_expired(tmp_path: Path) -> None:
    """Against a plain loop over every row; an expired value is null."""
    view = View("clicks", 300, 20, timedelta(days=5))
    views = write_views(tmp_path / "views", [view])
    frame = entity_dataframe(60, 20, views.end)
    feature = next(iter(view.features))
    stored = pq.read_table(views.path(view)).sort_by("event_timestamp").to_pylist()
    expected = []
    for row in frame.to_dict("records"):
        at = row["event_timestamp"].to_pydatetime()
        past = [r for r in stored if r["user_id"] == row["user_id"] and r["event_timestamp"] <= at]
        fresh = past and past[-1]["event_timestamp"] >= at - timedelta(days=5)
        expected.append(past[-1][feature] if fresh else None)
    found = asof_join(views, frame)().sort_by("row")
    assert found[feature].to_pylist() == expected
    assert 0 < pc.sum(pc.is_null(found[feature])).as_py() < 60
    assert views.end <= aware_now()


def test_a_view_without_rows_is_generated_and_joined(tmp_path: Path) -> None:
    """Nothing is known of anybody; every row that is asked for stays."""
    view = View("clicks", 0, 0, timedelta(days=5))
    views = write_views(tmp_path / "views", [view])
    assert pq.read_metadata(views.path(view)).num_rows == 0
    found = asof_join(views, entity_dataframe(60, 20, views.end))()
    assert len(found) == 60
    assert found[next(iter(view.features))].null_count == 60


def test_a_private_server_is_measured_and_nothing_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A configured server is never emptied; Ctrl-C too stops the server and removes the files.

    Redis's own benchmark writes rows like the stored ones: as long a key, fields and values.
    """
    monkeypatch.setenv("SYNCHROCHAIN_REDIS_HOST", "redis.example.org")
    monkeypatch.setenv("SYNCHROCHAIN_DATA_DIR", "kept")
    spaces: list[Space] = []
    servers: list[psutil.Process] = []

    def measured_until_interrupted() -> None:
        with private_space() as space:
            spaces.append(space)
            servers.append(psutil.Process(space.endpoint.pid))
            assert "SYNCHROCHAIN_REDIS_HOST" not in os.environ
            client: Any = space.client
            client.hset("another", mapping={"x": "of another view"})
            client.hset(b"k" * 44, mapping={b"\x00\x01\x02\x03": "9" * 9, "_ts:full": "t" * 11})
            arguments = hash_shape(space, 2)
            assert arguments[0].endswith(RANDOM)
            assert [len(text) for text in arguments] == [44, 4, 9, 8, 11]
            with pytest.raises(SynchroChainError, match="3 fields"):
                hash_shape(space, 3)
            space.empty()
            assert client.dbsize() == 0
            for pipeline in ((1, 50), (3, 7)):
                assert written_rows_per_s(space, arguments, 2000, pipeline) > 0
                assert client.dbsize() == 2000
                assert client.hgetall(arguments[0].replace(RANDOM, f"{1999:012d}")) == {
                    name.encode(): value.encode()
                    for name, value in zip(arguments[1::2], arguments[2::2], strict=True)
                }
                space.empty()
            client.set("x" * 30 + f"{7:012d}", "no hash")
            with pytest.raises(SynchroChainError, match=r"stopped the writer: -WRONGTYPE"):
                written_rows_per_s(space, ["x" * 30 + RANDOM, "a", "b"], 100, (2, 5))
            space.empty()
            if program := benchmark_program(space):
                assert hset_rows_per_s(program, space, arguments, 2000, (1, 50)) > 0
                assert client.dbsize() == pytest.approx(2000, abs=5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured_until_interrupted()
    assert os.environ["SYNCHROCHAIN_REDIS_HOST"] == "redis.example.org"
    assert os.environ["SYNCHROCHAIN_DATA_DIR"] == "kept"
    assert not spaces[0].folder.exists()
    assert is_gone(servers[0])


def test_the_writers_commands_are_as_redis_wants_them() -> None:
    """Number and length of the words, twelve digits in the key, a batch as long as asked for."""
    blocks = HsetBlocks(["k" + RANDOM, "f", "value"], 5)
    first = bytes(blocks.take(2))
    one = b"*4\r\n$4\r\nHSET\r\n$13\r\nk000000000000\r\n$1\r\nf\r\n$5\r\nvalue\r\n"
    assert first == one + one.replace(b"k000000000000", b"k000000000001")
    assert len(first) == 2 * blocks.size
    rest = [bytes(blocks.take(2)) for _ in range(3)]
    assert [len(part) // blocks.size for part in rest] == [2, 1, 0]
    assert b"k000000000004" in rest[1]


def test_the_limit_says_whether_redis_benchmark_agrees() -> None:
    """Within a factor of one and a half either way, or that there is nothing to compare with."""
    assert agreement(150.0, 100.0).startswith("our own writer and redis-benchmark agree: 1.50")
    assert "agree: 0.67" in agreement(100.0, 150.0)
    assert "DISAGREE" in agreement(151.0, 100.0)
    assert "DISAGREE" in agreement(66.0, 100.0)
    assert "not installed" in agreement(100.0, None)


def test_each_request_asks_for_other_keys_and_all_sides_for_the_same() -> None:
    """Blocks of a side follow one another in turns; nothing is timed before the warm-up."""
    asked: dict[str, list[list[int]]] = {"stock": [], "ours": []}

    def side(name: str) -> Callable[[Any], Callable[[], Any]]:
        return lambda users: lambda: asked[name].append(users)

    sides = {name: (side(name), 3) for name in asked}
    seconds = feast_online._timed(sides, stored=1000, requests=50)
    assert {name: len(taken) for name, taken in seconds.items()} == {"stock": 50, "ours": 50}
    assert asked["stock"] == asked["ours"]
    assert len({tuple(users) for users in asked["ours"]}) == 50 + feast_online.WARM_UP


@pytest.mark.parametrize("missing", [None, "materialize", "history"])
def test_the_plot_is_a_png(tmp_path: Path, missing: str | None) -> None:
    """Of all parts, of some, and where the limit could not be measured."""
    found = figures()
    found["materialize"]["limit_rows_per_s"] = None
    found.pop(missing or "targets")
    path = tmp_path / "feast.png"
    plot(found, path)
    assert path.read_bytes().startswith(PNG)
    assert len(PANELS) == 4


def test_a_plot_that_cannot_be_drawn_is_refused_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No matplotlib, no PNG, no folder: each says what to do."""
    check_plotting(tmp_path / "feast.png")
    with pytest.raises(UsageError, match="PNG"):
        check_plotting(tmp_path / "feast.pdf")
    with pytest.raises(UsageError, match="no folder"):
        check_plotting(tmp_path / "nowhere" / "feast.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="pip install matplotlib"):
        check_plotting(tmp_path / "feast.png")


def test_what_makes_no_sense_is_refused_before_measuring() -> None:
    """An unknown part, and sizes of which a tenth is nothing."""
    with pytest.raises(UsageError, match="'freshness'"):
        bench_feast.measure(["freshness"])
    with pytest.raises(UsageError, match="--view-rows must be >= 1,000: 10"):
        bench_feast.measure(["history"], view_rows=10)


@pytest.mark.parametrize("name", ["materialize", "online", "history", "all"])
def test_every_command_prints_json_or_tables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON alone on standard output; without --json a table with the targets; help with an
    example."""
    asked: list[Any] = []

    def measure(parts: Any, say: Any, **sizes: int) -> dict[str, Any]:
        asked.append((parts, sizes))
        say("measuring")
        return figures()

    monkeypatch.setattr(bench_feast, "measure", measure)
    app = typer.Typer()
    bench.register(app)
    run = CliRunner()
    printed = run.invoke(app, ["bench", name, "--json"])
    assert json.loads(printed.stdout) == json.loads(json.dumps(figures()))
    assert "measuring" in printed.stderr
    shown = run.invoke(app, ["bench", name], env={"COLUMNS": "200"}).stdout
    assert "materialize.ratio_to_stock" in shown
    assert "✓ reached" in shown
    assert f"synchrochain bench {name}" in " ".join(
        run.invoke(app, ["bench", name, "--help"]).stdout.split()
    )
    parts, sizes = asked[0]
    assert parts == (["materialize", "online", "history"] if name == "all" else [name])
    assert sizes
