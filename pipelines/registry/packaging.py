"""A served model as files: a folder with its weights and `model.json`, its description.

There is no pickle, so that reading a folder never runs code from it. MLflow stores
the folder as the artifact of a pyfunc model, so anyone can load it with MLflow alone.
"""

from __future__ import annotations

import importlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import SynchroChainError, UnknownNameError, first_line
from pipelines.paths import sha256_of
from pipelines.registry.unknown_features import as_trained

DESCRIPTION: Final = "model.json"
KINDS: Final[Mapping[str, str]] = {
    "intent/transformer": "pipelines.models.intent.predictor:Transformer",
    "intent/gradient_boosting": "pipelines.models.intent.baselines:GradientBoosting",
    "intent/logistic_regression": "pipelines.models.intent.baselines:LogisticRegression",
    "intent/base_rate": "pipelines.models.intent.baselines:BaseRate",
    "delay/gnn": "pipelines.models.delay.predictor:Gnn",
    "delay/gradient_boosting": "pipelines.models.delay.baselines:GradientBoosting",
    "delay/persistence": "pipelines.models.delay.baselines:Persistence",
    "fulfilment/ppo": "pipelines.models.fulfilment.predictors:Ppo",
    "fulfilment/greedy": "pipelines.models.fulfilment.predictors:Greedy",
}
"""Where the class of each kind is; it has `save(folder)`, a classmethod `load(folder)` and
`predict(columns)`. Named, not imported: a package names its kind, and models stand to the right."""


class Predictor(Protocol):
    """Columns in, columns of the same length out."""

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, NDArray[Any]]:
        """The outputs of the model's signature."""


_FAILURES_OF_LOADING: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,  # what torch calls a file that holds more than tensors
)


class BrokenModelError(SynchroChainError):
    """A model's files are missing, truncated, altered or of an unknown kind."""


def write_package(model: Any, kind: str, folder: Path) -> None:
    """Save a model with its description into a new folder.

    Args:
        model: has `save(folder)`.
        kind: one of KINDS.
        folder: does not exist yet.

    Raises:
        UnknownNameError: there is no such kind.
    """
    if kind not in KINDS:
        raise UnknownNameError(f"there is no kind of model {kind!r}; there are: {', '.join(KINDS)}")
    folder.mkdir(parents=True)
    model.save(folder)
    files = {
        str(path.relative_to(folder)): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({"kind": kind, "files": files}, indent=1)
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def read_package(folder: Path) -> Any:
    """Load a model, after checking every file of it.

    Raises:
        BrokenModelError: something is missing, was altered, or cannot be understood.
    """
    kind = kind_of(folder)
    module, _, name = KINDS[kind].partition(":")
    try:
        return as_trained(getattr(importlib.import_module(module), name).load(folder), folder)
    except _FAILURES_OF_LOADING as error:
        raise BrokenModelError(
            f"the {kind} model in {folder} does not load: {first_line(error)}"
        ) from None


def kind_of(folder: Path) -> str:
    """The kind that a folder's description names; its files are checked.

    Raises:
        BrokenModelError: something is missing, was altered, or is of no known kind.
    """
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        kind, files = str(described["kind"]), dict(described["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise BrokenModelError(
            f"{folder / DESCRIPTION} is missing or damaged: train and register the model again"
        ) from None
    if kind not in KINDS:
        raise BrokenModelError(f"{folder} holds a model of kind {kind!r}, which is not known here")
    for name, wanted in files.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != wanted:
            raise BrokenModelError(
                f"{path} is missing, truncated or altered: roll back, or train the model again"
            )
    return kind


def fingerprint(folder: Path) -> str:
    """SHA-256 of the description, and so of every file that it lists.

    Raises:
        BrokenModelError: there is no description.
    """
    try:
        return sha256_of(folder / DESCRIPTION)
    except OSError:
        raise BrokenModelError(
            f"{folder / DESCRIPTION} is missing: roll back, or train the model again"
        ) from None


def as_inputs(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Equally long columns of Python values, as a pandas frame or JSON holds them."""
    return {name: _plain(values) for name, values in columns.items()}


def _plain(values: Any) -> list[Any]:
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    return [value.tolist() if isinstance(value, np.ndarray) else value for value in listed]


def outputs_of(model: Any, columns: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """A model's outputs, checked to be as long as its inputs."""
    rows = len(next(iter(columns.values())))
    outputs: dict[str, NDArray[Any]] = model.predict(columns)
    for name, values in outputs.items():
        if len(values) != rows:
            raise BrokenModelError(f"the output {name!r} has {len(values)} values for {rows} rows")
    return outputs
