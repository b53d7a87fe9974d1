"""Features without a value: found in training, kept from a model in training and in serving.

A feature that was null in every training row taught a model nothing. What would happen once it has
values is chance (of a network) or an error (of scikit-learn's trees), so such a feature stays null
for that model, whoever asks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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
