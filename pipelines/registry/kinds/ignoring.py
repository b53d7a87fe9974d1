"""A model that is not shown some features, as it was not in training: they were always null."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from pipelines.models.columns import without

_FILE: Final = "ignored.json"


class Ignoring:
    """Any kind's model, with some of its input null whatever comes.

    Args:
        model: of any kind.
        names: the features that it must not see.
    """

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        self.model, self.names = model, list(names)

    def predict(self, columns: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """The model's outputs."""
        found: dict[str, NDArray[Any]] = self.model.predict(without(columns, self.names))
        return found

    def save(self, folder: Path) -> None:
        """The model's files, and the names in one more."""
        self.model.save(folder)
        (folder / _FILE).write_text(json.dumps(self.names), encoding="utf-8")


def ignoring(model: Any, names: Sequence[str]) -> Any:
    """The model itself where it has all its features."""
    return Ignoring(model, names) if names else model


def as_trained(model: Any, folder: Path) -> Any:
    """A model that was loaded from a folder, without the features that it had to do without.

    Raises:
        ValueError: the list of names is damaged.
    """
    path = folder / _FILE
    names = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    if not isinstance(names, list):
        raise ValueError(f"{_FILE} holds no list")
    return ignoring(model, names)
