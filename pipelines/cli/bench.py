"""The `bench` commands: what they measure, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from pipelines.cli.layout import answer_rows
from pipelines.cli.options import AsJson, DataDir

Keys = Annotated[int, typer.Option(min=1000, help="Keys that are materialized.")]
Stored = Annotated[int, typer.Option(min=1000, help="Keys that requests choose from.")]
Requests = Annotated[
    int, typer.Option(min=10, help="Requests of one key; a fifth of them of 100 keys.")
]
Rows = Annotated[int, typer.Option(min=1000, help="Entity rows that the history is asked for.")]
RowsOfView = Annotated[int, typer.Option(min=1000, help="Rows of each of its three views.")]
Repeats = Annotated[int, typer.Option(min=1, max=100, help="How often each side is measured.")]
Plot = Annotated[
    Path | None, typer.Option("--plot", help="Also draw the figures into this PNG file.")
]

SIDES: Final = ("stock", "ours", "limit")
# Part of the JSON, figure of it, what the table calls it. Beside the figure of ours stand those of
# stock Feast and of the limit.
TABLE: Final = (
    ("materialize", "{}_rows_per_s", "materialize, rows/s"),
    ("online_1", "{}_p50_ms", "online, 1 key, p50 ms"),
    ("online_1", "{}_p99_ms", "online, 1 key, p99 ms"),
    ("online_100", "{}_p50_ms", "online, 100 keys, p50 ms"),
    ("online_100", "{}_p99_ms", "online, 100 keys, p99 ms"),
    ("history", "{}_s", "history, s"),
)
SETTINGS: Final = (
    ("materialize", "stock_setting", "fastest of stock, materialize"),
    ("online_1", "stock_setting", "fastest of stock, 1 key"),
    ("online_100", "stock_setting", "fastest of stock, 100 keys"),
    ("materialize", "limit_setting", "limit, materialize"),
    ("materialize", "agreement", "the limit beside redis-benchmark"),
)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    bench = typer.Typer(no_args_is_help=True, help="Measure, against the usual ways, in one run.")
    for command in (batch, freshness, decide, materialize, online, history):
        bench.command()(command)
    bench.command("all")(everything)
    app.add_typer(bench, name="bench")


def batch(
    events: Annotated[
        int, typer.Option(min=1000, help="Clickstream events of the large world.")
    ] = 1_000_000,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Instead, one backfill within so much memory, such as 2GB, and one without."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Backfill against pandas, and the cost of a small cycle on ten times the history.

    Example: `synchrochain bench batch --events 200000 --json`
    """
    from pipelines.benchmarks.bench_batch import measure, measure_memory
    from pipelines.cli.console import messages, print_json, print_table
    from pipelines.settings import BatchConfig

    if memory is None:
        found = measure(events, messages.print)
    else:
        found = measure_memory(events, BatchConfig(memory=memory).memory, messages.print)
    if as_json:
        print_json(found)
    else:
        print_table("batch flow", ["figure", "value"], answer_rows(found))


