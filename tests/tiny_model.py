"""A model small enough to be registered a dozen times in a test: it answers one number."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.registry.packaging import KINDS
from pipelines.registry.signatures import (
    CONTRACTS,
    COUNT,
    FLAG,
    NUMBER,
    NUMBERS,
    TEXT,
    TEXTS,
    contract_of,
)
from pipelines.registry.store import ModelRegistry, ModelVersion

KIND = "test/level"
ACCEPTED = {"gate.verdict": "accepted"}
VALUES: Mapping[str, list[Any]] = {
    NUMBER: [1.5, None],
    COUNT: [3, None],
    FLAG: [True, None],
    TEXT: ["standard", None],
    NUMBERS: [[1.0, 2.0], None],
    TEXTS: [["view", "search"], None],
}


class Level:
    """Answers the same level in every numeric output and its name in the others."""

    def __init__(self, model: str, level: float) -> None:
        self.model, self.level = model, level

    def predict(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        rows = len(next(iter(columns.values())))
        return {
            name: np.full(rows, self.level if kind == NUMBER else "low")
            for name, kind in contract_of(self.model).outputs.items()
        }

    def save(self, folder: Path) -> None:
        (folder / "level.json").write_text(json.dumps([self.model, self.level]))

    @classmethod
    def load(cls, folder: Path) -> Level:
        return cls(*json.loads((folder / "level.json").read_text()))


@contextmanager
def known() -> Iterator[None]:
    """The kind can be registered while inside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, KIND, f"{__name__}:Level")  # type: ignore[arg-type]
        yield


def example(model: str) -> dict[str, list[Any]]:
    """Two rows of every input of a model; the second has nothing but nulls."""
    return {name: list(VALUES[kind]) for name, kind in CONTRACTS[model].inputs.items()}


def new_run(registry: ModelRegistry, model: str = "supply_gnn") -> str:
    """A run in the model's experiment."""
    experiment = registry.experiment(model)
    with registry.store.client(writes=True) as client:
        return str(client.create_run(experiment).info.run_id)


def register(
    registry: ModelRegistry, level: float = 0.5, model: str = "supply_gnn", **more: Any
) -> ModelVersion:
    """A new version that answers `level`; never judged by the gate, unless its tags say so."""
    predictor = Level(model, level)
    inputs = example(model)
    given: dict[str, Any] = {
        "predictor": predictor,
        "kind": KIND,
        "example": inputs,
        "outcome": predictor.predict(inputs),
        "service": CONTRACTS[model].service,
        "metrics": {"r2": 0.25, "mae": 1.5},
    }
    given |= more
    run_id = given.pop("run_id", None) or new_run(registry, model)
    return registry.register(model=model, run_id=run_id, **given)
