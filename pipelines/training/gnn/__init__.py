"""The supply-chain GNN: which routes will be late in the next 24 hours."""

from pipelines.training.gnn.gnn_task import GnnTask

__all__ = ["GnnTask"]
