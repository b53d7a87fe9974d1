"""A batch cycle as people read it; `--json` has everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pipelines.cli.console import age, answers, print_table
from pipelines.printable import counted, shown

if TYPE_CHECKING:
    from pipelines.batch.report import CycleReport

_COMPARED: Final = {"keys", "values"}
"""What a comparison counts; everything else was wrong."""


def print_cycle(report: CycleReport) -> None:
    """Print what one cycle did."""
    title = f"cycle {report.cycle}, started at {report.started_at[:19]} UTC"
    rows = [[stage, what, age(took)] for stage, what, took in stage_rows(report)]
    print_table(title, ["stage", "", "took"], rows)
    parts = {
        "accepted": report.accepted,
        "rejected": report.quarantined,
        "accepted after all": report.resolved,
        "unknown to the change log": report.unknown_rows,
    }
    parts = {name: counts for name, counts in parts.items() if counts}
    logs = dict.fromkeys(log for counts in parts.values() for log in counts)
    if logs:
        cells = [[log, *(counts.get(log, 0) for counts in parts.values())] for log in logs]
        print_table("", ["log", *parts], cells)
    views = {**report.feature_rows, **dict.fromkeys(report.materialized)}
    if views:
        cells = [
            [view, report.feature_rows.get(view, 0), _until(report, view)] for view in sorted(views)
        ]
        print_table("", ["view", "feature rows", "online up to"], cells)
    for line in [*_compared(report.online_check), *_scored(report.after_update)]:
        answers.print(line)


def stage_rows(report: CycleReport) -> list[tuple[str, str, float]]:
    """By stage what it did, and the seconds that it took."""
    said = {
        "read": counted(report.changes, "change"),
        "validate": f"{sum(report.quarantined.values()):,} rejected",
        "transform": counted(sum(report.feature_rows.values()), "feature row"),
        "publish": f"{counted(report.files, 'file')} published",
        "update": ("feast apply, " if report.applied else "")
        + f"{counted(len(report.materialized), 'view')} materialized",
        "cleanup": f"{counted(report.trimmed, 'old change')} removed" if report.trimmed else "",
    }
    return [(stage, what, report.seconds.get(stage, 0.0)) for stage, what in said.items()]


def _until(report: CycleReport, view: str) -> str | None:
    span = report.materialized.get(view)
    return span[-1][:19] if span else None


def _compared(check: Mapping[str, Any]) -> list[str]:
    """Lines on the online store."""
    if not check:
        return []
    views = check.get("views", {})
    keys = sum(found.get("keys", 0) for found in views.values())
    wrong = {
        view: ", ".join(
            f"{what} {shown(count)}" for what, count in found.items() if what not in _COMPARED
        )
        for view, found in views.items()
        if found.keys() - _COMPARED
    }
    if not wrong:
        return [f"online store: {counted(keys, 'key')} compared, all as published"]
    said = "; ".join(f"{view}: {what}" for view, what in wrong.items())
    return [f"online store: {counted(keys, 'key')} compared, mended: {said}"]


def _scored(found: Mapping[str, Any]) -> list[str]:
    """Lines on champions that were scored on new labels."""
    if isinstance(found.get("error"), str):
        return [f"champions are not scored: {found['error']}"]
    lines = []
    for model, scored in found.items():
        if "error" in scored:
            lines.append(f"{model} is not scored: {scored['error']}")
        else:
            on = counted(scored["labels"], "new label")
            lines.append(f"{model} {scored['version']} has loss {shown(scored['loss'])} on {on}")
    return lines
