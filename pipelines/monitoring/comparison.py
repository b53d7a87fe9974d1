"""Compares two tables feature by feature: the online and the offline side.

The left side is the online one. Numbers are equal bit by bit, NaN to NaN, lists element by element.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import duckdb
import pyarrow as pa

from pipelines.lake.workspace import quoted

ROWS_KEPT: Final = 100


@dataclass(frozen=True)
class FeatureAudit:
    """The comparison of one feature over `total` keys.

    `left_null` counts keys with a value online only, `right_null` offline only, `mismatch` those
    with two unequal values. Over the pairs of values: `smape` is the mean of 2|a−b| / (|a|+|b|),
    0–2, for numbers; `edit_distance` the mean Levenshtein distance in elements, for lists. They
    are None for other types and where there is no pair.
    """

    total: int
    both_null: int
    left_null: int
    right_null: int
    mismatch: int
    smape: float | None
    edit_distance: float | None

    @property
    def unequal(self) -> int:
        """Keys whose two sides differ."""
        return self.left_null + self.right_null + self.mismatch


@dataclass(frozen=True)
class UnequalRow:
    """One key whose sides differ, with the values of the features that do."""

    view: str
    keys: dict[str, Any]
    online: dict[str, Any]
    offline: dict[str, Any]


def consistency(features: Iterable[FeatureAudit]) -> float | None:
    """1 − unequal / total over all the features' comparisons; None if there were none."""
    counted = list(features)
    total = sum(feature.total for feature in counted)
    return 1 - sum(feature.unequal for feature in counted) / total if total else None


def edit_distance(left: Sequence[Any], right: Sequence[Any]) -> int:
    """The fewest insertions, deletions and replacements of an element between two lists."""
    above = list(range(len(right) + 1))
    for row, one in enumerate(left, start=1):
        costs = [row]
        for column, other in enumerate(right, start=1):
            replaced = above[column - 1] + (not _equal(one, other))
            costs.append(min(above[column] + 1, costs[-1] + 1, replaced))
        above = costs
    return above[-1]


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))


@dataclass
class _Tally:
    """Counts and sums of one feature, added up over batches of keys."""

    total: int = 0
    both_null: int = 0
    left_null: int = 0
    right_null: int = 0
    mismatch: int = 0
    smape: float = 0.0
    edits: int = 0

    def audit(self, kind: pa.DataType) -> FeatureAudit:
        pairs = self.total - self.both_null - self.left_null - self.right_null
        return FeatureAudit(
            self.total,
            self.both_null,
            self.left_null,
            self.right_null,
            self.mismatch,
            self.smape / pairs if pairs and _is_number(kind) else None,
            self.edits / pairs if pairs and pa.types.is_list(kind) else None,
        )


