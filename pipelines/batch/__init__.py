"""The batch flow: from change logs to offline sources and a materialized online store."""

from pipelines.batch.cycle import DataProcessor
from pipelines.batch.processor import BatchProcessor
from pipelines.batch.report import CycleReport
from pipelines.lake.summary import ViewSummary
from pipelines.settings import BatchConfig

__all__ = ["BatchConfig", "BatchProcessor", "CycleReport", "DataProcessor", "ViewSummary"]
