"""The real-time cache: the latest features within milliseconds, from Redis or else memory."""

from pipelines.cache.entries import Batch, FeatureEntry
from pipelines.cache.keys import DATA_TYPE_OF, DATA_TYPES
from pipelines.cache.realtime_cache import RealtimeCache
from pipelines.cache.statistics import CacheStatistics

__all__ = [
    "DATA_TYPES",
    "DATA_TYPE_OF",
    "Batch",
    "CacheStatistics",
    "FeatureEntry",
    "RealtimeCache",
]