@dataclass
class Comparison:
    """The comparison of one view, in batches of keys.

    `columns` are the features with their types. Of the unequal rows the first `ROWS_KEPT` are kept,
    and all are counted in `unequal_rows`.
    """

    view: str
    keys: tuple[str, ...]
    columns: Mapping[str, pa.DataType]
    rows: list[UnequalRow] = field(default_factory=list)
    compared: int = 0
    unequal_rows: int = 0

    def __post_init__(self) -> None:
        self._tallies = {name: _Tally() for name in self.columns}

    @property
    def features(self) -> dict[str, FeatureAudit]:
        """The figures by feature."""
        return {name: self._tallies[name].audit(kind) for name, kind in self.columns.items()}

    def add(
        self,
        connection: duckdb.DuckDBPyConnection,
        keys: pa.Table,
        online: pa.Table,
        offline: pa.Table,
    ) -> None:
        """Compare the rows of `keys`; a key without a row on a side has only nulls there.

        Args:
            connection: the workspace.
            keys: the key columns, each key once.
            online, offline: the key columns and the features, at most one row per key.
        """
        if not keys.num_rows:
            return
        with connection.cursor() as cursor:
            for name, table in (("wanted", keys), ("served", online), ("computed", offline)):
                cursor.register(name, table)
            by_key = quoted(self.keys)
            cursor.execute(
                f"CREATE TEMP TABLE pairs AS SELECT {by_key}, "
                + ", ".join(f'l."{n}" AS "l_{n}", r."{n}" AS "r_{n}"' for n in self.columns)
                + f" FROM wanted LEFT JOIN served AS l USING ({by_key}) "
                f"LEFT JOIN computed AS r USING ({by_key})"
            )
            self._count(cursor)
            self._measure_lists(cursor)
            self._keep_rows(cursor)
        self.compared += keys.num_rows

    def _count(self, connection: duckdb.DuckDBPyConnection) -> None:
        figures = [_figures(name, kind) for name, kind in self.columns.items()]
        found = connection.execute(f"SELECT {', '.join(figures)} FROM pairs").fetchone()
        assert found is not None  # an aggregate without groups always has one row
        for name, counted in zip(self.columns, found, strict=True):
            tally = self._tallies[name]
            for figure, value in counted.items():
                setattr(tally, figure, getattr(tally, figure) + (value or 0))

    def _measure_lists(self, connection: duckdb.DuckDBPyConnection) -> None:
        for name, kind in self.columns.items():
            if pa.types.is_list(kind):
                pairs = connection.execute(
                    f'SELECT "l_{name}", "r_{name}" FROM pairs WHERE {_mismatch(name)}'
                ).fetchall()
                self._tallies[name].edits += sum(edit_distance(*pair) for pair in pairs)

    def _keep_rows(self, connection: duckdb.DuckDBPyConnection) -> None:
        unequal = " OR ".join(f'"l_{n}" IS DISTINCT FROM "r_{n}"' for n in self.columns)
        found = connection.execute(f"SELECT count(*) FROM pairs WHERE {unequal}").fetchone()
        self.unequal_rows += found[0] if found else 0
        by_key = quoted(self.keys)
        query = f"SELECT * FROM pairs WHERE {unequal} ORDER BY {by_key} LIMIT ?"
        kept = connection.execute(query, [ROWS_KEPT - len(self.rows)]).to_arrow_table()
        self.rows += [self._unequal_row(row) for row in kept.to_pylist()]

    def _unequal_row(self, row: dict[str, Any]) -> UnequalRow:
        names = [n for n in self.columns if not _same(row[f"l_{n}"], row[f"r_{n}"])]
        return UnequalRow(
            self.view,
            {key: row[key] for key in self.keys},
            {name: row[f"l_{name}"] for name in names},
            {name: row[f"r_{name}"] for name in names},
        )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return _equal(one, other)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _mismatch(name: str) -> str:
    left, right = f'"l_{name}"', f'"r_{name}"'
    return f"({left} IS NOT NULL AND {right} IS NOT NULL AND {left} <> {right})"


def _figures(name: str, kind: pa.DataType) -> str:
    """SQL of a struct with the figures of `_Tally`."""
    left, right = f'"l_{name}"', f'"r_{name}"'
    figures = {
        "total": "count(*)",
        "both_null": f"count(*) FILTER ({left} IS NULL AND {right} IS NULL)",
        "left_null": f"count(*) FILTER ({left} IS NOT NULL AND {right} IS NULL)",
        "right_null": f"count(*) FILTER ({left} IS NULL AND {right} IS NOT NULL)",
        "mismatch": f"count(*) FILTER {_mismatch(name)}",
    }
    if _is_number(kind):
        a, b = f"{left}::DOUBLE", f"{right}::DOUBLE"
        # Any other number than an infinity or NaN differs from it by the maximum.
        apart = (
            f"CASE WHEN {left} = {right} THEN 0 WHEN NOT isfinite({a}) OR NOT isfinite({b}) THEN 2 "
            f"ELSE 2 * abs({a} - {b}) / (abs({a}) + abs({b})) END"
        )
        figures["smape"] = f"sum({apart}) FILTER {_mismatch(name)}"
    return "{" + ", ".join(f"'{figure}': {sql}" for figure, sql in figures.items()) + "}"
