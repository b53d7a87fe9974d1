"""The real-time cache: what happened last, readable within milliseconds; Redis, else memory."""

from pipelines.cache.entries import Batch, FeatureEntry
from pipelines.cache.keys import DATA_TYPES
from pipelines.cache.realtime_cache import RealtimeCache
from pipelines.cache.statistics import CacheStatistics

__all__ = ["DATA_TYPES", "Batch", "CacheStatistics", "FeatureEntry", "RealtimeCache"]
