"""Historical reads: stock Feast, ours, and one DuckDB statement over the same Parquet files."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from pipelines.benchmarks import Say
from pipelines.benchmarks.feast_figures import Figures, in_turns, paired_ratio, rounded
from pipelines.benchmarks.feast_limits import asof_join
from pipelines.benchmarks.feast_space import Space
from pipelines.benchmarks.feast_world import (
    SERVICE,
    View,
    Views,
    apply,
    entity_dataframe,
    open_ours,
    open_stock,
    write_views,
)
from pipelines.errors import SynchroChainError
from pipelines.feast_plugins.repository import quiet

ROWS_PER_KEY: Final = 50
EXPIRES: Final = timedelta(days=2)  # of one view: a good part of its values has expired

Ask = Callable[[], pa.Table]


def measure_history(space: Space, rows: int, view_rows: int, repeats: int, say: Say) -> Figures:
    """Seconds until the training set is an Arrow table, for `rows` entity rows over three views.

    `growth` is what the full size costs ours over a tenth of the entity rows on a tenth of the view
    rows.

    Args:
        space: where files and Redis are.
        rows: of the entity dataframe.
        view_rows: rows of each view.
        repeats: measurements, of which the best counts.
        say: called with each step.

    Raises:
        SynchroChainError: ours, stock and the statement do not answer the same.
    """
    say(f"history: generating 3 views of {view_rows:,} rows, and a tenth of them")
    full, frame = _world(space, "history", rows, view_rows)
    tenth, few = _world(space, "history_tenth", rows // 10, view_rows // 10)
    sides: dict[str, Ask] = {
        "stock": _asked(open_stock(space, full), full, frame),
        "ours": _asked(open_ours(full), full, frame),
        "limit": asof_join(full, frame),
    }
    smaller = _asked(open_ours(tenth), tenth, few)
    smaller()

    say("history: the same rows from ours, stock and the statement, compared")
    answers = {name: ask() for name, ask in sides.items()}
    for name in ("stock", "limit"):
        check_same_rows(answers["ours"], answers[name], name)
    del answers

    seconds: dict[str, list[float]] = {name: [] for name in (*sides, "tenth")}
    for name, ask in in_turns({**sides, "tenth": smaller}, repeats):
        seconds[name].append(_seconds(ask))
        say(f"history: {name}: {seconds[name][-1]:.2f} s")
    medians = {name: rounded(statistics.median(taken)) for name, taken in seconds.items()}
    return {
        "rows": rows,
        "views": len(full.views),
        "view_rows": view_rows,
        "repeats": repeats,
        "stock_s": medians["stock"],
        "ours_s": medians["ours"],
        "limit_s": medians["limit"],
        "ratio_to_stock": paired_ratio(seconds["stock"], seconds["ours"]),
        "ratio_to_limit": paired_ratio(seconds["ours"], seconds["limit"]),
        "growth": paired_ratio(seconds["ours"], seconds["tenth"]),
        "growth_over": "a tenth of the rows over a tenth of the view rows",
        "seconds": {name: [rounded(s) for s in taken] for name, taken in seconds.items()},
    }


def check_same_rows(ours: pa.Table, other: pa.Table, name: str) -> None:
    """Whether two training sets hold the same rows, in any order.

    Args:
        ours: a training set with a column `row`.
        other: what it must equal.
        name: of the other, for the message.

    Raises:
        SynchroChainError: it names the first column that differs.
    """
    if sorted(ours.column_names) != sorted(other.column_names):
        odd = sorted(set(ours.column_names) ^ set(other.column_names))
        raise SynchroChainError(f"the history differs from {name}: columns {odd}")
    ours, other = ours.sort_by("row"), other.sort_by("row")
    for column in ours.column_names:
        expected = other.column(column)
        if not ours.column(column).cast(expected.type).equals(expected):
            raise SynchroChainError(f"the history differs from {name} in column {column}")
        if expected.null_count == other.num_rows:
            raise SynchroChainError(f"the history of {name} has no value in column {column}")


def _world(space: Space, name: str, rows: int, view_rows: int) -> tuple[Views, pd.DataFrame]:
    keys = max(1, view_rows // ROWS_PER_KEY)
    names = {"clicks": None, "orders": EXPIRES, "returns": None}
    made = [View(view, view_rows, keys, ttl) for view, ttl in names.items()]
    views = write_views(space.folder / name, made)
    return views, entity_dataframe(rows, keys, views.end)


def _asked(store: Any, views: Views, frame: pd.DataFrame) -> Ask:
    apply(store, views)
    service = store.get_feature_service(SERVICE)

    def ask() -> pa.Table:
        with quiet():
            return store.get_historical_features(entity_df=frame, features=service).to_arrow()

    return ask


def _seconds(ask: Ask) -> float:
    began = time.perf_counter()
    ask()
    return time.perf_counter() - began
