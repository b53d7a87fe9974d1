"""MLflow's SQLite store in the data directory: opened quietly, and never waited for in vain.

MLflow itself retries a store that it cannot open for more than a minute and waits 20 s for a lock.
So the file is looked at first, by SQLite alone and for a few seconds at most.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from pipelines.errors import StorageFullError, SynchroChainError, UnusablePathError, first_line
from pipelines.file_kinds import check_folder, check_sqlite_file
from pipelines.paths import disk_is_full
from pipelines.settings import BatchConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

WAIT_SECONDS: Final = 3.0
_QUIET: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
}
_opening = threading.Lock()


class RegistryUnavailableError(SynchroChainError):
    """MLflow's store is locked, gone, corrupt, or cannot be written."""


def load_mlflow() -> Any:
    """The module `mlflow` (seconds at first), which then neither prints nor phones home."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow

    # What goes wrong is raised; beside that MLflow logs whole tracebacks.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return mlflow


class MlflowStore:
    """Access to one data directory's MLflow store, through MLflow's own client."""

    def __init__(self, config: BatchConfig) -> None:
        self.config = config
        self.path = config.mlflow_path / "mlflow.db"
        self._client: MlflowClient | None = None

    @contextmanager
    def client(self, *, writes: bool = False) -> Iterator[MlflowClient]:
        """MLflow's client, while inside.

        Args:
            writes: whether something is to be written, which another writer may be in the way of.

        Raises:
            RegistryUnavailableError: the store is locked, gone, corrupt, or fails in use.
        """
        self._look(writes)
        with self._translated():
            yield self._opened()

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is made if it is not there; so is the store.

        Its artifacts lie in the data directory, wherever the process was started.

        Raises:
            RegistryUnavailableError: the store cannot be used.
        """
        self._check_place()
        if self.path.exists() and (self.path.stat().st_size or self._has_artifacts()):
            self._look(writes=True)
        with self._translated():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            client = self._opened()
            found = client.get_experiment_by_name(name)
            if found is not None:
                return str(found.experiment_id)
            return str(
                client.create_experiment(name, f"{self.config.mlflow_artifacts}/{quote(name)}")
            )

    def _opened(self) -> MlflowClient:
        with _opening:
            if self._client is None:
                mlflow = load_mlflow()
                settings = {
                    # Where MLflow would otherwise make ./mlruns.
                    "_MLFLOW_SERVER_ARTIFACT_ROOT": self.config.mlflow_artifacts,
                    # A connection that is kept goes on reading a file that was replaced; one that
                    # is never kept makes each look at an alias half as slow again.
                    "MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE": "1",  # seconds
                }
                uri = self.config.mlflow_uri
                with _environment(settings):
                    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
                    # Each opens its half of the store, which reads the settings above.
                    client.search_experiments(max_results=1)
                    client.search_registered_models(max_results=1)
                self._client = client
            return self._client

    def _check_place(self) -> None:
        try:
            check_folder(self.path.parent)
            check_sqlite_file(self.path)
        except UnusablePathError as error:
            raise RegistryUnavailableError(f"the model registry: {error}") from None

    def _has_artifacts(self) -> bool:
        try:
            return any((self.config.mlflow_path / "artifacts").iterdir())
        except OSError:
            return False

    def _look(self, writes: bool) -> None:
        self._check_place()
        if not self.path.exists():
            raise RegistryUnavailableError(
                f"there is no model registry at {self.path}: `synchrochain train` makes it; if it "
                "was there before, restore it"
            )
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=WAIT_SECONDS)) as connection:
                tables = connection.execute(
                    "SELECT count(*) FROM sqlite_master WHERE name = 'model_versions'"
                ).fetchone()[0]
                if writes:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.rollback()
        except sqlite3.Error as error:
            raise self._unavailable(error) from None
        if not tables and self._has_artifacts():
            raise RegistryUnavailableError(
                f"{self.path} is damaged: it holds no model registry, though models were "
                f"registered, see {self.config.mlflow_path / 'artifacts'}: restore it, or move "
                f"{self.config.mlflow_path} away and train again"
            )
        if not tables:
            raise RegistryUnavailableError(
                f"{self.path} holds no model registry: `synchrochain train` makes it"
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SynchroChainError:
            raise
        except Exception as error:
            if _is_of_the_store(error):
                raise self._unavailable(error) from None
            raise

    def _unavailable(self, error: Exception) -> SynchroChainError:
        said = first_line(error)
        full = "disk I/O error" in said and disk_is_full(self.path.parent)
        if full or getattr(error, "errno", None) == errno.ENOSPC or "disk is full" in said:
            return StorageFullError(f"{self.path}: the disk is full; free some room")
        if "locked" in said or "busy" in said:
            advice = "another process writes it; end that, or try again"
        elif "not a database" in said or "malformed" in said or "disk image" in said:
            advice = "it is corrupt; restore it, or move it away and train again"
        elif "readonly" in said or "unable to open" in said:
            advice = "let this user read and write it"
        else:
            advice = "look at the file, or restore it"
        return RegistryUnavailableError(
            f"the model registry {self.path} cannot be used: {said}: {advice}"
        )


def _is_of_the_store(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, MlflowException):
        codes = ("TEMPORARILY_UNAVAILABLE", "BAD_REQUEST", "INTERNAL_ERROR")
        return error.error_code in codes
    return isinstance(error, SQLAlchemyError | sqlite3.Error | OSError)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
