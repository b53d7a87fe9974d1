"""On-demand feature views over columns, as Feast runs them over its protobuf answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import pyarrow as pa
from feast.online_response import _convert_uuids_for_arrow
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.utils import _parse_feature_ref
from feast.value_type import ValueType

Columns = dict[str, list[Any]]


_PLAIN: Final = {
    ValueType.DOUBLE: float,
    ValueType.STRING: str,
    ValueType.BOOL: bool,
}
"""Types whose values Feast gives back as they are."""


class Made(NamedTuple):
    """A computed feature: what `to_dict` gives for it, and its messages if those came first."""

    values: list[Any]
    kind: ValueType
    messages: list[Value] | None

    def as_messages(self) -> list[Value]:
        """The feature as Feast would store it."""
        if self.messages is not None:
            return self.messages
        return python_values_to_proto_values(self.values, self.kind)


@dataclass(frozen=True, slots=True)
class Transformation:
    """One on-demand view of a request.

    Attributes:
        outputs: the names of its features that were asked for.
        hidden: columns of other views, which it has not declared and must not see.
        kinds: the declared value type by feature.
    """

    view: Any
    outputs: frozenset[str]
    hidden: frozenset[str]
    kinds: dict[str, ValueType]
    full_feature_names: bool

    def run(self, columns: Columns) -> dict[str, Made]:
        """Its features, from the columns of the answer so far, which it may change."""
        seen = {name: cells for name, cells in columns.items() if name not in self.hidden}
        if self.view.mode == "python":
            made = self.view.transform_dict(seen)
            cells = {name: made[name] for name in made if name in self.outputs}
            cells = {n: c if isinstance(c, list) else [c] for n, c in cells.items()}
        else:
            table = pa.Table.from_pydict(_convert_uuids_for_arrow(seen))
            made = self.view.transform_arrow(table, self.full_feature_names)
            cells = {n: made[n].to_numpy() for n in made.column_names if n in self.outputs}
        return {
            name: _made(column, self.kinds.get(name, ValueType.UNKNOWN))
            for name, column in cells.items()
        }


def transformations(
    views: Sequence[Any], references: Sequence[str], full_feature_names: bool
) -> tuple[Transformation, ...] | None:
    """Those of a request; None if one of them is of a kind that is left to Feast.

    Args:
        views: the request's on-demand views.
        references: all its feature references.
        full_feature_names: whether features are called `<view>__<feature>`.
    """
    by_name = {
        (view.projection.name_alias if view.projection else None) or view.name: view
        for view in views
    }
    if any(_is_left_to_feast(view) for view in views):
        return None
    parsed = [_parse_feature_ref(reference) for reference in references]
    found = []
    for shown in dict.fromkeys(name for name, _, _ in parsed if name in by_name):
        view = by_name[shown]
        prefix = f"{view.projection.name_to_use()}__" if full_feature_names else ""
        found.append(
            Transformation(
                view=view,
                outputs=frozenset(prefix + name for at, _, name in parsed if at == shown),
                hidden=_undeclared(view, views, [p for p in parsed if p[0] not in by_name]),
                kinds={column.name: column.dtype.to_value_type() for column in view.schema},
                full_feature_names=full_feature_names,
            )
        )
    return tuple(found)


def _made(column: Any, kind: ValueType) -> Made:
    plain = _PLAIN.get(kind)
    if (
        plain is not None
        and isinstance(column, list)
        and {*map(type, column)} <= {plain, type(None)}
        and all(value == value for value in column)  # Feast makes NaN null
    ):
        return Made(column, kind, None)
    messages = python_values_to_proto_values(column, kind)
    return Made([feast_value_type_to_python_type(value) for value in messages], kind, messages)


def _is_left_to_feast(view: Any) -> bool:
    return bool(
        view.write_to_online_store or view.aggregations or view.mode not in ("python", "pandas")
    )


def _undeclared(view: Any, views: Sequence[Any], parsed: Sequence[Any]) -> frozenset[str]:
    """The columns of the answer that come from views which this one has not declared."""
    declared = {source.name for source in view.source_feature_view_projections.values()}
    others = [(name, feature) for name, _, feature in parsed]
    for other in views:
        for source in other.source_feature_view_projections.values():
            others += [(source.name, feature.name) for feature in source.features]
    return frozenset(
        column
        for name, feature in others
        if name not in declared
        for column in (feature, f"{name}__{feature}")
    )
