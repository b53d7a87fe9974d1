"""The command line: a thin translation into calls. Whatever is heavy is imported by its command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli import bench as cli_feast
from pipelines.cli import decisions as cli_serving
from pipelines.cli import live_databases as cli_live
from pipelines.cli import models as cli_models
from pipelines.cli import training as cli_training
from pipelines.cli.options import AsJson, DataDir
from pipelines.errors import SynchroChainError, UsageError
from pipelines.printable import printable, set_up_output, whole_output
from pipelines.stopping import INTERRUPTED, interruptible, loading, on_stop, until_asked

if TYPE_CHECKING:
    from datetime import datetime

    from pipelines.batch import BatchProcessor, CycleReport

app = typer.Typer(
    name="synchrochain",
    help="A feature platform for an e-commerce supply chain.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench_app = typer.Typer(no_args_is_help=True, help="Measure, against the usual ways, in one run.")
app.add_typer(bench_app, name="bench")


Users = Annotated[int | None, typer.Option(help="Customers of a new world (default 8000).")]
Products = Annotated[int | None, typer.Option(help="Products of a new world (default 300).")]
Warehouses = Annotated[int | None, typer.Option(help="Warehouses of a new world (default 8).")]
Days = Annotated[int | None, typer.Option(help="Days of history of a new world (default 30).")]
Seed = Annotated[int | None, typer.Option(help="Seed of a new world (default 7).")]
NoSignal = Annotated[
    bool, typer.Option("--no-signal", help="A world in which there is nothing to learn.")
]


@app.command()
def run(
    data_dir: DataDir = None,
    users: Users = None,
    products: Products = None,
    warehouses: Warehouses = None,
    days: Days = None,
    seed: Seed = None,
    no_signal: NoSignal = False,
    models: Annotated[
        bool, typer.Option(help="Also train, quickly, and decide twenty live orders.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Do everything once: simulate, process, materialize, read back, train, decide live orders.

    The first run fills 30 days of history; a later one adds the time since.

    Example: `synchrochain run --users 2000 --days 7 --no-models`
    """
    from pipelines.cli.main_job import run_main_job

    sizes = _sizes(users, products, warehouses, days, seed, no_signal)
    run_main_job(_processor(), sizes, models=models, as_json=as_json)


