"""Tables on the terminal."""

from __future__ import annotations

import pytest
from rich.progress import Progress

from pipelines.cli.console import advance_step, print_table


def test_a_list_of_words_is_shown_and_not_taken_for_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`[view, search]` would be a style that nobody knows, and vanish."""
    print_table("[events]", ["feature", "value"], [["actions", ["view", "search"]]])
    printed = capsys.readouterr().out
    assert "[view, search]" in printed
    assert "[events]" in printed


def test_the_clock_of_a_step_stands_still_once_another_is_under_way() -> None:
    """And goes on when there is more of it after all."""
    now = 0.0
    progress = Progress(disable=True, get_time=lambda: now)
    said = []
    for seconds, step, rows in ((2, "read", 5), (3, "validate", 4), (1, "read", 7)):
        advance_step(progress, "batch", step, rows)
        now += seconds
        said.append([(task.description, task.completed, task.elapsed) for task in progress.tasks])
    assert said == [
        [("batch: read", 5, 2)],
        [("batch: read", 5, 2), ("batch: validate", 4, 3)],
        [("batch: read", 12, 6), ("batch: validate", 4, 3)],
    ]
