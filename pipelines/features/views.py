"""The feature views: the declared groups, what they need of the logs, schemas and SQL."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Final

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from pipelines.change_log.types import ARROW_TYPES, DUCKDB_TYPES
from pipelines.errors import UnknownNameError
from pipelines.features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from pipelines.features.compilers.every_row import every_row
from pipelines.features.compilers.newest_row import newest_row
from pipelines.features.groups import GROUPS
from pipelines.features.language.group import FeatureGroup
from pipelines.features.language.tree import signature
from pipelines.features.language.value_types import ARROW
from pipelines.features.needs import Source, is_streamed, looked_up, sources_of
from pipelines.tables.known import BY_NAME

__all__ = ["Source", "View"]

_compiling: Final = threading.Lock()


@dataclass(frozen=True, eq=False)
class View:
    """One feature view: a declared group and what follows from it."""

    group: FeatureGroup

    @property
    def name(self) -> str:
        """Its name in Feast, and of its folder."""
        return self.group.name

    @property
    def keys(self) -> tuple[str, ...]:
        """The entity keys."""
        return self.group.keys

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """What it needs of the logs whose rows are found by its keys."""
        return sources_of(self.group)

    @cached_property
    def is_streamed(self) -> bool:
        """Whether the real-time flow computes its rows; else they are the batch flow's alone."""
        return is_streamed(self.sources)

    @cached_property
    def tables(self) -> tuple[str, ...]:
        """The logs that it looks something up in; they are read whole."""
        return looked_up(self.group)

    @cached_property
    def expression(self) -> ir.Table:
        """The features as an Ibis expression over tables named after the logs."""
        return every_row(self.group)

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of the offline source: keys, event time, features, created timestamp."""
        rows = self.group.triggers[0]
        keys = [(key, ARROW_TYPES[rows.log.types[rows.column_of(key)]]) for key in self.keys]
        features = [(name, ARROW[feature.kind]) for name, feature in self.group.features.items()]
        time = pa.timestamp("us")
        columns = [*keys, (EVENT_TIMESTAMP, time), *features, (CREATED_TIMESTAMP, time)]
        return pa.schema(columns)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features, in the dictionary's order."""
        return tuple(self.group.features)

    @cached_property
    def declaration(self) -> str:
        """A hash of what is declared, without descriptions: while it stays, so do the rows."""
        group = self.group
        due = [(signature(r), r is not d) for r, d in zip(group.triggers, group.rows, strict=True)]
        features = [(name, signature(feature.value)) for name, feature in group.features.items()]
        whole = (group.keys, due, signature(group.entity), features)
        return hashlib.sha256(repr(whole).encode()).hexdigest()

    @property
    def databases(self) -> set[str]:
        """The live databases whose changes give the view new rows."""
        return {BY_NAME[source.log].database for source in self.sources}

    def key_pairs(self, source: Source) -> list[tuple[str, str]]:
        """Each entity key with the column of a source's log that holds it: (column, key)."""
        return list(zip(source.keys, self.keys, strict=True))

    def query(self, *, newest: bool = False) -> str:
        """SQL over relations named after the logs; the schema's columns but `created_timestamp`.

        With `newest` it yields only the newest row of each key, which is cheaper.
        """
        with _compiling:  # who asks meanwhile waits, and finds it compiled
            features = self._newest_sql if newest else self._sql
        columns = ", ".join(
            f'CAST("{field.name}" AS {DUCKDB_TYPES[field.type]}) AS "{field.name}"'
            for field in self.schema
            if field.name != CREATED_TIMESTAMP
        )
        return f"SELECT {columns} FROM ({features})"

    @cached_property
    def _sql(self) -> str:
        return str(ibis.to_sql(self.expression, dialect="duckdb"))

    @cached_property
    def _newest_sql(self) -> str:
        return str(ibis.to_sql(newest_row(self.group), dialect="duckdb"))


VIEWS: Final = tuple(View(group) for group in GROUPS)
VIEWS_BY_NAME: Final[Mapping[str, View]] = {view.name: view for view in VIEWS}
LONGEST_WINDOW: Final = timedelta(
    microseconds=max(a.within or 0 for view in VIEWS for a in view.group.aggregations)
)
"""The longest window of any feature."""


def view_named(name: str) -> View:
    """The view of that name.

    Raises:
        UnknownNameError: there is no such view.
    """
    if name not in VIEWS_BY_NAME:
        raise UnknownNameError(
            f"there is no feature view {name!r}; there are: {', '.join(VIEWS_BY_NAME)}"
        )
    return VIEWS_BY_NAME[name]


def compile_all() -> None:
    """Compile every view, which takes a second, once per process."""
    for view in VIEWS:
        view.query()
