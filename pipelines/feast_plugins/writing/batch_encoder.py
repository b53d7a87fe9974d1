"""Record batches of a feature view as the commands that put their rows into the online store."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from feast.feature_view import FeatureView
from feast.infra.compute_engines.local.feature_builder import LocalFeatureBuilder
from feast.utils import _get_feature_view_vector_field_metadata, _validate_vector_field_lengths

from pipelines.errors import UsageError
from pipelines.feast_plugins.writing.column_values import feature_values, redis_keys
from pipelines.feast_plugins.writing.encoding import field
from pipelines.feast_plugins.writing.online_writer import EncodedRows, time_columns
from pipelines.feast_plugins.writing.resp import Commands


class BatchEncoder:
    """Checks and encodes the batches of one view, one after the other.

    Args:
        view: the view.
        project: Feast's.
        stored_name: the name that the view's fields in Redis are made from.
        event: the column of event times in the batches.
        created: the column of created timestamps; None without one.
        builder: Feast's plan of the task, for a view that asks for checks.
    """

    def __init__(
        self,
        view: FeatureView,
        project: str,
        *,
        stored_name: str,
        event: str,
        created: str | None,
        builder: LocalFeatureBuilder | None,
    ) -> None:
        self._view = view
        self._project = project
        self._stored_name = stored_name
        self._event = event
        self._created = created or event
        self._keys = {key.name: key.dtype.to_value_type() for key in view.entity_columns}
        self._features = {
            feature.name: (field(stored_name, feature.name), feature.dtype)
            for feature in view.features
        }
        self._schema_check = _schema_check(view, builder)
        self._vector = _get_feature_view_vector_field_metadata(view)
        self._first_vector: list[pa.RecordBatch] = []

    def commands(self, batch: pa.RecordBatch) -> Commands:
        """Raises UsageError (or, for a failed check, Feast's ValueError) if a row is refused."""
        self._check(batch)
        try:
            keys = redis_keys(
                self._keys, {name: batch.column(name) for name in self._keys}, self._project
            )
            fields = time_columns(
                self._stored_name, batch.column(self._event), batch.column(self._created)
            )
        except UsageError as error:
            raise UsageError(f"rows of {self._view.name}: {error}") from error
        for name, (place, dtype) in self._features.items():
            try:
                fields[place] = feature_values(dtype.to_value_type(), batch.column(name))
            except UsageError as error:
                raise UsageError(
                    f"feature {name!r} of {self._view.name}, declared {dtype}: {error}"
                ) from error
        return EncodedRows(keys, fields).commands()

    def _check(self, batch: pa.RecordBatch) -> None:
        if self._schema_check is not None:
            self._schema_check._validate_schema(pa.Table.from_batches([batch]))
        if self._vector is not None and self._vector.name in batch.schema.names:
            # Where no length is declared the first vector of all sets it.
            _validate_vector_field_lengths(
                pa.Table.from_batches([*self._first_vector, batch]), self._view
            )
            if not self._first_vector:
                first = pc.index(batch.column(self._vector.name).is_valid(), True).as_py()
                if first >= 0:
                    self._first_vector.append(batch.slice(first, 1))


def _schema_check(view: FeatureView, builder: Any) -> Any:
    """Feast's own node, which refuses columns that lack and texts that are no JSON."""
    if not getattr(view, "enable_validation", False):
        return None
    return builder.build_validation_node(view, builder.build_source_node(view))
