"""The task of the PPO agent: which warehouse and shipping method for an order."""

from pipelines.training.ppo.task import PpoTask

__all__ = ["PpoTask"]
