"""The graph network as it is served; its outputs are those of `baselines`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.models.delay.baselines import Usual, read_usual, write_usual
from pipelines.models.delay.features import INPUTS, MORE_CONDITIONS, inputs
from pipelines.models.delay.network import GnnConfig, Graph, SupplyGnn
from pipelines.models.files import WEIGHTS
from pipelines.models.weights import read_weights

Columns = Mapping[str, Any]

_RENAMED: Final = {"trust": "weigh", "tell": "message", "hear": "update"}


class Gnn:
    """The graph network. Keeps the last graph's structure: it is the same from call to call.

    Args:
        network: the fitted one.
        usual: by mode, for what the network does not answer.
        more: the conditions that it reads beside those known by name.
    """

    def __init__(
        self, network: SupplyGnn, usual: Usual, more: Sequence[str] = MORE_CONDITIONS
    ) -> None:
        self.network = network.eval()
        self.usual = usual
        self.more = tuple(more)
        self._known: tuple[object, Graph] | None = None

    def predict(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """The outputs that `baselines` describes."""
        return self.predict_on(columns, self._graph(columns))

    def predict_on(self, columns: Columns, graph: Graph) -> dict[str, NDArray[Any]]:
        """As `predict`, on a given graph, e.g. one with shuffled edges."""
        values = inputs(columns, self.more)
        if not len(values):
            none = np.zeros(0)
            return self.usual.outputs(columns, late=none, index=none, risk=none, carbon=none)
        with torch.inference_mode():
            found = self.network(torch.from_numpy(values.astype(np.float32)), graph)
            late, index, risk = (
                torch.sigmoid(part).double().numpy()
                for part in (found.late, found.index, found.risk)
            )
            carbon = torch.exp(found.carbon.clamp(max=20.0)).double().numpy()
        return self.usual.outputs(columns, late=late, index=index, risk=risk, carbon=carbon)

    def _graph(self, columns: Columns) -> Graph:
        names = ("origin_id", "destination_id", "snapshot")
        key = tuple(tuple(columns[name]) for name in names if columns.get(name) is not None)
        known = self._known
        if known is None or known[0] != key:
            known = self._known = key, Graph.of(columns)
        return known[1]

    def save(self, folder: Path) -> None:
        """Weights, and sizes and usual values as JSON."""
        torch.save(self.network.state_dict(), folder / WEIGHTS)
        settings = {"network": asdict(self.network.config), "more": self.more}
        write_usual(folder, self.usual, settings)

    @classmethod
    def load(cls, folder: Path) -> Gnn:
        """What `save` wrote.

        Raises:
            ValueError, KeyError, RuntimeError: it is of another make.
        """
        settings, usual = read_usual(folder)
        more = settings.get("more", ())
        empty = torch.zeros(INPUTS + len(more))
        network = SupplyGnn(GnnConfig(**settings["network"]), empty, empty + 1)
        network.load_state_dict(read_weights(folder, _RENAMED))
        return cls(network, usual, more)
