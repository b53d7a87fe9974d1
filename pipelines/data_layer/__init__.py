"""The whole layer in one process: features online and as of a time, and both flows running."""

from pipelines.data_layer.orchestrator import DataLayerOrchestrator, FeatureRow, LatestFeatures
from pipelines.settings import DataConfig

__all__ = ["DataConfig", "DataLayerOrchestrator", "FeatureRow", "LatestFeatures"]
