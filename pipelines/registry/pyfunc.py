"""How MLflow loads a registered version: `mlflow.pyfunc.load_model("models:/<name>@champion")`.

MLflow calls `_load_pyfunc` of the module that a version names, with the folder of its package; so
no pickled object is involved, and whoever has SynchroChain installed can predict on a data frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.registry.packaging import as_inputs, outputs_of, read_package


class FrameModel:
    """A served model that takes and gives data frames, as MLflow's users expect."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def predict(self, frame: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """The model's outputs, a row per row.

        Args:
            frame: the columns of the signature; lists and texts may be null, numbers NaN. MLflow
                checks the types first: a column of nothing but nulls has to be of a float type.
            params: MLflow passes it; there are none.
        """
        del params
        columns = {str(name): _nulls_as_none(frame[name]) for name in frame.columns}
        return pd.DataFrame(outputs_of(self.model, as_inputs(columns)), index=frame.index)


def _nulls_as_none(column: pd.Series[Any]) -> Any:
    if column.dtype != object:
        return column
    return [None if isinstance(value, float) and value != value else value for value in column]


def _load_pyfunc(path: str) -> FrameModel:
    return FrameModel(read_package(Path(path)))
