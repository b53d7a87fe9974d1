"""Features without a value: found in training, kept from a model in training and in serving.

A feature that was null in every training row taught a model nothing. What would happen once it has
values is chance (of a network) or an error (of scikit-learn's trees), so such a feature stays null
for that model, whoever asks it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_FILE: Final = "ignored.json"


def never_known(
    columns: Mapping[str, Any], names: Iterable[str], rows: NDArray[np.bool_]
) -> list[str]:
    """The numeric columns that have no value in any of the rows.

    Args:
        columns: by name, equally long.
        names: of the columns to check.
        rows: (N,) mask.
    """
    return [n for n in names if np.isnan(np.asarray(columns[n], dtype=np.float64)[rows]).all()]


def without(columns: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The columns with some of them null throughout."""
    found = dict(columns)
    for name in names:
        if name in found:
            found[name] = np.full(len(found[name]), np.nan)
    return found


def no_column_of_nulls(values: Floats) -> Floats:
    """(N, K) inputs of trees with zeros in place of a column that has no value at all.

    scikit-learn cannot bin such a column; on a constant one it never splits, so it makes no
    difference what stands there later.
    """
    return np.where(np.isnan(values).all(axis=0), 0.0, values)


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
