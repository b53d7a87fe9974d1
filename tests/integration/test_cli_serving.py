"""The commands about decisions, as their users meet them."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from serving_shop import execute, insert, open_shop, order_row, put_everything

from pipelines.benchmarks import bench_decide
from pipelines.benchmarks.decide_world import sample_orders
from pipelines.cli import bench, decisions, live_databases
from pipelines.errors import LiveDatabaseError, SynchroChainError, UnknownNameError, UsageError
from pipelines.feast_plugins.repository import open_store
from pipelines.live_databases import orders, user_sessions
from pipelines.serving.orders import OrderError
from pipelines.settings import DATABASE_NAMES, BatchConfig


@dataclass(frozen=True)
class CommandLine:
    """The commands, in an application of their own."""

    app: typer.Typer

    def __call__(self, *arguments: str) -> str:
        """What a command line prints."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.app(list(arguments), standalone_mode=False)
        return out.getvalue()

    def document(self, *arguments: str) -> Any:
        """The one JSON document that it prints."""
        return json.loads(self(*arguments, "--json"))


@pytest.fixture(scope="module")
def run(folder: Path) -> Iterator[CommandLine]:
    """On a data directory with the shop and its features, without models."""
    app = typer.Typer()
    decisions.register(app)
    bench.register(app)
    live_databases.register(app)
    with open_shop(folder) as databases:
        insert(databases, orders, *(order_row(n) for n in (1, 2, 3)), order_row(4, user=3))
        put_everything(open_store(BatchConfig()))
        yield CommandLine(app)


def test_an_order_is_decided_listed_shown_and_replayed(run: CommandLine) -> None:
    """The same decision all along."""
    order = ("--user", "1", "--product", "P1", "--quantity", "2", "--method", "express")
    decided = run.document("decide", *order, "--session", "s1")
    assert (decided["status"], decided["order"]["quantity"]) == ("decided", 2)
    assert decided["models"]["decision"]["kind"] == "rule"
    assert run.document("decisions", "--limit", "1") == [decided]
    assert run.document("decisions", decided["id"]) == decided
    replayed = run.document("decisions", "--replay", decided["id"])
    assert (replayed["identical"], replayed["differences"]) == (True, [])


def test_the_newest_live_orders_are_decided(
    run: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    """Newest first, with the customer's latest visit; what nobody can deliver is left out."""
    decided = [d["order"] for d in run.document("decide", "--live", "3")]
    assert [(o["order_id"], o["session_id"], o["quantity"]) for o in decided] == [
        ("3", "s1", 2),
        ("2", "s1", 2),
    ]
    assert "order 4 is not decided: no warehouse delivers to region 'moon'" in caplog.text


def test_people_see_tables(run: CommandLine) -> None:
    """With what was chosen, its alternatives, and what stood in for what."""
    shown = run("decide", "--user", "1", "--product", "P1")
    for word in ("standard from W1 to north", "best first", "user_intent", "no version of ppo"):
        assert word in shown
    listed = run("decisions", "--limit", "2")
    assert "1 P1 → north" in listed
    assert "2 of 2: ppo_agent: no version of ppo_agent is champion" in listed.replace("\n", " ")
    identifier = run.document("decisions", "--limit", "1")[0]["id"]
    assert "the same choice, W1 standard" in run("decisions", "--replay", identifier)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["decide"], UsageError, "name --user and --product of an order, or --live"),
        (["decide", "--live", "1", "--user", "1"], UsageError, "name --user and --product"),
        (["decide", "--user", "1"], OrderError, "product_id = None: "),
        (["decide", "--user", "1", "--product", "P1", "--quantity", "-2"], OrderError, "quantity"),
        (
            ["decide", "--user", "1", "--product", "P1", "--price", "1e999"],
            OrderError,
            "price = inf",
        ),
        (["decide", "--user", "99", "--product", "P1"], OrderError, "there is no user 99"),
        (["decide", "--user", "1", "--product", "P3"], OrderError, "no warehouse that delivers"),
        (["decisions", "nothing"], UnknownNameError, "the log has no decision 'nothing'"),
        (["decisions", "--replay", "nothing"], UnknownNameError, "the log has no decision"),
        (["decisions", "one", "--replay", "two"], UsageError, "name the decision to show"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    run: CommandLine, arguments: list[str], error: type[SynchroChainError], said: str
) -> None:
    """And exit status 2."""
    with pytest.raises(error) as raised:
        run(*arguments)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("words", [["decide", "--live", "1"], ["serve", "--port", "0"]])
