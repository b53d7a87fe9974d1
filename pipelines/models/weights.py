"""The weights of a network in the folder of its version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipelines.models.files import WEIGHTS


def read_weights(folder: Path, renamed: Mapping[str, str]) -> dict[str, Tensor]:
    """The weights that a version was saved with.

    Args:
        folder: the version's.
        renamed: what a layer is called now, by what earlier versions called it.
    """
    state = torch.load(folder / WEIGHTS, weights_only=True, map_location="cpu")
    parts = {name: name.partition(".") for name in state}
    return {
        renamed.get(layer, layer) + dot + rest: state[name]
        for name, (layer, dot, rest) in parts.items()
    }
