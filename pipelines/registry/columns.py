"""Columns as the arrays that models read and answer with, alike in training and in serving."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.errors import DeclarationError
from pipelines.features.views import view_named
from pipelines.registry.signatures import CONTRACTS, NUMBERS, TEXT, TEXTS

Floats = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]

OBJECTS: Final = frozenset(
    name
    for contract in CONTRACTS.values()
    for name, kind in [*contract.inputs.items(), *contract.outputs.items()]
    if kind in (TEXT, NUMBERS, TEXTS)
)
"""Columns of texts and lists."""


def numeric_features(view: str) -> tuple[str, ...]:
    """The features of a view that a model can take as numbers: no texts, no lists."""
    return tuple(name for name in view_named(view).features if name not in OBJECTS)


def require(model: str, names: Iterable[str], *, objects: bool = False) -> None:
    """Make sure that what a model's code names is declared, so that leaving it out is one line.

    Args:
        model: one of MODELS.
        names: of features and other inputs.
        objects: whether they are texts and lists, not numbers.

    Raises:
        DeclarationError: one of them is not, or is of another kind.
    """
    contract = CONTRACTS[model]
    known = {*contract.inputs, *(feature.partition(":")[2] for feature in contract.features)}
    wrong = [name for name in names if name not in known or (name in OBJECTS) != objects]
    if wrong:
        kind = "a text or a list" if objects else "a number"
        raise DeclarationError(
            f"{model} reads {', '.join(map(repr, wrong))} by name, and no group declares it as "
            f"{kind}: declare it again, or change pipelines/models with it"
        )


def floats(values: Any) -> Floats:
    """A column as numbers, with NaN for None."""
    return np.asarray(values, dtype=np.float64)


def as_columns(columns: Mapping[str, Sequence[Any]]) -> Columns:
    """Several columns as arrays; see `as_column`."""
    return {name: as_column(name, values) for name, values in columns.items()}


def as_column(name: str, values: Any) -> NDArray[Any]:
    """(N,) array of a column: objects for texts and lists, else floats, with NaN for None.

    Args:
        name: of the column.
        values: (N,) Python's, numpy's, or a column of an Arrow table.
    """
    if isinstance(values, pa.ChunkedArray):
        if name in OBJECTS:
            return np.asarray(values.to_pandas(), dtype=object)
        return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False))
    if name not in OBJECTS:
        return np.array(values, dtype=np.float64)
    column = np.empty(len(values), dtype=object)
    column[:] = values  # lists as they are, also where all are of one length
    return column
