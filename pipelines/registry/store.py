"""The model registry: versions of the three models in MLflow, and their aliases.

A version is a package (see `packaging`) that MLflow stores as a pyfunc model, so MLflow alone can
load it, and Feast finds the feature service of `models:/<name>/champion` by a tag. (Feast 0.67
writes an alias like a version; MLflow itself says `models:/<name>@champion`.)
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from pipelines.errors import NewerFormatError, NotAcceptedError, UnknownNameError, UsageError
from pipelines.lake.clock import utc_now
from pipelines.registry.logged_model import SERVICE_TAG, check_round_trip, log_package
from pipelines.registry.mlflow_store import WAIT_SECONDS, MlflowStore, RegistryUnavailableError
from pipelines.registry.packaging import (
    BrokenModelError,
    fingerprint,
    read_package,
    write_package,
)
from pipelines.registry.signatures import (
    CHALLENGER,
    CHAMPION,
    MODELS,
    check_columns,
    check_signature,
    contract_of,
)
from pipelines.settings import BatchConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

HISTORY_TAG: Final = "champions"
"""On the registered model: the version numbers of earlier champions, oldest first, as JSON."""
PACKAGE: Final = "package"
FORMAT: Final = 1
"""Format of a version's tags and package; a version without one has format 1."""
FORMAT_TAG: Final = "format"
HISTORY_PREFIX: Final = "champion_"
VERDICT_TAG: Final = "gate.verdict"
ACCEPTED: Final = ("accepted", "first")

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "MODELS",
    "BrokenModelError",
    "ModelRegistry",
    "ModelVersion",
    "RegistryUnavailableError",
]


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model; `created` is UTC and naive, `folder` has its artifacts."""

    model: str
    version: int
    kind: str
    run_id: str
    aliases: tuple[str, ...]
    service: str
    metrics: dict[str, float]
    tags: dict[str, str]
    created: datetime
    is_baseline: bool
    folder: Path

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"{self.model} {self.version}"


class ModelRegistry:
    """Registers, finds, loads and promotes versions of the models of one data directory.

    Every method raises RegistryUnavailableError within seconds if MLflow's store is locked, gone
    or corrupt, and UnknownNameError for a model or a version that is not there.
    """

    def __init__(self, config: BatchConfig) -> None:
        self.config = config
        self.store = MlflowStore(config)

    def experiment(self, name: str) -> str:
        """The id of the experiment of this name; created where missing."""
        return self.store.experiment(name)

    def register(
        self,
        *,
        model: str,
        predictor: Any,
        kind: str,
        run_id: str,
        example: Mapping[str, Any],
        outcome: Mapping[str, Any],
        service: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str] | None = None,
        is_baseline: bool = False,
    ) -> ModelVersion:
        """Package a fitted model, log it into its run and make it the newest version.

        Args:
            model: one of MODELS.
            predictor: a model that `packaging` can save.
            kind: its packaging kind.
            run_id: the MLflow run that trained it; it may be under way.
            example: a few rows of input, equally long columns.
            outcome: the predictor's output for them.
            service: the feature service that the model reads.
            metrics: the most important first.
            tags: further tags of the version.
            is_baseline: whether it is a baseline to beat.

        Raises:
            BrokenModelError: the columns are not the model's, or the saved model does not load or
                answers the example differently.
            UnknownNameError: there is no such model, kind, service or run.
        """
        contract = contract_of(model)
        if service != contract.service:
            raise UnknownNameError(f"{model} reads {contract.service}, not {service!r}")
        check_columns(model, example, outcome)
        with tempfile.TemporaryDirectory() as scratch, self.store.client(writes=True) as client:
            package = Path(scratch) / PACKAGE
            write_package(predictor, kind, package)
            check_round_trip(package, example, outcome)
            described = {
                "kind": kind,
                "is_baseline": str(is_baseline).lower(),
                "metrics": json.dumps({name: float(value) for name, value in metrics.items()}),
                "package": fingerprint(package),
                SERVICE_TAG: service,
                FORMAT_TAG: str(FORMAT),
            }
            logged, folder = log_package(client, package, model, kind, run_id, example, outcome)
            if not client.search_registered_models(f"name = '{model}'"):
                client.create_registered_model(model, tags={SERVICE_TAG: service})
            made = client.create_model_version(
                model,
                source=folder,
                run_id=run_id,
                tags={**(tags or {}), **described},
                model_id=logged,
            )
            link = json.dumps([{"name": model, "version": made.version}])
            client.set_logged_model_tags(logged, {"mlflow.modelVersions": link})
        return self.get(model, int(made.version))

    def versions(self, model: str) -> list[ModelVersion]:
        """All versions of a model, newest first."""
        contract_of(model)
        with self.store.client() as client:
            registered = client.search_registered_models(f"name = '{model}'")
            aliases: dict[str, str] = dict(registered[0].aliases) if registered else {}
            found = client.search_model_versions(f"name = '{model}'", max_results=10_000)
        made = [self._version(version, aliases) for version in found]
        return sorted(made, key=lambda version: -version.version)

    def get(self, model: str, version: int) -> ModelVersion:
        """One version."""
        contract_of(model)
        from mlflow.exceptions import MlflowException

        with self.store.client() as client:
            try:
                return self._version(client.get_model_version(model, str(version)))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        raise UnknownNameError(
            f"there is no version {version} of {model}: `synchrochain models {model}` lists them"
        )

    def with_alias(self, model: str, alias: str) -> ModelVersion | None:
        """The version that has an alias; None if there is none."""
        contract_of(model)
        with self.store.client() as client:
            from mlflow.exceptions import MlflowException

            try:
                return self._version(client.get_model_version_by_alias(model, alias))
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
        return None

    def load(self, version: ModelVersion) -> Any:
        """The model of a version, an object with `predict(columns)`; its files are checked first.

        Raises:
            BrokenModelError: a file is missing, truncated or altered, or an input that the version
                was trained with is gone or of another type.
            NewerFormatError: a newer version of SynchroChain has registered it.
        """
        check_format(version)
        check_signature(version.model, version.name, version.folder)
        package = version.folder / "data" / PACKAGE
        wanted = version.tags.get("package")
        if wanted is not None and fingerprint(package) != wanted:
            raise BrokenModelError(
                f"{package} is not what was registered as {version.name}: roll back, or train it "
                "again"
            )
        return read_package(package)

    def tag(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        """Write tags onto a version."""
        with self.store.client(writes=True) as client:
            _tag(client, version, tags)

    def challenge(self, version: ModelVersion, reasons: Mapping[str, str] | None = None) -> None:
        """Make a version the challenger, after writing the reasons to its tags."""
        with self._moving(), self.store.client(writes=True) as client:
            _tag(client, version, reasons or {})
            client.set_registered_model_alias(version.model, CHALLENGER, str(version.version))

    def promote(
        self,
        model: str,
        version: int,
        reasons: Mapping[str, str] | None = None,
        *,
        force: bool = False,
    ) -> ModelVersion:
        """Make a version that the gate accepted the champion, and record the one it replaces.

        Args:
            model: one of MODELS.
            version: its number.
            reasons: why, as tags of the version; the gate's verdict may be one of them.
            force: even if the gate refused it or never judged it, which becomes a tag.

        Raises:
            NewerFormatError: a newer version of SynchroChain has registered it.
            NotAcceptedError: the gate has not accepted it.
        """
        chosen = self.get(model, version)
        check_format(chosen)
        reasons = dict(reasons or {})
        known = {**chosen.tags, **reasons}
        if known.get(VERDICT_TAG) not in ACCEPTED:
            if not force:
                raise NotAcceptedError(
                    f"{chosen.name} {_why_not(known)}; `synchrochain promote {model} {version} "
                    "--force` makes it champion all the same"
                )
            reasons["promoted.by"] = f"{reasons.get('promoted.by', 'hand')}, without the gate"
        with self._moving(), self.store.client(writes=True) as client:
            before = self.with_alias(model, CHAMPION)
            _tag(client, chosen, {"promoted.at": _now(), **reasons})
            if before is not None and before.version != version:
                # First, so that a crash in between loses nothing; a rollback skips a champion that
                # is its own predecessor.
                _remember(client, model, [*_history(client, model), before.version])
            client.set_registered_model_alias(model, CHAMPION, str(version))
            if CHALLENGER in chosen.aliases:
                client.delete_registered_model_alias(model, CHALLENGER)
        return self.get(model, version)

    def rollback(self, model: str) -> ModelVersion:
        """Make the previous champion the champion again; repeat to go further back.

        Raises:
            UsageError: there is no earlier champion.
        """
        with self._moving(), self.store.client(writes=True) as client:
            current = self.with_alias(model, CHAMPION)
            known = {version.version for version in self.versions(model)}
            earlier = _history(client, model)
            while earlier and (earlier[-1] not in known or earlier[-1] == _number(current)):
                earlier.pop()
            if not earlier:
                who = f"{current.name} is the first champion" if current else "there is no champion"
                raise UsageError(f"{model} cannot be rolled back: {who}")
            if current is not None:
                _tag(client, current, {"rolled_back.at": _now()})
            client.set_registered_model_alias(model, CHAMPION, str(earlier[-1]))
            _remember(client, model, earlier[:-1])
        return self.get(model, earlier[-1])

    def log_history(
        self, version: ModelVersion, metrics: Mapping[str, float], at: datetime
    ) -> None:
        """Log `champion_<metric>` to a version's run.

        Args:
            version: the version.
            metrics: values by name.
            at: the metrics' time, UTC and naive.
        """
        from mlflow.entities import Metric

        stamp = int(at.replace(tzinfo=UTC).timestamp() * 1000)
        with self.store.client(writes=True) as client:
            client.log_batch(
                version.run_id,
                metrics=[
                    Metric(f"{HISTORY_PREFIX}{name}", float(value), stamp, 0)
                    for name, value in metrics.items()
                ],
            )

    def _version(self, found: Any, aliases: Mapping[str, str] | None = None) -> ModelVersion:
        number = int(found.version)
        names = (
            found.aliases
            if aliases is None
            else [alias for alias, version in aliases.items() if int(version) == number]
        )
        tags = dict(found.tags)
        return ModelVersion(
            model=found.name,
            version=number,
            kind=tags.get("kind", ""),
            run_id=found.run_id or "",
            aliases=tuple(sorted(names)),
            service=tags.get(SERVICE_TAG, ""),
            metrics=_metrics(tags),
            tags=tags,
            created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).replace(
                tzinfo=None
            ),
            is_baseline=tags.get("is_baseline") == "true",
            folder=self._folder(str(found.source)),
        )

    def _folder(self, source: str) -> Path:
        # MLflow remembers absolute paths; a data directory may have been moved or copied since.
        stored = Path(unquote(urlsplit(source).path) if source.startswith("file:") else source)
        ours = (self.store.path.parent / "artifacts").joinpath(*stored.parts[-4:])
        return ours if ours.is_dir() else stored

    @contextmanager
    def _moving(self) -> Iterator[None]:
        """Only one process moves aliases at a time."""
        path = self.store.path.with_name("aliases.lock")
        if not path.parent.is_dir():
            yield  # what follows finds that there is no store
            return
        try:
            with FileLock(path, timeout=WAIT_SECONDS):
                yield
        except Timeout:
            raise RegistryUnavailableError(
                f"another process is moving aliases and holds {path}: try again"
            ) from None


def check_format(version: ModelVersion) -> None:
    """Make sure that this version of SynchroChain can read a model's.

    Raises:
        NewerFormatError: it cannot.
    """
    found = version.tags.get(FORMAT_TAG, "1")
    if not found.isdecimal() or int(found) > FORMAT:
        raise NewerFormatError(version.name, found, FORMAT)


def _tag(client: MlflowClient, version: ModelVersion, tags: Mapping[str, str]) -> None:
    for name, value in tags.items():
        client.set_model_version_tag(version.model, str(version.version), name, value)


def _why_not(tags: Mapping[str, str]) -> str:
    if VERDICT_TAG not in tags:
        return "was never judged by the gate"
    refused = [
        f"{name.removeprefix('gate.')} ({text.removeprefix('refused: ')})"
        for name, text in sorted(tags.items())
        if name.startswith("gate.") and text.startswith("refused: ")
    ]
    return f"was refused by the gate: {', '.join(refused)}"


def _history(client: MlflowClient, model: str) -> list[int]:
    found = client.search_registered_models(f"name = '{model}'")
    noted = found[0].tags.get(HISTORY_TAG) if found else None
    return [int(number) for number in json.loads(noted or "[]")]


def _remember(client: MlflowClient, model: str, numbers: list[int]) -> None:
    client.set_registered_model_tag(model, HISTORY_TAG, json.dumps(numbers))


def _metrics(tags: Mapping[str, str]) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in json.loads(tags["metrics"]).items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _number(version: ModelVersion | None) -> int | None:
    return None if version is None else version.version


def _now() -> str:
    return utc_now().strftime("%Y-%m-%d %H:%M:%S")
