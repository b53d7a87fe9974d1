"""The main job: from an empty directory to decided orders, and what happened on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, Final

from pipelines.batch import BatchProcessor, CycleReport
from pipelines.cli.console import (
    age,
    answers,
    messages,
    print_json,
    print_table,
    progress_bar,
    progress_of_steps,
    progress_of_training,
)
from pipelines.cli.cycle_table import stage_rows
from pipelines.errors import SynchroChainError, UsageError
from pipelines.lake.clock import utc_now
from pipelines.lake.process_lock import only_one
from pipelines.live_databases import LiveDatabases
from pipelines.printable import counted
from pipelines.settings import BatchConfig, DataConfig
from pipelines.stopping import on_stop

TRAINING_ROWS: Final = 1000
LIVE_ORDERS: Final = 20


def run_main_job(
    processor: BatchProcessor, sizes: dict[str, Any], *, models: bool = True, as_json: bool
) -> None:
    """Simulate up to now, process, materialize, read back, train, decide; print what happened.

    A world too small to train on is said to be so; orders are then decided by the greedy rule.

    Args:
        processor: of the data directory.
        sizes: of a new world, by option; None where not given.
        models: whether to train and decide.
        as_json: print one object instead of tables.
    """
    seconds: dict[str, float] = {}
    with _timed("simulate", seconds):
        simulated = simulate_until_now(processor.data, sizes)
    with _timed("batch", seconds), progress_of_steps("batch") as progress:
        cycle = BatchProcessor(processor.config, processor.data, progress=progress).run_cycle()
    with _timed("read back", seconds), messages.status("reading features back"):
        online, training = _read_back(processor)
    trained: dict[str, Any] = {"skipped": "as asked"}
    decided: list[dict[str, Any]] = []
    if models:
        with _timed("train", seconds):
            trained = _train(processor.config)
        with _timed("decide", seconds), messages.status("deciding live orders"):
            decided = _decide(processor)
    report = {
        "data_dir": str(processor.config.data_dir),
        "simulated": simulated,
        "cycle": vars(cycle),
        "online": online,
        "training_set": training,
        "trained": trained,
        "decisions": decided,
        "seconds": seconds,
    }
    if as_json:
        print_json(report)
    else:
        _print(report, cycle, processor.config)


def simulate_until_now(data: DataConfig, sizes: dict[str, Any]) -> dict[str, Any]:
    """Fill the live databases up to now: all of the history at first, later the time since."""
    load_or_create, fill_history = _simulators("load_or_create", "fill_history")
    world_config = _simulators("WorldConfig")[0](**sizes) if sizes else None
    now = utc_now()
    with (
        _only_simulator(data),
        LiveDatabases.open(data) as databases,
        progress_bar("simulate") as progress,
    ):
        world = load_or_create(data.data_dir, world_config, now)
        report = fill_history(databases, world, now, lambda done, _rows: progress(done))
    return _simulated(report)


def simulate_live(data: DataConfig, speed: float) -> dict[str, Any]:
    """Go on simulating until Ctrl-C, `speed` seconds a second while the world lags behind now."""
    load_or_create, run_live = _simulators("load_or_create", "run_live")
    stop = threading.Event()
    with (
        _only_simulator(data),
        LiveDatabases.open(data) as databases,
        messages.status("simulating; Ctrl-C ends it") as line,
        on_stop(stop.set),  # after the current commit instead of in the middle
    ):
        world = load_or_create(data.data_dir, None, utc_now())

        def report_progress(until: datetime, rows: int) -> None:
            line.update(f"simulated until {until:%F %T} UTC, {rows:,} rows; Ctrl-C ends it")

        report = run_live(
            databases, world, speed=speed, stop=stop, present=utc_now, progress=report_progress
        )
    return _simulated(report)


def _read_back(processor: BatchProcessor) -> tuple[dict[str, Any], dict[str, Any]]:
    """The newest online row of the first view that has rows, and a point-in-time training set."""
    import duckdb

    from pipelines.data_layer import DataLayerOrchestrator
    from pipelines.features.views import VIEWS
    from pipelines.lake.verification import verified
    from pipelines.lake.workspace import read_files

    layer = DataLayerOrchestrator(processor.data, processor.config)
    published = ((view, verified(processor.state, "view", view.name)) for view in VIEWS)
    view, files = next(((view, files) for view, files in published if files), (None, []))
    if view is None:
        raise SynchroChainError("no feature view has rows: nothing has happened in this shop yet")
    entities = duckdb.sql(
        f"SELECT {', '.join(view.keys)}, event_timestamp FROM {read_files(files)} "
        f"ORDER BY event_timestamp DESC LIMIT {TRAINING_ROWS}"
    ).df()
    keys = {name: str(entities[name].iloc[0]) for name in view.keys}
    newest = layer.features(view.name, keys)
    entities["event_timestamp"] = entities["event_timestamp"].dt.tz_localize("UTC")
    references = [f"{view.name}:{name}" for name in newest.features]
    if "user_id" in view.keys:
        references += ["user_orders:orders_30d", "user_orders:preferred_shipping_method"]
    frame = layer.training_set(entities, references)
    return (
        {
            "view": newest.view,
            "keys": newest.keys,
            "event_timestamp": newest.event_timestamp,
            "features": newest.features,
        },
        {
            "rows": len(frame),
            "columns": len(frame.columns),
            "filled": float(frame[view.features[0]].notna().mean()),
        },
    )


def _train(config: BatchConfig) -> dict[str, Any]:
    from pipelines.cli.training_table import report_as_dict
    from pipelines.models.tasks import TASKS
    from pipelines.monitoring.champions import gate
    from pipelines.training.run import TrainingFailedError, train
    from pipelines.training.source import TrainingDataError

    with progress_of_training() as progress:
        try:
            return report_as_dict(
                train(config, tasks=TASKS, gate=gate, quick=True, progress=progress)
            )
        except TrainingFailedError as error:
            if not all(isinstance(why, TrainingDataError) for why in error.failures.values()):
                raise
            failed = {"failed": error.lines}
            if not error.reports:
                return {"skipped": str(error), **failed}
            return report_as_dict(error.reports) | failed
        except ModuleNotFoundError as error:  # each task imports what it needs
            return {"skipped": f"{error.name} is not installed: pip install 'synchrochain[models]'"}


def _decide(processor: BatchProcessor) -> list[dict[str, Any]]:
    from pipelines.serving.live_orders import decide_live

    decisions = decide_live(processor.data, processor.config, LIVE_ORDERS)
    return [decision.as_dict() for decision in decisions]


def _print(report: dict[str, Any], cycle: CycleReport, config: BatchConfig) -> None:
    simulated, seconds = report["simulated"], report["seconds"]
    online, training = report["online"], report["training_set"]
    rows = [
        [
            "simulate",
            f"{counted(simulated['total_rows'], 'row')} in the live databases",
            seconds["simulate"],
        ],
        *map(list, stage_rows(cycle)),
        [
            "read back",
            f"1 row online, {training['rows']:,} × {training['columns']} training set",
            seconds["read back"],
        ],
    ]
    trained = report["trained"]
    if "train" in seconds:
        champions = sum(task["accepted"] for task in trained.get("tasks", []))
        said = trained.get("skipped") or (
            f"{counted(len(trained['tasks']), 'model')} and baselines, {champions} passed the gate"
        )
        rows.append(["train", said, seconds["train"]])
        rows.append(["decide", counted(len(report["decisions"]), "live order"), seconds["decide"]])
    print_table("what happened", ["stage", "", "took"], [[a, b, age(c)] for a, b, c in rows])
    if "skipped" not in trained:
        for name, why in trained.get("failed", {}).items():
            answers.print(f"train, {name}: {why}")
    keys = ", ".join(f"{name}={value}" for name, value in online["keys"].items())
    print_table(
        f"{online['view']} of {keys}, served online",
        ["feature", "value"],
        [[name, value] for name, value in online["features"].items()],
    )
    if report["decisions"]:
        from pipelines.cli.decisions_table import print_decisions

        print_decisions(report["decisions"])
    key = " ".join(f"{name}={value}" for name, value in online["keys"].items())
    answers.print(
        f"live databases   {report['data_dir']}/live_databases\n"
        f"offline sources  {config.offline_path}\n"
        f"what next:\n"
        f"  synchrochain status\n"
        f"  synchrochain features {online['view']} {key}\n"
        f"  synchrochain models\n"
        f"  synchrochain serve\n"
        f"  synchrochain up\n"
        f"  cd feature_repo && feast ui\n"
        f"  synchrochain down"
    )


def _simulated(report: Any) -> dict[str, Any]:
    return {
        "rows": dict(report.rows),
        "total_rows": report.total_rows,
        "seconds": round(report.seconds, 2),
        "from": report.simulated_from,
        "until": report.simulated_until,
    }


def _simulators(*names: str) -> list[Any]:
    try:
        import simulators
    except ModuleNotFoundError:
        raise UsageError(
            "the simulators are not installed: your own shop fills the live databases; "
            "process what it wrote with `synchrochain batch`"
        ) from None
    return [getattr(simulators, name) for name in names]


def _only_simulator(data: DataConfig) -> AbstractContextManager[None]:
    """Two worlds must not write the same live databases."""

    def taken(pid: int | None) -> UsageError:
        who = f"process {pid}" if pid else "another process"
        return UsageError(f"{who} simulates into {data.data_dir}: stop it, or use --data-dir")

    return only_one(data.data_dir / "simulation.lock", taken)


@contextmanager
def _timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 2)
