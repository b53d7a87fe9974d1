"""The batch flow: from change logs to offline sources and a materialized online store."""

from pipelines.batch.batch_processor import BatchProcessor, CycleReport
from pipelines.batch.processor import DataProcessor
from pipelines.lake.summary import ViewSummary
from pipelines.settings import BatchConfig

__all__ = ["BatchConfig", "BatchProcessor", "CycleReport", "DataProcessor", "ViewSummary"]
