"""Feast in numbers: stock, ours and what the machine allows, in one run.

The three sides share one server, one socket and the same files, and take turns, each repeat
beginning with another one; every side is warmed up. Figures are medians, and ratios of what takes
long are medians of the ratios within a repeat. Before anything is timed, ours and stock must give
equal answers. Stock runs with the fastest settings that its documentation names: Redis with hiredis
and `skip_dedup`, the best of several batch sizes, answers computed ahead (`precompute_online`)
where that is faster, DuckDB, a registry that is read once.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any, Final

import duckdb

from pipelines.benchmarks import Say
from pipelines.benchmarks.feast_figures import compared
from pipelines.benchmarks.feast_history import measure_history
from pipelines.benchmarks.feast_materialize import measure_materialize
from pipelines.benchmarks.feast_online import measure_online
from pipelines.benchmarks.feast_plot import check_plotting, plot
from pipelines.benchmarks.feast_space import Space, private_space
from pipelines.errors import UsageError
from pipelines.feast_plugins.repository import quiet

PARTS: Final = ("materialize", "online", "history")
KEYS: Final = 50_000
STORED: Final = 10_000
REQUESTS: Final = 1_000
ROWS: Final = 100_000
VIEW_ROWS: Final = 500_000
REPEATS: Final = 5
LEAST_KEYS: Final = 1_000

__all__ = ["PARTS", "check_plotting", "measure", "plot"]

LEFT_OUT: Final = (
    "client: glide of stock Feast's online store: another package, and no gain where client and "
    "server share two cores"
)


def measure(
    parts: Sequence[str] = PARTS,
    say: Say = print,
    *,
    keys: int = KEYS,
    stored: int = STORED,
    requests: int = REQUESTS,
    rows: int = ROWS,
    view_rows: int = VIEW_ROWS,
    repeats: int = REPEATS,
) -> dict[str, Any]:
    """Run parts of the benchmark on a server and in a directory of their own, removed at the end.

    Args:
        parts: of "materialize", "online" and "history".
        say: callback with a line on what is going on.
        keys: what is materialized; growth is measured with ten times as many.
        stored: keys that online reads choose from.
        requests: online requests of one key; a fifth of them of a hundred.
        rows: entity rows that the history is asked for, over three views.
        view_rows: rows of each of these views.
        repeats: how often each side materializes and reads the history.

    Raises:
        UsageError: no such part, a size below what can be measured, or no Redis server.
        SynchroChainError: ours does not answer as stock does.
    """
    _check(parts, keys=keys, stored=stored, rows=rows, view_rows=view_rows)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    say("importing Feast")
    with quiet():
        importlib.import_module("feast.infra.offline_stores.duckdb")
    found: dict[str, Any] = {}
    with private_space() as space, _interrupts():
        if "materialize" in parts:
            found["materialize"] = measure_materialize(space, keys, repeats, say)
        if "online" in parts:
            found |= measure_online(space, stored, requests, say)
        if "history" in parts:
            found["history"] = measure_history(space, rows, view_rows, repeats, say)
        return {
            **found,
            "targets": compared(found),
            "left_out": LEFT_OUT,
            "machine": _machine(space, load),
        }


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C stays Ctrl-C: DuckDB makes an error of it, if it is the one that is at work."""
    try:
        yield
    except (RuntimeError, duckdb.Error) as error:
        if "interrupted" in str(error).lower():
            raise KeyboardInterrupt from error
        raise


def _check(parts: Sequence[str], **sizes: int) -> None:
    for part in parts:
        if part not in PARTS:
            raise UsageError(f"{part!r} is not measured here: choose of {', '.join(PARTS)}")
    for name, size in sizes.items():
        if size < LEAST_KEYS:
            raise UsageError(f"--{name.replace('_', '-')} must be >= {LEAST_KEYS:,}: {size}")


def _machine(space: Space, load: float | None) -> dict[str, Any]:
    packages = ("feast", "duckdb", "redis", "hiredis", "pyarrow", "ibis-framework")
    return {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "server": f"{space.endpoint.engine} {space.endpoint.version}",
        "transport": "Unix socket" if space.endpoint.unix_socket else "TCP",
        "load_before": None if load is None else round(load, 2),
        **{name: version(name) for name in packages},
    }
