"""How a training's outcome is shown: metrics beside the baselines, the gate, the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipelines.cli.console import age, answers, print_table
from pipelines.printable import counted
from pipelines.training.run import TaskReport
from pipelines.training.task import Claim

MOST_METRICS: Final = 4
"""Columns that fit a small terminal; MLflow and --json have all of them."""


def print_training(reports: Sequence[TaskReport]) -> None:
    """A table of metrics per task, the gate's reasons, and what was claimed and measured."""
    for report in reports:
        _print_candidates(report)
        verdict = "is champion" if report.accepted else "stays challenger"
        answers.print(f"{report.model} version {report.version} {verdict}", style="bold")
        for reason in report.reasons:
            answers.print(f"  {reason}")
        for note in report.notes:
            answers.print(f"  {note}")
        answers.print()


def print_report(found: Mapping[str, Any]) -> None:
    """Every claim of `report_as_dict` with its target, what was measured, and whether it holds."""
    claims = [(one["task"], one) for one in found["claims"]]
    claims += [(f"{one['task']}, no signal", one) for one in found["control"]]
    rows = [
        [task, one["claim"], one["target"], interval(one), one["holds"]] for task, one in claims
    ]
    print_table("what must be true", ["task", "claim", "target", "measured", "holds"], rows)
    for task, one in claims:
        if one["note"]:
            answers.print(f"{task}, {one['claim']}: {one['note']}")


def report_as_dict(
    reports: Sequence[TaskReport], control: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The same for machines; an interval without ends (one seed) has null for them.

    Args:
        reports: of this data directory.
        control: claims of a world without signal, as its own report gives them under `chance`.
    """
    found = {
        "tasks": [report.as_dict() for report in reports],
        "claims": [_claim(r.task, claim) for r in reports for claim in r.claims],
        "chance": [_claim(r.task, claim) for r in reports for claim in r.chance],
        "control": list(control),
    }
    finite: dict[str, Any] = _finite(found)
    return finite


def interval(claim: Mapping[str, Any]) -> str:
    """Mean and ends; the mean alone where one seed leaves no width to tell."""
    if claim["low"] is None or claim["high"] is None:
        return f"{claim['mean']:.4f}"
    return f"{claim['mean']:.4f} [{claim['low']:.4f}, {claim['high']:.4f}]"


def _print_candidates(report: TaskReport) -> None:
    names = list(report.candidates[0]["metrics"])[:MOST_METRICS]
    rows = [
        [one["name"], *(_cell(one["metrics"].get(name)) for name in names)]
        for one in report.candidates
    ]
    sizes = f"{counted(report.rows, 'row')}, {counted(report.seeds, 'seed')}"
    title = f"{report.model}: {sizes}, {age(report.seconds)}"
    print_table(title, ["", *names], rows)


def _cell(metric: dict[str, Any] | None) -> str:
    if metric is None:
        return "–"
    if len(metric["values"]) < 2:
        return f"{metric['mean']:.4f}"
    return f"{metric['mean']:.4f} ±{(metric['high'] - metric['low']) / 2:.4f}"


def _claim(task: str, claim: Claim) -> dict[str, Any]:
    measured = claim.measured
    return {
        "task": task,
        "claim": claim.name,
        "target": claim.target,
        "mean": measured.mean,
        "low": measured.low,
        "high": measured.high,
        "values": list(measured.values),
        "holds": claim.holds,
        "note": claim.note,
    }


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {name: _finite(item) for name, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value
