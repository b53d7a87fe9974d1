"""The supply network as a graph: places are nodes, routes are edges, delays are forecast per edge.

Observations on one route (published risk, recent lateness) carry information on the two places that
it joins, and so on the other routes there. The network pools the states of a place's routes into a
state of the place, passes that back to the routes, and repeats; each round reaches one place
further. No place or route is learned by name, so new ones can be forecast too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.models.delay.features import place_numbers


@dataclass(frozen=True)
class Graph:
    """Routes as edges between numbered nodes, of one snapshot or several side by side.

    Attributes:
        place: (N, 2) nodes at each route's origin and destination.
        places: how many nodes there are.
        snapshot: (N,) to which snapshot each route belongs.
        snapshots: how many there are.
    """

    place: Tensor
    places: int
    snapshot: Tensor
    snapshots: int

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Graph:
        """From origin_id, destination_id and, if there are several graphs, `snapshot`.

        The same place in two snapshots is two nodes: nothing passes between snapshots.
        """
        place, places, snapshot, snapshots = place_numbers(columns)
        return cls(torch.from_numpy(place), places, torch.from_numpy(snapshot), snapshots)

    def repeated(self, copies: int) -> Graph:
        """That many copies of a single snapshot side by side."""
        number = torch.arange(copies).repeat_interleave(len(self.place))
        place = self.place.repeat(copies, 1) + number[:, None] * self.places
        return Graph(place, self.places * copies, number, copies)


@dataclass(frozen=True)
class GnnConfig:
    """Sizes of the network.

    Attributes:
        width: of a route's and a place's state.
        rounds: of message passing between routes and places; with 0 each route is seen alone.
        dropout: share of states that are left out in training.
    """

    width: int = 16
    rounds: int = 3
    dropout: float = 0.2


@dataclass(frozen=True)
class Forecast:
    """Forecasts for each route's next 24 hours, each (N,).

    Attributes:
        late: log-odds that a shipment is late.
        index: log-odds of its delay index, see `delay index` in the training package.
        risk, congestion: log-odds of the mean that carriers will publish.
        carbon: logarithm of the mean kg CO2e of a shipment.
    """

    late: Tensor
    index: Tensor
    risk: Tensor
    congestion: Tensor
    carbon: Tensor


class SupplyGnn(nn.Module):
    """Edge forecasts by rounds of pooling at the places (nodes).

    Args:
        config: sizes.
        mean, spread: (I,) of the training inputs, for standardising; missing values become
            the mean and are flagged.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, config: GnnConfig, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)
        width, seen = config.width, 2 * len(mean)
        self.read = nn.Sequential(nn.Linear(seen, width), nn.SiLU())
        self.overall = nn.Linear(seen, width) if config.rounds else None
        self.weigh = nn.ModuleList(nn.Linear(seen, 1) for _ in range(config.rounds))
        self.message = nn.ModuleList(nn.Linear(width, width) for _ in range(config.rounds))
        self.update = nn.ModuleList(nn.Linear(3 * width, width) for _ in range(config.rounds))
        self.dropout = nn.Dropout(config.dropout)
        self.forecast = nn.Linear(width + seen, 5)
        nn.init.zeros_(self.forecast.weight)

    def forward(self, values: Tensor, graph: Graph) -> Forecast:
        """Forecast every route.

        Args:
            values: (N, I) of `inputs`, NaN where unknown.
            graph: whose N edges the routes are.
        """
        place, places = graph.place, graph.places
        known = ~torch.isnan(values)  # (N, I)
        scaled = (values - self.mean) / self.spread  # (N, I)
        scaled = torch.where(known, scaled, 0.0).clamp(-5.0, 5.0)  # (N, I)
        seen = torch.cat([scaled, (~known).to(scaled.dtype)], dim=1)  # (N, 2I)
        state = self.read(seen)  # (N, W)
        if self.overall is not None:
            # The network-wide state, so that the edges only need to carry local deviations.
            general = _pool(seen, graph.snapshot, graph.snapshots, "mean")  # (S, 2I)
            state = state + self.overall(general)[graph.snapshot]  # (N, W)
        both = place.T.reshape(-1)  # (2N,) all origins, then all destinations
        for weigh, send, update in zip(self.weigh, self.message, self.update, strict=True):
            # A route's weight depends on how much is known of it, e.g. its deliveries.
            weight = functional.softplus(weigh(seen))  # (N, 1)
            message = torch.cat([weight * send(state), weight], dim=1)  # (N, W + 1)
            pooled = _pool(message.repeat(2, 1), both, places, "sum")  # (P, W + 1)
            mean = pooled[:, :-1] / (pooled[:, -1:] + 1e-6)  # (P, W)
            received = mean[place].reshape(len(values), -1)  # (N, 2W) of origin and destination
            change = update(torch.cat([state, received], dim=1))  # (N, W)
            state = state + self.dropout(functional.silu(change))  # (N, W)
        out = self.forecast(torch.cat([state, seen], dim=1))  # (N, 5)
        return Forecast(*out.unbind(dim=1))  # 5 x (N,)