def freshness(
    rate: Annotated[float, typer.Option(min=1, help="Changes committed a second.")] = 500,
    seconds: Annotated[float, typer.Option(min=1, help="How long latencies are measured.")] = 60,
    long: Annotated[
        bool, typer.Option("--long", help="Also run for 10 minutes and watch the memory.")
    ] = False,
    max_rate: Annotated[
        bool, typer.Option(help="Also look for the highest rate that is held.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """From a commit in SQLite to the features served, and the highest rate that is held.

    Example: `synchrochain bench freshness --rate 500 --seconds 20 --no-max-rate --json`
    """
    from pipelines.benchmarks.bench_freshness import measure
    from pipelines.cli.console import messages, print_json, print_table

    found = measure(rate, seconds, long, messages.print, max_rate=max_rate)
    if as_json:
        print_json(found)
    else:
        print_table("freshness", ["figure", "value"], answer_rows(found))


def decide(
    data_dir: DataDir = None,
    orders: Annotated[int, typer.Option(min=50, help="Orders that are decided one by one.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """How long a decision takes, one by one, in batches and over HTTP.

    With --data-dir in that world, filled and with registered models; without it in a small
    world of its own, in a temporary directory.

    Example: `synchrochain bench decide --orders 300 --json`
    """
    from pipelines.benchmarks.bench_decide import measure
    from pipelines.cli.console import messages, print_json, print_table

    found = measure(data_dir, orders, messages.print)
    if as_json:
        print_json(found)
        return
    rows = [[name, value] for name, value in found.items() if not isinstance(value, dict)]
    print_table("decisions", ["figure", "value"], rows)
    for name, values in found.items():
        if isinstance(values, dict):
            title = name.replace("_", " ")
            print_table(title, ["part", "value"], answer_rows(values))


def materialize(
    keys: Keys = 50_000, repeats: Repeats = 5, plot: Plot = None, as_json: AsJson = False
) -> None:
    """How fast rows get into Redis: ours, stock Feast, and raw HSETs, in turns.

    Example: `synchrochain bench materialize --keys 5000 --repeats 1 --json`
    """
    _measured(["materialize"], plot, as_json, keys=keys, repeats=repeats)


def online(
    stored: Stored = 10_000,
    requests: Requests = 1000,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """How long reading 1 and 100 keys takes: ours, stock Feast, and redis-py alone, in turns.

    A request is for 27 features in 3 views.

    Example: `synchrochain bench online --stored 2000 --requests 200 --json`
    """
    _measured(["online"], plot, as_json, stored=stored, requests=requests)


def history(
    rows: Rows = 100_000,
    view_rows: RowsOfView = 500_000,
    repeats: Repeats = 5,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """How long a training set takes: ours, stock Feast, and one DuckDB statement, in turns.

    Example: `synchrochain bench history --rows 10000 --view-rows 50000 --json`
    """
    _measured(["history"], plot, as_json, rows=rows, view_rows=view_rows, repeats=repeats)


def everything(
    keys: Keys = 50_000,
    stored: Stored = 10_000,
    requests: Requests = 1000,
    rows: Rows = 100_000,
    view_rows: RowsOfView = 500_000,
    repeats: Repeats = 5,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Feast's work, all of it: materialize, online and history, on one server in one run.

    Takes about four minutes.

    Example: `synchrochain bench all --plot feast.png`
    """
    _measured(
        ["materialize", "online", "history"],
        plot,
        as_json,
        keys=keys,
        stored=stored,
        requests=requests,
        rows=rows,
        view_rows=view_rows,
        repeats=repeats,
    )


def _measured(parts: Sequence[str], path: Path | None, as_json: bool, **sizes: int) -> None:
    from pipelines.benchmarks import bench_feast
    from pipelines.cli.console import messages

    if path is not None:
        bench_feast.check_plotting(path)
    found = bench_feast.measure(parts, messages.print, **sizes)
    _answer(found, as_json)
    if path is not None:
        bench_feast.plot(found, path)
        messages.print(f"drawn: {path}")


def _answer(found: dict[str, Any], as_json: bool) -> None:
    from pipelines.cli.console import answers, print_json, print_table

    if as_json:
        print_json(found)
        return
    rows = []
    for part, figure, title in TABLE:
        if part in found:
            of = found[part]
            ratios = [None if "p99" in figure else of[f"ratio_to_{side}"] for side in SIDES[::2]]
            rows.append([title, *(of[figure.format(side)] for side in SIDES), *ratios])
    print_table("Feast", ["what", "stock", "ours", "limit", "× stock", "× limit"], rows)
    targets = [
        [
            target["figure"],
            target["value"],
            _bound(target["must"], target["at_most"]),
            _bound(target["aim"], target["at_most"]),
            target["result"],
        ]
        for target in found["targets"]
    ]
    print_table("targets", ["ratio", "measured", "must", "aim", ""], targets)
    for part, name, text in SETTINGS:
        if part in found:
            answers.print(f"{text}: {_words(found[part][name])}")


def _words(setting: Any) -> str:
    if isinstance(setting, dict):
        setting = ", ".join(f"{name}: {value}" for name, value in setting.items()) or "defaults"
    return str(setting or "not measured")


def _bound(value: float | None, at_most: bool) -> str | None:
    return None if value is None else f"{'≤' if at_most else '≥'} {value:g}"
