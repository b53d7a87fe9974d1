"""Every feature, defined once: pure functions over Ibis tables, one module per feature group."""

from pipelines.features.engineer import FeatureEngineer

__all__ = ["FeatureEngineer"]