def _pool(values: Tensor, group: Tensor, groups: int, how: str) -> Tensor:
    """(groups, K) sums or means of the rows of each group; (N, K) values, (N,) group numbers."""
    # Not at the top: importing it changes the environment, which importing us must not.
    from torch_geometric.utils import scatter

    pooled: Tensor = scatter(values, group, dim=0, dim_size=groups, reduce=how)
    return pooled


@dataclass(frozen=True)
class Targets:
    """What came of each route's next 24 hours, each (N,); see the training package's labels.

    Attributes:
        shipments: that left, in number; 0 where nothing is known yet. May be re-weighted.
        late, index, carbon: means over those shipments.
        risk, congestion: means of what was published.
        published: weight of the latter two; 0 where the 24 hours are not over.
    """

    shipments: Tensor
    late: Tensor
    index: Tensor
    carbon: Tensor
    risk: Tensor
    congestion: Tensor
    published: Tensor


@dataclass(frozen=True)
class Scale:
    """Variances of the targets, so that the losses' parts weigh alike."""

    index: float
    risk: float
    congestion: float


PUBLISHED_WEIGHT: Final = 0.5
"""Of what carriers will publish, in the loss. It is far less noisy than the few shipments of a
route and day, and so teaches how congestion goes on."""
_CARBON_WEIGHT: Final = 0.05


def loss(forecast: Forecast, targets: Targets, scale: Scale) -> Tensor:
    """Mean loss per shipment: lateness, delay index, carbon, and per route what is published.

    Lateness is scored by cross-entropy; the indices by squared error, which the mean minimises;
    carbon by the gamma deviance up to a constant, whose minimum with a log link is the mean too.

    Args:
        forecast: (N,) each.
        targets: (N,) each.
        scale: variances of the training targets.
    """
    weight = targets.shipments / targets.shipments.sum().clamp(min=1e-9)  # (N,)
    late = functional.binary_cross_entropy_with_logits(
        forecast.late, targets.late, reduction="none"
    )  # (N,)
    index = (torch.sigmoid(forecast.index) - targets.index) ** 2 / scale.index  # (N,)
    carbon = forecast.carbon + targets.carbon * torch.exp(-forecast.carbon)  # (N,)
    realised = (weight * (late + index + _CARBON_WEIGHT * carbon)).sum()
    risk = (torch.sigmoid(forecast.risk) - targets.risk) ** 2 / scale.risk  # (N,)
    jam = (torch.sigmoid(forecast.congestion) - targets.congestion) ** 2 / scale.congestion
    share = targets.published / targets.published.sum().clamp(min=1e-9)  # (N,)
    return realised + PUBLISHED_WEIGHT * (share * (risk + jam)).sum()