def test_what_asks_makes_no_databases(
    run: CommandLine, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are none, one line says what to do, and they are still not there."""
    monkeypatch.setenv("SYNCHROCHAIN_DATA_DIR", str(tmp_path / "new"))
    with pytest.raises(LiveDatabaseError) as raised:
        run(*words)
    assert str(raised.value) == (
        f"{tmp_path / 'new' / 'live_databases' / 'orders.db'} does not exist: fill it with "
        "`synchrochain simulate`, or set SYNCHROCHAIN_ORDERS_URL to your own database"
    )
    assert list(tmp_path.rglob("*.db")) == []


def test_tables_that_are_missing_are_named(
    run: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever needs them first; installing triggers would not help."""
    monkeypatch.setenv("SYNCHROCHAIN_DATA_DIR", str(tmp_path))
    folder = tmp_path / "live_databases"
    folder.mkdir(mode=0o700)
    for name in DATABASE_NAMES:
        (folder / f"{name}.db").touch(0o600)
    for words in (["decide", "--live", "1"], ["triggers"]):
        with pytest.raises(SynchroChainError) as raised:
            run(*words)
        assert re.search(r"no table 'orders'|missing: orders\.orders, ", str(raised.value))
        assert "create" in str(raised.value)
        assert str(raised.value).endswith("`synchrochain simulate`, or see docs/own-database.md")


@pytest.mark.parametrize("option", ["--user", "--quantity", "--price", "--weight"])
@pytest.mark.parametrize("text", ["4_2", " 5 ", "+5", "٤٢", "042", "nan", "true", "", "1_000.5"])
def test_a_number_is_written_as_one(run: CommandLine, option: str, text: str) -> None:
    """Python's own conversions take most of these for a number."""
    order = {"--user": "1", "--product": "P1", option: text}
    with pytest.raises(typer.BadParameter, match=r"is not a (whole )?number"):
        run("decide", *(part for pair in order.items() for part in pair))


def test_the_benchmark_gives_every_figure(
    run: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How fast is not tested."""
    monkeypatch.setattr(bench_decide, "BATCHES", 1)
    said: list[str] = []
    found = bench_decide.measure(folder, 50, said.append, over_http=False, models_needed=False)
    assert found.keys() >= {"p50_ms", "p99_ms", "orders_per_s", "cpu_p50_ms", "load_before"}
    assert set(found["p50_ms_by_part"]) == set(bench_decide.PARTS.values())
    assert (found["logged"], found["decided_by_model"]) == (1.0, 0.0)
    assert said


def test_the_benchmark_draws_no_orders_from_a_shop_that_had_none(tmp_path: Path) -> None:
    """One line, with the command that helps."""
    with open_shop(tmp_path) as databases:
        with pytest.raises(UsageError, match=r"has had no orders.*`synchrochain run --days 30`"):
            sample_orders(databases, 50)
        execute(databases, "users", user_sessions.delete())
        with pytest.raises(UsageError, match="has had no visits"):
            sample_orders(databases, 50)


def test_the_benchmark_says_what_is_missing(run: CommandLine, folder: Path, tmp_path: Path) -> None:
    """A champion, or the whole world."""
    with pytest.raises(UsageError, match="nothing to measure yet: no version of intent_tr"):
        bench_decide.measure(folder, 50, lambda _: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNCHROCHAIN_DATA_DIR", str(tmp_path))
        with pytest.raises(UsageError, match="fill it with `synchrochain run`"):
            bench_decide.measure(tmp_path, 50, lambda _: None)
