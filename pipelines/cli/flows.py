"""The commands that make data flow: simulate, batch, stream, run and up, down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.options import AsJson, DataDir, as_dict, print_answer, processor
from pipelines.errors import SynchroChainError
from pipelines.stopping import loading, until_asked

if TYPE_CHECKING:
    from pipelines.batch import CycleReport

Users = Annotated[int | None, typer.Option(help="Customers of a new world (default 8000).")]
Products = Annotated[int | None, typer.Option(help="Products of a new world (default 300).")]
Warehouses = Annotated[int | None, typer.Option(help="Warehouses of a new world (default 8).")]
Days = Annotated[int | None, typer.Option(help="Days of history of a new world (default 30).")]
Seed = Annotated[int | None, typer.Option(help="Seed of a new world (default 7).")]
NoSignal = Annotated[
    bool, typer.Option("--no-signal", help="A world in which there is nothing to learn.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (run, simulate, batch, stream, up, down):
        app.command()(command)


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
    run_main_job(processor(), sizes, models=models, as_json=as_json)


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

    flow = processor()
    sizes = _sizes(users, products, warehouses, days, seed, no_signal)
    if not live:
        print_answer(simulate_until_now(flow.data, sizes), as_json)
        return
    with until_asked():
        if speed == 1.0 or not (flow.config.data_dir / "simulation.json").exists():
            simulate_until_now(flow.data, sizes)
        print_answer(simulate_live(flow.data, speed), as_json)


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
    from pipelines.cli.console import print_json, progress_of_steps
    from pipelines.cli.cycle_table import print_cycle

    with progress_of_steps("batch") as progress:
        if rebuild:
            _set_damaged_state_aside()
        flow = processor(progress)
        if rebuild:
            flow.rebuild()
        if once:
            report = flow.run_cycle()

    def answer(outcome: CycleReport | SynchroChainError) -> None:
        if isinstance(outcome, SynchroChainError):
            return
        if as_json:
            print_json(as_dict(outcome))
        else:
            print_cycle(outcome)

    if once:
        answer(report)
        return

    with until_asked():
        processor().start_scheduled_processing(on_cycle=answer)


def stream(data_dir: DataDir = None) -> None:
    """Keep features fresh: follow the live databases until Ctrl-C.

    A commit shows in the online store and in the cache within a tenth of a second.

    Example: `synchrochain stream`
    """
    from pipelines.settings import BatchConfig, DataConfig, check_environment

    check_environment()
    with loading(0):
        from pipelines.cli.live_job import stream_until_interrupted
    with until_asked():
        stream_until_interrupted(DataConfig(), BatchConfig())


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

        flow = processor()
    sizes = _sizes(users, products, warehouses, days, seed, no_signal)
    with until_asked():
        run_everything(flow, sizes, speed, port)


def down(data_dir: DataDir = None) -> None:
    """Stop the private Redis server of this data directory. Nothing is lost: it keeps a file.

    Example: `synchrochain down`
    """
    from pipelines.redis_server import stop_server
    from pipelines.settings import DataConfig, check_environment

    check_environment()
    stopped = stop_server(DataConfig())
    typer.echo("the private Redis server was stopped" if stopped else "no server was running")


def _set_damaged_state_aside() -> None:
    from pipelines.batch.rebuild import set_damaged_state_aside
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
