"""The models in service: the registry's champions, loaded again when their alias moves."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipelines.errors import said
from pipelines.registry.packaging import BrokenModelError, Predictor
from pipelines.registry.signatures import CHAMPION, MODELS
from pipelines.settings import BatchConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A model in service.

    `problem` is set if this is not the current champion, because that one is broken.
    """

    model: str
    version: int
    kind: str
    predictor: Predictor = field(repr=False)
    alias: str = CHAMPION
    problem: str | None = None


@dataclass(frozen=True)
class Absent:
    """No model in service, and why."""

    model: str
    why: str


class ModelSource(Protocol):
    """A source of the models in service."""

    def get(self, model: str) -> Served | Absent:
        """The model in service now."""


class Registry(Protocol):
    """The part of the registry that loading needs."""

    def with_alias(self, model: str, alias: str) -> Any:
        """The `ModelVersion` that has the alias, or None."""

    def get(self, model: str, version: int) -> Any:
        """A version by its number."""

    def load(self, version: Any) -> Any:
        """The predictor."""


def open_registry(batch: BatchConfig) -> Registry:
    """The model registry of a data directory."""
    from pipelines.registry.store import ModelRegistry

    registry: Registry = ModelRegistry(batch)
    return registry


class ChampionModels:
    """Loads champions and swaps them when their alias moves; `get` never waits.

    Args:
        open_registry: opens the registry; importing MLflow takes seconds, so `poll` calls it.
        store_file: the registry's SQLite file; while it is unchanged, the registry is not queried.
    """

    def __init__(
        self, open_registry: Callable[[], Registry], store_file: Path | None = None
    ) -> None:
        self._open = open_registry
        self._file = store_file
        self._registry: Registry | None = None
        self._served: dict[str, Served | Absent] = {
            model: Absent(model, "models are not loaded yet") for model in MODELS
        }
        self._seen: object = None
        self._polling = threading.Lock()

    def get(self, model: str) -> Served | Absent:
        """The model in service now, or why there is none."""
        return self._served[model]

    @property
    def registry(self) -> Registry:
        """The registry itself.

        Raises:
            SynchroChainError: it cannot be opened.
        """
        if self._registry is None:
            self._registry = self._open()
        return self._registry

    def poll(self) -> None:
        """Read the aliases and load what has changed; `get` reports a failure."""
        with self._polling:
            signature = self._signature()
            if signature is not None and signature == self._seen:
                return
            failed = False
            for model in MODELS:
                try:
                    self._look_at(model)
                except Exception as error:  # a failing registry must not end serving
                    failed = True
                    self._note_trouble(model, f"the registry does not answer: {said(error)}")
            self._seen = None if failed else signature

    def _look_at(self, model: str) -> None:
        version = self.registry.with_alias(model, CHAMPION)
        now = self._served[model]
        if version is None:
            self._served[model] = Absent(
                model, f"no version of {model} is champion: `synchrochain train` makes one"
            )
            return
        if isinstance(now, Served) and now.version == version.version:
            if now.problem is not None:
                self._served[model] = Served(model, now.version, now.kind, now.predictor)
            return
        try:
            predictor = self.registry.load(version)
        except BrokenModelError as error:  # permanent: retried when the registry changes
            self._note_trouble(
                model, f"the champion, version {version.version}, does not load: {said(error)}"
            )
            return
        _compute_in_one_thread()
        self._served[model] = Served(model, version.version, version.kind, predictor)
        if isinstance(now, Served):
            logger.warning("%s: version %d replaces %d", model, version.version, now.version)

    def _note_trouble(self, model: str, problem: str) -> None:
        now = self._served[model]
        if isinstance(now, Served):
            if now.problem is None:
                logger.warning("%s: %s; version %d goes on", model, problem, now.version)
            problem = f"{problem}; version {now.version} goes on"
            self._served[model] = Served(
                model, now.version, now.kind, now.predictor, problem=problem
            )
        else:
            self._served[model] = Absent(model, problem)

    def _signature(self) -> object:
        if self._file is None:
            return None
        return [_stat(self._file.with_name(self._file.name + end)) for end in ("", "-wal")]


def _compute_in_one_thread() -> None:
    """The models are small: handing parts of them to other threads takes longer than computing."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
