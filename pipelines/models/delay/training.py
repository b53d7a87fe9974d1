"""Fits the network on snapshots, with its edges, without them, or with shuffled ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.models.delay.dataset import rows_of
from pipelines.models.delay.features import inputs
from pipelines.models.delay.network import GnnConfig, Graph, Scale, SupplyGnn, Targets, loss
from pipelines.training.task import Dataset, take

Floats = NDArray[np.float64]
Edges = Literal["true", "shuffled", "none"]
_LEAST_SPREAD: Final = 1e-2


@dataclass(frozen=True)
class FitConfig:
    """How the network is fitted.

    Attributes:
        snapshots: per step.
        epochs, rate, decay: of AdamW; the rate follows one cycle.
        network: its sizes.
    """

    snapshots: int = 16
    epochs: int = 8
    rate: float = 3e-3
    decay: float = 0.3
    network: GnnConfig = field(default_factory=GnnConfig)


@dataclass(frozen=True)
class Fitted:
    """A network, the graph of one snapshot that it was fitted on, and its losses by epoch."""

    network: SupplyGnn
    graph: Graph
    training_loss: list[float]
    test_loss: list[float]


@dataclass(frozen=True)
class Snapshots:
    """Some snapshots of a data set as tensors: inputs (S, R, I), targets (S, R)."""

    values: Tensor
    targets: Targets

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, chosen: Tensor) -> tuple[Tensor, Targets]:
        """Some of the snapshots as one disjoint graph: inputs (B * R, I), targets (B * R,)."""
        targets = {name: value[chosen].reshape(-1) for name, value in vars(self.targets).items()}
        return self.values[chosen].reshape(-1, self.values.shape[2]), Targets(**targets)


def snapshots(data: Dataset, chosen: NDArray[np.bool_], weights: Floats | None = None) -> Snapshots:
    """The snapshots with a chosen row; other rows are context, with no weight in the loss.

    Args:
        data: rows in order of snapshots, with the same routes in each.
        chosen: (N,) rows that count.
        weights: (N,) by which the rows' shipments are multiplied; also given to what is published.
    """
    rows = rows_of(data, chosen)
    size = int((data.timestamps == data.timestamps[0]).sum())
    counts = np.where(chosen, 1.0 if weights is None else weights, 0.0)[rows]

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(data.labels[name][rows].astype(np.float32)).reshape(-1, size)

    seen = torch.from_numpy(inputs(take(data.columns, rows)).astype(np.float32))
    weight = torch.from_numpy(counts.astype(np.float32)).reshape(-1, size)
    # What is published needs no shipment: it counts on all routes of a snapshot alike.
    whole = weight.amax(dim=1, keepdim=True)
    return Snapshots(
        seen.reshape(-1, size, seen.shape[1]),
        Targets(
            shipments=tensor("shipments") * weight,
            late=tensor("late"),
            index=tensor("index"),
            carbon=tensor("carbon"),
            risk=tensor("risk"),
            congestion=tensor("congestion"),
            published=tensor("published") * whole,
        ),
    )


def graph(data: Dataset, edges: Edges, seed: int) -> Graph:
    """The routes of one snapshot as a graph, optionally shuffled.

    Shuffling permutes the origins and the destinations among the routes: every place keeps its
    number of routes.

    Args:
        data: with snapshots.
        edges: "shuffled" permutes the ends of the routes.
        seed: of the permutation.
    """
    first = data.timestamps == data.timestamps[0]
    found = Graph.of(take(data.columns, first))
    if edges != "shuffled":
        return found
    rng = np.random.default_rng([seed, 1])
    dealt = [rng.permutation(end) for end in found.place.numpy().T]
    return replace(found, place=torch.from_numpy(np.stack(dealt, axis=1)))


def fit(
    data: Dataset,
    train: NDArray[np.bool_],
    test: NDArray[np.bool_],
    *,
    seed: int,
    edges: Edges = "true",
    weights: Floats | None = None,
    config: FitConfig | None = None,
    report: Callable[[float], None] = lambda _: None,
) -> Fitted:
    """Fit one network; the test rows are used for the learning curve only.

    Args:
        data: with snapshots.
        train, test: (N,) rows.
        seed: of initialisation, order and dropout.
        edges: which graph it learns on.
        weights: (N,) of the training rows.
        config: how to fit.
        report: callback with the fraction that is done.
    """
    config = config or FitConfig()
    sizes = config.network if edges != "none" else GnnConfig(config.network.width, 0)
    learned, judged = snapshots(data, train, weights), snapshots(data, test)
    routes = graph(data, edges, seed)
    known = learned.values.reshape(-1, learned.values.shape[2])
    mean = torch.nan_to_num(known.nanmean(dim=0))
    spread = torch.nan_to_num((known - mean).square().nanmean(dim=0).sqrt(), nan=1.0)
    scale = _scale(learned.targets)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SupplyGnn(sizes, mean, spread.clamp(min=_LEAST_SPREAD))
        _start_at_means(network, learned.targets)
        decayed = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=config.decay)
        steps = -(-len(learned) // config.snapshots)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            decayed, max_lr=config.rate, total_steps=steps * config.epochs
        )
        curves: tuple[list[float], list[float]] = ([], [])
        for epoch in range(config.epochs):
            network.train()
            total = 0.0
            for chosen in torch.split(
                torch.randperm(len(learned), generator=generator), config.snapshots
            ):
                values, targets = learned.batch(chosen)
                found = loss(network(values, routes.repeated(len(chosen))), targets, scale)
                decayed.zero_grad()
                found.backward()  # type: ignore[no-untyped-call]  # torch is untyped here
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                decayed.step()
                schedule.step()
                total += float(found.detach())
            curves[0].append(total / steps)
            curves[1].append(_whole_loss(network, judged, routes, scale))
            report((epoch + 1) / config.epochs)
    network.eval()
    return Fitted(network, routes, *curves)


def _scale(targets: Targets) -> Scale:
    """Variances over the training rows, with a floor, so that the parts of the loss compare."""

    def variance(values: Tensor, weight: Tensor) -> float:
        share = weight / weight.sum().clamp(min=1e-9)
        mean = (share * values).sum()
        return float((share * (values - mean) ** 2).sum().clamp(min=1e-4))

    return Scale(
        index=variance(targets.index, targets.shipments),
        risk=variance(targets.risk, targets.published),
        congestion=variance(targets.congestion, targets.published),
    )


def _start_at_means(network: SupplyGnn, targets: Targets) -> None:
    """Set the biases so that the first forecast is the mean of each target."""
    weight = targets.shipments / targets.shipments.sum().clamp(min=1e-9)
    share = targets.published / targets.published.sum().clamp(min=1e-9)
    means = [(weight * targets.late).sum(), (weight * targets.index).sum()]
    means += [(share * targets.risk).sum(), (share * targets.congestion).sum()]
    carbon = (weight * targets.carbon).sum().clamp(min=1e-6).log()
    with torch.no_grad():
        network.forecast.bias.copy_(
            torch.stack([*(torch.logit(m.clamp(1e-3, 1 - 1e-3)) for m in means), carbon])
        )


@torch.inference_mode()
def _whole_loss(
    network: SupplyGnn,
    seen: Snapshots,
    routes: Graph,
    scale: Scale,
) -> float:
    if not len(seen):
        return float("nan")
    network.eval()
    values, targets = seen.batch(torch.arange(len(seen)))
    forecast = network(values, routes.repeated(len(seen)))
    return float(loss(forecast, targets, scale))
