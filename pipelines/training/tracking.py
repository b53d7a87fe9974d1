"""One MLflow run per training: parameters, metrics with intervals, curves, plots, the manifest."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipelines.errors import SynchroChainError, UnknownNameError
from pipelines.lake.clock import unix_now
from pipelines.registry.mlflow_store import MlflowStore
from pipelines.settings import BatchConfig
from pipelines.training.manifest import write_manifest
from pipelines.training.source import TrainingSource
from pipelines.training.task import Candidate, Interval, Task, Trained

DATASET: Final = "dataset"
PLOTS: Final = "plots"
_MOST_METRICS: Final = 1000
"""MLflow's limit for a batch."""


@dataclass(frozen=True)
class TrackedRun:
    """An MLflow run that is under way."""

    store: MlflowStore
    run_id: str

    def log_data(self, source: TrainingSource, task: Task, *, quick: bool) -> None:
        """Log the manifest and the entity dataframes of all retrievals.

        Args:
            source: with the retrievals made so far.
            task: the task.
            quick: whether the data set is a smaller one.
        """
        with tempfile.TemporaryDirectory() as folder:
            write_manifest(source, Path(folder) / DATASET, task=task.name, quick=quick)
            with self.store.client(writes=True) as client:
                client.log_artifacts(self.run_id, str(Path(folder) / DATASET), DATASET)

    def log_outcome(self, trained: Trained) -> None:
        """Settings, metrics of the model and its baselines, curves and plots."""
        import matplotlib.pyplot as plt
        from mlflow.entities import Metric, Param

        params = [Param(name, str(value)[:6000]) for name, value in trained.settings.items()]
        now = int(unix_now() * 1000)
        metrics = [
            Metric(f"{prefix}{name}", value, now, 0)
            for prefix, candidate in _named(trained)
            for name, value in flat(candidate.metrics).items()
        ]
        metrics += [
            Metric(f"curve/{name}", value, now, step)
            for name, values in trained.curves.items()
            for step, value in enumerate(values)
            if math.isfinite(value)
        ]
        figures = {name: draw() for name, draw in trained.figures.items()}
        with self.store.client(writes=True) as client:
            client.log_batch(self.run_id, params=params)
            for start in range(0, len(metrics), _MOST_METRICS):
                client.log_batch(self.run_id, metrics[start : start + _MOST_METRICS])
            for name, figure in figures.items():
                client.log_figure(self.run_id, figure, f"{PLOTS}/{name}.png")
                plt.close(figure)

    def log_report(self, report: Mapping[str, Any]) -> None:
        """The report's part about this run, as JSON."""
        with self.store.client(writes=True) as client:
            client.log_dict(self.run_id, dict(report), "report.json")


@contextmanager
def tracked_run(config: BatchConfig, task: Task) -> Iterator[TrackedRun]:
    """A run in the experiment of the task's model; failed if the block fails.

    Raises:
        RegistryUnavailableError: MLflow's store is locked, gone or damaged.
    """
    store = MlflowStore(config)
    experiment = store.experiment(task.model)
    with store.client(writes=True) as client:
        tags = {"feast.feature_service": task.service, "task": task.name}
        run_id = client.create_run(experiment, tags=tags).info.run_id
    try:
        yield TrackedRun(store, run_id)
    except BaseException as error:
        # Raise the original error, not that the store is unavailable too.
        with suppress(SynchroChainError), store.client(writes=True) as client:
            interrupted = isinstance(error, KeyboardInterrupt)
            client.set_terminated(run_id, "KILLED" if interrupted else "FAILED")
        raise
    with store.client(writes=True) as client:
        client.set_terminated(run_id)


def fetch_manifest(config: BatchConfig, run_id: str, folder: Path) -> Path:
    """Copy the data set's manifest and entity dataframes of a run into a folder.

    Args:
        config: the data directory.
        run_id: the MLflow run.
        folder: where to copy to.

    Raises:
        UnknownNameError: there is no such run, or it has no manifest.
        RegistryUnavailableError: MLflow's store is locked, gone or damaged.
    """
    from mlflow.exceptions import MlflowException

    unknown = UnknownNameError(
        f"no run {run_id!r} with a data set is known in {config.mlflow_uri}: "
        "`synchrochain models --json` lists the runs of the versions"
    )
    with MlflowStore(config).client() as client:
        try:
            client.get_run(run_id)
            found = Path(client.download_artifacts(run_id, DATASET, str(folder)))
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise unknown from None
        except OSError:
            raise unknown from None
    return found


def flat(metrics: Mapping[str, Interval]) -> dict[str, float]:
    """Means by name, and the interval's ends where more than one seed was run."""
    found = {}
    for name, interval in metrics.items():
        found[name] = interval.mean
        if len(interval.values) > 1:
            found |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _named(trained: Trained) -> list[tuple[str, Candidate]]:
    return [("", trained.model), *((f"{one.name}/", one) for one in trained.baselines)]
