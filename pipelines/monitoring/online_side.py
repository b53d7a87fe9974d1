"""The online side of an audit: its rows as Arrow tables, and which changes they contain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pyarrow as pa

from pipelines.features.columns import EVENT_TIMESTAMP
from pipelines.features.views import VIEWS, View
from pipelines.lake.state import BATCH_READER, STREAM_READER, PipelineState
from pipelines.settings import DATABASE_NAMES

KEYS_PER_READ: Final = 1_000
_NOT_FOUND: Final = 3  # of Feast's FieldStatus
_FIELDS: Final[Mapping[pa.DataType, str]] = {
    pa.int64(): "int64_val",
    pa.float64(): "double_val",
    pa.string(): "string_val",
    pa.bool_(): "bool_val",
    pa.list_(pa.string()): "string_list_val",
    pa.list_(pa.float64()): "double_list_val",
}
"""The field of Feast's Value message, by type."""

DeferredChanges = Callable[[], Mapping[str, Iterable[int]]]
"""Returns, by database, the changes that the streamer deferred to the batch flow. It records one
before its offset passes it, until the batch flow has materialized it."""


@dataclass(frozen=True)
class Contained:
    """The changes of one log that are in the online store for certain, for one view.

    Everything up to `upto`, except the changes of `left_out`.
    """

    upto: int
    left_out: frozenset[int] = frozenset()


def contained(state: PipelineState, deferred: DeferredChanges) -> dict[str, dict[str, Contained]]:
    """By view and database, the changes that were written online before this call."""
    # The order matters: a view without pending rows after the offset was read has been
    # materialized up to it, and what the stream reader left out was recorded before it went on.
    batch = state.offsets(BATCH_READER)
    pending = state.pending_materializations()
    stream = state.offsets(STREAM_READER)
    deferring = {name: frozenset(seqs) for name, seqs in deferred().items()}
    found: dict[str, dict[str, Contained]] = {}
    for view in VIEWS:
        found[view.name] = {}
        for name in DATABASE_NAMES:
            done = 0 if view.name in pending else batch.get(name, 0)
            left_out = frozenset(seq for seq in deferring.get(name, ()) if seq > done)
            found[view.name][name] = Contained(max(done, stream.get(name, 0)), left_out)
    return found


class OnlineSide:
    """Reads views from Feast's online store."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._ttl: dict[str, timedelta | None] = {
            view.name: store.get_feature_view(view.name).ttl for view in VIEWS
        }

    def oldest(self, view: View, now: datetime) -> datetime:
        """The event time before which a row of the view has expired at `now`."""
        ttl = self._ttl[view.name]
        return now - ttl if ttl else datetime.min

    def read(self, view: View, keys: pa.Table, now: datetime) -> pa.Table:
        """The rows of `keys` that exist and have not expired.

        Args:
            view: the view.
            keys: its key columns.
            now: UTC, naive.

        Returns:
            The key columns, `event_timestamp` and the features, typed as the view's schema; a
            value of another type counts as null.

        Raises:
            RedisUnavailableError, RedisRefusedError: Redis cannot be read.
        """
        # Times to live count from the same time as on the offline side, however long the read
        # takes. Only our own store has this clock; a stock one never expires anything.
        self._store._get_provider().online_store.now = lambda: now.replace(tzinfo=UTC)
        schema = pa.schema([view.schema.field(n) for n in (*view.keys, EVENT_TIMESTAMP)])
        schema = pa.schema([*schema, *(view.schema.field(name) for name in view.features)])
        oldest = self.oldest(view, now)
        parts = [
            self._read(view, schema, keys.slice(start, KEYS_PER_READ), oldest)
            for start in range(0, keys.num_rows, KEYS_PER_READ)
        ]
        return pa.Table.from_batches(parts, schema)

    def _read(
        self, view: View, schema: pa.Schema, keys: pa.Table, oldest: datetime
    ) -> pa.RecordBatch:
        asked = {name: keys[name].to_pylist() for name in view.keys}
        answer = self._store.get_online_features(
            features=[f"{view.name}:{name}" for name in view.features], entity_rows=asked
        ).proto
        vectors = dict(zip(answer.metadata.feature_names.val, answer.results, strict=True))
        limit = (oldest - datetime(1970, 1, 1)) // timedelta(microseconds=1)
        stamps = [
            stamp.seconds * 1_000_000 + stamp.nanos // 1_000
            for stamp in vectors[view.features[0]].event_timestamps
        ]
        statuses = vectors[view.features[0]].statuses
        there = [
            row
            for row, (stamp, status) in enumerate(zip(stamps, statuses, strict=True))
            if status != _NOT_FOUND and stamp >= limit
        ]
        columns: dict[str, list[Any]] = {
            name: [values[row] for row in there] for name, values in asked.items()
        }
        columns[EVENT_TIMESTAMP] = [stamps[row] for row in there]
        for name in view.features:
            values, field = vectors[name].values, _FIELDS[schema.field(name).type]
            columns[name] = [_plain(values[row], field) for row in there]
        return pa.record_batch([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def _plain(value: Any, field: str) -> Any:
    if value.WhichOneof("val") != field:
        return None
    found = getattr(value, field)
    return list(found.val) if field.endswith("_list_val") else found
