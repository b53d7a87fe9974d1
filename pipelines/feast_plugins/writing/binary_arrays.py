"""Arrow binary arrays made, joined and regrouped as wholes: no Python object per row."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.errors import UsageError

Integers = NDArray[np.int64]

FEW: Final = 64
"""Up to this many rows plain Python is faster than the calls that start Arrow and NumPy."""

_LARGEST: Final = 2**31 - 1  # what an Arrow array of type binary can hold


def from_bounds(data: Any, bounds: Integers) -> pa.BinaryArray:
    """The runs of bytes of `data` (a buffer) between consecutive bounds.

    Raises:
        UsageError: the data take more than 2 GB.
    """
    if bounds[-1] > _LARGEST:
        raise UsageError(
            f"values of {bounds[-1]} bytes at once are more than can be encoded: use fewer rows"
        )
    offsets = pa.py_buffer(np.ascontiguousarray(bounds, np.int32))
    return pa.Array.from_buffers(
        pa.binary(), len(bounds) - 1, [None, offsets, pa.py_buffer(data)], null_count=0
    )


def from_cells(cells: NDArray[np.uint8], lengths: Integers | None = None) -> pa.BinaryArray:
    """Per row of a matrix of bytes its first `lengths` bytes, or all of them."""
    rows, width = cells.shape
    if lengths is None:
        return from_bounds(np.ascontiguousarray(cells), np.arange(rows + 1) * width)
    return from_bounds(cells[np.arange(width) < lengths[:, np.newaxis]], bounds_of(lengths))


def bounds_of(lengths: NDArray[Any]) -> Integers:
    """Where runs of these lengths, one behind the other, begin and end."""
    bounds = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


def joined(*pieces: bytes | pa.Array, between: bytes = b"") -> pa.BinaryArray:
    """Row by row the pieces in this order, one of them an array; null where one is null."""
    return pc.binary_join_element_wise(
        *(pa.scalar(p, pa.binary()) if isinstance(p, bytes) else p for p in (*pieces, between))
    )


def regrouped(array: pa.BinaryArray, bounds: Integers) -> pa.BinaryArray:
    """One row for each run of rows between consecutive bounds; nothing is copied."""
    data, offsets = data_of(array)
    return from_bounds(data, offsets[bounds])


def data_of(array: pa.BinaryArray) -> tuple[pa.Buffer, Integers]:
    """The bytes of an array without nulls on end, and the bounds of its rows in them."""
    _, offsets, data = array.buffers()
    rows = len(array)
    if not rows:
        return pa.py_buffer(b""), np.zeros(1, np.int64)
    bounds = np.frombuffer(offsets, np.int32)[array.offset : array.offset + rows + 1]
    return (data if data is not None else pa.py_buffer(b"")), bounds.astype(np.int64)


def lengths_of(array: pa.BinaryArray) -> Integers:
    """The length of each row of an array without nulls."""
    return np.diff(data_of(array)[1])
