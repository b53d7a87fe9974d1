"""Columns of Python values as the arrays that models read and answer with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.registry.signatures import CONTRACTS, NUMBERS, TEXT, TEXTS

Columns = dict[str, NDArray[Any]]

_OBJECTS: Final = frozenset(
    name
    for contract in CONTRACTS.values()
    for name, kind in [*contract.inputs.items(), *contract.outputs.items()]
    if kind in (TEXT, NUMBERS, TEXTS)
)


def as_columns(columns: Mapping[str, Sequence[Any]]) -> Columns:
    """Several columns as arrays; see `as_column`."""
    return {name: as_column(name, values) for name, values in columns.items()}


def as_column(name: str, values: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    """(N,) array of a column: objects for texts and lists, else floats, with NaN for None."""
    if name not in _OBJECTS:
        return np.array(values, dtype=np.float64)
    column = np.empty(len(values), dtype=object)
    column[:] = values  # lists as they are, also where all are of one length
    return column
