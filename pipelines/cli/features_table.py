"""`synchrochain features list` and `features plan` for people."""

from __future__ import annotations

from typing import Any

from pipelines.cli.console import age, answers, print_table
from pipelines.features.dictionary import TYPES
from pipelines.features.language.aggregations import AT_ONCE, Aggregation
from pipelines.features.language.expressions import walk
from pipelines.features.language.group import Feature
from pipelines.features.views import VIEWS
from pipelines.lake.declarations import REMOVED
from pipelines.monitoring.feature_plan import FeaturePlan, GroupPlan


def declared() -> list[dict[str, Any]]:
    """The declared groups, as `features list --json` shows them."""
    return [
        {
            "group": view.name,
            "keys": list(view.keys),
            "rows": view.group.about,
            "logs": list(view.group.logs),
            "streamed": view.is_streamed,
            "features": [_feature(feature) for feature in view.group.features.values()],
        }
        for view in VIEWS
    ]


def print_declared(groups: list[dict[str, Any]]) -> None:
    """Print a table per group."""
    for group in groups:
        by = "" if group["streamed"] else " (by batch cycles alone)"
        answers.print(f"{group['group']} ({', '.join(group['keys'])}): {group['rows']}{by}")
        rows = [
            [f["name"], f["type"], _windows(f["window_seconds"]), f["definition"]]
            for f in group["features"]
        ]
        print_table("", ["feature", "type", "window", "definition"], rows)


def print_plan(plan: FeaturePlan) -> None:
    """Print what the next cycle will compute anew, and why."""
    if plan.first_cycle:
        answers.print(
            "no batch cycle has run here yet: the first `synchrochain batch --once` computes every "
            "group for all of history"
        )
        return
    if not plan.differing:
        answers.print("nothing to recompute: every group is declared as its published rows were")
        return
    print_table(
        "",
        ["group", "change", "published rows", "files", "log rows to read", "takes about"],
        [
            [
                group.change.view,
                group.change.kind,
                group.rows,
                group.files,
                sum(group.log_rows.values()) if group.computed else None,
                age(group.seconds) if group.seconds is not None else "not known",
            ]
            for group in plan.differing
        ],
    )
    for group in plan.differing:
        said = f"{group.change.view}: {group.change.why}; {_what_comes(group)}"
        if group.models and _goes(group):
            said += f"; train {', '.join(group.models)} again where a version was trained with that"
        answers.print(said)
    answers.print(
        "`synchrochain batch --once` does it; then start again what runs: the stream, batch "
        "cycles, the server of decisions"
    )


def _goes(group: GroupPlan) -> bool:
    """Whether something that a model may have been trained with is gone or means something else."""
    change = group.change
    return bool(change.removed or change.changed or change.rows_changed or change.kind == REMOVED)


def _what_comes(group: GroupPlan) -> str:
    if group.change.kind == REMOVED:
        return "its rows are removed, offline and online"
    if not group.computed:
        return "there is no history to compute it for"
    read = [f"{rows:,} of {log}" for log, rows in group.log_rows.items()]
    read += [f"all that the change log holds of {log}" for log in group.unread_logs]
    said = f"it is computed for all of history, from {', '.join(read) or 'no rows'}"
    if group.expired_before is not None:
        said += (
            f"; rows from before {group.expired_before:%Y-%m-%d} are computed from what the "
            "processed logs still hold"
        )
    if group.measured_in is not None:
        said += f"; the time is by the rate of cycle {group.measured_in}"
    return said


def _feature(feature: Feature) -> dict[str, Any]:
    found = [part.within for part in walk(feature.value) if isinstance(part, Aggregation)]
    windows = sorted({within for within in found if within is not None and within != AT_ONCE})
    return {
        "name": feature.name,
        "type": TYPES[feature.kind],
        "window_seconds": [within / 1_000_000 for within in windows],
        "definition": feature.description,
    }


def _windows(seconds: list[float]) -> str:
    return ", ".join(map(_span, seconds)) or "–"


def _span(seconds: float) -> str:
    """A window in its largest unit of which it is a whole number."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds % size == 0 and (unit != "d" or seconds > size):
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:g} s"
