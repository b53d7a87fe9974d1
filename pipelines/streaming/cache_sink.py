"""The real-time cache as a sink of the streamer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import pyarrow as pa

from pipelines.cache import FeatureEntry, RealtimeCache
from pipelines.errors import said
from pipelines.features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from pipelines.features.views import View

logger = logging.getLogger(__name__)

VIEW_COLUMN: Final = "view"


class CacheSink:
    """Writes feature rows to the real-time cache.

    The cache is a copy: an error of its own is logged, and the online store goes on.
    """

    def __init__(self, cache: RealtimeCache) -> None:
        self.cache = cache
        self.last_error: str | None = None

    def put(self, view: View, rows: pa.Table) -> None:
        """Keep each row as the features of its key, under `features:{view}:{key}:…`."""
        with self._logging_errors():
            keys = zip(*(rows[name].to_pylist() for name in view.keys), strict=True)
            ids = [":".join((view.name, *map(str, key))) for key in keys]
            values = rows.select(list(view.features)).to_pylist()
            events, created = (rows[n].to_pylist() for n in (EVENT_TIMESTAMP, CREATED_TIMESTAMP))
            entries = map(FeatureEntry, values, events, created)
            self.cache.put_features(dict(zip(ids, entries, strict=True)))

    def put_latest(self, data_type: str, rows: Mapping[str, pa.Table]) -> None:
        """Keep the rows of a micro-batch, by view, as `latest:{data_type}`."""
        tables = [
            table.append_column(VIEW_COLUMN, pa.repeat(view, table.num_rows))
            for view, table in rows.items()
            if table.num_rows
        ]
        if not tables:
            return
        whole = pa.concat_tables(tables, promote_options="default")
        created = tables[0][CREATED_TIMESTAMP][0].as_py()
        with self._logging_errors():
            self.cache.put_batch(data_type, created, whole)

    @contextmanager
    def _logging_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, the online store goes on
            text = said(error)
            if text != self.last_error:
                logger.error("the cache lacks rows that the online store gets: %s", text)
            self.last_error = text
