"""The Intent Transformer's training: data set, leak guard, baselines, evaluation."""

from pipelines.training.intent.task import IntentTask

__all__ = ["IntentTask"]