@app.command()
def simulate(
    data_dir: DataDir = None,
    users: Users = None,
    products: Products = None,
    warehouses: Warehouses = None,
    days: Days = None,
    seed: Seed = None,
    no_signal: NoSignal = False,
    live: Annotated[
        bool, typer.Option("--live", help="Then go on in real time until Ctrl-C.")
    ] = False,
    speed: Annotated[
        float, typer.Option(help="With --live: simulated seconds a second, up to the present.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Fill the live databases with a simulated shop, up to now.

    With --live it then goes on in real time. With --live and a --speed, the time since the last run
    is not filled in at once but played at that speed, until it has caught up with the present.

    Example: `synchrochain simulate --days 7 --live`
    """
    from pipelines.cli.main_job import simulate_live, simulate_until_now

    processor = _processor()
    sizes = _sizes(users, products, warehouses, days, seed, no_signal)
    if not live:
        _answer(simulate_until_now(processor.data, sizes), as_json)
        return
    with until_asked():
        if speed == 1.0 or not (processor.config.data_dir / "simulation.json").exists():
            simulate_until_now(processor.data, sizes)
        _answer(simulate_live(processor.data, speed), as_json)


@app.command()
def batch(
    data_dir: DataDir = None,
    once: Annotated[bool, typer.Option("--once", help="Run one cycle and end.")] = False,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="First drop what was published and start from the log."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the batch flow: now, and then every 5 minutes until Ctrl-C.

    Example: `synchrochain batch --once`
    """
    from pipelines.cli.console import progress_of_steps

    with progress_of_steps("batch") as progress:
        if rebuild:
            _set_damaged_state_aside()
        processor = _processor(progress)
        if rebuild:
            processor.rebuild()
        if once:
            report = processor.run_cycle()
    if once:
        _answer(_as_dict(report), as_json)
        return

    def answer(outcome: CycleReport | SynchroChainError) -> None:
        if not isinstance(outcome, SynchroChainError):
            _answer(_as_dict(outcome), as_json)

    with until_asked():
        _processor().start_scheduled_processing(on_cycle=answer)


@app.command()
def stream(data_dir: DataDir = None) -> None:
    """Keep features up to the moment: follow the live databases until Ctrl-C.

    A commit shows in the online store and in the cache within a tenth of a second.

    Example: `synchrochain stream`
    """
    from pipelines.settings import BatchConfig, DataConfig, check_environment

    check_environment()
    with loading(0):
        from pipelines.cli.live_job import stream_until_interrupted
    with until_asked():
        stream_until_interrupted(DataConfig(), BatchConfig())


@app.command()
def up(
    data_dir: DataDir = None,
    users: Users = None,
    products: Products = None,
    warehouses: Warehouses = None,
    days: Days = None,
    seed: Seed = None,
    no_signal: NoSignal = False,
    speed: Annotated[
        float, typer.Option(help="Simulated seconds a second, up to the present.")
    ] = 1.0,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the decisions over HTTP.")] = 8000,
) -> None:
    """Run everything until Ctrl-C: a live shop, the streamer, batch cycles, decisions over HTTP.

    Example: `synchrochain up --users 2000 --days 7`
    """
    with loading(0):
        from pipelines.cli.live_job import run_everything

        processor = _processor()
    sizes = _sizes(users, products, warehouses, days, seed, no_signal)
    with until_asked():
        run_everything(processor, sizes, speed, port)


@app.command()
def audit(
    sample: Annotated[int, typer.Option(min=0, help="Keys per view; 0 for all of them.")] = 1000,
    live: Annotated[
        bool, typer.Option("--live", help="Instead: the live tables with what the logs say.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Compare what is served online with what the offline side computes as of the same moment.

    Keys that changes are just touching are looked at again, and called unsettled if they never
    come to rest. With --live every live table is compared with what its change log says, so that a
    change that was never recorded shows. Exits 1 and lists the rows if anything differs.

    Example: `synchrochain audit --sample 200`
    """
    if live:
        cli_live.audit_live_tables(as_json)
        return
    from pipelines.cli.audit_table import percent, print_audit
    from pipelines.cli.console import print_json, progress_of_steps
    from pipelines.monitoring.audit import audit as run_audit
    from pipelines.settings import BatchConfig, DataConfig, check_environment

    check_environment()
    with progress_of_steps("audit") as progress:
        report = run_audit(DataConfig(), BatchConfig(), sample=sample, progress=progress)
    if as_json:
        print_json(report.as_dict())
    else:
        print_audit(report)
    if report.consistency < 1.0:
        raise SynchroChainError(
            f"online and offline differ, rows: {report.unequal_rows:,}; "
            f"consistency {percent(report.consistency)}; make both anew with `synchrochain batch "
            "--rebuild --once`"
        )


@app.command()
def features(
    view: Annotated[str, typer.Argument(help="A feature view, such as user_intent.")],
    keys: Annotated[list[str], typer.Argument(metavar="KEY=VALUE…", help="The entity key.")],
    at: Annotated[
        str | None, typer.Option(help="As of this time (UTC, ISO 8601) instead of now.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the features of one key: online as of now, or offline as of a time.

    Example: `synchrochain features user_intent user_id=42 --at 2026-01-31T12:00`
    """
    from pipelines.cli.console import print_json, print_table, shown
    from pipelines.data_layer import DataLayerOrchestrator
    from pipelines.settings import check_environment

    check_environment()
    row = DataLayerOrchestrator().features(view, _pairs(keys), _moment(at))
    if as_json:
        print_json(_as_dict(row) | {"found": row.found})
    elif row.found:
        when = f"as of {shown(row.at)}" if row.at else f"event of {shown(row.event_timestamp)}"
        title = f"{view} of {', '.join(keys)}, {when} UTC"
        print_table(title, ["feature", "value"], [list(i) for i in row.features.items()])
    if not row.found:
        raise SynchroChainError(
            f"nothing is known of {', '.join(keys)} in {view}"
            + (f" as of {shown(row.at)}" if row.at else "")
            + ", or it has expired"
        )


@app.command()
def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show databases, positions and lag, offline views, the online store and the last cycles.

    Exits 1 if changes of a live database may be missing for good, it lacks what is needed or is
    gone, or a published file or Feast's registry is damaged.

    Example: `synchrochain status --json`
    """
    from pipelines.cli.console import print_json
    from pipelines.cli.status_table import print_status
    from pipelines.monitoring.status import collect_status, first_alarm

    found = collect_status(_processor())
    if as_json:
        print_json(found)
    else:
        print_status(found)
    alarm = first_alarm(found)
    if alarm:
        raise SynchroChainError(alarm)


@app.command()
def down(data_dir: DataDir = None) -> None:
    """Stop the private Redis server of this data directory. Nothing is lost: it keeps a file.

    Example: `synchrochain down`
    """
    from pipelines.redis_server import stop_server
    from pipelines.settings import DataConfig, check_environment

    check_environment()
    stopped = stop_server(DataConfig())
    typer.echo("the private Redis server was stopped" if stopped else "no server was running")


@bench_app.command("batch")
def bench_batch(
    events: Annotated[
        int, typer.Option(min=1000, help="Clickstream events of the large world.")
    ] = 1_000_000,
    as_json: AsJson = False,
) -> None:
    """Backfill against pandas, and the cost of a small cycle on ten times the history.

    Example: `synchrochain bench batch --events 200000 --json`
    """
    from pipelines.cli.console import messages, print_json, print_table

    found = _benchmark("bench_batch").measure(events, messages.print)
    if as_json:
        print_json(found)
    else:
        print_table("batch flow", ["figure", "value"], [list(i) for i in found.items()])


@bench_app.command("freshness")
def bench_freshness(
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
    from pipelines.cli.console import messages, print_json, print_table

    measure = _benchmark("bench_freshness").measure
    found = measure(rate, seconds, long, messages.print, max_rate=max_rate)
    if as_json:
        print_json(found)
    else:
        print_table("freshness", ["figure", "value"], [list(i) for i in found.items()])


def main() -> None:
    """Run the command line; our own errors become one line and an exit status."""
    set_up_output()
    try:
        with on_stop(last=True), interruptible(), whole_output():
            app()  # ends the process itself: 2 for wrong usage, 130 for Ctrl-C and its like
    except KeyboardInterrupt:  # while it was looking for its command, or in a query
        sys.exit(INTERRUPTED)
    except SynchroChainError as error:
        typer.secho(f"error: {printable(str(error))}", fg="red", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # of the file system: what it says is all there is to say
        where = f"{error.filename}: " if error.filename else ""
        said = printable(f"{where}{error.strerror or error}")
        typer.secho(f"error: {said}: mend that and run the command again", fg="red", err=True)
        sys.exit(1)


def _processor(progress: Any = None) -> BatchProcessor:
    from pipelines.batch import BatchProcessor
    from pipelines.monitoring.scoring import champions_scorer
    from pipelines.settings import BatchConfig, DataConfig, check_environment

    check_environment()
    config = BatchConfig()
    scored = champions_scorer(config)
    return BatchProcessor(config, DataConfig(), progress=progress, after_update=scored)


def _set_damaged_state_aside() -> None:
    from pipelines.batch.batch_processor import set_damaged_state_aside
    from pipelines.settings import BatchConfig, DataConfig, check_environment

    check_environment()
    set_damaged_state_aside(BatchConfig(), DataConfig())


def _sizes(
    users: int | None,
    products: int | None,
    warehouses: int | None,
    days: int | None,
    seed: int | None,
    no_signal: bool,
) -> dict[str, Any]:
    given = {
        "users": users,
        "products": products,
        "warehouses": warehouses,
        "days": days,
        "seed": seed,
        "no_signal": no_signal or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _pairs(keys: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in keys:
        name, sign, value = text.partition("=")
        if not sign or not value:
            raise UsageError(f"{text!r} is not KEY=VALUE, such as user_id=42")
        if name in pairs:
            raise UsageError(f"{name} is given twice: {pairs[name]!r} and {value!r}")
        pairs[name] = value
    return pairs


def _moment(text: str | None) -> datetime | None:
    from pipelines.change_log.time_stamps import parse_time_stamp

    if text is None:
        return None
    try:
        return parse_time_stamp(text)
    except (ValueError, OverflowError):
        raise UsageError(f"--at {text!r} is not a time such as 2026-01-31T12:00") from None


def _as_dict(value: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(value)


def _answer(report: dict[str, Any], as_json: bool) -> None:
    from pipelines.cli.console import print_json, print_table

    if as_json:
        print_json(report)
        return
    rows = [[name, value] for name, value in report.items() if value not in ({}, None)]
    print_table("", ["", ""], rows)


def _benchmark(name: str) -> Any:
    import importlib.util

    from pipelines.settings import PROJECT_ROOT

    folder = PROJECT_ROOT / "tests" / "benchmarks"
    specification = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    if specification is None or specification.loader is None or not folder.is_dir():
        raise UsageError(f"the benchmarks come with the source: {folder} is not there")
    sys.path.insert(0, str(folder))
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


cli_training.register(app)
cli_live.register(app)
cli_models.register(app)
cli_serving.register(app, bench_app, _benchmark)
cli_feast.register(bench_app, _benchmark)

if __name__ == "__main__":
    main()
