"""What the command line shows: tables, progress bars, ages in words. Standard error for progress,
standard output for answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from pipelines.cli.layout import Column, laid_out, lines_of
from pipelines.printable import json_text, printable, wrapped


class _Plain(Console):
    """A console on which text is text: nothing in it is markup, nothing steers the terminal."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False)

    def render_str(self, text: str, **style: Any) -> Text:
        """The text, with control characters spelled out."""
        return super().render_str(printable(text, lines=True), **style)


class _Answers(_Plain):
    """Where answers go: sentences break between words, and a path that is too long not at all."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does; text is laid out for the width of the terminal."""
        laid = [
            Text(wrapped(printable(one, lines=True), self.width)) if isinstance(one, str) else one
            for one in objects
        ]
        whole: dict[str, Any] = {"no_wrap": True, "overflow": "ignore", "crop": False}
        super().print(*laid, **(whole | options))


answers = _Answers()
messages = _Plain(stderr=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output, time stamps in ISO 8601."""
    sys.stdout.write(json_text(value, default=_plain) + "\n")


def print_table(title: str, headings: list[str], rows: list[list[Any]]) -> None:
    """Print a table as `laid_out` lays it out for this terminal, with figures to the right.

    Args:
        title: above it; "" for none.
        headings: of the columns.
        rows: cells, one list per row.
    """
    if title:
        answers.print(title, style="bold")
    layout = laid_out(headings, rows, answers.width)
    for columns in layout.parts:
        _print_columns(columns, layout.gap)
    for line in layout.below:
        answers.print(f"  {line}")
    if layout.below:
        answers.print()


def _print_columns(columns: list[Column], gap: int) -> None:
    headings = [column.heading for column in columns]
    if any(headings):
        for line in lines_of(columns, headings, gap):
            answers.print(Text(line, style="bold"))
        rule = "-" if answers.options.ascii_only else "─"
        answers.print(rule * (sum(column.width for column in columns) + gap * (len(columns) - 1)))
    for cells in zip(*(column.cells for column in columns), strict=True):
        answers.print(Text("\n".join(lines_of(columns, cells, gap))))
    answers.print()


def age(seconds: float | None) -> str:
    """A stretch of time in its largest fitting unit."""
    if seconds is None:
        return "–"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[float], None]]:
    """A bar for a known amount of work; yields a function that takes the fraction done, 0–1."""
    with _bars() as progress:
        task = progress.add_task(label, total=1.0)
        yield lambda fraction: progress.update(task, completed=fraction)


@contextmanager
def progress_of_steps(label: str) -> Iterator[Callable[[str, int], None]]:
    """A line per step with the rows it has dealt with; yields a function of step and rows."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:,.0f}"),
        TimeElapsedColumn(),
        console=messages,
        transient=True,
        disable=not messages.is_terminal,
    ) as progress:
        yield partial(advance_step, progress, label)


def advance_step(progress: Progress, label: str, step: str, rows: int) -> None:
    """Advance a step's line, begun where it is new; the clocks of the other steps stand still.

    Args:
        progress: with a line per step.
        label: before the step.
        step: which is under way.
        rows: that it has dealt with since the last call.
    """
    description = f"{label}: {step}"
    lines = {task.description: task for task in progress.tasks}
    for name, task in lines.items():
        if name == description:
            task.stop_time = None
        elif task.stop_time is None:
            progress.stop_task(task.id)
    number = lines[description].id if description in lines else None
    if number is None:
        number = progress.add_task(description, total=None)
    progress.advance(number, rows)


@contextmanager
def progress_of_training() -> Iterator[Callable[[str, str, float], None]]:
    """A bar per task; yields a function of the task, what is being done, and the fraction done."""
    with _bars() as progress:
        bars: dict[str, Any] = {}

        def advance(task: str, what: str, fraction: float) -> None:
            if task not in bars:
                bars[task] = progress.add_task(task, total=1.0)
            progress.update(bars[task], description=f"{task}: {what}", completed=fraction)

        yield advance


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=messages,
        transient=True,
        disable=not messages.is_terminal,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "item"):  # a numpy scalar
        return value.item()
    return str(value)
