"""What the next batch cycle will compute because of changed declarations, from the state alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pipelines.errors import UnknownNameError
from pipelines.features.views import LONGEST_WINDOW, VIEWS_BY_NAME
from pipelines.lake import declared_logs
from pipelines.lake.declarations import REMOVED, UNCHANGED, ViewChange, check_setting, compare
from pipelines.lake.state import BATCH_READER, PipelineState, PublishedFile
from pipelines.lake.state_copy import copied_state
from pipelines.settings import BatchConfig
from pipelines.tables.known import BY_NAME

CYCLES: Final = 10_000
"""The most cycles whose records are looked at."""
LIKE_ENOUGH: Final = 10
"""A measured cycle says nothing about one that computes more than so many times its rows."""


@dataclass(frozen=True)
class GroupPlan:
    """What becomes of one group.

    Attributes:
        change: how its declaration differs from that of its published rows.
        computed: whether the next cycle computes it for all of history.
        rows, files: published now; they are replaced, or removed with the group.
        log_rows: by log, the processed rows that will be read; what is new comes on top.
        unread_logs: logs that no cycle has read yet: they are read from their beginning.
        expired_before: where published rows are older than what the processed logs hold whole: up
            to then they are computed from what is left.
        models: registered models that read the group.
        seconds: about how long it will take; None where nothing was measured that tells.
        measured_in: the number of the cycle that tells.
    """

    change: ViewChange
    computed: bool
    rows: int
    files: int
    log_rows: Mapping[str, int]
    models: Sequence[str] = ()
    unread_logs: Sequence[str] = ()
    expired_before: datetime | None = None
    seconds: float | None = None
    measured_in: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """As `features plan --json` shows it."""
        change = self.change
        return {
            "group": change.view,
            "change": change.kind,
            "why": change.why,
            "features": {
                what: list(getattr(change, what)) for what in ("added", "removed", "changed")
            },
            "rows_changed": change.rows_changed,
            "computed": self.computed,
            "rows": self.rows,
            "files": self.files,
            "log_rows": dict(self.log_rows),
            "unread_logs": list(self.unread_logs),
            "models": list(self.models),
            "expired_before": self.expired_before,
            "seconds": self.seconds,
            "measured_in_cycle": self.measured_in,
        }


@dataclass(frozen=True)
class FeaturePlan:
    """What the next cycle will compute; `first_cycle` where none has run yet: all of it."""

    first_cycle: bool
    groups: list[GroupPlan]

    @property
    def differing(self) -> list[GroupPlan]:
        """The groups that are not as they were."""
        return [group for group in self.groups if group.change.kind != UNCHANGED]


def feature_plan(config: BatchConfig, now: datetime) -> FeaturePlan:
    """Look what the next cycle will compute anew. Nothing is written, no live database is opened.

    Args:
        config: the data directory.
        now: UTC, naive.

    Raises:
        ConfigurationError: a module declared some groups, and no module is named here.
        DeclarationError: a log has other columns than those in which it is published.
        SynchroChainError: the state cannot be read.
    """
    with copied_state(config.state_path) as state:
        if state is None or not (state.offsets(BATCH_READER) or state.files("view")):
            return FeaturePlan(True, [])
        horizon = now - timedelta(days=config.retention_days) - LONGEST_WINDOW
        logs: dict[str, int] = {}
        for file in state.files("log"):
            logs[file.name] = logs.get(file.name, 0) + file.rows
        changes = compare(state)
        check_setting(changes)
        unread = list(declared_logs.unread(state))
        return FeaturePlan(False, [_group(state, c, logs, unread, horizon) for c in changes])


def _group(
    state: PipelineState,
    change: ViewChange,
    logs: Mapping[str, int],
    unread: Sequence[str],
    horizon: datetime,
) -> GroupPlan:
    files = state.files("view", change.view)
    rows = sum(file.rows for file in files)
    if change.kind in (UNCHANGED, REMOVED):
        return GroupPlan(change, False, rows, len(files), {}, _models_that_read(change))
    needed = VIEWS_BY_NAME[change.view].group.logs
    log_rows = {name: logs[name] for name in needed if name in logs}
    unread_logs = [name for name in needed if name in unread]
    measured = _measured(state, change.view, rows)
    return GroupPlan(
        change,
        computed=bool(files or log_rows or unread_logs),
        rows=rows,
        files=len(files),
        log_rows=log_rows,
        models=_models_that_read(change),
        unread_logs=unread_logs,
        expired_before=horizon if _reaches_back(files, needed, horizon) else None,
        seconds=None if measured is None else round(rows * measured[1], 1),
        measured_in=None if measured is None else measured[0],
    )


def _models_that_read(change: ViewChange) -> list[str]:
    if change.kind == UNCHANGED:
        return []
    try:
        from pipelines.registry.signatures import CONTRACTS
    except UnknownNameError:  # they read a group that is gone
        return []
    return [name for name, contract in CONTRACTS.items() if change.view in contract.views]


def _reaches_back(files: list[PublishedFile], logs: tuple[str, ...], horizon: datetime) -> bool:
    """Whether there are rows from before the time since when all changes of their logs are kept."""
    oldest = min((file.min_time for file in files if file.min_time), default=None)
    return oldest is not None and oldest < horizon and any(BY_NAME[log].expires for log in logs)


def _measured(state: PipelineState, view: str, rows: int) -> tuple[int, float] | None:
    """The cycle that computed most rows of a view, and its seconds per row."""
    found: tuple[int, int, float] | None = None
    for cycle in state.last_cycles(CYCLES):
        computed = cycle.report.get("feature_rows", {}).get(view, 0)
        seconds = cycle.report.get("feature_seconds", {}).get(view)
        if cycle.status == "succeeded" and seconds and computed > (found[0] if found else 0):
            found = computed, cycle.id, seconds
    if found is None or not rows or found[0] * LIKE_ENOUGH < rows:
        return None
    return found[1], found[2] / found[0]
