"""`synchrochain audit` for people."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from pipelines.cli.console import answers, print_table
from pipelines.monitoring.audit import AuditReport, ViewAudit
from pipelines.monitoring.live_tables import LiveAudit
from pipelines.printable import counted, shown, was


def print_audit(report: AuditReport) -> None:
    """Print what an audit found: the views, then each feature, then the unequal rows."""
    _views(report)
    for name, view in report.views.items():
        if view.keys:
            _features(name, view)
    if report.rows:
        _rows(report)
    answers.print(Text.assemble("consistency: ", (percent(report.consistency), "bold")))


def print_live_audit(report: LiveAudit) -> None:
    """Print what a live audit found: a line per table, then keys of rows that differ."""
    figures = ("rows", "logged", "missing", "gone", "differing", "rejected", "not_comparable")
    rows = [
        [name, *(getattr(table, figure) for figure in figures), table.digest == table.digest_logged]
        for name, table in report.tables.items()
    ]
    headings = ["table", "rows", "in the log", "missing", "gone", "differing", "rejected"]
    print_table("live tables against their logs", [*headings, "too old", "same digest"], rows)
    for name, table in report.tables.items():
        if table.keys:
            answers.print(f"{name}, some that differ: {', '.join(table.keys)}")
        if table.not_comparable:
            answers.print(
                f"{name}: {counted(table.not_comparable, 'row')} older than what the logs hold "
                f"{was(table.not_comparable)} not compared"
            )


def percent(share: float | None) -> str:
    """A share in percent, rounded down: only what is whole is called 100 %."""
    if share is None:
        return "–"
    return f"{int(share * 10_000_000) / 100_000:.5f}".rstrip("0").rstrip(".") + " %"


def _views(report: AuditReport) -> None:
    rows = [
        [name, view.keys, view.served, view.in_flux, percent(view.consistency)]
        for name, view in report.views.items()
    ]
    headings = ["view", "keys", "served", "in flux", "consistency"]
    print_table(f"online against offline at {shown(report.as_of)} UTC", headings, rows)


def _features(name: str, view: ViewAudit) -> None:
    rows = [
        [
            feature,
            figures.total,
            figures.both_null,
            figures.left_null,
            figures.right_null,
            figures.mismatch,
            figures.smape,
            figures.edit_distance,
        ]
        for feature, figures in view.features.items()
    ]
    headings = ["feature", "total", "null", "online only", "offline only", "unequal"]
    print_table(name, [*headings, "smape", "edits"], rows)


def _rows(report: AuditReport) -> None:
    rows: list[list[Any]] = [
        [row.view, ", ".join(f"{k}={v}" for k, v in row.keys.items()), feature, online, offline]
        for row in report.rows
        for (feature, online), offline in zip(row.online.items(), row.offline.values(), strict=True)
    ]
    count = f"{len(report.rows)} of {report.unequal_rows:,}"
    headings = ["view", "key", "feature", "online", "offline"]
    print_table(f"unequal rows ({count})", headings, rows)
